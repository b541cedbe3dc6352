/** LMDB's file: opening it without being taken down by it, and what its faults mean. */
import { closeSync, openSync, readSync, statSync, truncateSync } from 'node:fs'
import { open, type RootDatabase } from 'lmdb'
import { AssertionError, StartError } from '../errors.ts'
import { cure, type LogKey } from './log-records.ts'

/**
 * Address space reserved for the map, not memory and not disk. The log itself is bounded far below;
 * lmdb maps more by itself when the queue needs it.
 */
const mapBytes = 4 * 1024 ** 3

/** A new file needs less. Without room for its first pages LMDB is ended by a signal. */
const newBytes = 64 * 1024

/** `freeBytes` is what the filesystem has. Throws `StartError`. */
export function openEnvironment(path: string, freeBytes: number): RootDatabase<Uint8Array, LogKey> {
  mustLookLikeLmdb(path, freeBytes)
  try {
    return open<Uint8Array, LogKey>({
      path,
      encoding: 'binary',
      mapSize: mapBytes,
      noSubdir: true,
      overlappingSync: false,
      // Every write here is a batch of its own. Turn batching adds a promise that nobody can catch.
      eventTurnBatching: false,
      // Records are written whole; nothing that was in memory before can leak into the file.
      noMemInit: false,
    })
  } catch (cause) {
    throw new StartError(
      `${path} cannot be opened as an LMDB environment (${(cause as Error).message}). ${cure}`,
      { cause },
    )
  }
}

/** Turns what lmdb says of a damaged file into a sentence that says what to do. */
export function explained<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    if (cause instanceof StartError || cause instanceof AssertionError) throw cause
    const { message } = cause as Error
    throw new StartError(`The log cannot be read (${message}): it is damaged. ${cure}`, { cause })
  }
}

/** ENOSPC, EDQUOT, EFBIG and MDB_MAP_FULL, as lmdb gives them in `code`. */
const fullCodes: ReadonlySet<unknown> = new Set([28, 122, 27, -30792])

const inputOutputError = 5
/** Less room than this explains a short write: an append of the largest kind needs as much. */
const shortBytes = 16 * 1024 * 1024

/**
 * LMDB calls a write that ended early an input/output error. A write ends early when the disk is
 * full; what made it fail is then told by the room that is left.
 */
export function isFullDisk(error: unknown, freeBytes: number): boolean {
  const { code } = error as { code?: unknown }
  return fullCodes.has(code) || (code === inputOutputError && freeBytes < shortBytes)
}

/** lmdb rejects with a general error that carries a promise of the real one. */
export async function commitError(cause: unknown): Promise<unknown> {
  const inner = (cause as { commitError?: Promise<never> }).commitError
  if (inner === undefined) return cause
  try {
    return await inner
  } catch (error) {
    return error
  }
}

/**
 * lmdb ends the process by a signal when the file is not LMDB's or shorter than it says, so this
 * looks first. Layout of lmdb's own build: a page header of 24 bytes, then MDB_meta; two meta pages
 * of which the one with the higher transaction counts.
 */
function mustLookLikeLmdb(path: string, freeBytes: number): void {
  const { size } = statSync(path, { throwIfNoEntry: false }) ?? { size: 0 }
  // A process that was killed while it made the file leaves it empty: LMDB begins anew.
  if (size === 0) {
    if (freeBytes >= newBytes) return
    throw new StartError(`There is no room on the disk for a log (${path}).`)
  }
  const pageBytesMin = 4096
  const head = new Uint8Array(2 * 65_536)
  const fd = openSync(path, 'r')
  const view = new DataView(head.buffer, 0, readSync(fd, head, 0, head.length, 0))
  closeSync(fd)
  const isMeta = (at: number) =>
    view.byteLength >= at + metaBytes && view.getUint32(at + 24, true) === 0xbeefc0de
  const pageBytes = isMeta(0) ? view.getUint32(48, true) : 0
  if (pageBytes < pageBytesMin || !isMeta(pageBytes)) {
    throw new StartError(`${path} is not an LMDB environment: it is damaged. ${cure}`)
  }
  const transaction = (at: number) => view.getBigUint64(at + 152, true)
  const current = transaction(0) > transaction(pageBytes) ? 0 : pageBytes
  const lastPage = Number(view.getBigUint64(current + 144, true))
  // Pages missing at the end read as zeros then, which the checksums tell; as holes in the map
  // they would be a SIGBUS. LMDB itself may leave out pages that hold nothing.
  if (size < (lastPage + 1) * pageBytes) truncateSync(path, (lastPage + 1) * pageBytes)
}

const metaBytes = 168
