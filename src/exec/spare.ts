/**
 * Workers that run, confined, and wait for a function: most of a cold start is over before anybody
 * asks for it. A spare holds nothing of any function and is used once.
 */
import type { Cell } from './cell.ts'
import { isSystemError } from './libc.ts'

export interface SpareOptions {
  readonly count: number
  /** Starts one. Throws a system error when the host refuses. */
  readonly start: () => Cell
  /** Told once, when spares keep dying, or none can be had, and one is tried only now and then. */
  readonly onGivenUp: (detail: string) => void
}

/** A new spare waits until the start that took the last one has had the processor. */
const refillMs = 150
const failuresMax = 3
/** What the host lacks it may have again later. */
const retryMs = 30_000

export class Spares {
  readonly #options: SpareOptions
  readonly #waiting: Cell[] = []
  #timer: ReturnType<typeof setTimeout> | undefined
  #failures = 0
  #isClosed = false

  constructor(options: SpareOptions) {
    this.#options = options
    if (options.count > 0) this.#refillIn(0)
  }

  get count(): number {
    return this.#waiting.length
  }

  memoryBytes(): number {
    return this.#waiting.reduce((sum, cell) => sum + cell.memoryBytes(), 0)
  }

  /** The one that has waited longest, or undefined. */
  claim(): Cell | undefined {
    const cell = this.#waiting.shift()
    if (cell !== undefined) this.#refillIn(refillMs)
    return cell
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    const cells = this.#waiting.splice(0)
    await Promise.all(cells.map(cell => cell.stop(0)))
  }

  #refillIn(delayMs: number): void {
    if (this.#isClosed || (this.#failures >= failuresMax && delayMs < retryMs)) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#refill(), delayMs)
    this.#timer.unref()
  }

  #refill(): void {
    if (this.#waiting.length >= this.#options.count) return
    const cell = this.#start()
    if (cell === undefined) return
    this.#waiting.push(cell)
    void cell.gone.then(() => this.#onGone(cell))
    this.#refillIn(refillMs)
  }

  #start(): Cell | undefined {
    try {
      return this.#options.start()
    } catch (cause) {
      if (!isSystemError(cause)) throw cause
      this.#failed(cause.message)
      return undefined
    }
  }

  /** Normal for one that was claimed; one that was not should have waited. */
  #onGone(cell: Cell): void {
    const at = this.#waiting.indexOf(cell)
    if (at < 0) {
      this.#failures = 0
      return
    }
    this.#waiting.splice(at, 1)
    this.#failed(cell.child.tail)
  }

  #failed(detail: string): void {
    this.#failures += 1
    if (this.#failures === failuresMax) this.#options.onGivenUp(detail)
    this.#refillIn(this.#failures >= failuresMax ? retryMs : refillMs)
  }
}
