/**
 * The WAL of the state: made durable and kept short without anybody's waiting for the disk in the
 * event loop. SQLite's own checkpoints would run inside of a commit (`wal_autocheckpoint`), with
 * two flushes of the disk.
 */
import { closeSync, fstatSync, fsync, openSync } from 'node:fs'
import type { DiskWork } from './disk-work.ts'

/** A checkpoint is begun whenever the WAL has grown by that much: 1000 pages, as SQLite does. */
const checkpointBytes = 4 * 1024 * 1024

/** Reasons for which a checkpoint is only tried again later. */
const isPassing = (code: string | undefined) => /^SQLITE_(FULL|BUSY|IOERR_SHM)/.test(code ?? '')

export class Wal {
  readonly #database: string
  readonly #thread: DiskWork
  readonly #fd: number
  #dueBytes = checkpointBytes
  #isCheckpointing = false
  #syncs = 0
  #isClosed = false
  /** Why nothing is durable any more. */
  #fault: Error | undefined

  /** The database is open, so that there is a WAL beside it until this is closed. */
  constructor(database: string, thread: DiskWork) {
    this.#database = database
    this.#thread = thread
    // Kept open: an error of the disk is told to those who had the file open by then.
    this.#fd = openSync(`${database}-wal`, 'r')
  }

  /** A checkpoint failed, and the process must end, because a later one may falsely succeed. */
  get fault(): Error | undefined {
    return this.#fault
  }

  /** The thread is at it, and needs a moment in which nobody writes. */
  get isCheckpointing(): boolean {
    return this.#isCheckpointing
  }

  /**
   * It is empty, and the thread is about to write its header: whoever does that waits for the disk.
   * Asked with SQLite's lock for writing held, so that it stays so.
   */
  get isBeginning(): boolean {
    return this.#isCheckpointing && fstatSync(this.#fd).size === 0
  }

  /**
   * Makes everything that was committed before the call durable: it is in the WAL, or in the
   * database by a checkpoint, which flushes it before the WAL is begun anew.
   */
  sync(done: (error: Error | undefined) => void): void {
    this.#syncs += 1
    fsync(this.#fd, error => {
      this.#syncs -= 1
      if (this.#isClosed && this.#syncs === 0) closeSync(this.#fd)
      done(error ?? this.#fault)
    })
  }

  /** After a commit. */
  grew(): void {
    if (this.#isCheckpointing || fstatSync(this.#fd).size < this.#dueBytes) return
    this.#isCheckpointing = true
    this.#thread.ask({ kind: 'checkpoint', database: this.#database }, answer => {
      this.#isCheckpointing = false
      if (this.#isClosed) return
      // What somebody who reads kept from leaving is tried again with what comes.
      this.#dueBytes = fstatSync(this.#fd).size + checkpointBytes
      if (answer.ok || isPassing(answer.code)) return
      this.#fault = new Error(`The checkpoint of ${this.#database} failed: ${answer.message}`)
    })
  }

  close(): void {
    this.#isClosed = true
    if (this.#syncs === 0) closeSync(this.#fd)
  }
}
