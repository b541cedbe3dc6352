/**
 * The log's records as bytes. Numbers are little endian; each record has a checksum over all of it
 * but its first eight bytes.
 *
 * Record 1, of one value: u8 version, 3 bytes zero, u32 CRC-32C, f64 index, f64 term, bytes.
 * Hard state by itself: a record of the commit as index, the term, and the vote as a f64; version
 * 1, or 3 when the number of the last write of the journal that is in LMDB follows, as a f64.
 * Segment, the entries of one write and the hard state as of it: u8 version, 3 bytes zero, u32
 * CRC-32C, f64 index of the first, u32 count, u32 zero, f64 term, f64 vote, f64 commit; for each
 * entry f64 term, u32 end of its bytes, u8 kind, 3 bytes zero; then the bytes of all.
 */
import { StartError } from '../errors.ts'
import { crc32c } from '../raft/crc32c.ts'
import { desk, deskView } from '../raft/desk.ts'
import type { Identity } from '../raft/ports.ts'
import type { Entry, EntryKind, HardState } from '../raft/types.ts'

const recordVersion = 1
const segmentVersion = 2
/** So that a version of fnd without a journal does not go on behind what is in one. */
const journaledVersion = 3
const headerBytes = 24
const segmentHeaderBytes = 48
const entryHeaderBytes = 16
/** Where the checksum begins to count. */
const sumFrom = 8

/**
 * A segment ends when it is this long, so that reading one entry does not read very many, and so
 * that old entries leave although newer ones must stay.
 */
const segmentBytesMax = 256 * 1024
const segmentEntriesMax = 1000

const kinds: readonly EntryKind[] = ['normal', 'conf', 'conf-v2']

export const cure =
  'What this node held is not safe to use: other members may count on what it promised. Remove ' +
  'its data directory and let it join the cluster as a new node (fnd serve --join); a node that ' +
  'was alone is restored from a backup.'

/**
 * Of a record in the root of the environment: a segment's first and last index, or a name. Whatever
 * else there may be in the root is databases of other parts, which have names of their own.
 */
export type LogKey = string | [first: number, last: number]

/** What the log begins behind. */
export interface Base {
  readonly index: number
  readonly term: number
}

export interface ValueRecord extends Base {
  readonly bytes: Uint8Array
}

export function encodeRecord(
  { index, term, bytes }: ValueRecord,
  version = recordVersion,
): Uint8Array {
  const draft = draftOf(headerBytes + bytes.length, headerBytes)
  const { record, view } = draft
  view.setUint8(0, version)
  view.setFloat64(8, index, true)
  view.setFloat64(16, term, true)
  record.set(bytes, headerBytes)
  return sealed(draft)
}

/** `name` is for the message of the `StartError` that it throws at damage. */
export function decodeRecord(
  record: Uint8Array,
  name: string,
  versions: readonly number[] = [recordVersion],
): ValueRecord {
  const view = checked(record, versions, headerBytes, name)
  return {
    index: view.getFloat64(8, true),
    term: view.getFloat64(16, true),
    bytes: record.subarray(headerBytes),
  }
}

/** At least one entry, consecutive. */
export function encodeSegment(entries: readonly Entry[], hardState: HardState): Uint8Array {
  const bytesFrom = segmentHeaderBytes + entries.length * entryHeaderBytes
  let end = bytesFrom
  for (const { bytes } of entries) end += bytes.length
  const draft = draftOf(end, bytesFrom)
  const { record, view } = draft
  view.setUint8(0, segmentVersion)
  view.setFloat64(8, entries[0]?.index ?? 0, true)
  view.setUint32(16, entries.length, true)
  view.setFloat64(24, hardState.term, true)
  view.setFloat64(32, hardState.vote, true)
  view.setFloat64(40, hardState.commit, true)
  let at = segmentHeaderBytes
  end = bytesFrom
  for (const { term, kind, bytes } of entries) {
    record.set(bytes, end)
    end += bytes.length
    view.setFloat64(at, term, true)
    view.setUint32(at + 8, end, true)
    view.setUint8(at + 12, kinds.indexOf(kind))
    at += entryHeaderBytes
  }
  return sealed(draft)
}

export interface Segment {
  readonly entries: readonly Entry[]
  /** As of the write that left the segment as it is. */
  readonly hardState: HardState
}

/** As `decodeRecord`, of the segment at this key. The entries' bytes are views of `record`. */
export function decodeSegment(record: Uint8Array, first: number, last: number): Segment {
  const name = first === last ? `entry ${first}` : `entries ${first} to ${last}`
  const segment = segmentIn(record, name)
  const { entries } = segment
  if (entries[0]?.index === first && entries.at(-1)?.index === last) return segment
  throw new StartError(
    `The log's record of ${name} is that of ${entries.length} entries from ` +
      `${entries[0]?.index} on: it is damaged. ${cure}`,
  )
}

function segmentIn(record: Uint8Array, name: string): Segment {
  const view = checked(record, [segmentVersion], segmentHeaderBytes, name)
  const first = view.getFloat64(8, true)
  const count = view.getUint32(16, true)
  const entries: Entry[] = []
  let start = segmentHeaderBytes + count * entryHeaderBytes
  for (let nth = 0; nth < count; nth++) {
    const at = segmentHeaderBytes + nth * entryHeaderBytes
    const end = view.getUint32(at + 8, true)
    const kind = kinds[view.getUint8(at + 12)]
    if (kind === undefined) throw unknownVersion(name, `kind ${view.getUint8(at + 12)}`)
    const term = view.getFloat64(at, true)
    entries.push({ index: first + nth, term, kind, bytes: record.subarray(start, end) })
    start = end
  }
  const [term, vote] = [view.getFloat64(24, true), view.getFloat64(32, true)]
  return { entries, hardState: { term, vote, commit: view.getFloat64(40, true) } }
}

/** Of a segment. */
export function keyOf(entries: readonly Entry[]): [first: number, last: number] {
  return [entries[0]?.index ?? 0, entries.at(-1)?.index ?? 0]
}

export function segmentsOf(entries: readonly Entry[]): Entry[][] {
  const segments: Entry[][] = []
  let current: Entry[] = []
  let bytes = 0
  for (const entry of entries) {
    const isFull =
      current.length >= segmentEntriesMax || bytes + entry.bytes.length > segmentBytesMax
    if (isFull && current.length > 0) {
      segments.push(current)
      current = []
      bytes = 0
    }
    current.push(entry)
    bytes += entry.bytes.length
  }
  if (current.length > 0) segments.push(current)
  return segments
}

export function textRecord(text: string): Uint8Array {
  return encodeRecord({ index: 0, term: 0, bytes: new TextEncoder().encode(text) })
}

/** `settled` is undefined where there is no journal yet. */
export interface HardRecord {
  readonly hardState: HardState
  readonly settled: number | undefined
}

export function encodeHard({ hardState, settled }: HardRecord): Uint8Array {
  const { term, vote, commit } = hardState
  const bytes = new Uint8Array(settled === undefined ? 8 : 16)
  const view = new DataView(bytes.buffer)
  view.setFloat64(0, vote, true)
  if (settled !== undefined) view.setFloat64(8, settled, true)
  const version = settled === undefined ? recordVersion : journaledVersion
  return encodeRecord({ index: commit, term, bytes }, version)
}

export function decodeHard(record: Uint8Array, name: string): HardRecord {
  const { index, term, bytes } = decodeRecord(record, name, [recordVersion, journaledVersion])
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const hardState = { term, vote: view.getFloat64(0, true), commit: index }
  const settled = bytes.length === 8 ? undefined : view.getFloat64(8, true)
  return { hardState, settled }
}

/** What one write of the log brings into the journal: a segment, or a hard state alone. */
export function encodeTurn({ entries, hardState }: Segment): Uint8Array {
  return entries.length > 0
    ? encodeSegment(entries, hardState)
    : encodeHard({ hardState, settled: undefined })
}

export function decodeTurn(record: Uint8Array, name: string): Segment {
  if (record[0] === segmentVersion) return segmentIn(record, name)
  return { entries: [], hardState: decodeHard(record, name).hardState }
}

export function baseRecord({ index, term }: Base): Uint8Array {
  return encodeRecord({ index, term, bytes: new Uint8Array() })
}

/** Of a log that is new, and begins behind `base`; `settled` as in its hard state. */
export function firstRecords(
  identity: Identity,
  base: Base = { index: 0, term: 0 },
  settled?: number,
): [LogKey, Uint8Array][] {
  const hardState = { term: base.term, vote: 0, commit: base.index }
  return [
    ['identity', textRecord(JSON.stringify(identity))],
    ['base', baseRecord(base)],
    ['hard', encodeHard({ hardState, settled })],
  ]
}

export function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes)
}

interface Draft {
  readonly record: Uint8Array
  readonly view: DataView
  readonly end: number
}

/** The first `headBytes` of it are zero. */
function draftOf(end: number, headBytes: number): Draft {
  if (end > desk.length) {
    const record = new Uint8Array(end)
    return { record, view: new DataView(record.buffer), end }
  }
  desk.fill(0, 0, headBytes)
  return { record: desk, view: deskView, end }
}

function sealed({ record, view, end }: Draft): Uint8Array {
  view.setUint32(4, crc32c(record, sumFrom, end), true)
  return record === desk ? desk.slice(0, end) : record
}

function checked(
  record: Uint8Array,
  versions: readonly number[],
  headerBytes: number,
  name: string,
): DataView {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength)
  if (record.length < headerBytes || view.getUint32(4, true) !== crc32c(record, sumFrom)) {
    throw new StartError(
      `The log's record of ${name} does not have its checksum: the disk gave back something ` +
        `else than was written. ${cure}`,
    )
  }
  const version = view.getUint8(0)
  if (!versions.includes(version)) throw unknownVersion(name, `version ${version}`)
  return view
}

function unknownVersion(name: string, what: string): StartError {
  return new StartError(
    `The log's record of ${name} has ${what}, which this fnd does not know. Start the version ` +
      'of fnd that wrote it, or a later one.',
  )
}
