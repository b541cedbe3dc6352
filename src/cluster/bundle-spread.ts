/**
 * The bundles of a cluster: a deploy is answered when a majority of the voters has its code on the
 * disk. The other nodes get it behind that, and what a node misses it fetches (`bundle-fetch.ts`).
 */
import { AssertionError, FndError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { ConfState, NodeId } from '../raft/types.ts'
import type { Bundle, BundleLimits, Bundles } from '../store/bundles.ts'
import { BundleFetcher } from './bundle-fetch.ts'
import { SpreadRound } from './bundle-round.ts'
import { fieldOf } from './bundle-stream.ts'
import type { Peers } from './types.ts'

export interface SpreadParts {
  readonly bundles: Bundles
  readonly peers: Peers
  readonly view: () => { readonly self: NodeId; readonly conf: ConfState }
  /** Hashes of all bundles that functions refer to. */
  readonly referenced: () => ReadonlySet<string>
  readonly log: Logger
  readonly timing?: Partial<SpreadTiming>
}

export interface SpreadTiming {
  /** A deploy is refused when for so long no voter takes anything or confirms. */
  readonly quorumMs: number
  /** And after this time, however much comes. */
  readonly quorumMsMax: number
  readonly askMs: number
  /** Between two attempts at one voter; doubles. */
  readonly retryMs: number
  /** A fetch without a byte for so long is given up. */
  readonly stallMs: number
  /** Between two attempts to fetch ahead; doubles. */
  readonly aheadRetryMs: number
}

export interface SpreadStats {
  readonly sentTotal: number
  readonly sentBytesTotal: number
  readonly sendFailuresTotal: number
  readonly fetchedTotal: number
  readonly fetchedBytesTotal: number
  readonly fetchFailuresTotal: number
  readonly missing: number
}

const timingDefault: SpreadTiming = {
  quorumMs: 10_000,
  quorumMsMax: 300_000,
  askMs: 3_000,
  retryMs: 200,
  stallMs: 10_000,
  aheadRetryMs: 1000,
}
const fetchesMax = 4

export class BundleSpread implements AsyncDisposable {
  readonly #parts: SpreadParts
  readonly #timing: SpreadTiming
  readonly #fetcher: BundleFetcher
  readonly #rounds = new Map<string, Promise<void>>()
  /** Node and hash → the offer under way. */
  readonly #offers = new Map<string, Promise<FndError | undefined>>()
  /** Learners are served one after the other: nobody waits for it. */
  #behind: Promise<void> = Promise.resolve()
  #sent = 0
  #sentBytes = 0
  #sendFailures = 0
  readonly #closing = new AbortController()

  constructor(parts: SpreadParts) {
    this.#parts = parts
    this.#timing = { ...timingDefault, ...parts.timing }
    const { bundles, peers, referenced, log } = parts
    this.#fetcher = new BundleFetcher({
      bundles,
      peers,
      self: () => parts.view().self,
      referenced,
      log,
      fetchesMax,
      stallMs: this.#timing.stallMs,
      retryMs: this.#timing.aheadRetryMs,
      closing: this.#closing.signal,
    })
  }

  get stats(): SpreadStats {
    const { fetchedTotal, fetchedBytesTotal, failuresTotal, missing } = this.#fetcher.stats
    return {
      sentTotal: this.#sent,
      sentBytesTotal: this.#sentBytes,
      sendFailuresTotal: this.#sendFailures,
      fetchedTotal,
      fetchedBytesTotal,
      fetchFailuresTotal: failuresTotal,
      missing,
    }
  }

  /**
   * As `Bundles.put`, and besides that on a majority of the voters. Rejects with `FndError`
   * `no-quorum` when it is not: then it is kept here, and putting it again goes on from there.
   */
  async put(
    hash: string,
    stream: AsyncIterable<Uint8Array>,
    limits: BundleLimits,
  ): Promise<Bundle> {
    const bundle = await this.#parts.bundles.put(hash, stream, limits)
    await this.#secure(hash)
    return bundle
  }

  get(hash: string): Bundle | undefined {
    return this.#parts.bundles.get(hash)
  }

  /** False when it is not here. Rejects with `FndError` `no-quorum` as `put` does. */
  async confirm(hash: string): Promise<boolean> {
    if (!this.#parts.bundles.keep(hash)) return false
    await this.#secure(hash)
    return true
  }

  /** See `BundleFetcher.ensure`. */
  ensure(hash: string): Promise<Bundle> {
    return this.#fetcher.ensure(hash)
  }

  /** A function refers to it: it is fetched ahead of the first call. */
  want(hash: string): void {
    this.#fetcher.want(hash)
  }

  /** To be called while peers still answer, and before the store is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    await this.#fetcher.ended()
  }

  get #isClosed(): boolean {
    return this.#closing.signal.aborted
  }

  /** One round per bundle at a time, for however many deploys of it. */
  #secure(hash: string): Promise<void> {
    const running = this.#rounds.get(hash)
    if (running !== undefined) return running
    const round = this.#runRound(hash).finally(() => this.#rounds.delete(hash))
    this.#rounds.set(hash, round)
    return round
  }

  async #runRound(hash: string): Promise<void> {
    const { self, conf } = this.#parts.view()
    const round = new SpreadRound(self, conf, this.#timing)
    for (const id of round.others) void this.#convince(round, id, hash)
    await round.settled
    const learners = [...conf.learners, ...conf.learnersNext]
    for (const id of learners.filter(one => !round.asks(one))) this.#offerBehind(id, hash)
  }

  /** Offers it to one voter until that has it, or nobody waits for that any more. */
  async #convince(round: SpreadRound, id: NodeId, hash: string): Promise<void> {
    for (let delayMs = this.#timing.retryMs; ; delayMs = Math.min(2 * delayMs, 2000)) {
      const refusal = await this.#offer(id, hash, () => round.progress())
      if (refusal === undefined) return round.confirm(id)
      round.refused(id, refusal.message)
      if (round.isOver || this.#isClosed) return
      await Bun.sleep(delayMs)
      if (round.isOver) return
    }
  }

  #offerBehind(id: NodeId, hash: string): void {
    this.#behind = this.#behind.then(async () => {
      // What goes wrong is counted; the node fetches it when it needs it.
      if (!this.#isClosed) await this.#offer(id, hash, () => undefined)
    })
  }

  /** Undefined when the node has it on its disk. */
  #offer(id: NodeId, hash: string, onProgress: () => void): Promise<FndError | undefined> {
    const key = `${id} ${hash}`
    const running = this.#offers.get(key)
    if (running !== undefined) return running
    const offer = this.#give(id, hash, onProgress).finally(() => this.#offers.delete(key))
    this.#offers.set(key, offer)
    return offer
  }

  async #give(id: NodeId, hash: string, onProgress: () => void): Promise<FndError | undefined> {
    const { peers, bundles } = this.#parts
    try {
      const timeoutMs = this.#timing.askMs
      const { head } = await peers.call(id, 'bundle.has', { hash }, { timeoutMs })
      if (fieldOf(head, 'isHeld') === true) return undefined
      const tar = bundles.tar(hash)
      if (tar === undefined) return new FndError('bundle-not-found')
      const { bytes, chunks } = tar
      await peers.upload(id, 'bundle.put', { hash, bytes }, noting(chunks, onProgress))
      this.#sent += 1
      this.#sentBytes += bytes
      return undefined
    } catch (cause) {
      if (cause instanceof AssertionError) throw cause
      this.#sendFailures += 1
      if (cause instanceof FndError) return cause
      return new FndError('bundle-unreachable', { detail: String(cause), cause })
    }
  }
}

async function* noting(
  chunks: AsyncIterable<Uint8Array>,
  onProgress: () => void,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    onProgress()
    yield chunk
  }
}
