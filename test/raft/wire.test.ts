import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { desk } from '../../src/raft/desk.ts'
import type { Entry, Message, MessageType } from '../../src/raft/types.ts'
import {
  batchBytesMax,
  batchEnd,
  decodeMessages,
  encodeMessages,
  messageBytes,
} from '../../src/raft/wire.ts'
import { seeded } from '../seed.ts'

const number = fc.oneof(fc.nat(5), fc.maxSafeNat())
const types: MessageType[] = [
  ...(['MsgProp', 'MsgApp', 'MsgAppResp', 'MsgVote', 'MsgVoteResp', 'MsgPreVote'] as const),
  ...(['MsgPreVoteResp', 'MsgSnap', 'MsgHeartbeat', 'MsgHeartbeatResp'] as const),
  ...(['MsgTransferLeader', 'MsgTimeoutNow', 'MsgReadIndex', 'MsgReadIndexResp'] as const),
]
const short = fc.uint8Array({ maxLength: 300 }).map(bytes => new Uint8Array(bytes))
/** Around the bound of what takes shape in memory that all small batches share, and above. */
const long = fc
  .tuple(fc.integer({ min: desk.length - 200, max: desk.length + 200 }), fc.nat(255))
  .map(([length, value]) => new Uint8Array(length).fill(value))
const entry: fc.Arbitrary<Entry> = fc.record({
  index: number,
  term: number,
  kind: fc.constantFrom('normal', 'conf', 'conf-v2'),
  bytes: fc.oneof({ weight: 9, arbitrary: short }, { weight: 1, arbitrary: long }),
})
const ids = fc.array(number, { maxLength: 4 })
const confState = fc.record({
  voters: ids,
  votersOutgoing: ids,
  learners: ids,
  learnersNext: ids,
  autoLeave: fc.boolean(),
})
const snapshot = fc.record({ index: number, term: number, confState, data: fc.constant('') })
const message: fc.Arbitrary<Message> = fc.record({
  type: fc.constantFrom(...types),
  from: number,
  to: number,
  term: number,
  logTerm: number,
  index: number,
  commit: number,
  entries: fc.array(entry, { maxLength: 5 }),
  reject: fc.boolean(),
  rejectHint: number,
  snapshot: fc.option(snapshot, { nil: undefined }),
  context: number,
  isTransfer: fc.boolean(),
})

const heartbeat: Message = {
  ...{ type: 'MsgHeartbeat', from: 1, to: 2, term: 3, logTerm: 0, index: 0, commit: 4 },
  ...{ entries: [], reject: false, rejectHint: 0, snapshot: undefined, context: 5 },
  isTransfer: false,
}

function withChecksum(batch: Uint8Array): Uint8Array {
  new DataView(batch.buffer, batch.byteOffset).setUint32(1, Bun.hash.crc32(batch.subarray(5)), true)
  return batch
}

describe('batches of messages', () => {
  test('come out as they went in', () => {
    fc.assert(
      fc.property(fc.array(message, { maxLength: 6 }), fc.nat(9), (messages, headroom) => {
        const bytes = encodeMessages(messages, headroom)
        const size = messages.reduce((sum, one) => sum + messageBytes(one), 9)
        expect(bytes.length).toBe(headroom + size)
        expect(decodeMessages(bytes.subarray(headroom))).toEqual({ ok: true, messages })
      }),
      seeded(),
    )
  })

  test('a snapshot goes without its data', () => {
    const state = { voters: [1], votersOutgoing: [], learners: [2], learnersNext: [] }
    const carried = { index: 7, term: 2, confState: { ...state, autoLeave: false }, data: 'file' }
    const sent: Message = { ...heartbeat, type: 'MsgSnap', snapshot: carried }
    const decoded = decodeMessages(encodeMessages([sent]))
    expect(decoded).toEqual({
      ok: true,
      messages: [{ ...sent, snapshot: { ...carried, data: '' } }],
    })
  })

  test.each([3, desk.length])('entries of %d bytes share no memory with the batch', length => {
    const bytes = new Uint8Array(length).fill(7)
    const sent = { ...heartbeat, entries: [{ index: 1, term: 1, kind: 'normal' as const, bytes }] }
    // As from a socket.
    const batch = Buffer.from(encodeMessages([sent]))
    const decoded = decodeMessages(batch)
    batch.fill(0)
    expect(decoded.ok && decoded.messages[0]?.entries[0]?.bytes).toEqual(bytes)
  })

  test('share no memory with those before them', () => {
    fc.assert(
      fc.property(fc.array(message), fc.array(message), (first, second) => {
        const bytes = encodeMessages(first)
        const before = bytes.slice()
        const decoded = decodeMessages(bytes)
        decodeMessages(encodeMessages(second))
        expect(bytes).toEqual(before)
        expect(decoded).toEqual({ ok: true, messages: first })
      }),
      seeded(),
    )
  })

  test('are cut at their bound, but hold at least one message', () => {
    const four = [heartbeat, heartbeat, heartbeat, heartbeat]
    const size = messageBytes(heartbeat)
    expect(batchEnd(four, 0, 9 + 2 * size)).toBe(2)
    expect(batchEnd(four, 2, 9 + 2 * size)).toBe(4)
    expect(batchEnd(four, 1, 1)).toBe(2)
    expect(batchEnd(four, 0, batchBytesMax)).toBe(4)
  })
})

describe('bytes that are no batch', () => {
  test('are a fault, whatever was done to them', () => {
    const hurt = fc.tuple(fc.array(message, { minLength: 1, maxLength: 3 }), fc.nat(), fc.nat(255))
    fc.assert(
      fc.property(hurt, fc.boolean(), ([messages, where, value], isCut) => {
        const batch = encodeMessages(messages)
        const at = where % batch.length
        if (isCut) return !decodeMessages(batch.subarray(0, at)).ok
        if (batch[at] === value) return true
        batch[at] = value
        return !decodeMessages(batch).ok
      }),
      seeded(),
    )
  })

  test('with the right checksum are decoded or refused, and nothing else happens', () => {
    const hurt = fc.tuple(fc.array(message, { minLength: 1, maxLength: 3 }), fc.nat(), fc.nat(255))
    let refused = 0
    fc.assert(
      fc.property(hurt, fc.boolean(), ([messages, where, value], isCut) => {
        const whole = encodeMessages(messages)
        const batch = isCut ? whole.slice(0, 5 + (where % (whole.length - 5))) : whole
        if (batch.length > 5 && !isCut) batch[5 + (where % (batch.length - 5))] = value
        const decoded = decodeMessages(withChecksum(batch))
        if (decoded.ok) return decoded.messages.length <= messages.length + 255
        refused++
        return decoded.fault !== ''
      }),
      seeded(1000),
    )
    expect(refused).toBeGreaterThan(100)
  })

  test('of chance are refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), bytes => {
        if (bytes.length >= 5) bytes[0] = 1
        const batch = bytes.length >= 5 ? withChecksum(new Uint8Array(bytes)) : bytes
        const decoded = decodeMessages(batch)
        return !decoded.ok || decoded.messages.length === 0
      }),
      seeded(1000),
    )
  })

  test('a count beyond the bytes allocates nothing', () => {
    const batch = encodeMessages([heartbeat])
    new DataView(batch.buffer, batch.byteOffset).setUint32(5, 0xffff_ffff, true)
    expect(decodeMessages(withChecksum(batch))).toEqual({ ok: false, fault: 'wrong count' })
    const entries = encodeMessages([heartbeat])
    new DataView(entries.buffer, entries.byteOffset).setUint32(
      entries.length - 4,
      0xffff_ffff,
      true,
    )
    expect(decodeMessages(withChecksum(entries)).ok).toBe(false)
  })

  test('another version is told', () => {
    const batch = encodeMessages([heartbeat])
    batch[0] = 9
    expect(decodeMessages(batch)).toEqual({ ok: false, fault: 'version 9 of messages' })
  })
})
