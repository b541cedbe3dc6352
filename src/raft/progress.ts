/**
 * What a leader knows about one member's log, and how fast it may send to it: probing one message
 * at a time, replicating optimistically within a window, or waiting for a snapshot.
 */
import { assert } from '../errors.ts'
import type { CoreConfig, NodeId, ProgressState, ProgressStatus } from './types.ts'

export type WindowLimits = Pick<CoreConfig, 'inflightMax' | 'inflightBytesMax'>

/** Append messages on the way, oldest first: last index of each, and bytes of its entries. */
export class Inflights {
  readonly #limits: WindowLimits
  readonly #indexes: number[] = []
  readonly #sizes: number[] = []
  /** Before it, the arrays hold what already left the window. */
  #head = 0
  #bytes = 0

  constructor(limits: WindowLimits) {
    this.#limits = limits
  }

  get count(): number {
    return this.#indexes.length - this.#head
  }

  /** One message may exceed the limit of bytes, so that an entry of any size gets through. */
  get isFull(): boolean {
    return this.count >= this.#limits.inflightMax || this.#bytes >= this.#limits.inflightBytesMax
  }

  add(lastIndex: number, bytes: number): void {
    assert(!this.isFull, 'no message is sent into a full window')
    this.#indexes.push(lastIndex)
    this.#sizes.push(bytes)
    this.#bytes += bytes
  }

  /** Messages up to `index` were received. */
  freeThrough(index: number): void {
    while (this.#head < this.#indexes.length && (this.#indexes[this.#head] ?? 0) <= index) {
      this.#bytes -= this.#sizes[this.#head] ?? 0
      this.#head += 1
    }
    if (this.#head === this.#indexes.length) this.reset()
    else if (this.#head > 64 && this.#head * 2 > this.#indexes.length) {
      this.#indexes.splice(0, this.#head)
      this.#sizes.splice(0, this.#head)
      this.#head = 0
    }
  }

  reset(): void {
    this.#indexes.length = 0
    this.#sizes.length = 0
    this.#head = 0
    this.#bytes = 0
  }
}

export class Progress {
  state: ProgressState = 'probe'
  /** Highest index known to be durable there. */
  match = 0
  /** Next index to send. Always above `match`. */
  next: number
  /** Nothing more is sent until an answer or a heartbeat's answer arrives. */
  isHeld = false
  /** Index of the snapshot under way, in state `snapshot`. */
  pendingSnapshot = 0
  /** Heard of since the last check of the quorum. */
  isRecentlyActive: boolean
  /** The highest commit index that is on its way to it. */
  sentCommit = 0
  readonly id: NodeId
  readonly inflights: Inflights

  constructor(id: NodeId, next: number, limits: WindowLimits, isRecentlyActive = false) {
    this.id = id
    this.next = next
    this.isRecentlyActive = isRecentlyActive
    this.inflights = new Inflights(limits)
  }

  get isPaused(): boolean {
    return this.state === 'snapshot' || this.isHeld
  }

  /** A new term begins: nothing is known but the leader's own log. */
  reset(match: number, next: number): void {
    this.#enter('probe')
    this.match = match
    this.next = next
    this.isRecentlyActive = false
    this.sentCommit = 0
  }

  becomeProbe(): void {
    const sent = this.state === 'snapshot' ? this.pendingSnapshot : 0
    this.#enter('probe')
    this.next = Math.max(this.match, sent) + 1
    this.sentCommit = Math.min(this.sentCommit, this.next - 1)
  }

  becomeReplicate(): void {
    this.#enter('replicate')
    this.next = this.match + 1
  }

  becomeSnapshot(index: number): void {
    this.#enter('snapshot')
    this.pendingSnapshot = index
    this.next = index + 1
    this.sentCommit = index
  }

  /** An append of `count` entries from `next` on; without entries it carries a commit index. */
  sent(count: number, bytes: number): void {
    if (this.state === 'replicate') {
      if (count > 0) {
        this.next += count
        this.inflights.add(this.next - 1, bytes)
      }
      this.isHeld = this.inflights.isFull
    } else if (count > 0) this.isHeld = true
  }

  /** Everything up to `index` is durable there. False: that was known. */
  acknowledged(index: number): boolean {
    if (index <= this.match) return false
    this.match = index
    this.next = Math.max(this.next, index + 1)
    this.isHeld = false
    return true
  }

  /**
   * An append behind `rejected` did not fit; `guess` is where it may. False: that answer is stale,
   * which must not move anything. Never goes below `match`, which is durable.
   */
  rejected(rejected: number, guess: number): boolean {
    if (this.state === 'replicate') {
      if (rejected <= this.match) return false
      this.next = this.match + 1
    } else {
      if (rejected !== this.next - 1) return false
      this.next = Math.max(this.match + 1, Math.min(rejected, guess + 1))
      this.isHeld = false
    }
    this.sentCommit = Math.min(this.sentCommit, this.next - 1)
    return true
  }

  /** Whether an append without entries would tell it of a higher commit index. */
  canBumpCommit(commit: number): boolean {
    return commit > this.sentCommit && this.sentCommit < this.next - 1
  }

  status(isLearner: boolean): ProgressStatus {
    return {
      state: this.state,
      match: this.match,
      next: this.next,
      isPaused: this.isPaused,
      pendingSnapshot: this.pendingSnapshot,
      isRecentlyActive: this.isRecentlyActive,
      isLearner,
      inflight: this.inflights.count,
      isInflightFull: this.inflights.isFull,
    }
  }

  #enter(state: ProgressState): void {
    this.state = state
    this.isHeld = false
    this.pendingSnapshot = 0
    this.inflights.reset()
  }
}
