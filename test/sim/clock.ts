/**
 * The clock of one node: never going back, but wrong from the start and too fast or too slow by a
 * part that changes. And its process: while it is paused (a long collection of garbage, a stopped
 * virtual machine) nothing runs; all that was due then runs in one burst.
 */
import type { Scheduler } from '../../src/raft/ports.ts'
import type { Prng } from './prng.ts'
import type { World } from './world.ts'

export class NodeClock {
  readonly #world: World
  #rate = 1
  #sinceMs: number
  #baseMs: number

  constructor(world: World, prng: Prng) {
    this.#world = world
    this.#sinceMs = world.nowMs
    this.#baseMs = prng.below(1_000_000)
  }

  monotonicMs(): number {
    return this.#baseMs + (this.#world.nowMs - this.#sinceMs) * this.#rate
  }

  set rate(rate: number) {
    this.#baseMs = this.monotonicMs()
    this.#sinceMs = this.#world.nowMs
    this.#rate = rate
  }

  get rate(): number {
    return this.#rate
  }
}

/** A timer is never so short that the time, a float, is the same when it fires. */
const timerMsMin = 0.001

/** Runs what belongs to one life of a process; drops it when that life is over. */
export class Process implements Scheduler {
  readonly #world: World
  readonly #clock: NodeClock
  readonly #prng: Prng
  readonly #run: (event: () => void) => void
  #isOver = false
  #isPaused = false
  #backlog: (() => void)[] = []

  /** `run` is told of every event of this process, and runs it. */
  constructor(world: World, clock: NodeClock, prng: Prng, run: (event: () => void) => void) {
    this.#world = world
    this.#clock = clock
    this.#prng = prng
    this.#run = run
  }

  get isOver(): boolean {
    return this.#isOver
  }

  get isPaused(): boolean {
    return this.#isPaused
  }

  end(): void {
    this.#isOver = true
    this.#backlog = []
  }

  pause(): void {
    this.#isPaused = true
  }

  /** What came meanwhile runs as a burst, in the order in which it came. */
  resume(): void {
    this.#isPaused = false
    const backlog = this.#backlog
    this.#backlog = []
    for (const event of backlog) this.#world.after(0, () => this.dispatch(event))
  }

  /** Now, as an event of this process. */
  dispatch(event: () => void): void {
    if (this.#isOver) return
    if (this.#isPaused) this.#backlog.push(event)
    else this.#run(event)
  }

  monotonicMs(): number {
    return this.#clock.monotonicMs()
  }

  soon(run: () => void): void {
    this.#world.after(this.#prng.real() * 0.05, () => this.dispatch(run))
  }

  after(delayMs: number, run: () => void): () => void {
    let isCancelled = false
    this.#world.after(Math.max(delayMs, timerMsMin) / this.#clock.rate, () => {
      if (!isCancelled) this.dispatch(() => (isCancelled ? undefined : run()))
    })
    return () => {
      isCancelled = true
    }
  }
}
