/** Free space where the data directory lies: nearly none is a reason to refuse writes. */
import { statfsSync } from 'node:fs'
import type { Clock } from '../clock.ts'

const ageMsMax = 1000

export class DiskSpace {
  readonly #directory: string
  readonly #clock: Clock
  #freeBytes = 0
  #readAtMs = Number.NEGATIVE_INFINITY

  constructor(directory: string, clock: Clock) {
    this.#directory = directory
    this.#clock = clock
  }

  /** At most a second old: one system call per second, however often it is asked. */
  freeBytes(): number {
    const nowMs = this.#clock.monotonicMs()
    if (nowMs - this.#readAtMs >= ageMsMax) {
      const { bavail, bsize } = statfsSync(this.#directory)
      this.#freeBytes = bavail * bsize
      this.#readAtMs = nowMs
    }
    return this.#freeBytes
  }
}
