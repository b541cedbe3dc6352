/** The only source of time outside shells that talk to the operating system. */
export interface Clock {
  /** Milliseconds since the epoch, UTC; may jump. For stamps that people read. */
  nowMs(): number
  /** Milliseconds from an arbitrary start, never going back. For durations and deadlines. */
  monotonicMs(): number
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
}
