import type { DriverObserver } from './observer.ts'
import type { Scheduler } from './ports.ts'

export interface TickerParts {
  readonly scheduler: Scheduler
  readonly observer: DriverObserver
  readonly tickMs: number
  /** Whether anybody cares how time passes. */
  readonly isNeeded: () => boolean
  /** `count` is at least one. */
  readonly onTicks: (count: number) => void
}

/** After a pause longer than that many ticks, the rest of it does not count. */
const ticksAtOnce = 3

/** Counts the time in ticks, however late its timer is. */
export class Ticker {
  readonly #parts: TickerParts
  #sinceMs = 0
  #cancel: (() => void) | undefined
  #isStopped = false

  constructor(parts: TickerParts) {
    this.#parts = parts
  }

  /** Begins to count, unless it does so already or nobody cares. */
  arm(): void {
    if (this.#cancel !== undefined || this.#isStopped || !this.#parts.isNeeded()) return
    this.#sinceMs = this.#parts.scheduler.monotonicMs()
    this.#next(this.#parts.tickMs)
  }

  stop(): void {
    this.#isStopped = true
    this.#cancel?.()
  }

  #next(delayMs: number): void {
    this.#cancel = this.#parts.scheduler.after(delayMs, () => {
      this.#cancel = undefined
      this.#tick()
    })
  }

  #tick(): void {
    const { scheduler, observer, tickMs, onTicks, isNeeded } = this.#parts
    const nowMs = scheduler.monotonicMs()
    const passedMs = nowMs - this.#sinceMs
    observer.stall(Math.max(0, passedMs - tickMs))
    const count = Math.min(ticksAtOnce, Math.max(1, Math.floor(passedMs / tickMs)))
    // The rest of a tick is not lost, that of a pause is.
    this.#sinceMs = passedMs < ticksAtOnce * tickMs ? this.#sinceMs + count * tickMs : nowMs
    onTicks(count)
    if (!this.#isStopped && isNeeded()) this.#next(Math.max(1, this.#sinceMs + tickMs - nowMs))
  }
}
