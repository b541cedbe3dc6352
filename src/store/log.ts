/**
 * The log on LMDB. One append is one LMDB transaction: entries, hard state and the removal of old
 * entries together.
 *
 * LMDB is opened without `overlappingSync`, so that a write's promise resolves after the fdatasync
 * of its pages and the synchronous write of the meta page; test/store/log.test.ts watches the
 * system calls. LMDB gives atomicity; the checksum of each record finds a disk that lies.
 *
 * Record: u8 version, 3 bytes zero, u32 CRC-32C over all that follows, f64 index, f64 term, bytes.
 * Numbers are little endian. The hard state is a record of index 0 whose bytes are JSON.
 */
import { closeSync, openSync, readSync, statfsSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { type Database, open, type RootDatabase } from 'lmdb'
import { AssertionError, assert, FndError, StartError } from '../errors.ts'
import { crc32c } from '../raft/crc32c.ts'
import type { Append, EntryLog, HardState } from '../raft/entry-log.ts'
import type { CommittedEntry } from '../raft/replicator.ts'
import { fsyncDir } from './fsync.ts'

const recordVersion = 1
const headerBytes = 24
/** Where the checksum begins to count. */
const sumFrom = 8

/**
 * Address space reserved for the map, not memory and not disk. The log itself is bounded far below
 * (see `SingleMember`); lmdb maps more by itself when the queue needs it.
 */
const mapBytes = 4 * 1024 ** 3

/** Entries removed by one append at most, so that truncation never delays an append noticeably. */
const dropMax = 2000

export interface LmdbLogOptions {
  /** The directory that holds `log.mdb`. */
  readonly dir: string
  /** Who this member is, asked only when the log is new. */
  readonly identity: () => { readonly clusterId: string; readonly nodeId: string }
  /**
   * Appends are refused while the filesystem has less room than this, so that there is always
   * enough for SQLite to apply what the log accepted.
   */
  readonly freeBytesMin: number
}

export class LmdbLog implements EntryLog {
  readonly #dir: string
  readonly #freeBytesMin: number
  readonly #root: RootDatabase<Uint8Array, string>
  readonly #entries: Database<Uint8Array, number>
  readonly #meta: Database<Uint8Array, string>
  #hardState: HardState
  #firstIndex: number
  #lastIndex: number
  #closed: 'no' | 'closed' | 'failed' = 'no'

  /** Opens the log, or makes one in a directory that is there. */
  static async open(options: LmdbLogOptions): Promise<LmdbLog> {
    const path = join(options.dir, 'log.mdb')
    const root = openEnvironment(path)
    const log = explained(() => new LmdbLog(options, root))
    if (log.#meta.get('hard') !== undefined) return log
    if (log.#lastIndex > 0) {
      throw new StartError(`${path} holds entries but no hard state: it is damaged. ${cure}`)
    }
    const identity = options.identity()
    const hardState = { term: 1, vote: identity.nodeId, commitIndex: 0, ...identity }
    await log.append({ entries: [], hardState, dropThrough: 0 })
    await fsyncDir(options.dir)
    return log
  }

  private constructor(options: LmdbLogOptions, root: RootDatabase<Uint8Array, string>) {
    this.#dir = options.dir
    this.#freeBytesMin = options.freeBytesMin
    this.#root = root
    this.#entries = root.openDB('entries', { encoding: 'binary' })
    this.#meta = root.openDB('meta', { encoding: 'binary' })
    const [first] = this.#entries.getKeys({ limit: 1 })
    const [last] = this.#entries.getKeys({ limit: 1, reverse: true })
    this.#lastIndex = last ?? 0
    this.#firstIndex = first ?? this.#lastIndex + 1
    const count = (this.#entries.getStats() as { entryCount: number }).entryCount
    if (count !== this.#lastIndex - this.#firstIndex + 1) {
      throw new StartError(
        `The log lacks entries between ${this.#firstIndex} and ${this.#lastIndex}: it is ` +
          `damaged. ${cure}`,
      )
    }
    const hard = this.#meta.get('hard')
    this.#hardState =
      hard === undefined
        ? { term: 0, vote: '', commitIndex: 0, clusterId: '', nodeId: '' }
        : JSON.parse(new TextDecoder().decode(decodeRecord(hard, 0, 'the hard state').bytes))
  }

  get hardState(): HardState {
    return this.#hardState
  }

  get firstIndex(): number {
    return this.#firstIndex
  }

  get lastIndex(): number {
    return this.#lastIndex
  }

  read(fromIndex: number, bytesMax: number): CommittedEntry[] {
    return explained(() => this.#read(fromIndex, bytesMax))
  }

  #read(fromIndex: number, bytesMax: number): CommittedEntry[] {
    assert(fromIndex >= this.#firstIndex, 'entries before the first were truncated')
    const entries: CommittedEntry[] = []
    let bytes = 0
    let index = fromIndex
    for (const { key, value } of this.#entries.getRange({ start: fromIndex })) {
      const name = `entry ${index}`
      if (key !== index) throw new StartError(`The log lacks ${name}: it is damaged. ${cure}`)
      const entry = decodeRecord(value, index, name)
      entries.push(entry)
      bytes += entry.bytes.length
      index += 1
      if (bytes >= bytesMax) return entries
    }
    if (index <= this.#lastIndex) {
      throw new StartError(`The log lacks entry ${index}: it is damaged. ${cure}`)
    }
    return entries
  }

  async append(append: Append): Promise<void> {
    if (this.#closed === 'failed') throw new FndError('store-failed')
    assert(this.#closed === 'no', 'a closed log is not written')
    this.#mustHaveRoom()
    const { entries, hardState } = append
    let next = this.#lastIndex
    for (const entry of entries) {
      assert(entry.index === next + 1, 'entries are appended without gaps')
      next = entry.index
    }
    // The last entry stays, so that the log always knows where it ends.
    const dropEnd = Math.min(append.dropThrough, next - 1, this.#firstIndex + dropMax - 1)
    try {
      await this.#root.batch(() => {
        for (const entry of entries) this.#entries.put(entry.index, encodeRecord(entry))
        for (let index = this.#firstIndex; index <= dropEnd; index++)
          void this.#entries.remove(index)
        const bytes = new TextEncoder().encode(JSON.stringify(hardState))
        this.#meta.put('hard', encodeRecord({ index: 0, term: hardState.term, bytes }))
      })
    } catch (cause) {
      throw await this.#failure(cause)
    }
    this.#lastIndex = next
    this.#firstIndex = Math.max(this.#firstIndex, Math.min(dropEnd + 1, next))
    this.#hardState = hardState
  }

  async close(): Promise<void> {
    // After a failure lmdb may hold its own locks for ever; the process is about to end anyway.
    if (this.#closed === 'no') await this.#root.close()
    this.#closed = 'closed'
  }

  #mustHaveRoom(): void {
    if (this.#freeBytes() < this.#freeBytesMin) throw new FndError('disk-full')
  }

  #freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.#dir)
    return bavail * bsize
  }

  /**
   * LMDB calls a write that ended early an input/output error. A write ends early when the disk is
   * full; what made it fail is then told by the room that is left.
   */
  #isFull(error: unknown): boolean {
    const { code } = error as { code?: unknown }
    return fullCodes.has(code) || (code === inputOutputError && this.#freeBytes() < shortBytes)
  }

  /**
   * LMDB refuses every further transaction once the meta page could not be written. It must be
   * asked in this way: an asynchronous write would never settle.
   */
  #isUsable(): boolean {
    try {
      this.#root.transactionSync(() => undefined)
      return true
    } catch {
      return false
    }
  }

  /**
   * A full disk shows when the pages are written, before the meta page that would make them count:
   * the transaction is void, later ones never refer to its pages, and the next may succeed.
   * Anything else may be a failed fsync, which is final.
   */
  async #failure(cause: unknown): Promise<FndError> {
    const error = await commitError(cause)
    if (this.#isFull(error) && this.#isUsable()) return new FndError('disk-full', { cause: error })
    this.#closed = 'failed'
    return new FndError('store-failed', { cause: error })
  }
}

const cure =
  'Restore the data directory from a backup, or remove it and let this node join as a new one.'

/** ENOSPC, EDQUOT, EFBIG and MDB_MAP_FULL, as lmdb gives them in `code`. */
const fullCodes: ReadonlySet<unknown> = new Set([28, 122, 27, -30792])

const inputOutputError = 5
/** Less room than this explains a short write: an append of the largest kind needs as much. */
const shortBytes = 16 * 1024 * 1024

/** lmdb rejects with a general error that carries a promise of the real one. */
async function commitError(cause: unknown): Promise<unknown> {
  const inner = (cause as { commitError?: Promise<never> }).commitError
  if (inner === undefined) return cause
  try {
    return await inner
  } catch (error) {
    return error
  }
}

/** Turns what lmdb says of a damaged file into a sentence that says what to do. */
function explained<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    if (cause instanceof StartError || cause instanceof AssertionError) throw cause
    const { message } = cause as Error
    throw new StartError(`The log cannot be read (${message}): it is damaged. ${cure}`, { cause })
  }
}

function openEnvironment(path: string): RootDatabase<Uint8Array, string> {
  mustLookLikeLmdb(path)
  try {
    return open<Uint8Array, string>({
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

/**
 * lmdb ends the process by a signal when the file is not LMDB's or shorter than it says, so this
 * looks first. Layout of lmdb's own build: a page header of 24 bytes, then MDB_meta; two meta pages
 * of which the one with the higher transaction counts.
 */
function mustLookLikeLmdb(path: string): void {
  const { size } = statSync(path, { throwIfNoEntry: false }) ?? { size: 0 }
  // A process that was killed while it made the file leaves it empty: LMDB begins anew.
  if (size === 0) return
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

function encodeRecord(entry: CommittedEntry): Uint8Array {
  const record = new Uint8Array(new ArrayBuffer(headerBytes + entry.bytes.length))
  const view = new DataView(record.buffer)
  view.setUint8(0, recordVersion)
  view.setFloat64(8, entry.index, true)
  view.setFloat64(16, entry.term, true)
  record.set(entry.bytes, headerBytes)
  view.setUint32(4, crc32c(record.subarray(sumFrom)), true)
  return record
}

function decodeRecord(record: Uint8Array, index: number, name: string): CommittedEntry {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength)
  if (record.length < headerBytes || view.getUint32(4, true) !== crc32c(record.subarray(sumFrom))) {
    throw new StartError(
      `The log's record of ${name} does not have its checksum: the disk gave back something ` +
        `else than was written. ${cure}`,
    )
  }
  if (view.getUint8(0) !== recordVersion) {
    throw new StartError(
      `The log's record of ${name} has version ${view.getUint8(0)}, this fnd knows ` +
        `${recordVersion}. Start the version of fnd that wrote it, or a later one.`,
    )
  }
  const entry = {
    index: view.getFloat64(8, true),
    term: view.getFloat64(16, true),
    // A copy: the buffers that lmdb hands out are its own.
    bytes: record.slice(headerBytes),
  }
  if (entry.index !== index) {
    throw new StartError(`The log's record of ${name} is that of entry ${entry.index}. ${cure}`)
  }
  return entry
}
