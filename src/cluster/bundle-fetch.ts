/**
 * Brings bundles to this node from others, by hash. What a call waits for goes before what is
 * fetched ahead; each bundle is fetched once at a time, from one node after the other until one
 * gives the right bytes.
 */
import { AssertionError, FndError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { NodeId } from '../raft/types.ts'
import type { Bundle, Bundles } from '../store/bundles.ts'
import { bytesOf, watched } from './bundle-stream.ts'
import type { PeerState, Peers } from './types.ts'

export interface FetchParts {
  readonly bundles: Pick<Bundles, 'get' | 'put'>
  readonly peers: Pick<Peers, 'download' | 'states'>
  readonly self: () => NodeId
  /** What functions refer to, and so must be here though nobody asks. */
  readonly referenced: () => ReadonlySet<string>
  readonly log: Logger
  readonly fetchesMax: number
  /** A transfer without a byte for so long is given up. */
  readonly stallMs: number
  /** What could not be fetched ahead is tried again after this time, which doubles. */
  readonly retryMs: number
  /** Ends all fetches with `shutting-down`. */
  readonly closing: AbortSignal
}

export interface FetchStats {
  readonly fetchedTotal: number
  readonly fetchedBytesTotal: number
  /** Attempts at one node. */
  readonly failuresTotal: number
  /** Bundles that functions refer to, that are on their way here or cannot be had. */
  readonly missing: number
}

interface Fetch {
  readonly hash: string
  readonly bundle: Promise<Bundle>
  readonly start: () => void
  isUrgent: boolean
  isRunning: boolean
}

/** The tar is bounded by what its sender says; this bounds how many files it makes. */
export const filesMax = 20_000
const retryMsMax = 60_000

export class BundleFetcher {
  readonly #parts: FetchParts
  readonly #fetches = new Map<string, Fetch>()
  /** Fetched ahead in vain. */
  readonly #missed = new Set<string>()
  #retryMs: number
  #timer: ReturnType<typeof setTimeout> | undefined
  #running = 0
  #fetched = 0
  #fetchedBytes = 0
  #failures = 0
  constructor(parts: FetchParts) {
    this.#parts = parts
    this.#retryMs = parts.retryMs
  }

  get stats(): FetchStats {
    return {
      fetchedTotal: this.#fetched,
      fetchedBytesTotal: this.#fetchedBytes,
      failuresTotal: this.#failures,
      missing: new Set([...this.#missed, ...this.#fetches.keys()]).size,
    }
  }

  /**
   * Rejects with `FndError`: `bundle-not-found` when all other nodes say that they do not have it,
   * `bundle-unreachable` when some could not be asked or failed to give it.
   */
  async ensure(hash: string): Promise<Bundle> {
    const here = this.#parts.bundles.get(hash)
    if (here !== undefined) return here
    if (this.#isClosed) throw new FndError('shutting-down')
    return this.#fetch(hash, true).bundle
  }

  /** Fetches ahead, and goes on trying for as long as a function refers to it. */
  want(hash: string): void {
    if (this.#isClosed || this.#parts.bundles.get(hash) !== undefined) return
    if (this.#fetches.has(hash)) return
    const tried = this.#fetch(hash, false).bundle.then(
      () => {
        this.#missed.delete(hash)
        this.#retryMs = this.#parts.retryMs
      },
      cause => this.#miss(hash, cause),
    )
    void tried
  }

  /** After `closing`: resolves when nothing is written any more. */
  async ended(): Promise<void> {
    clearTimeout(this.#timer)
    const fetches = [...this.#fetches.values()]
    for (const fetch of fetches) if (!fetch.isRunning) fetch.start()
    await Promise.allSettled(fetches.map(fetch => fetch.bundle))
  }

  get #isClosed(): boolean {
    return this.#parts.closing.aborted
  }

  #miss(hash: string, cause: unknown): void {
    if (!(cause instanceof FndError)) throw cause
    if (this.#isClosed) return
    if (!this.#missed.has(hash)) {
      this.#parts.log.warn({ bundle: hash, why: cause.message }, 'a bundle could not be fetched')
    }
    this.#missed.add(hash)
    this.#timer ??= setTimeout(() => this.#retry(), this.#retryMs)
  }

  #retry(): void {
    this.#timer = undefined
    this.#retryMs = Math.min(2 * this.#retryMs, retryMsMax)
    const referenced = this.#parts.referenced()
    for (const hash of this.#missed) {
      const isDone = this.#parts.bundles.get(hash) !== undefined || !referenced.has(hash)
      if (isDone) this.#missed.delete(hash)
      else this.want(hash)
    }
  }

  #fetch(hash: string, isUrgent: boolean): Fetch {
    const known = this.#fetches.get(hash)
    if (known !== undefined) {
      known.isUrgent ||= isUrgent
      return known
    }
    const turn = Promise.withResolvers<void>()
    const bundle = turn.promise.then(() => this.#run(hash))
    const fetch = { hash, bundle, start: turn.resolve, isUrgent, isRunning: false }
    this.#fetches.set(hash, fetch)
    this.#startNext()
    return fetch
  }

  #startNext(): void {
    while (this.#running < this.#parts.fetchesMax) {
      const waiting = [...this.#fetches.values()].filter(fetch => !fetch.isRunning)
      const next = waiting.find(fetch => fetch.isUrgent) ?? waiting[0]
      if (next === undefined) return
      next.isRunning = true
      this.#running += 1
      next.start()
    }
  }

  async #run(hash: string): Promise<Bundle> {
    try {
      if (this.#isClosed) throw new FndError('shutting-down')
      return this.#parts.bundles.get(hash) ?? (await this.#fromAny(hash))
    } finally {
      this.#fetches.delete(hash)
      this.#running -= 1
      this.#startNext()
    }
  }

  async #fromAny(hash: string): Promise<Bundle> {
    const self = this.#parts.self()
    const peers = this.#parts.peers.states().filter(({ id }) => id !== self)
    const failures: string[] = []
    for (const { id } of peers.toSorted(byNearness)) {
      const got = await this.#from(id, hash)
      if (!(got instanceof FndError)) return got
      if (this.#isClosed) break
      // Of this node's own disk: another peer would not help.
      if (got.code === 'disk-full') throw got
      if (got.code !== 'bundle-not-found') failures.push(`node ${id}: ${got.message}`)
    }
    if (this.#isClosed) throw new FndError('shutting-down')
    if (failures.length === 0) throw new FndError('bundle-not-found', { detail: hash })
    throw new FndError('bundle-unreachable', { detail: failures.join('; ') })
  }

  async #from(id: NodeId, hash: string): Promise<Bundle | FndError> {
    const { peers, bundles, stallMs, closing, log } = this.#parts
    const startedMs = performance.now()
    try {
      const { head, body } = await peers.download(id, 'bundle.get', { hash })
      const bytes = bytesOf(head)
      const chunks = watched(body, stallMs, closing)
      const bundle = await bundles.put(hash, chunks, { bytesMax: bytes, filesMax })
      const ms = Math.round(performance.now() - startedMs)
      log.info({ bundle: hash, node: id, bytes, ms }, 'fetched a bundle')
      this.#fetched += 1
      this.#fetchedBytes += bytes
      return bundle
    } catch (cause) {
      if (cause instanceof AssertionError) throw cause
      const error =
        cause instanceof FndError
          ? cause
          : new FndError('bundle-unreachable', { detail: String(cause), cause })
      if (error.code !== 'bundle-not-found') this.#failures += 1
      return error
    }
  }
}

/** Connected ones first, then by round trip. */
function byNearness(a: PeerState, b: PeerState): number {
  return (
    Number(b.isConnected) - Number(a.isConnected) ||
    (a.rttMs ?? Number.MAX_VALUE) - (b.rttMs ?? Number.MAX_VALUE) ||
    a.id - b.id
  )
}
