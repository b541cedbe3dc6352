/**
 * Linear reads without a clock (thesis 6.4). A leader that committed in its term remembers its
 * commit index, and confirms by a round of heartbeats begun after the request that it still leads.
 *
 * Rounds are numbered by a counter of our own, and a quorum's answers confirm all rounds up to the
 * lowest of them. Numbers that callers supply do not do: answers that are late or doubled then
 * confirm reads that they never saw (etcd#20418).
 */
import type { NodeId, ReadState } from './types.ts'

/** Reads of this node have `from` 0 and one number; `context` is the asking node's own. */
interface Asked {
  readonly from: NodeId
  readonly context: number
}

interface Begun {
  readonly round: number
  readonly index: number
  readonly asked: readonly Asked[]
}

/** A question to the leader that stands for all reads of one turn. */
interface Forwarded {
  readonly reads: readonly number[]
  ticks: number
}

export interface Confirmed extends Asked {
  readonly index: number
}

const none: readonly ReadState[] = []

export class Reads {
  #lastRead: number
  /** Not yet in a round, or not yet sent to the leader. */
  #waiting: Asked[] = []
  #begun: Begun[] = []
  #round = 0
  readonly #acked = new Map<NodeId, number>()
  readonly #forwarded = new Map<number, Forwarded>()
  #done: ReadState[] = []

  /**
   * `firstRead` differs from one start of the process to the next: a late answer to a question
   * before a restart must not meet a read of today.
   */
  constructor(firstRead: number) {
    this.#lastRead = firstRead
  }

  /** A read of this node. */
  add(): number {
    this.#lastRead += 1
    this.#waiting.push({ from: 0, context: this.#lastRead })
    return this.#lastRead
  }

  /** A read, or many, of another node. */
  addFrom(from: NodeId, context: number): void {
    this.#waiting.push({ from, context })
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0
  }

  get hasBegun(): boolean {
    return this.#begun.length > 0
  }

  /** The newest round, which a heartbeat sent from here on carries; 0 if nothing waits for it. */
  get context(): number {
    return this.#begun.length > 0 ? this.#round : 0
  }

  get round(): number {
    return this.#round
  }

  /** All waiting reads get this index, if a round that begins here confirms it. */
  begin(commit: number): void {
    this.#round += 1
    this.#begun.push({ round: this.#round, index: commit, asked: this.#waiting })
    this.#waiting = []
  }

  /** `from` follows us in this term, and did after `round` began. */
  ack(from: NodeId, round: number): void {
    if (round > this.ackedBy(from) && round <= this.#round) this.#acked.set(from, round)
  }

  readonly ackedBy = (id: NodeId): number => this.#acked.get(id) ?? 0

  /** A quorum answered rounds up to this one. Returns the other nodes' reads among those. */
  confirm(round: number): Confirmed[] {
    const others: Confirmed[] = []
    let first = this.#begun[0]
    while (first !== undefined && first.round <= round) {
      for (const { from, context } of first.asked) {
        if (from === 0) this.#done.push({ read: context, index: first.index })
        else others.push({ from, context, index: first.index })
      }
      this.#begun.shift()
      first = this.#begun[0]
    }
    return others
  }

  /** The waiting reads leave in one question; returns its number. */
  forward(): number {
    const reads = this.#waiting.map(({ context }) => context)
    this.#waiting = []
    this.#forwarded.set(this.#lastRead, { reads, ticks: 0 })
    return this.#lastRead
  }

  answered(context: number, index: number): void {
    const question = this.#forwarded.get(context)
    if (question === undefined) return
    this.#forwarded.delete(context)
    for (const read of question.reads) this.#done.push({ read, index })
  }

  /** Questions without an answer end after `ticksMax`: they or the answer may be lost. */
  tick(ticksMax: number): void {
    for (const [context, question] of this.#forwarded) {
      question.ticks += 1
      if (question.ticks < ticksMax) continue
      this.#forwarded.delete(context)
      for (const read of question.reads) this.#done.push({ read, index: undefined })
    }
  }

  /** Another leader or none: every read that is not confirmed ends, other nodes' silently. */
  end(): void {
    const own = [...this.#begun.flatMap(({ asked }) => asked), ...this.#waiting]
    for (const { from, context } of own) {
      if (from === 0) this.#done.push({ read: context, index: undefined })
    }
    for (const { reads } of this.#forwarded.values()) {
      for (const read of reads) this.#done.push({ read, index: undefined })
    }
    this.#begun = []
    this.#waiting = []
    this.#forwarded.clear()
    this.#acked.clear()
  }

  get hasDone(): boolean {
    return this.#done.length > 0
  }

  takeDone(): readonly ReadState[] {
    if (this.#done.length === 0) return none
    const done = this.#done
    this.#done = []
    return done
  }
}
