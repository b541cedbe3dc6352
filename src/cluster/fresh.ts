/** How fresh what this node reads is, at a client's wish (raft thesis §6.4). */
import { FndError } from '../errors.ts'
import { until } from './forward.ts'

export interface FreshParts {
  readonly member: {
    readonly appliedIndex: number
    onChange(listener: () => void): () => void
    /** `done(true)` when what is applied here includes all that was acknowledged before. */
    read(done: (isConfirmed: boolean) => void): void
  }
  readonly electionTimeoutMs: number
  /** `no-quorum` or `no-leader`, with the reason. */
  readonly whyLeaderless: () => FndError
}

const indexTimeoutMs = 5000
const linearTimeoutMs = 5000

export class Freshness {
  readonly #parts: FreshParts

  constructor(parts: FreshParts) {
    this.#parts = parts
  }

  get appliedIndex(): number {
    return this.#parts.member.appliedIndex
  }

  /**
   * Resolves when reads here see everything that was acknowledged anywhere before this call.
   * Rejects with `no-leader` or `no-quorum`. The question to the leader may be lost, as any other,
   * and an election may come between; so it is asked again until time is up.
   */
  async linear(): Promise<void> {
    const { electionTimeoutMs, whyLeaderless } = this.#parts
    const endMs = performance.now() + linearTimeoutMs
    for (;;) {
      const leftMs = endMs - performance.now()
      if (leftMs <= 0) throw whyLeaderless()
      if (await this.#read(Math.min(leftMs, 2 * electionTimeoutMs))) return
      const reason = whyLeaderless()
      if (reason.code === 'no-quorum') throw reason
      await Bun.sleep(Math.min(leftMs, electionTimeoutMs / 8))
    }
  }

  /** Resolves when `index` is applied here. Rejects with `not-fresh` when that takes long. */
  async atLeast(index: number): Promise<void> {
    const { member } = this.#parts
    if (await until(member, () => member.appliedIndex >= index, indexTimeoutMs)) return
    throw new FndError('not-fresh', {
      detail: `entry ${index} is asked for, ${member.appliedIndex} is applied`,
    })
  }

  #read(timeoutMs: number): Promise<boolean> {
    return new Promise(resolve => {
      const timer = setTimeout(resolve, timeoutMs, false)
      this.#parts.member.read(isConfirmed => {
        clearTimeout(timer)
        resolve(isConfirmed)
      })
    })
  }
}
