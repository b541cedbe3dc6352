/** The wait for a majority of the voters to have a bundle: who has it, and for how long to wait. */
import { FndError } from '../errors.ts'
import type { ConfState, NodeId } from '../raft/types.ts'

export interface RoundTiming {
  readonly quorumMs: number
  readonly quorumMsMax: number
}

/** Whether `held` has a majority of the voters; in a joint configuration, of both sets. */
export function isOnMajority(
  { voters, votersOutgoing }: Pick<ConfState, 'voters' | 'votersOutgoing'>,
  held: ReadonlySet<NodeId>,
): boolean {
  if (voters.length === 0) return false
  const has = (ids: readonly NodeId[]) => ids.filter(id => held.has(id)).length >= needed(ids)
  return has(voters) && (votersOutgoing.length === 0 || has(votersOutgoing))
}

function needed(ids: readonly NodeId[]): number {
  return Math.floor(ids.length / 2) + 1
}

export class SpreadRound {
  /** Voters but this node. */
  readonly others: readonly NodeId[]
  /** Rejects with `FndError` `no-quorum`. */
  readonly settled: Promise<void>
  readonly #conf: ConfState
  readonly #held: Set<NodeId>
  readonly #refusals = new Map<NodeId, string>()
  readonly #timing: RoundTiming
  readonly #startedMs = performance.now()
  readonly #end = Promise.withResolvers<void>()
  #progressMs = performance.now()
  #timer: ReturnType<typeof setTimeout> | undefined
  #isOver = false

  constructor(self: NodeId, conf: ConfState, timing: RoundTiming) {
    this.#conf = conf
    this.#held = new Set([self])
    this.#timing = timing
    const voters = new Set([...conf.voters, ...conf.votersOutgoing])
    this.others = [...voters].filter(id => id !== self)
    this.settled = this.#end.promise
    if (isOnMajority(conf, this.#held)) this.#over()
    else this.#look()
  }

  get isOver(): boolean {
    return this.#isOver
  }

  asks(id: NodeId): boolean {
    return this.others.includes(id) || this.#held.has(id)
  }

  /** A voter took some of it. */
  progress(): void {
    this.#progressMs = performance.now()
  }

  confirm(id: NodeId): void {
    this.progress()
    this.#held.add(id)
    this.#refusals.delete(id)
    if (!this.#isOver && isOnMajority(this.#conf, this.#held)) this.#over()
  }

  refused(id: NodeId, why: string): void {
    this.#refusals.set(id, why)
  }

  #over(): void {
    this.#isOver = true
    clearTimeout(this.#timer)
    this.#end.resolve()
  }

  #look(): void {
    const nowMs = performance.now()
    const { quorumMs, quorumMsMax } = this.#timing
    const dueMs = Math.min(this.#progressMs + quorumMs, this.#startedMs + quorumMsMax)
    if (nowMs < dueMs) {
      this.#timer = setTimeout(() => this.#look(), Math.ceil(dueMs - nowMs))
      return
    }
    this.#isOver = true
    this.#end.reject(new FndError('no-quorum', { detail: this.#describe() }))
  }

  #describe(): string {
    const { voters, votersOutgoing } = this.#conf
    const count = (ids: readonly NodeId[]) => ids.filter(id => this.#held.has(id)).length
    const text = (ids: readonly NodeId[]) =>
      `${count(ids)} of ${ids.length} voters have it and ${needed(ids)} are needed`
    const sets = [voters, votersOutgoing].filter(ids => ids.length > 0).map(text)
    const whys = [...this.#refusals].map(([id, why]) => `node ${id}: ${why}`)
    return [sets.join(', '), ...whys].join('; ')
  }
}
