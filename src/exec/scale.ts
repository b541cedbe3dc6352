/**
 * When one more instance is worth its start. Pure arithmetic over one function's figures.
 *
 * An instance costs memory and a start, so it is started only for work that is there: calls wait,
 * more of them than the starting instances will take, and the expected wait (waiting × run time ÷
 * slots) is longer than a start. Run time is wall time, which cannot tell computing from waiting,
 * and more instances than cores help only the latter. Two rules keep computing functions small:
 * very short calls, and calls that got slower as instances were added, must press for a while
 * before they get another instance beyond those that calls spread over (`spread.ts`).
 */

/** What a start costs before one was seen; between a process (25 ms) and a container (370 ms). */
export const startMsDefault = 100

/** Weight of a new sample: about the last ten count, so a changed function is noticed soon. */
export const sampleWeight = 0.1

/**
 * Samples before run time counts as known; the smallest of them is the first estimate, because the
 * first call of a fresh instance compiles its code and says nothing about the next.
 */
export const runSamplesMin = 4

/** A running call older than this is slow, whatever the average says. Longer than a collector's
 * pause or a hiccup of a busy host, which must not start instances. */
export const stalledMs = 200

/** Calls below this are mostly computing: beyond the cores that they fill, slots differ little
 * (measured with 2, 4 and 8 slots on two cores). */
export const quickMs = 10

/** How long calls must have waited without a break before that alone is worth an instance. */
export const lastingMs = 1000

/** How long a backlog of quick or stretched calls must last, or be expected to last. A thousand
 * calls of 1 ms are over before, even on one core; real overload is not. */
export const patienceMs = 2000

/** Run time above this multiple of what it was on one instance per core: the cores are full. */
export const stretchMax = 1.5

/** A call must have waited this long before its function gets more instances than its `width`:
 * where nobody waits longer there is nothing to mend, and by then it shows if cores are full. */
export const settleMs = 100

/** The same where the host's cores have nothing left to give: one more instance takes its time
 * from the others, and helps only if its calls mostly wait. */
export const saturatedPatienceMs = 10_000
/** And then a call must have waited this long. Many callers of a quick function always wait a
 * little for fnd itself, which more instances do not change. */
export const saturatedWaitMs = 1000

export interface Pressure {
  readonly waiting: number
  /** Instances that take calls or will: ready or starting, not doomed. */
  readonly instances: number
  readonly starting: number
  readonly concurrency: number
  /** Instances that are worth having as soon as calls wait: one per core, or fewer where fewer
   * cores are filled. */
  readonly width: number
  /** How long the call at the front of the queue has waited. */
  readonly oldestWaitMs: number
  /** The host's cores are busy, with whatever it is. */
  readonly isSaturated: boolean
  /** Smoothed run time; undefined until `runSamplesMin` calls have ended. */
  readonly runMs: number | undefined
  /** The same, sampled only while no more instances than cores were busy. */
  readonly runMsUncrowded: number | undefined
  /** Age of the oldest running call, or less; 0 where it was not looked up. */
  readonly oldestMs: number
  /** Smoothed start time. */
  readonly startMs: number
  /** How long there have been waiting calls without a break. */
  readonly waitingMs: number
  /** How long the expected wait has been above `startMs` without a break. */
  readonly pressedMs: number
}

/** Expected wait of the call at the back of the queue, or undefined while nothing is known. */
export function expectedWaitMs(p: Pressure): number | undefined {
  const runMs = p.oldestMs >= stalledMs ? Math.max(p.runMs ?? 0, p.oldestMs) : p.runMs
  if (runMs === undefined || p.instances === 0) return undefined
  return (p.waiting * runMs) / (p.instances * p.concurrency)
}

export function wantsStart(p: Pressure): boolean {
  if (p.waiting <= p.starting * p.concurrency) return false
  if (p.instances === 0) return true
  const waitMs = expectedWaitMs(p)
  if (waitMs === undefined) return p.instances < p.width
  const hasRoom = p.instances < p.width
  // One call at a time leaves the function idle while an answer and the next call are on their way,
  // so while calls never stop waiting a second core is worth a start, however short each wait is.
  const isLasting = p.concurrency === 1 && p.waitingMs > lastingMs
  if (waitMs <= p.startMs) return hasRoom && isLasting
  if (hasRoom) return true
  if (p.oldestWaitMs < settleMs) return false
  if (p.isSaturated) {
    return p.pressedMs > saturatedPatienceMs && p.oldestWaitMs >= saturatedWaitMs
  }
  if (p.runMs === undefined) return true
  if (p.runMsUncrowded !== undefined && p.runMs > stretchMax * p.runMsUncrowded) {
    return p.pressedMs > patienceMs
  }
  // For a backlog that arrived at once, the expected wait falls as fast as its age grows: the sum
  // stays below the patience until the end. For an overload that lasts, the sum grows.
  if (p.runMs < quickMs && p.oldestMs < stalledMs) return waitMs + p.pressedMs > patienceMs
  return true
}

/** Between failed starts; doubles from the least to the most, so that a broken function costs the
 * node no more than one start in five seconds. */
export const backoffMsMin = 100
export const backoffMsMax = 5000

export function backoffMs(failures: number): number {
  // The exponent is bounded too, because 2 ** 1024 is Infinity, and so is what is built on it.
  return Math.min(backoffMsMax, backoffMsMin * 2 ** Math.min(failures - 1, 16))
}

/** Smoothed duration that starts from the least of its first samples. */
export class Estimate {
  #value = 0
  #samples = 0
  readonly #samplesMin: number

  constructor(samplesMin: number) {
    this.#samplesMin = samplesMin
  }

  add(sampleMs: number): void {
    this.#samples += 1
    if (this.#samples === 1) this.#value = sampleMs
    else if (this.#samples <= this.#samplesMin) this.#value = Math.min(this.#value, sampleMs)
    else this.#value += (sampleMs - this.#value) * sampleWeight
  }

  get ms(): number | undefined {
    return this.#samples >= this.#samplesMin ? this.#value : undefined
  }
}
