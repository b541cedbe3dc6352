import type { FndError } from '../errors.ts'
import type { Client, Exchange, ExchangeEnd, Reply } from '../http/client.ts'
import type { FnSpec, Instance } from './driver.ts'
import type { InstanceId } from './pool.ts'

export interface CallRequest {
  /** Header lines for the function, each ended by `\r\n`, without framing and hop-by-hop ones. */
  readonly headers: string
  readonly body: Uint8Array | ReadableStream<Uint8Array> | null
  /** Declared length of a streamed body; undefined for chunked. */
  readonly length: number | undefined
  /** Fires when the caller goes away. */
  readonly signal: AbortSignal
}

export type CallResult =
  | { readonly ok: true; readonly call: ActiveCall; readonly reply: Reply }
  | { readonly ok: false; readonly call: ActiveCall; readonly error: FndError }

/** An instance from its start to its end. */
export interface Running {
  readonly id: InstanceId
  /** Its id for people and drivers. */
  readonly name: string
  readonly spec: FnSpec
  readonly starting: AbortController
  /** Both are set when it is ready. */
  instance: Instance | null
  client: Client | null
  readyMs: number
  startMs: number
}

/** What a call needs of the runner. */
interface Releaser {
  release(call: ActiveCall, status: number, isWhole: boolean): void
}

/** One call, from its arrival to its end. Times are on the monotonic clock, 0 when not yet. */
export class ActiveCall implements ExchangeEnd {
  readonly id: string
  readonly spec: FnSpec
  readonly arrivedMs: number
  /** When it got its slot. */
  placedMs = 0
  /** When the head of the reply, or the failure, was there. */
  answeredMs = 0
  /** The part of the wait that was an instance's start. */
  startMs = 0
  deadlineMs = 0
  running: Running | null = null
  /** Set while an exchange is under way. */
  exchange: Exchange | null = null
  /** Set while it waits for a slot: null for a slot, else why there is none. */
  settleWait: ((failure: FndError | null) => void) | null = null
  isClientGone = false
  readonly #releaser: Releaser

  constructor(releaser: Releaser, id: string, spec: FnSpec, arrivedMs: number) {
    this.#releaser = releaser
    this.id = id
    this.spec = spec
    this.arrivedMs = arrivedMs
  }

  /** Time spent waiting, without the start of an instance. */
  get queueMs(): number {
    const placedMs = this.placedMs === 0 ? this.answeredMs : this.placedMs
    return Math.max(0, placedMs - this.arrivedMs - this.startMs)
  }

  get runMs(): number {
    return this.placedMs === 0 ? 0 : this.answeredMs - this.placedMs
  }

  exchangeEnded(status: number, isWhole: boolean): void {
    this.exchange = null
    this.#releaser.release(this, status, isWhole)
  }
}
