/**
 * Proposals of this node's own clients: first they wait for a turn, then they have an index and a
 * term, then the entry at that index is applied: theirs, or another leader's in its place.
 */
import { FndError } from '../errors.ts'
import type { MemberLimits } from './member-options.ts'
import type { DriverObserver, ProposalOutcome } from './observer.ts'
import type { ConfChange } from './types.ts'

/** `index` is where the entry stands; its result is the state machine's. */
export type ProposalDone = (
  error: FndError | undefined,
  applied: { readonly index: number; readonly result: unknown } | undefined,
) => void

export interface Waiting {
  readonly bytes: Uint8Array
  readonly change: ConfChange | undefined
  readonly done: ProposalDone
}

interface Logged {
  readonly index: number
  readonly term: number
  readonly done: ProposalDone
}

/** The outcomes that have an error of their own name, and what it is. */
const errorCodes = {
  'no-leader': 'no-leader',
  transferring: 'no-leader',
  'not-member': 'no-leader',
  'too-much-uncommitted': 'write-overload',
  'write-overload': 'write-overload',
  'disk-full': 'disk-full',
  'shutting-down': 'shutting-down',
  lost: 'no-leader',
  'outcome-unknown': 'outcome-unknown',
} as const

type PendingLimits = Pick<MemberLimits, 'pendingMax' | 'pendingBytesMax'>

export type Refusal = keyof typeof errorCodes

export class Proposals {
  readonly #observer: DriverObserver
  #waiting: Waiting[] = []
  #waitingBytes = 0
  /** Indices ascending. */
  #logged: Logged[] = []
  #loggedHead = 0

  constructor(observer: DriverObserver) {
    this.#observer = observer
  }

  get waitingCount(): number {
    return this.#waiting.length
  }

  get loggedCount(): number {
    return this.#logged.length - this.#loggedHead
  }

  /** Whether one more of so many bytes may wait or be under way. */
  hasRoom(bytes: number, { pendingMax, pendingBytesMax }: PendingLimits): boolean {
    const count = this.waitingCount + this.loggedCount
    return count < pendingMax && this.#waitingBytes + bytes <= pendingBytesMax
  }

  add(waiting: Waiting): void {
    this.#observer.proposed(1)
    this.#waiting.push(waiting)
    this.#waitingBytes += waiting.bytes.length
  }

  /** At once, without having waited. */
  refuse(done: ProposalDone, why: Refusal): void {
    this.#observer.proposed(1)
    this.#end(done, why)
  }

  /**
   * The next to be logged together: either one change of the configuration, or entries of one
   * append, at least one and otherwise within the limits.
   */
  take(countMax: number, bytesMax: number): Waiting[] {
    let count = 0
    let bytes = 0
    for (const one of this.#waiting) {
      const isFull = count >= countMax || bytes + one.bytes.length > bytesMax
      if (count > 0 && (isFull || one.change !== undefined)) break
      bytes += one.bytes.length
      count += 1
      if (one.change !== undefined) break
    }
    this.#waitingBytes -= bytes
    if (count < this.#waiting.length) return this.#waiting.splice(0, count)
    const all = this.#waiting
    this.#waiting = []
    return all
  }

  /** The log gave `taken` the indices from `index` on. */
  logged(taken: readonly Waiting[], index: number, term: number): void {
    // What stood there before was logged in an earlier term of this leader, and is gone from this
    // log. Another member may hold it, and be elected until an entry of this term is committed.
    this.#endFrom(index, 'outcome-unknown')
    let next = index
    for (const { done } of taken) this.#logged.push({ index: next++, term, done })
  }

  refuseTaken(taken: readonly Waiting[], why: Refusal): void {
    for (const { done } of taken) this.#end(done, why)
  }

  refuseWaiting(why: Refusal): void {
    const all = this.#waiting
    this.#waiting = []
    this.#waitingBytes = 0
    this.refuseTaken(all, why)
  }

  /** The entry at `index` is applied, and came to `result`. */
  applied(index: number, term: number, result: unknown): void {
    for (;;) {
      const first = this.#logged[this.#loggedHead]
      if (first === undefined || first.index > index) return
      this.#loggedHead += 1
      if (this.#loggedHead === this.#logged.length) {
        this.#logged.length = 0
        this.#loggedHead = 0
      }
      if (first.index < index) this.#end(first.done, 'outcome-unknown')
      else if (first.term !== term) this.#end(first.done, 'lost')
      else {
        this.#observer.proposal('committed', 1)
        first.done(undefined, { index, result })
      }
    }
  }

  endLogged(why: Refusal): void {
    this.#endFrom(0, why)
  }

  /** A fault that is not of the table of refusals: the member ends. */
  fail(error: FndError): void {
    const all = [...this.#waiting, ...this.#logged.slice(this.#loggedHead)]
    this.#waiting = []
    this.#waitingBytes = 0
    this.#logged = []
    this.#loggedHead = 0
    this.#observer.proposal('outcome-unknown', all.length)
    for (const { done } of all) done(error, undefined)
  }

  #endFrom(index: number, why: Refusal): void {
    let keep = this.#logged.length
    while (keep > this.#loggedHead && (this.#logged[keep - 1]?.index ?? 0) >= index) keep -= 1
    if (keep === this.#logged.length) return
    for (const { done } of this.#logged.splice(keep)) this.#end(done, why)
  }

  #end(done: ProposalDone, why: Refusal): void {
    this.#observer.proposal(why satisfies ProposalOutcome, 1)
    done(new FndError(errorCodes[why]), undefined)
  }
}
