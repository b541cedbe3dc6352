/**
 * How much of the log is kept. Entries leave once the state machine has made them durable, less a
 * trailing window for members that were away for a short time. The flush runs while other work goes
 * on, and the removal rides in the next write, so that neither delays an answer or a heartbeat.
 */
import { StartError } from '../errors.ts'
import type { LogCache } from './cache.ts'
import type { MemberLimits } from './member-options.ts'
import type { LogStore, Scheduler, StateMachine } from './ports.ts'
import type { Entry } from './types.ts'
import { Window } from './window.ts'

type TailLimits = Pick<
  MemberLimits,
  | 'trailingMax'
  | 'trailingBytesMax'
  | 'flushEveryMax'
  | 'flushEveryBytes'
  | 'checkedAtStart'
  | 'checkedPieceBytes'
>

export interface TailOptions {
  readonly log: LogStore
  readonly machine: StateMachine
  readonly scheduler: Scheduler
  readonly limits: TailLimits
  /** A record is damaged, or the flush failed. */
  readonly onFail: (error: Error) => void
}

const mib = 1024 * 1024

/** A snapshot on its way to a follower holds the log behind it up to this many windows. */
const heldWindows = 8

export class LogTail {
  readonly #log: LogStore
  readonly #machine: StateMachine
  readonly #scheduler: Scheduler
  readonly #limits: TailLimits
  readonly #onFail: (error: Error) => void
  /** Of the entries that may not leave yet. */
  #window = new Window(1)
  #droppableIndex = 0
  #isFlushing = false
  /** Snapshots that took the place of the log. */
  #resets = 0
  /** Until the whole log was read once, nothing leaves it. */
  #isChecked = false
  #isClosed = false
  /** Peer to the index of the snapshot that is on its way there. */
  readonly #held = new Map<number, number>()

  constructor(options: TailOptions) {
    this.#log = options.log
    this.#machine = options.machine
    this.#scheduler = options.scheduler
    this.#limits = options.limits
    this.#onFail = options.onFail
  }

  /** Entries up to here may leave with the next write. */
  get droppableIndex(): number {
    return this.#droppableIndex
  }

  /** Reads what is needed at once into `cache`. Throws `StartError`. */
  open(cache: LogCache): void {
    const log = this.#log
    const applied = this.#machine.appliedIndex
    if (applied > log.lastIndex) {
      throw new StartError(
        `The state is at entry ${applied}, but the log ends at ${log.lastIndex}: the log lost ` +
          'entries or is not of this data directory. Restore both from one backup.',
      )
    }
    if (applied < log.firstIndex - 1) {
      throw new StartError(
        `The state is at entry ${applied}, but the log begins at ${log.firstIndex}: the entries ` +
          'between are gone. Restore the data directory from a backup.',
      )
    }
    const fromIndex = Math.max(
      log.firstIndex,
      Math.min(applied + 1, log.lastIndex - this.#limits.checkedAtStart),
    )
    this.#window = new Window(fromIndex)
    for (let index = fromIndex; index <= log.lastIndex; ) {
      const entries = log.read(index, mib)
      cache.appended(entries)
      for (const entry of entries) this.#window.push(entry.bytes.length)
      index += entries.length
    }
    this.#check(log.firstIndex, fromIndex, [])
  }

  /**
   * Reads the applied entries that `open` left out, in pieces between other work. They matter to
   * members that will ask for them, so a damaged one is fatal, only not at the very start.
   */
  #check(index: number, endIndex: number, sizes: number[]): void {
    if (this.#isClosed) return
    if (this.#window.firstIndex !== endIndex) {
      // A snapshot took the place of the log meanwhile.
      this.#isChecked = true
      return
    }
    if (index >= endIndex) {
      this.#window.prepend(sizes)
      this.#isChecked = true
      return
    }
    this.#scheduler.after(1, () => {
      if (this.#isClosed || this.#window.firstIndex !== endIndex)
        return this.#check(0, endIndex, [])
      let next = index
      try {
        for (const entry of this.#log.read(index, this.#limits.checkedPieceBytes)) {
          if (entry.index < endIndex) sizes.push(entry.bytes.length)
          next = entry.index + 1
        }
      } catch (error) {
        return this.#onFail(error as Error)
      }
      this.#check(next, endIndex, sizes)
    })
  }

  /** These are on the disk. */
  appended(entries: readonly Entry[]): void {
    const [first] = entries
    if (first !== undefined) this.#window.dropFrom(first.index)
    for (const entry of entries) this.#window.push(entry.bytes.length)
    if (this.#isChecked) this.#window.dropBelow(this.#log.firstIndex)
  }

  /** A snapshot that ends at `index` took the place of the log. */
  reset(index: number): void {
    this.#window = new Window(index + 1)
    this.#droppableIndex = 0
    this.#resets += 1
    this.#isChecked = true
  }

  /** A snapshot that ends at `index` is on its way to `peer`, which then needs what follows. */
  hold(peer: number, index: number): void {
    this.#held.set(peer, index)
  }

  release(peer: number): void {
    this.#held.delete(peer)
  }

  heldPeers(): Iterable<number> {
    return this.#held.keys()
  }

  /** Soon after the answers of a batch went out, at most one at a time. */
  maybeFlush(): void {
    const { trailingMax, trailingBytesMax, flushEveryMax, flushEveryBytes } = this.#limits
    const isDue =
      this.#window.count > trailingMax + flushEveryMax ||
      this.#window.bytes > trailingBytesMax + flushEveryBytes
    if (!isDue || !this.#isChecked || this.#isFlushing) return
    if (this.#outside() < this.#window.firstIndex) return
    this.#isFlushing = true
    this.#scheduler.soon(() => {
      if (!this.#isClosed) this.#flush()
    })
  }

  #flush(): void {
    const resets = this.#resets
    this.#machine.flush((error, durableIndex) => {
      this.#isFlushing = false
      if (this.#isClosed) return
      if (error !== undefined) return this.#onFail(error)
      // Said of a log that is gone.
      if (resets !== this.#resets) return
      // Of the window as it is by then: entries at its end may have been replaced.
      this.#droppableIndex = Math.min(this.#outside(), durableIndex)
      // The log lets go of them later and by whole segments: it may keep some of them for long, and
      // when the next flush is due does not depend on that.
      this.#window.dropBelow(this.#droppableIndex + 1)
    })
  }

  #outside(): number {
    const { trailingMax, trailingBytesMax } = this.#limits
    const outside = this.#window.outside(trailingMax, trailingBytesMax)
    const heldIndex = Math.min(...this.#held.values(), Number.POSITIVE_INFINITY)
    if (heldIndex >= outside) return outside
    const [capMax, capBytesMax] = [trailingMax * heldWindows, trailingBytesMax * heldWindows]
    return Math.max(heldIndex, this.#window.outside(capMax, capBytesMax))
  }

  close(): void {
    this.#isClosed = true
  }
}
