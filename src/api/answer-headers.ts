/** The headers of an answer to a call. */
import type { ActiveCall } from '../exec/active-call.ts'

export type HeaderPairs = [string, string][]

/** What every answer to a call carries: its id, and where its time went (milliseconds). */
export function callHeaders(call: ActiveCall): HeaderPairs {
  return [
    ['Fn-Call-Id', call.id],
    ['Server-Timing', serverTiming(call)],
  ]
}

export function uncalledHeaders(id: string): HeaderPairs {
  return [
    ['Fn-Call-Id', id],
    ['Server-Timing', 'queue;dur=0, start;dur=0, run;dur=0'],
  ]
}

/**
 * Headers for all answers that pass the same headers of a function on. The object is kept, because
 * filling it for each answer costs a microsecond; a `Response` copies what it is given.
 */
export class AnswerHeaders {
  readonly #headers: Headers
  /** The function's own `Server-Timing`, which follows fnd's. */
  readonly #timing: string | null

  constructor(passed: HeaderPairs) {
    this.#headers = new Headers(passed)
    this.#timing = this.#headers.get('server-timing')
  }

  /** Valid until it is asked for the next call. */
  of(call: ActiveCall): Headers {
    const timing = serverTiming(call)
    this.#headers.set('Fn-Call-Id', call.id)
    this.#headers.set(
      'Server-Timing',
      this.#timing === null ? timing : `${timing}, ${this.#timing}`,
    )
    return this.#headers
  }
}

function serverTiming(call: ActiveCall): string {
  const phases = call.phases(call.answeredMs)
  const queue = hundredths(phases.queueMs)
  const start = hundredths(phases.startMs)
  return `queue;dur=${queue}, start;dur=${start}, run;dur=${hundredths(phases.runMs)}`
}

function hundredths(ms: number): number {
  return Math.round(ms * 100) / 100
}
