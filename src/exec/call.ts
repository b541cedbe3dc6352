/**
 * The life of one call: queued → running → done.
 *
 * `queued` waits for a slot; `running` has one, and its request went, or may have gone, to the
 * function; `done` is final and reached exactly once. A call that never gets a slot stays queued.
 * Pure: times come in, what became of the call goes out as a value.
 */
import { assert, type ErrorCode } from '../errors.ts'

export type CallState = 'queued' | 'running' | 'done'

/**
 * What ended a running call: the status of the function's answer, which is the FDK's and not the
 * user's, or how there came none that is whole. Plain values, since every call has one.
 */
export type CallEnd =
  | number
  /** The socket closed or broke before the head of the answer was whole, or after it. */
  | 'closed-before-head'
  | 'closed-in-body'
  | 'timed-out'
  | 'client-gone'
  /** Bytes that are not an HTTP response. */
  | 'garbage'
  | 'head-too-large'
  | 'body-too-large'

/** Durations for `Server-Timing`. */
export interface Phases {
  /** Waiting for a slot, less what was the start of an instance. */
  readonly queueMs: number
  /** Start of the instance as far as this call waited for it. */
  readonly startMs: number
  readonly runMs: number
}

export class CallLife {
  readonly arrivedMs: number
  /** Of the time spent queued, the part in which the call's instance was starting. */
  #coldMs = 0
  /** Negative while it has not come to that. */
  #placedMs = -1
  #doneMs = -1

  constructor(arrivedMs: number) {
    this.arrivedMs = arrivedMs
  }

  get state(): CallState {
    if (this.#placedMs < 0) return 'queued'
    return this.#doneMs < 0 ? 'running' : 'done'
  }

  /** The call got a slot. `startedMs` and `readyMs` are those of its instance's start. */
  run(nowMs: number, startedMs: number, readyMs: number): void {
    assert(this.#placedMs < 0, 'a call runs once')
    this.#placedMs = nowMs
    this.#coldMs = Math.max(0, Math.min(nowMs, readyMs) - Math.max(this.arrivedMs, startedMs))
  }

  end(nowMs: number): void {
    assert(this.#placedMs >= 0, 'what ends was running')
    assert(this.#doneMs < 0, 'a call ends once')
    this.#doneMs = nowMs
  }

  /** Adds up to the whole time of the call, up to now or to its end. */
  phases(nowMs: number): Phases {
    if (this.#placedMs < 0) return { queueMs: nowMs - this.arrivedMs, startMs: 0, runMs: 0 }
    return {
      queueMs: this.#placedMs - this.arrivedMs - this.#coldMs,
      startMs: this.#coldMs,
      runMs: (this.#doneMs < 0 ? nowMs : this.#doneMs) - this.#placedMs,
    }
  }
}

/**
 * Fn's statuses (fn's `api/models/error.go`) by what happened. Undefined when the function's own
 * answer goes to the caller.
 */
export function codeOf(end: CallEnd): ErrorCode | undefined {
  switch (end) {
    case 'closed-before-head':
    case 'closed-in-body':
      return 'function-died'
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
    default:
      return answerCode(end)
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
export function verdictOf(end: CallEnd, concurrency: number): 'keep' | 'unfit' {
  if (end === 200 || end === 502 || end === 504) return 'keep'
  return end === 'client-gone' && concurrency > 1 ? 'keep' : 'unfit'
}
