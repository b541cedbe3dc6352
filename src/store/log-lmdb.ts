/**
 * The log's records in LMDB, in the root of one environment.
 *
 * LMDB is opened without `overlappingSync`, so that a write's promise resolves after the fdatasync
 * of its pages and the synchronous write of the meta page; test/store/log-disk.test.ts watches the
 * system calls.
 */
import { join } from 'node:path'
import type { RootDatabase, Transaction } from 'lmdb'
import { FndError } from '../errors.ts'
import { commitError, explained, isFullDisk, openEnvironment } from './log-file.ts'
import type { LogRecords, RecordChange } from './log-ports.ts'
import type { LogKey } from './log-records.ts'
import { freeBytesOf } from './log-room.ts'
import { upgradeOldLog } from './log-upgrade.ts'

/** Numbers are before strings in LMDB's order, and names are strings. */
const allSegments = { start: [0, 0] as LogKey, end: [Number.MAX_SAFE_INTEGER, 0] as LogKey }

/**
 * What a transaction takes at the most besides its records, of each segment and in all: ends of
 * pages, the pages of the tree, and LMDB's list of free ones.
 */
const segmentSlackBytes = 32 * 1024
const slackBytes = 128 * 1024

export class LmdbRecords implements LogRecords {
  readonly #root: RootDatabase<Uint8Array, LogKey>
  readonly #dir: string
  /**
   * While a write removes records: the file as it was before. The transaction may be over some
   * turns before its promise says so, and until then whatever was there can be read.
   */
  #before: Transaction | undefined
  #isFailed = false

  /** Opens them, or makes them in a directory that is there. Rejects with `StartError`. */
  static async open(dir: string): Promise<LmdbRecords> {
    const root = openEnvironment(join(dir, 'log.mdb'), freeBytesOf(dir))
    try {
      explained(() => upgradeOldLog(root))
      return new LmdbRecords(root, dir)
    } catch (error) {
      await root.close()
      throw error
    }
  }

  private constructor(root: RootDatabase<Uint8Array, LogKey>, dir: string) {
    this.#root = root
    this.#dir = dir
  }

  get(key: LogKey): Uint8Array | undefined {
    const transaction = this.#before
    return explained(() => this.#root.get(key, transaction && { transaction }))
  }

  segmentKeys(): Iterable<[number, number]> {
    return explained(() => [...(this.#root.getKeys(allSegments) as Iterable<[number, number]>)])
  }

  write(change: RecordChange, done: (error: FndError | undefined) => void): void {
    const isFull = !this.#isFailed && freeBytesOf(this.#dir) < bytesOf(change)
    if (this.#isFailed || isFull) {
      return void setImmediate(() => done(new FndError(isFull ? 'disk-full' : 'store-failed')))
    }
    void this.#write(change).then(error => {
      // Outside of the promise, so that what `done` throws ends the process as any other bug.
      queueMicrotask(() => {
        this.#before?.done()
        this.#before = undefined
        done(error)
      })
    })
  }

  async close(): Promise<void> {
    // After a failure lmdb may hold its own locks for ever; the process is about to end anyway.
    if (!this.#isFailed) await this.#root.close()
  }

  async #write({ removed, put }: RecordChange): Promise<FndError | undefined> {
    const root = this.#root
    if (removed.length > 0) this.#before = root.useReadTransaction()
    try {
      await root.batch(() => {
        for (const key of removed) void root.remove(key)
        for (const [key, record] of put) void root.put(key, record)
      })
      return undefined
    } catch (cause) {
      return await this.#failure(cause)
    }
  }

  /**
   * A full disk shows when the pages are written, before the meta page that would make them count:
   * the transaction is void, later ones never refer to its pages, and the next may succeed.
   * Anything else may be a failed fsync, which is final.
   */
  async #failure(cause: unknown): Promise<FndError> {
    const error = await commitError(cause)
    const isFull = isFullDisk(error, freeBytesOf(this.#dir))
    if (isFull && this.#isUsable()) return new FndError('disk-full', { cause: error })
    this.#isFailed = true
    return new FndError('store-failed', { cause: error })
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
}

/**
 * So much must be free, or LMDB is not asked: where it finds no room it writes a message into
 * memory that is too short for it, which may end the process (mdb.c of lmdb, `mdb_page_flush`).
 */
function bytesOf({ put }: RecordChange): number {
  let bytes = slackBytes
  for (const [key, record] of put) {
    bytes += record.length + (typeof key === 'string' ? 0 : segmentSlackBytes)
  }
  return bytes
}
