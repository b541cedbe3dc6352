/**
 * Images: in the daemon before a container is made from them, for the apps that may have them.
 *
 * Every start asks the daemon what the image's name means (about 2 ms), because `docker build`
 * moves tags and nobody tells; calls of running instances ask nothing. The container is then made
 * from the image's id, so that what was checked is what runs.
 */
import { constants, createReadStream } from 'node:fs'
import { access } from 'node:fs/promises'
import type { Clock } from '../../clock.ts'
import type { DockerConfig } from '../../config-docker.ts'
import { FndError } from '../../errors.ts'
import type { Logger } from '../../log.ts'
import type { FnSpec } from '../driver.ts'
import { isSystemError } from '../libc.ts'
import type { Engine } from './engine.ts'
import { decide, refusalOf } from './image-policy.ts'
import { ImageRecords, type PendingPull } from './image-records.ts'
import { ImageRemoval } from './image-removal.ts'
import { type FoundImage, findImage, imageIds } from './inspect.ts'
import { faultOf, MessageLines, progressText } from './pull-progress.ts'
import { type PullStatus, Pulls } from './pulls.ts'
import { fullName, parseReference, type Reference } from './reference.ts'
import { type AppCredentials, type PullAuth, RegistryAuth } from './registry-auth.ts'

export interface ImageInfo {
  readonly id: string
  /** Of the manifest, as registries know it; undefined for an image that none has. */
  readonly digest: string | undefined
  readonly env: readonly string[]
  readonly entrypoint: readonly string[]
  readonly cmd: readonly string[]
  readonly user: string
}

/** What of a spec says which image is meant. */
export type ImageSpec = Pick<FnSpec, 'appId' | 'fnId' | 'image' | 'pull' | 'digest'>

export interface ImagesOptions {
  readonly engine: Engine
  readonly config: DockerConfig
  readonly dataDir: string
  readonly log: Logger
  readonly clock: Clock
  /** Throws `FndError` when they cannot be read. */
  readonly credentials: (appId: string) => AppCredentials
  /** An image is not removed so soon after its last use: its container may be on the way. */
  readonly removalGraceMs?: number
}

/** How a function's image stands, for its JSON. */
export interface ImageStatus {
  /** `sha256:…` that all starts use, or null when they follow the tag. */
  readonly pinned: string | null
  /** What the tag means in the daemon; null when it has no such tag, or cannot be asked. */
  readonly tag: string | null
  /** The tag means another image than the one that is pinned. */
  readonly has_moved: boolean
}

export interface ImageStats {
  readonly images: number
  readonly bytes: number
  readonly removed: number
  readonly pulls: number
  readonly pullFailures: number
}

interface PullEnd {
  /** All that the daemon had before. */
  readonly idsBefore: ReadonlySet<string>
  isPulled: boolean
  isOver: boolean
}

interface Wanted {
  readonly reference: Reference
  /** The name to pull. */
  readonly name: string
  readonly pin: string | undefined
}

/** With `always`, starts within this time share one pull: many of them are one burst of calls. */
export const alwaysFreshMs = 10_000
const removalGraceMsDefault = 60_000
const collectEveryMs = 600_000

export class Images {
  readonly #options: ImagesOptions
  readonly #records: ImageRecords
  readonly #auth: RegistryAuth
  readonly #pulls: Pulls
  readonly #removal: ImageRemoval
  readonly #collecting: ReturnType<typeof setInterval>
  /** Name and credential → when it was pulled last, for `always`. */
  readonly #pulledMs = new Map<string, number>()
  /** Pulls under way, and those whose end could not be looked at. */
  readonly #ends = new Map<PendingPull, PullEnd>()
  #opening: Promise<void> | undefined
  #isLoaded = false
  /** Ids of images that instances run. The daemon refuses to remove those as well. */
  inUse: () => Iterable<string> = () => []

  constructor(options: ImagesOptions) {
    const { engine, config, clock, log } = options
    this.#options = options
    this.#records = new ImageRecords(options.dataDir)
    this.#auth = new RegistryAuth(options)
    this.#pulls = new Pulls({
      engine,
      timeoutMs: config.pullTimeoutMs,
      nowMs: () => clock.nowMs(),
    })
    this.#removal = new ImageRemoval({
      engine,
      records: this.#records,
      log,
      bytesMax: config.imageBytesMax,
      kept: config.imagesKept,
      graceMs: options.removalGraceMs ?? removalGraceMsDefault,
      nowMs: () => clock.nowMs(),
      inUse: () => this.inUse(),
    })
    this.#collecting = setInterval(() => void this.#removal.collect(), collectEveryMs)
    this.#collecting.unref()
  }

  /**
   * The image, in the daemon and fit to run. Rejects with `FndError`; with the reason of `signal`
   * when that comes first, and then the pull goes on for whoever comes next.
   */
  async ensure(spec: ImageSpec, signal?: AbortSignal): Promise<ImageInfo> {
    const found = unlessAborted(this.#ensure(spec), signal).catch(cause => {
      // Records that cannot be written, or a helper that cannot be run, end this start alone.
      if (!isSystemError(cause)) throw cause
      throw new FndError('pull-failed', { detail: `'${spec.image}': ${cause.message}`, cause })
    })
    const { volumes, ...info } = await found
    if (volumes.length > 0 && !this.#options.config.areVolumesAllowed) {
      throw new FndError('image-has-volume', { detail: `${spec.image} has ${volumes.join(', ')}` })
    }
    this.#records.touch(info.id, this.#options.clock.nowMs())
    return info
  }

  /**
   * For a deploy: the newest image that the name means, fetched if a registry has it, and the
   * digest (of a local image: the id) that means just this one.
   */
  async prepare(spec: ImageSpec, isPullGiven: boolean): Promise<ImageInfo & { pin: string }> {
    const { name, pin } = wantedOf(spec)
    const local = isPullGiven ? undefined : await this.#find({ name, pin })
    // Only `docker build` or `docker load` can have brought it: there is nothing to pull.
    const isLocal = local !== undefined && local.digest === undefined
    const pull = isPullGiven ? spec.pull : isLocal ? 'missing' : 'always'
    const info = await this.ensure({ ...spec, pull })
    return { ...info, pin: info.digest ?? info.id }
  }

  /** How far the pull is that the function waits for; undefined when there is none. */
  progressOf(spec: Pick<FnSpec, 'image'>): string | undefined {
    const pull = this.pulls.find(one => one.image === spec.image)
    return pull === undefined ? undefined : progressText(pull)
  }

  /** Pulls under way. */
  get pulls(): readonly PullStatus[] {
    return this.#pulls.running
  }

  /** What fnd pulled, and what became of it. */
  get stats(): ImageStats {
    return {
      images: this.#records.all.size,
      bytes: this.#records.bytes,
      removed: this.#removal.removed,
      pulls: this.#pulls.total,
      pullFailures: this.#pulls.failed,
    }
  }

  /** Undefined for what is no reference. Never rejects for want of a daemon. */
  async describe(spec: ImageSpec): Promise<ImageStatus | undefined> {
    const reference = parseReference(spec.image)
    if (reference === undefined) return undefined
    const pinned = reference.digest ?? spec.digest ?? null
    const { tag } = reference
    const name = tag === undefined ? undefined : fullName({ ...reference, digest: undefined })
    const found = name === undefined ? undefined : await this.#seen(name)
    const isSame = pinned === null || found === undefined || found.means(pinned)
    const means = found === undefined ? null : (found.digest ?? found.id)
    return { pinned, tag: means, has_moved: !isSame }
  }

  async close(): Promise<void> {
    clearInterval(this.#collecting)
    await this.#pulls.close()
    await this.#removal.close()
    this.#records.close()
  }

  async #ensure(spec: ImageSpec): Promise<FoundImage> {
    const wanted = wantedOf(spec)
    await this.#open()
    for (const [pending, end] of this.#ends) if (end.isOver) await this.#settle(pending, end)
    const { name, pin, reference } = wanted
    const found = await this.#find(wanted)
    const grant = this.#auth.grantOf(spec.appId, reference.domain)
    const freshFromMs = this.#options.clock.monotonicMs() - alwaysFreshMs
    const verdict = decide({
      policy: spec.pull,
      isPresent: found !== undefined,
      isAllowed: found === undefined || this.#isAllowed(found.id, grant),
      isImmutable: pin !== undefined,
      isFresh: (this.#pulledMs.get(keyOf(name, grant)) ?? Number.NEGATIVE_INFINITY) > freshFromMs,
    })
    if (verdict !== 'use' && verdict !== 'pull') throw refusalOf(verdict, spec.image)
    if (verdict === 'use' && found !== undefined) return found
    const auth = await this.#auth.authOf(spec.appId, reference.domain)
    await this.#pull(wanted, spec, auth)
    const pulled = await this.#find(wanted)
    if (pulled !== undefined && this.#isAllowed(pulled.id, auth.grant)) return pulled
    // Pulled, and moved or removed by somebody before it could be looked at.
    const detail = `'${spec.image}': it is not in the daemon after its pull; try again`
    throw new FndError('pull-failed', { detail })
  }

  async #pull({ name, pin }: Wanted, spec: ImageSpec, auth: PullAuth): Promise<void> {
    const key = keyOf(name, auth.grant)
    const request = { name, shown: spec.image, auth: auth.config }
    try {
      await this.#pulls.join(key, request, pull => this.#recorded(name, auth.grant ?? null, pull))
    } catch (cause) {
      if (pin === undefined || !(cause instanceof FndError)) throw cause
      if (!/^(image|pull|pulls)-/.test(cause.code) || cause.code === 'pull-timeout') throw cause
      const note = `; the function is pinned to ${pin}, which the daemon does not have`
      throw new FndError(cause.code, { detail: `${cause.detail}${note}: deploy it again`, cause })
    }
    const nowMs = this.#options.clock.monotonicMs()
    for (const [one, pulledMs] of this.#pulledMs) {
      if (pulledMs < nowMs - alwaysFreshMs) this.#pulledMs.delete(one)
    }
    this.#pulledMs.set(key, nowMs)
  }

  /** A pull, and the record of what it brought. */
  async #recorded(name: string, grant: string | null, pull: () => Promise<void>): Promise<void> {
    const { engine } = this.#options
    const before = await findImage(engine, name)
    const idsBefore = await imageIds(engine)
    const pending: PendingPull = { name, grant, before: before?.id ?? null }
    this.#records.begin(pending)
    const end: PullEnd = { idsBefore, isPulled: false, isOver: false }
    this.#ends.set(pending, end)
    try {
      await pull()
      end.isPulled = true
    } finally {
      end.isOver = true
      await this.#conclude(pending, end)
    }
    void this.#removal.collect()
  }

  #isAllowed(id: string, grant: string | undefined): boolean {
    if (!this.#records.isAllowed(id, grant)) return false
    if (this.#records.all.has(id)) return true
    // A pull may have brought it just now, and not have noted it yet.
    const mayBring = ([pull, { idsBefore }]: [PendingPull, PullEnd]) =>
      pull.grant !== null && pull.grant !== grant && !idsBefore.has(id)
    return ![...this.#ends].some(mayBring)
  }

  async #conclude(pending: PendingPull, end: PullEnd): Promise<void> {
    try {
      await this.#settle(pending, end)
    } catch (cause) {
      // Without the daemon nothing can be started; before the next start it is looked at again.
      if (!(cause instanceof FndError)) throw cause
    }
  }

  /** Records what a pull brought: one that failed may have brought its image after all. */
  async #settle(pending: PendingPull, { idsBefore, isPulled }: PullEnd): Promise<void> {
    const { name, grant, before } = pending
    const found = await findImage(this.#options.engine, name)
    const isKnown = found !== undefined && this.#records.all.has(found.id)
    // What was there before, and unrecorded, is the operator's.
    const isNew = found !== undefined && found.id !== before && !idsBefore.has(found.id)
    const isOurs = isKnown ? isPulled : isNew
    const nowMs = this.#options.clock.nowMs()
    const pulled = found !== undefined && isOurs ? { ...found, name, grant, nowMs } : undefined
    this.#records.end(pending, pulled)
    this.#ends.delete(pending)
  }

  /** Once: what an earlier process left, and the operator's archive. */
  async #open(): Promise<void> {
    this.#opening ??= this.#openOnce().catch(cause => {
      this.#opening = undefined
      throw cause
    })
    return this.#opening
  }

  async #openOnce(): Promise<void> {
    for (const pending of this.#records.pending) {
      await this.#settle(pending, { idsBefore: new Set(), isPulled: false, isOver: true })
    }
    const { loadFile } = this.#options.config
    if (loadFile === '' || this.#isLoaded) return
    const { engine, log, config } = this.#options
    try {
      // The client library would not survive a file that cannot be opened.
      await access(loadFile, constants.R_OK)
      const stream = await engine.ask(
        docker => docker.loadImage(createReadStream(loadFile)),
        config.pullTimeoutMs,
      )
      const lines = new MessageLines()
      for await (const chunk of stream) {
        const fault = lines
          .push(Buffer.from(chunk))
          .map(faultOf)
          .find(one => one !== undefined)
        if (fault !== undefined) throw new Error(fault)
      }
      log.info({ loadFile }, 'loaded the archive of images')
    } catch (cause) {
      if (cause instanceof FndError && cause.code === 'docker-unavailable') throw cause
      log.error({ err: cause, loadFile }, 'the archive of images cannot be loaded')
    }
    this.#isLoaded = true
  }

  async #find({ name, pin }: Pick<Wanted, 'name' | 'pin'>): Promise<FoundImage | undefined> {
    const { engine } = this.#options
    const named = await findImage(engine, name)
    // A digest may be that of an image which no registry has: then it is the image's id.
    return named ?? (pin === undefined ? undefined : await findImage(engine, pin))
  }

  async #seen(name: string): Promise<FoundImage | undefined> {
    try {
      return await this.#find({ name, pin: undefined })
    } catch (cause) {
      if (cause instanceof FndError) return undefined
      throw cause
    }
  }
}

function wantedOf(spec: ImageSpec): Wanted {
  const given = parseReference(spec.image)
  if (given === undefined) {
    throw new FndError('image-invalid', { detail: `'${spec.image}': invalid reference format` })
  }
  const pin = given.digest ?? spec.digest
  const reference = pin === undefined ? given : { ...given, digest: pin }
  return { reference, name: fullName(reference), pin }
}

function keyOf(name: string, grant: string | undefined): string {
  return `${name}\n${grant ?? ''}`
}

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  const aborted = Promise.withResolvers<never>()
  const onAbort = () => aborted.reject(signal.reason)
  if (signal.aborted) onAbort()
  signal.addEventListener('abort', onAbort)
  try {
    return await Promise.race([work, aborted.promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
    // Whoever left does not hear how it ended.
    work.catch(() => undefined)
  }
}
