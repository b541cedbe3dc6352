/**
 * What is in the journal's files, as bytes. Pure.
 *
 * A file is a row of sectors of 512 bytes, each of which a disk writes whole or not at all. A write
 * of the journal takes whole sectors, one behind the other, and no sector of another write: u32
 * CRC-32C of what follows in the sector, u32 its position in its write, f64 number of the write,
 * u32 length of what is written, then that or a part of it. Numbers are little endian. A sector of
 * zeros was never written.
 *
 * Numbers go up by one with each write, and a write begins when the one before it is on the disk.
 * So only the last write can be torn, and its sectors tell: each is whole, or as it was before,
 * with a lower number. Anything else is damage, also in the last write, which a checksum over all
 * of it could not tell from a torn one (raft.md §2.2).
 */
import { StartError } from '../errors.ts'
import { crc32c } from '../raft/crc32c.ts'
import { cure } from './log-records.ts'

export const sectorBytes = 512
const headerBytes = 20
const partBytes = sectorBytes - headerBytes
/** Where the checksum begins to count. */
const sumFrom = 4

export interface JournalWrite {
  readonly number: number
  readonly bytes: Uint8Array
}

export interface Scan {
  /** Those after `settled`, consecutive. */
  readonly writes: readonly JournalWrite[]
  /** The highest number in use, if only by a write that is torn; at least `settled`. */
  readonly lastNumber: number
}

interface Sector {
  readonly part: number
  readonly number: number
  readonly length: number
  readonly bytes: Uint8Array
}

/** How many sectors a write of so many bytes takes. */
export function sectorCount(length: number): number {
  return Math.max(1, Math.ceil(length / partBytes))
}

/** Memory that writes take shape in, one after the other. */
export interface SectorRoom {
  readonly bytes: Uint8Array
  /** Of the same. */
  readonly view: DataView
}

export function sectorRoom(bytes: Uint8Array): SectorRoom {
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) }
}

/** Writes it into the beginning of `room`; returns what of it that took. */
export function encodeSectors({ number, bytes }: JournalWrite, room: SectorRoom): Uint8Array {
  const count = sectorCount(bytes.length)
  const sectors = room.bytes.subarray(0, count * sectorBytes)
  const { view } = room
  for (let part = 0; part < count; part++) {
    const at = part * sectorBytes
    const payload = count === 1 ? bytes : bytes.subarray(part * partBytes, (part + 1) * partBytes)
    view.setUint32(at + 4, part, true)
    view.setFloat64(at + 8, number, true)
    view.setUint32(at + 16, bytes.length, true)
    sectors.set(payload, at + headerBytes)
    sectors.fill(0, at + headerBytes + payload.length, at + sectorBytes)
    view.setUint32(at, crc32c(sectors, at + sumFrom, at + sectorBytes), true)
  }
  return sectors
}

/**
 * What `files` hold that came after write `settled`: it begins at the beginning of one of them, and
 * may go on at the beginning of the other. Throws `StartError` at damage.
 */
export function scanJournal(files: readonly Uint8Array[], settled: number): Scan {
  const writes: JournalWrite[] = []
  const expected = () => settled + writes.length + 1
  const begins = () => files.find(file => partAt(file, 0, expected(), 0) !== undefined)
  for (let file = begins(); file !== undefined; file = begins()) {
    let at = 0
    for (;;) {
      const write = writeAt(file, at, expected())
      if (write === undefined) break
      writes.push(write)
      at += sectorCount(write.bytes.length)
    }
    // It begins here, but is torn.
    if (at === 0) break
  }
  const lastNumber = Math.max(...files.map(file => highestNumber(file, settled)))
  if (lastNumber > expected()) {
    throw damaged(`lacks write ${expected()}, but holds write ${lastNumber}`)
  }
  return { writes, lastNumber }
}

/** Undefined when it is not there or torn. */
function writeAt(file: Uint8Array, from: number, number: number): JournalWrite | undefined {
  const first = partAt(file, from, number, 0)
  if (first === undefined) return undefined
  const bytes = new Uint8Array(first.length)
  let isWhole = true
  // To the end also of a torn one: none of its sectors may be damaged.
  for (let part = 0; part < sectorCount(first.length); part++) {
    const found = partAt(file, from + part, number, part)
    if (found === undefined) isWhole = false
    else bytes.set(found.bytes.subarray(0, first.length - part * partBytes), part * partBytes)
  }
  return isWhole ? { number, bytes } : undefined
}

/** What is there of write `number`; undefined when the sector is of an older one. */
function partAt(file: Uint8Array, at: number, number: number, part: number): Sector | undefined {
  const sector = sectorAt(file, at)
  if (sector === 'damaged') throw damaged(`has a damaged sector in write ${number}`)
  return sector?.number === number && sector.part === part ? sector : undefined
}

/** At least `settled`. */
function highestNumber(file: Uint8Array, settled: number): number {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  let highest = settled
  for (let at = 0; (at + 1) * sectorBytes <= file.length; at++) {
    // The checksum is of interest only where it would count.
    if (view.getFloat64(at * sectorBytes + 8, true) <= highest) continue
    const sector = sectorAt(file, at)
    if (sector !== 'damaged') highest = Math.max(highest, sector?.number ?? 0)
  }
  return highest
}

/** Undefined where nothing was ever written, or behind the end. */
function sectorAt(file: Uint8Array, at: number): Sector | 'damaged' | undefined {
  const bytes = file.subarray(at * sectorBytes, (at + 1) * sectorBytes)
  if (bytes.every(byte => byte === 0)) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== crc32c(bytes, sumFrom)) return 'damaged'
  return {
    part: view.getUint32(4, true),
    number: view.getFloat64(8, true),
    length: view.getUint32(16, true),
    bytes: bytes.subarray(headerBytes),
  }
}

function damaged(what: string): StartError {
  return new StartError(`The log's journal ${what}: it is damaged. ${cure}`)
}
