/**
 * Takes snapshots of the state: one file each, in a directory that is emptied at the start. Whoever
 * took one removes it.
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, statfsSync, statSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { FndError } from '../errors.ts'
import type { DiskAnswer } from './disk-tasks.ts'
import { DiskThread } from './disk-work.ts'
import { type Described, describeSnapshot, snapshotName } from './snapshot-file.ts'

/**
 * The file is removed when it is disposed. To remove a gigabyte may take half a second, in which
 * the event loop goes on.
 */
export interface TakenSnapshot extends Described, AsyncDisposable {
  /** What raft carries: see `snapshotName`. */
  readonly name: string
  readonly path: string
  readonly bytes: number
  readonly sha256: string
  /** Hashes of the bundles that its functions refer to. */
  readonly bundles: readonly string[]
}

export interface SnapshotsOptions {
  /** Of the state machine. */
  readonly database: string
  /** Settles what was applied: a copy holds only what is settled. */
  readonly settle: () => void
  /** For files on the same disk; whatever is in it is removed. */
  readonly dir: string
  /** None is begun that would leave less room than this: changes would be refused meanwhile. */
  readonly freeBytesMin?: number
  /** That of the state machine: while it copies a database it puts no other in its place. */
  readonly thread?: DiskThread
}

export class Snapshots {
  readonly #database: string
  readonly #settle: () => void
  readonly #dir: string
  readonly #freeBytesMin: number
  readonly #thread: DiskThread
  /** One at a time: each writes as much as the whole state. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(options: SnapshotsOptions) {
    const { database, settle, dir, freeBytesMin = 0, thread = new DiskThread() } = options
    this.#freeBytesMin = freeBytesMin
    this.#thread = thread
    this.#database = database
    this.#settle = settle
    this.#dir = dir
    rmSync(dir, { recursive: true, force: true })
    mkdirSync(dir, { recursive: true, mode: 0o700 })
  }

  /**
   * Of everything that was applied before the call, and perhaps more. Rejects with `FndError`
   * `disk-full` or `snapshot-failed`.
   */
  take(): Promise<TakenSnapshot> {
    const taken = this.#last.then(
      () => this.#take(),
      () => this.#take(),
    )
    this.#last = taken
    return taken
  }

  async #take(): Promise<TakenSnapshot> {
    const path = join(this.#dir, `${randomBytes(8).toString('hex')}.db`)
    const remove = () => rm(path, { force: true })
    this.#mustHaveRoom()
    this.#settle()
    try {
      const { bytes, sha256, bundles } = await this.#vacuum(path)
      const described = describeSnapshot(path)
      const name = snapshotName({ ...described, sha256 })
      return { ...described, name, path, bytes, sha256, bundles, [Symbol.asyncDispose]: remove }
    } catch (cause) {
      await remove()
      throw cause
    }
  }

  #mustHaveRoom(): void {
    const { bavail, bsize } = statfsSync(this.#dir)
    const bytes = sizeOf(this.#database) + sizeOf(`${this.#database}-wal`)
    if (bavail * bsize >= bytes + this.#freeBytesMin) return
    const detail = `a copy of the state needs ${bytes} bytes, besides the reserve for changes`
    throw new FndError('disk-full', { detail })
  }

  async #vacuum(copy: string): Promise<DiskAnswer & { ok: true }> {
    const answer = await this.#thread.whenDone({ kind: 'vacuum', database: this.#database, copy })
    if (answer.ok) return answer
    const isFull = answer.code === 'SQLITE_FULL' || answer.code === 'ENOSPC'
    throw new FndError(isFull ? 'disk-full' : 'snapshot-failed', { detail: answer.message })
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}
