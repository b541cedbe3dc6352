/**
 * What fnd pulled, with whose credentials, and when it was last used: `<data>/images.json`. An
 * image in the daemon that is not recorded here was put there by the operator, and is for all apps.
 *
 * A pull is noted before it begins, so that a crash in the middle cannot turn the image that an app
 * pulled with credentials of its own into one for all.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { StartError } from '../../errors.ts'
import { isSystemError } from '../libc.ts'

export interface ImageRecord {
  /** Full names by which fnd pulled it. */
  readonly names: readonly string[]
  /** Anyone may use it: it came without credentials, or with those of the operator. */
  readonly isOpen: boolean
  /** Fingerprints of the credentials that could pull it. */
  readonly grants: readonly string[]
  readonly bytes: number
  readonly usedMs: number
}

/** A pull that is under way, or whose end nobody saw. */
export interface PendingPull {
  readonly name: string
  /** Fingerprint of the app's credentials; null for the operator's, or none. */
  readonly grant: string | null
  /** Images that were in the daemon before: not of this pull. */
  readonly before: string | null
}

interface RecordFile {
  readonly version: 1
  readonly images: Readonly<Record<string, ImageRecord>>
  readonly pending: readonly PendingPull[]
}

export interface Pulled {
  readonly id: string
  readonly name: string
  readonly grant: string | null
  readonly bytes: number
  readonly nowMs: number
}

/** Uses are written down this late: they only decide what is removed first. */
const lazyMs = 60_000

export class ImageRecords {
  readonly #path: string
  readonly #images: Map<string, ImageRecord>
  #pending: readonly PendingPull[]
  #timer: ReturnType<typeof setTimeout> | undefined

  /** Throws `StartError` when the file is damaged: without it private images would be for all. */
  constructor(dataDir: string) {
    this.#path = join(dataDir, 'images.json')
    const file = readFile(this.#path)
    this.#images = new Map(Object.entries(file.images))
    this.#pending = file.pending
  }

  get all(): ReadonlyMap<string, ImageRecord> {
    return this.#images
  }

  get pending(): readonly PendingPull[] {
    return this.#pending
  }

  get bytes(): number {
    let sum = 0
    for (const { bytes, names } of this.#images.values()) if (names.length > 0) sum += bytes
    return sum
  }

  /** Whether the holder of these credentials (undefined: of none) may use the image. */
  isAllowed(id: string, grant: string | undefined): boolean {
    const record = this.#images.get(id)
    if (record === undefined || record.isOpen) return true
    return grant !== undefined && record.grants.includes(grant)
  }

  /** Throws a system error when it cannot be noted; then it must not begin. */
  begin(pull: PendingPull): void {
    const before = this.#pending
    this.#pending = [...before, pull]
    try {
      this.#save()
    } catch (cause) {
      this.#pending = before
      throw cause
    }
  }

  /** The pull is over. `pulled` is what it brought; undefined for nothing, or nothing of ours. */
  end(pull: PendingPull, pulled: Pulled | undefined): void {
    this.#pending = this.#pending.filter(one => one !== pull)
    if (pulled !== undefined) {
      const old = this.#images.get(pulled.id)
      const grants = pulled.grant === null ? [] : [pulled.grant]
      this.#images.set(pulled.id, {
        names: [...new Set([...(old?.names ?? []), pulled.name])],
        isOpen: (old?.isOpen ?? false) || pulled.grant === null,
        grants: [...new Set([...(old?.grants ?? []), ...grants])],
        bytes: pulled.bytes,
        usedMs: pulled.nowMs,
      })
    }
    this.#save()
  }

  touch(id: string, nowMs: number): void {
    const record = this.#images.get(id)
    if (record === undefined) return
    this.#images.set(id, { ...record, usedMs: nowMs })
    this.#saveLater()
  }

  #saveLater(): void {
    this.#timer ??= setTimeout(() => {
      if (!this.#saveUses()) this.#saveLater()
    }, lazyMs)
    this.#timer.unref()
  }

  /** False where the disk is full, for example: that loses nothing but the times of last uses. */
  #saveUses(): boolean {
    try {
      this.#save()
      return true
    } catch (cause) {
      if (!isSystemError(cause)) throw cause
      return false
    }
  }

  /** It is gone from the daemon. */
  forget(id: string): void {
    if (this.#images.delete(id)) this.#save()
  }

  /** Names by which others hold it are left; who may use it stays known. */
  disown(id: string): void {
    const record = this.#images.get(id)
    if (record === undefined) return
    this.#images.set(id, { ...record, names: [] })
    this.#save()
  }

  close(): void {
    if (this.#timer !== undefined) this.#saveUses()
  }

  /** Durable when it returns: who may use an image must outlive a power failure. */
  #save(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const file: RecordFile = {
      version: 1,
      images: Object.fromEntries(this.#images),
      pending: this.#pending,
    }
    const temporary = `${this.#path}.new`
    const fd = openSync(temporary, 'w', 0o600)
    try {
      // Unlike one write, whole or failed: a disk that is nearly full takes a part.
      writeFileSync(fd, JSON.stringify(file))
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    renameSync(temporary, this.#path)
  }
}

function readFile(path: string): RecordFile {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause
    return { version: 1, images: {}, pending: [] }
  }
  try {
    const file = JSON.parse(text) as Partial<RecordFile>
    if (file.version === 1 && file.images !== undefined && file.pending !== undefined) {
      return { version: 1, images: file.images, pending: file.pending }
    }
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
  }
  throw new StartError(
    `${path} is damaged or of a newer fnd. It says which app may use which image: restore it, or ` +
      'remove the images that fnd pulled from the daemon, and then this file.',
  )
}
