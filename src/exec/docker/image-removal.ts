/**
 * Keeps the images that fnd pulled below a size, by removing those unused for longest. It touches
 * only names that fnd itself pulled: an image that somebody else tagged as well stays.
 */
import { FndError } from '../../errors.ts'
import type { Logger } from '../../log.ts'
import { isSystemError } from '../libc.ts'
import { DockerRefusal, type Engine } from './engine.ts'
import { removable } from './image-policy.ts'
import type { ImageRecords } from './image-records.ts'
import { findImage, imageIds } from './inspect.ts'
import { fullName, parseReference } from './reference.ts'

export interface ImageRemovalOptions {
  readonly engine: Engine
  readonly records: ImageRecords
  readonly log: Logger
  /** 0 = no limit. Layers that images share count for each of them. */
  readonly bytesMax: number
  /** References that are never removed. */
  readonly kept: readonly string[]
  readonly graceMs: number
  readonly nowMs: () => number
  readonly inUse: () => Iterable<string>
}

export class ImageRemoval {
  readonly #options: ImageRemovalOptions
  readonly #kept: ReadonlySet<string>
  #running: Promise<void> | undefined
  #isClosed = false
  /** Images removed since the start. */
  removed = 0

  constructor(options: ImageRemovalOptions) {
    this.#options = options
    const names = options.kept.map(parseReference).filter(one => one !== undefined)
    this.#kept = new Set(names.map(fullName))
  }

  /** Never rejects for what the daemon says: it is tried again at the next turn. */
  collect(): Promise<void> {
    this.#running ??= this.#turn().finally(() => {
      this.#running = undefined
    })
    return this.#running
  }

  async #turn(): Promise<void> {
    try {
      if (this.#options.records.all.size > 0) await this.#prune()
      await this.#collect()
    } catch (cause) {
      if (!(cause instanceof FndError || isSystemError(cause))) throw cause
      this.#options.log.warn({ err: cause }, 'images cannot be looked through for what may go')
    }
  }

  /** Forgets images that somebody else removed. */
  async #prune(): Promise<void> {
    const { engine, records } = this.#options
    const known = [...records.all]
    const ids = await imageIds(engine)
    for (const [id, record] of known) {
      // A record that is another by now tells of a later pull.
      if (!ids.has(id) && records.all.get(id) === record) records.forget(id)
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await this.#running
  }

  async #collect(): Promise<void> {
    const { records, bytesMax, graceMs, nowMs } = this.#options
    if (bytesMax === 0 || records.bytes <= bytesMax) return
    const inUse = new Set(this.#options.inUse())
    const ids = removable(records.all, {
      bytesMax,
      graceMs,
      nowMs: nowMs(),
      isKept: (id, { names }) => inUse.has(id) || names.some(name => this.#kept.has(name)),
    })
    for (const id of ids) {
      if (this.#isClosed || records.bytes <= bytesMax) return
      await this.#remove(id)
    }
  }

  async #remove(id: string): Promise<void> {
    const { engine, records, log } = this.#options
    const names = records.all.get(id)?.names ?? []
    let found = await findImage(engine, id)
    const held = [...(found?.tags ?? []), ...(found?.digests ?? [])]
    for (const name of names.filter(one => held.includes(one))) {
      if (!(await this.#untag(name))) return
    }
    found = await findImage(engine, id)
    if (found !== undefined && found.tags.length === 0) {
      if (!(await this.#untag(id))) return
      found = await findImage(engine, id)
    }
    if (found !== undefined) return records.disown(id)
    this.removed += 1
    records.forget(id)
    log.info({ image: id, names }, 'removed an image that was not used for long')
  }

  /** False when a container, of whomever, uses it. */
  async #untag(name: string): Promise<boolean> {
    try {
      await this.#options.engine.ask(docker => docker.getImage(name).remove())
      return true
    } catch (cause) {
      // 409: in use; else the daemon's trouble with it, which may be over at the next turn.
      if (!(cause instanceof DockerRefusal)) throw cause
      return cause.statusCode === 404
    }
  }
}
