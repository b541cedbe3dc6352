/**
 * The disk under one process: it takes its time, is slow, full, and fails. After an error that is
 * not want of room, later writes seem to succeed and are kept nowhere (raft.md §2.2, "fsyncgate").
 */
import type { Process } from './clock.ts'
import type { DiskOptions } from './options.ts'
import type { Prng } from './prng.ts'
import type { World } from './world.ts'

/** Share of the writes amid which a process may end. */
const struckShare = 0.1

/** One write to the disk: `begin` and `keep` are told to the medium, `done` to the process. */
export interface DeviceWrite {
  readonly latencyMs: number
  /** From here on until `keep` a crash keeps what it likes. */
  begin(): void
  /** It is on the disk. */
  keep(): void
  done(error: Error | undefined): void
}

export class Device {
  readonly world: World
  readonly prng: Prng
  readonly process: Process
  /** An error was told: nothing that this process is told from then on can be trusted. */
  isBroken = false
  #underWay = 0
  readonly #options: () => DiskOptions
  readonly #failpoint: (where: string) => void

  constructor(
    world: World,
    process: Process,
    options: () => DiskOptions,
    prng: Prng,
    failpoint: (where: string) => void,
  ) {
    this.world = world
    this.process = process
    this.#options = options
    this.prng = prng
    this.#failpoint = failpoint
  }

  /** `size`: how many times as long as the shortest write it takes. */
  latencyMs(size: number): number {
    const { slow, slowMaxMs, latencyMs } = this.#options()
    if (!this.prng.chance(slow)) return this.prng.exponential(latencyMs * size)
    this.world.count('fault: slow write')
    return this.prng.real() * slowMaxMs
  }

  write(kind: string, { latencyMs, begin, keep, done }: DeviceWrite): void {
    if (this.process.isOver) return
    this.#failpoint(`before ${kind}`)
    const end = (error: Error | undefined) =>
      this.later(latencyMs, () => {
        this.isBroken ||= error !== undefined
        this.#underWay -= 1
        this.#failpoint(`after ${kind}`)
        done(error)
      })
    if (this.#underWay > 0) this.world.count(`branch: ${kind} during another`)
    this.#underWay += 1
    if (this.isBroken) {
      this.world.count('fault: false success after an error')
      return end(undefined)
    }
    begin()
    if (this.prng.chance(struckShare)) {
      this.later(latencyMs * 0.4, () => this.#failpoint(`during ${kind}`))
    }
    if (this.fails()) {
      this.world.count(`fault: ${kind} failed`)
      return end(new Error('EIO: input/output error, fdatasync'))
    }
    this.world.after(latencyMs * 0.8, () => {
      if (!this.process.isOver) keep()
    })
    end(undefined)
  }

  fails(): boolean {
    return this.prng.chance(this.#options().error)
  }

  later(latencyMs: number, run: () => void): void {
    this.world.after(latencyMs, () => this.process.dispatch(run))
  }
}

/** The record or sector with one bit that is another. */
export function flipped(bytes: Uint8Array, prng: Prng, from = 0, to = bytes.length): Uint8Array {
  const copy = bytes.slice()
  const at = prng.between(from, to - 1)
  copy[at] = (copy[at] ?? 0) ^ (1 << prng.below(8))
  return copy
}
