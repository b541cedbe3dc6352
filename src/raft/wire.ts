/**
 * The bytes of messages between members: a batch is one version byte, a CRC-32 of all that
 * follows, a count, and the messages one after the other. Numbers are little-endian; those that
 * may pass 2^32 are doubles, which hold every integer of types.ts exactly. A receiver takes any
 * bytes for possible: it answers with a fault, and allocates no more than it was sent. The checksum
 * is the one that Bun computes natively: CRC-32C took three quarters of the time of encoding.
 */
import { assert } from '../errors.ts'
import { desk, deskView } from './desk.ts'
import type { ConfState, Entry, EntryKind, Message, MessageType, Snapshot } from './types.ts'

const wireVersion = 1

/** Of one encoded batch. A single message may be that large, so no entry may be. */
export const batchBytesMax = 16 * 1024 * 1024

/** Their order is their number on the wire: new ones go to the end. */
const messageTypes = [
  'MsgProp',
  'MsgApp',
  'MsgAppResp',
  'MsgVote',
  'MsgVoteResp',
  'MsgPreVote',
  'MsgPreVoteResp',
  'MsgSnap',
  'MsgHeartbeat',
  'MsgHeartbeatResp',
  'MsgTransferLeader',
  'MsgTimeoutNow',
  'MsgReadIndex',
  'MsgReadIndexResp',
] as const satisfies readonly MessageType[]

const typeNumbers = new Map<MessageType, number>(messageTypes.map((type, at) => [type, at]))

const entryKinds = ['normal', 'conf', 'conf-v2'] as const satisfies readonly EntryKind[]

const none: readonly Entry[] = []

const rejectFlag = 1
const transferFlag = 2
const snapshotFlag = 4

/** Version, checksum, count. */
const batchHeadBytes = 1 + 4 + 4
/** Type, flags, eight numbers, count of entries. */
const messageHeadBytes = 2 + 8 * 8 + 4
/** Kind, index, term, length. */
const entryHeadBytes = 1 + 8 + 8 + 4
/** Index, term, auto-leave, four counts of ids. */
const snapshotHeadBytes = 8 + 8 + 1 + 4 * 4

/** What a message adds to a batch. */
export function messageBytes(message: Message): number {
  let bytes = messageHeadBytes
  for (const entry of message.entries) bytes += entryHeadBytes + entry.bytes.length
  if (message.snapshot === undefined) return bytes
  const { voters, votersOutgoing, learners, learnersNext } = message.snapshot.confState
  const ids = voters.length + votersOutgoing.length + learners.length + learnersNext.length
  return bytes + snapshotHeadBytes + 8 * ids
}

/**
 * The first of `messages` from `start` on that fit a batch of `bytesMax`, and at least one.
 * Returns the index after the last.
 */
export function batchEnd(messages: readonly Message[], start: number, bytesMax: number): number {
  let bytes = batchHeadBytes
  for (let at = start; at < messages.length; at++) {
    bytes += messageBytes(messages[at] as Message)
    if (bytes > bytesMax && at > start) return at
  }
  return messages.length
}

/**
 * One batch, with `headroom` bytes before it that are the caller's to fill. A snapshot goes
 * without its `data`, which means something only where it was made.
 */
export function encodeMessages(messages: readonly Message[], headroom = 0): Uint8Array {
  let size = batchHeadBytes
  for (const message of messages) size += messageBytes(message)
  assert(size <= batchBytesMax, 'a batch of messages fits its bound')
  const writer = new Writer(size, headroom)
  writer.u8(wireVersion)
  writer.u32(0)
  writer.u32(messages.length)
  for (const message of messages) writer.message(message)
  return writer.finish()
}

export type Decoded =
  | { readonly ok: true; readonly messages: Message[] }
  | { readonly ok: false; readonly fault: string }

/** The messages share no memory with `batch`. */
export function decodeMessages(batch: Uint8Array): Decoded {
  if (batch.length < batchHeadBytes) return { ok: false, fault: 'the batch is cut short' }
  if (batch.length > batchBytesMax) return { ok: false, fault: 'the batch is too large' }
  const reader = new Reader(batch)
  const version = reader.u8()
  if (version !== wireVersion) return { ok: false, fault: `version ${version} of messages` }
  if (reader.u32() !== Bun.hash.crc32(batch.subarray(5)))
    return { ok: false, fault: 'wrong checksum' }
  const count = reader.u32()
  if (count * messageHeadBytes > batch.length) return { ok: false, fault: 'wrong count' }
  const messages: Message[] = []
  for (let at = 0; at < count; at++) {
    const message = reader.message()
    if (message === undefined) return { ok: false, fault: reader.fault }
    messages.push(message)
  }
  if (!reader.isAtEnd) return { ok: false, fault: 'bytes follow the last message' }
  return { ok: true, messages }
}

class Writer {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #start: number
  readonly #end: number
  #at: number

  constructor(size: number, headroom: number) {
    this.#end = headroom + size
    const isSmall = this.#end <= desk.length
    this.#bytes = isSmall ? desk : new Uint8Array(this.#end)
    this.#view = isSmall ? deskView : new DataView(this.#bytes.buffer)
    this.#start = headroom
    this.#at = headroom
  }

  u8(value: number): void {
    this.#view.setUint8(this.#at, value)
    this.#at += 1
  }

  u32(value: number): void {
    this.#view.setUint32(this.#at, value, true)
    this.#at += 4
  }

  number(value: number): void {
    this.#view.setFloat64(this.#at, value, true)
    this.#at += 8
  }

  message(message: Message): void {
    const type = typeNumbers.get(message.type)
    assert(type !== undefined, 'local messages stay local')
    this.u8(type)
    this.u8(
      (message.reject ? rejectFlag : 0) |
        (message.isTransfer ? transferFlag : 0) |
        (message.snapshot === undefined ? 0 : snapshotFlag),
    )
    this.number(message.from)
    this.number(message.to)
    this.number(message.term)
    this.number(message.logTerm)
    this.number(message.index)
    this.number(message.commit)
    this.number(message.rejectHint)
    this.number(message.context)
    this.u32(message.entries.length)
    for (const entry of message.entries) this.#entry(entry)
    if (message.snapshot !== undefined) this.#snapshot(message.snapshot)
  }

  #entry(entry: Entry): void {
    this.u8(entryKinds.indexOf(entry.kind))
    this.number(entry.index)
    this.number(entry.term)
    this.u32(entry.bytes.length)
    this.#bytes.set(entry.bytes, this.#at)
    this.#at += entry.bytes.length
  }

  #snapshot({ index, term, confState }: Snapshot): void {
    this.number(index)
    this.number(term)
    this.u8(confState.autoLeave ? 1 : 0)
    this.#ids(confState.voters)
    this.#ids(confState.votersOutgoing)
    this.#ids(confState.learners)
    this.#ids(confState.learnersNext)
  }

  #ids(ids: readonly number[]): void {
    this.u32(ids.length)
    for (const id of ids) this.number(id)
  }

  finish(): Uint8Array {
    assert(this.#at === this.#end, 'a batch has the size that was counted')
    const sum = Bun.hash.crc32(this.#bytes.subarray(this.#start + 5, this.#end))
    this.#view.setUint32(this.#start + 1, sum, true)
    return this.#bytes === desk ? desk.slice(0, this.#end) : this.#bytes
  }
}

/** Every read beyond the end, or of what cannot be, sets `fault` and gives zeros. */
class Reader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #end: number
  #at = 0
  fault = ''

  constructor(bytes: Uint8Array) {
    this.#end = bytes.length
    const isSmall = this.#end <= desk.length
    if (isSmall) desk.set(bytes)
    // What came may be a `Buffer`, whose `slice` would be no copy.
    const { buffer, byteOffset, length } = bytes
    this.#bytes = isSmall ? desk : new Uint8Array(buffer, byteOffset, length)
    this.#view = isSmall ? deskView : new DataView(buffer, byteOffset, length)
  }

  get isAtEnd(): boolean {
    return this.#at === this.#end
  }

  #has(size: number): boolean {
    if (this.#at + size <= this.#end) return true
    this.fault ||= 'a message is cut short'
    return false
  }

  u8(): number {
    return this.#has(1) ? this.#view.getUint8(this.#at++) : 0
  }

  u32(): number {
    if (!this.#has(4)) return 0
    this.#at += 4
    return this.#view.getUint32(this.#at - 4, true)
  }

  number(): number {
    if (!this.#has(8)) return 0
    this.#at += 8
    const value = this.#view.getFloat64(this.#at - 8, true)
    if (value >= 0 && Number.isSafeInteger(value)) return value
    this.fault ||= 'a number is no whole number'
    return 0
  }

  /** Of things that take `size` bytes each at the least. */
  #count(size: number): number {
    const count = this.u32()
    return this.#has(count * size) ? count : 0
  }

  message(): Message | undefined {
    const type = messageTypes[this.u8()]
    const flags = this.u8()
    if (type === undefined || flags >= 2 * snapshotFlag) this.fault ||= 'an unknown message'
    const from = this.number()
    const to = this.number()
    const term = this.number()
    const logTerm = this.number()
    const index = this.number()
    const commit = this.number()
    const rejectHint = this.number()
    const context = this.number()
    const count = this.#count(entryHeadBytes)
    const entries = count === 0 ? none : this.#entries(count)
    const snapshot = (flags & snapshotFlag) === 0 ? undefined : this.#snapshot()
    if (this.fault !== '' || type === undefined) return undefined
    return {
      type,
      from,
      to,
      term,
      logTerm,
      index,
      commit,
      entries,
      reject: (flags & rejectFlag) !== 0,
      rejectHint,
      snapshot,
      context,
      isTransfer: (flags & transferFlag) !== 0,
    }
  }

  #entries(count: number): Entry[] {
    const entries: Entry[] = []
    for (let at = 0; at < count && this.fault === ''; at++) entries.push(this.#entry())
    return entries
  }

  #entry(): Entry {
    const kind = entryKinds[this.u8()]
    if (kind === undefined) this.fault ||= 'an unknown kind of entry'
    const index = this.number()
    const term = this.number()
    const start = this.#at
    const size = this.#count(1)
    this.#at += size
    // A copy: a view would keep the whole batch alive for as long as one entry is.
    const bytes = this.#bytes.slice(start + 4, start + 4 + size)
    return { index, term, kind: kind ?? 'normal', bytes }
  }

  #snapshot(): Snapshot {
    const index = this.number()
    const term = this.number()
    const autoLeave = this.u8()
    if (autoLeave > 1) this.fault ||= 'a flag is neither 0 nor 1'
    const confState: ConfState = {
      voters: this.#ids(),
      votersOutgoing: this.#ids(),
      learners: this.#ids(),
      learnersNext: this.#ids(),
      autoLeave: autoLeave === 1,
    }
    return { index, term, confState, data: '' }
  }

  #ids(): number[] {
    const count = this.#count(8)
    const ids: number[] = []
    for (let at = 0; at < count && this.fault === ''; at++) ids.push(this.number())
    return ids
  }
}
