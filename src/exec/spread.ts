/**
 * Over how many instances the calls of a function spread. Pure arithmetic over readings of CPU.
 *
 * An instance that answers in microseconds serves many calls on a fraction of a core; a second one
 * then wins nothing and takes time from fnd itself (measured with two cores: a fifth of the
 * throughput at 32 connections, a third at 1,000). One that computes all the time fills its core,
 * and the calls on it wait for each other although none of them waits for a slot. Wall time cannot
 * tell these two apart, CPU time can. So calls are packed on as many instances as the cores that
 * they really fill.
 */

/** From this share of a core on, an instance has no time left for more calls. */
export const fullShare = 0.85
/** What one instance less would have to do must be below this, or the next look adds it again. */
export const leanShare = 0.65
/** Looks in a row that must agree: a compiler at work in a fresh instance fills cores too. */
export const looksMin = 3

/** CPU time of all processes of an instance, read from outside. */
export interface CpuReading {
  readonly cpuMs: number
  readonly atMs: number
}

/**
 * Share of one core between two readings. Whatever is above one core, several threads or the
 * collector's helpers, is no reason for company.
 */
export function shareBetween(from: CpuReading | undefined, to: CpuReading): number {
  if (from === undefined || to.atMs <= from.atMs) return 0
  return Math.min(1, Math.max(0, to.cpuMs - from.cpuMs) / (to.atMs - from.atMs))
}

export class Spread {
  /** Instances that calls spread over before idle ones are left alone; at most one per core. */
  width = 1
  /** Looks in a row that found too few instances (above zero), or too many (below). */
  #looks = 0

  /**
   * One look at the instances that are in use: `share` is the sum of their shares. `running` calls
   * can fill no more instances than they are. Where nothing more could run, because the host's
   * cores are full or fnd itself is what calls wait for, one more instance helps nobody.
   */
  look(share: number, running: number, cpus: number, isSaturated: boolean): void {
    const isFull = share >= fullShare * this.width && running > this.width && this.width < cpus
    const isLean = this.width > 1 && share < leanShare * (this.width - 1)
    if (isFull && !isSaturated) this.#looks = Math.max(0, this.#looks) + 1
    else if (isLean) this.#looks = Math.min(0, this.#looks) - 1
    else this.#looks = 0
    if (Math.abs(this.#looks) < looksMin) return
    this.width += Math.sign(this.#looks)
    this.#looks = 0
  }

  /** CPU time cannot be read here, so calls spread as if each instance filled its core. */
  giveUp(cpus: number): void {
    this.width = cpus
    this.#looks = 0
  }
}
