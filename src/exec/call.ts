/**
 * The life of one call: queued → placed → starting → running → done.
 *
 * `queued` waits for a slot; `placed` has one; `starting` connects to its instance; `running` has
 * sent, or may have sent, bytes of the request; `done` is final and reached exactly once. From
 * every state a call can end. Pure: times come in, the outcome goes out as a value.
 */
import { assert, type ErrorCode } from '../errors.ts'

export type CallState = 'queued' | 'placed' | 'starting' | 'running' | 'done'

/** What ended a call, as the shell saw it. */
export type CallEnd =
  /** The head of the function's answer came; `status` is the FDK's, not the user's. */
  | { readonly what: 'answered'; readonly status: number }
  /** The pool refused: no room, or too many calls wait. */
  | { readonly what: 'refused'; readonly code: ErrorCode }
  | { readonly what: 'start-failed'; readonly code: ErrorCode }
  /** The socket closed or broke before the head of the answer was whole, or after it. */
  | { readonly what: 'closed-before-head' }
  | { readonly what: 'closed-in-body' }
  | { readonly what: 'out-of-memory' }
  | { readonly what: 'timed-out' }
  | { readonly what: 'client-gone' }
  /** Bytes that are not an HTTP response. */
  | { readonly what: 'garbage' }
  | { readonly what: 'head-too-large' }
  | { readonly what: 'body-too-large' }
  /** The caller sent more than it may. */
  | { readonly what: 'request-too-large' }

export interface Outcome {
  /** Undefined when the function's own answer goes to the caller. */
  readonly code: ErrorCode | undefined
  /** What becomes of the instance; `none` when the call had no slot. */
  readonly verdict: 'keep' | 'unfit' | 'none'
  /**
   * False when the head of the function's answer is already with the caller, so that all that is
   * left is to break off: an ordinary end would pass a torn body off as whole.
   */
  readonly isAnswerable: boolean
}

/** Durations for `Server-Timing`. */
export interface Phases {
  /** Waiting for a slot, less what was the start of an instance. */
  readonly queueMs: number
  /** Start of the instance as far as this call waited for it, and the connection to it. */
  readonly startMs: number
  readonly runMs: number
}

export class CallLife {
  #state: CallState = 'queued'
  readonly #queuedMs: number
  /** Of the time spent queued, the part in which the call's instance was starting. */
  #coldMs = 0
  /** Negative while it has not come to that. */
  #placedMs = -1
  #runningMs = -1
  #doneMs = 0
  #isReused = false
  #isSent = false
  #isHeadPassedOn = false

  constructor(nowMs: number) {
    this.#queuedMs = nowMs
  }

  get state(): CallState {
    return this.#state
  }

  /** The call got a slot. `startedMs` and `readyMs` are those of its instance's start. */
  place(nowMs: number, startedMs: number, readyMs: number): void {
    this.#step('placed', 'queued')
    this.#placedMs = nowMs
    this.#coldMs = Math.max(0, Math.min(nowMs, readyMs) - Math.max(this.#queuedMs, startedMs))
  }

  /** A new connection is being made; also after a reused one was found closed. */
  connect(): void {
    assert(this.#state === 'placed' || this.canResend, 'a call connects while nothing was sent')
    this.#state = 'starting'
    this.#isReused = false
  }

  /** A connection is there, new or kept from an earlier call. */
  run(nowMs: number): void {
    this.#isReused = this.#state === 'placed'
    assert(this.#isReused || this.#state === 'starting', 'a call runs once on a connection')
    this.#state = 'running'
    this.#runningMs = nowMs
  }

  /** Bytes of the request went, or may have gone, to the function. */
  markSent(): void {
    assert(this.#state === 'running', 'a call is sent while it runs')
    this.#isSent = true
  }

  /** The head of the function's answer went to the caller. */
  markHeadPassedOn(): void {
    assert(this.#state === 'running', 'an answer comes from a running call')
    this.#isHeadPassedOn = true
  }

  /**
   * A kept connection may be closed by the function at any moment, by its right, so finding it
   * closed before a byte was sent says nothing about the call. Once bytes were sent it may have
   * been acted on, and a second time is for the caller to decide.
   */
  get canResend(): boolean {
    return this.#state === 'running' && this.#isReused && !this.#isSent
  }

  end(end: CallEnd, concurrency: number, nowMs: number): Outcome {
    assert(this.#state !== 'done', 'a call ends once')
    const hadSlot = this.#state !== 'queued'
    const isAnswered = end.what === 'answered' || end.what === 'closed-in-body'
    assert(this.#state === 'running' || !isAnswered, 'an answer comes from a running call')
    this.#state = 'done'
    this.#doneMs = nowMs
    return {
      code: codeOf(end),
      verdict: hadSlot ? verdictOf(end, concurrency, this.#isSent) : 'none',
      isAnswerable: !this.#isHeadPassedOn && end.what !== 'client-gone',
    }
  }

  /** Adds up to the whole time of the call, up to now or to its end. */
  phases(nowMs: number): Phases {
    const untilMs = this.#state === 'done' ? this.#doneMs : nowMs
    if (this.#placedMs < 0) return { queueMs: untilMs - this.#queuedMs, startMs: 0, runMs: 0 }
    const runningMs = this.#runningMs < 0 ? untilMs : this.#runningMs
    return {
      queueMs: this.#placedMs - this.#queuedMs - this.#coldMs,
      startMs: this.#coldMs + runningMs - this.#placedMs,
      runMs: untilMs - runningMs,
    }
  }

  #step(to: CallState, from: CallState): void {
    assert(this.#state === from, `a call gets ${to} from ${from}`)
    this.#state = to
  }
}

/** Fn's statuses (fn's `api/models/error.go`) by what happened. */
export function codeOf(end: CallEnd): ErrorCode | undefined {
  switch (end.what) {
    case 'answered':
      return answerCode(end.status)
    case 'refused':
    case 'start-failed':
      return end.code
    case 'closed-before-head':
    case 'closed-in-body':
      return 'function-died'
    case 'out-of-memory':
      return 'function-out-of-memory'
    case 'timed-out':
      return 'call-timeout'
    case 'client-gone':
      return 'client-gone'
    case 'garbage':
      return 'function-response-invalid'
    case 'head-too-large':
      return 'function-headers-too-large'
    case 'body-too-large':
      return 'function-body-too-large'
    case 'request-too-large':
      return 'request-body-too-large'
  }
}

/** The FDK's contract: 200 handled, 502 the function failed, 504 it overran, the rest is broken. */
function answerCode(status: number): ErrorCode | undefined {
  if (status === 200) return undefined
  if (status === 502) return 'function-failed'
  return status === 504 ? 'call-timeout' : 'function-response-invalid'
}

/**
 * Whether the instance may take another call. An FDK that answers in its own words is whole, also
 * when it says that its function failed or overran. An instance that was left in the middle of a
 * call may still be at it: if it takes one call at a time it must go; one that takes several keeps
 * serving the others, unless the fault was its own.
 */
export function verdictOf(end: CallEnd, concurrency: number, isSent: boolean): 'keep' | 'unfit' {
  switch (end.what) {
    case 'answered':
      return end.status === 200 || end.status === 502 || end.status === 504 ? 'keep' : 'unfit'
    case 'refused':
      return 'keep'
    case 'client-gone':
    case 'request-too-large':
      return !isSent || concurrency > 1 ? 'keep' : 'unfit'
    default:
      return 'unfit'
  }
}
