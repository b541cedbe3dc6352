import type { Scheduler } from './ports.ts'

/** The event loop's own turns and timers. */
export const systemScheduler: Scheduler = {
  monotonicMs: () => performance.now(),
  soon: run => void setImmediate(run),
  after: (delayMs, run) => {
    const timer = setTimeout(run, delayMs)
    return () => clearTimeout(timer)
  },
}
