/**
 * Takes snapshots of the state: one file each, in a directory that is emptied at the start. Whoever
 * took one removes it.
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, statfsSync, statSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { FndError } from '../errors.ts'
import { type Described, describeSnapshot, snapshotName } from './snapshot-file.ts'
import { vacuumUrl } from './vacuum-source.ts'
import type { VacuumAnswer, VacuumRequest } from './vacuum-thread.ts'

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
  /** For files on the same disk; whatever is in it is removed. */
  readonly dir: string
  /** None is begun that would leave less room than this: changes would be refused meanwhile. */
  readonly freeBytesMin?: number
}

export class Snapshots {
  readonly #database: string
  readonly #dir: string
  readonly #freeBytesMin: number
  /** One at a time: each writes as much as the whole state. */
  #last: Promise<unknown> = Promise.resolve()

  constructor({ database, dir, freeBytesMin = 0 }: SnapshotsOptions) {
    this.#freeBytesMin = freeBytesMin
    this.#database = database
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
    try {
      const { bytes, sha256, bundles } = await vacuum({ database: this.#database, copy: path })
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
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}

async function vacuum(request: VacuumRequest): Promise<VacuumAnswer & { ok: true }> {
  const thread = new Worker(vacuumUrl())
  try {
    const answer = await new Promise<VacuumAnswer>(resolve => {
      thread.onmessage = (event: MessageEvent<VacuumAnswer>) => resolve(event.data)
      thread.onerror = ({ message }) => resolve({ ok: false, code: undefined, message })
      thread.postMessage(request)
    })
    if (answer.ok) return answer
    const isFull = answer.code === 'SQLITE_FULL' || answer.code === 'ENOSPC'
    throw new FndError(isFull ? 'disk-full' : 'snapshot-failed', { detail: answer.message })
  } finally {
    thread.terminate()
  }
}
