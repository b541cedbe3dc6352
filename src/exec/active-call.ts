import type { FndError } from '../errors.ts'
import type { Client, Exchange, ExchangeSink, Reply } from '../http/client.ts'
import type { ExchangeFault } from '../http/exchange-error.ts'
import { type CallEnd, CallLife } from './call.ts'
import type { FnSpec, Instance } from './driver.ts'
import type { InstanceId } from './pool.ts'

/**
 * What is asked of a function, and who asks it. It hears once what came of it; a streamed body may
 * go on after that. Its fields are read when the call gets its slot.
 */
export interface CallAsker {
  /** Header lines for the function, each ended by `\r\n`, without framing and hop-by-hop ones. */
  readonly headers: string
  readonly body: Uint8Array | ReadableStream<Uint8Array> | null
  /** Declared length of a streamed body; undefined for chunked. */
  readonly length: number | undefined
  readonly caller: Caller
  answered(call: ActiveCall, reply: Reply): void
  failed(call: ActiveCall, error: FndError): void
}

/**
 * Who waits for the answer; a `Request` is one. The signal fires when the caller goes away, and is
 * made when it is first asked for, which costs more than the rest of a short call.
 */
export interface Caller {
  readonly signal: AbortSignal
}

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
  readonly startedMs: number
  readyMs: number
}

/** What a call needs of the runner. */
interface CallKeeper {
  replied(call: ActiveCall, reply: Reply): void
  release(call: ActiveCall, end: CallEnd): void
}

const endOfFault = {
  refused: 'closed-before-head',
  'bad-reply': 'garbage',
  'head-too-large': 'head-too-large',
  'body-too-large': 'body-too-large',
  aborted: 'client-gone',
  'timed-out': 'timed-out',
} as const

/** One call, from its arrival to its end. Times are on the monotonic clock. */
export class ActiveCall extends CallLife implements ExchangeSink {
  readonly id: string
  readonly spec: FnSpec
  readonly asker: CallAsker
  /** The caller left. */
  isAbandoned = false
  /** Whether somebody listens to the caller's signal. */
  isWatched = false
  /** Infinite until it has a slot. */
  deadlineMs = Number.POSITIVE_INFINITY
  /** Where `CallList` keeps it; -1 when it does not. */
  position = -1
  /** When its answer or its failure was there for the caller; 0 before. */
  answeredMs = 0
  running: Running | null = null
  /** Set while an exchange is under way. */
  exchange: Exchange | null = null
  readonly #keeper: CallKeeper

  constructor(keeper: CallKeeper, id: string, spec: FnSpec, asker: CallAsker, arrivedMs: number) {
    super(arrivedMs)
    this.#keeper = keeper
    this.id = id
    this.spec = spec
    this.asker = asker
  }

  replied(reply: Reply): void {
    this.#keeper.replied(this, reply)
  }

  exchangeEnded(status: number, fault: ExchangeFault | null): void {
    this.exchange = null
    this.#keeper.release(this, fault === null ? status : endOf(status, fault))
  }
}

function endOf(status: number, fault: ExchangeFault): CallEnd {
  if (fault !== 'closed') return endOfFault[fault]
  return status === 0 ? 'closed-before-head' : 'closed-in-body'
}
