/**
 * Replication in a group of one: a majority is this disk. It keeps the promises of a larger group,
 * in the same order: durable in the log, then applied, then answered.
 *
 * Group commit: while one fsync runs, proposals collect; the next fsync takes them all, up to a
 * bound. There is no timer, so an idle member answers after one fsync.
 *
 * The log is truncated behind what the state machine has made durable, less a trailing window for
 * members that were away for a short time. The flush runs after the answers went out, and the
 * removal rides in the next append, so that neither delays an answer.
 */
import { assert, FndError, StartError } from '../errors.ts'
import type { EntryLog } from './entry-log.ts'
import type { CommittedEntry, Replicator, ReplicatorStatus, StateMachine } from './replicator.ts'
import { Window } from './window.ts'

export interface SingleOptions {
  readonly log: EntryLog
  readonly machine: StateMachine
  /** The log or the state machine failed for good: the process must end. Called once. */
  readonly onFatal: (error: Error) => void
  readonly limits?: Partial<SingleLimits>
}

export interface SingleLimits {
  /** Proposals that wait for the disk: more get `write-overload`. */
  readonly pendingMax: number
  readonly pendingBytesMax: number
  /** A single proposal larger than this gets `request-too-large`. */
  readonly entryBytesMax: number
  /** One append takes this much, but at least one entry. */
  readonly batchMax: number
  readonly batchBytesMax: number
  /** The window kept behind the applied index: whichever of the two is smaller. */
  readonly trailingMax: number
  readonly trailingBytesMax: number
  /** A state machine that could not apply just now is asked again after this time. */
  readonly retryMs: number
}

const mib = 1024 * 1024

export const singleLimits: SingleLimits = {
  pendingMax: 10_000,
  pendingBytesMax: 64 * mib,
  entryBytesMax: 8 * mib,
  batchMax: 1000,
  batchBytesMax: mib,
  trailingMax: 10_000,
  trailingBytesMax: 64 * mib,
  retryMs: 1000,
}

/** How far the log may outgrow its window before the state machine is flushed for it. */
const flushEveryMax = 1000
const flushEveryBytes = 4 * mib

/** Applied entries whose checksums are looked at before the start is over; the rest follow. */
const checkedAtStart = 1000
const checkedPieceBytes = mib / 4

interface Proposal {
  readonly bytes: Uint8Array
  readonly resolve: (result: unknown) => void
  readonly reject: (error: Error) => void
}

export class SingleMember implements Replicator {
  readonly #log: EntryLog
  readonly #machine: StateMachine
  readonly #onFatal: (error: Error) => void
  readonly #limits: SingleLimits
  readonly #term: number
  #pending: Proposal[] = []
  #pendingBytes = 0
  #state: 'open' | 'stalled' | 'closing' | 'failed' = 'open'
  /** Why the state machine could not apply just now. Proposals are refused with it meanwhile. */
  #stallCode: 'disk-full' | 'write-overload' = 'disk-full'
  #draining: Promise<void> | undefined
  readonly #window: Window
  /** Entries up to here are durably applied and outside the window. */
  #droppableIndex = 0
  #isFlushing = false
  /** Until the whole log was read once, nothing leaves it. */
  #isChecked = false
  readonly #checking: Promise<void>

  /**
   * Applies what the log holds beyond the state machine. Throws `StartError` when log and state
   * machine do not fit together or a record is damaged.
   */
  static open(options: SingleOptions): SingleMember {
    return new SingleMember(options)
  }

  private constructor(options: SingleOptions) {
    this.#log = options.log
    this.#machine = options.machine
    this.#onFatal = options.onFatal
    this.#limits = { ...singleLimits, ...options.limits }
    this.#term = options.log.hardState.term
    this.#window = this.#recover()
    this.#checking = this.#check()
  }

  propose(bytes: Uint8Array): Promise<unknown> {
    const refusal = this.#refusal(bytes.length)
    if (refusal !== undefined) return Promise.reject(refusal)
    return new Promise((resolve, reject) => {
      this.#pending.push({ bytes, resolve, reject })
      this.#pendingBytes += bytes.length
      this.#draining ??= this.#drain()
    })
  }

  status(): ReplicatorStatus {
    return {
      role: 'leader',
      term: this.#term,
      lastIndex: this.#log.lastIndex,
      commitIndex: this.#log.lastIndex,
      appliedIndex: this.#machine.appliedIndex,
    }
  }

  /** Refuses new proposals, waits for those it took, and closes the log. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === 'open' || this.#state === 'stalled') this.#state = 'closing'
    await Promise.all([this.#draining, this.#checking])
    await this.#log.close()
  }

  #refusal(bytes: number): FndError | undefined {
    if (this.#state === 'closing') return new FndError('shutting-down')
    if (this.#state === 'failed') return new FndError('store-failed')
    if (this.#state === 'stalled') return new FndError(this.#stallCode)
    const { pendingMax, pendingBytesMax, entryBytesMax } = this.#limits
    if (bytes > entryBytesMax) return new FndError('request-too-large')
    if (this.#pending.length >= pendingMax || this.#pendingBytes + bytes > pendingBytesMax) {
      return new FndError('write-overload')
    }
    return undefined
  }

  /** Everything in the log of a group of one is committed: it was durable on its only disk. */
  #recover(): Window {
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
      Math.min(applied + 1, log.lastIndex - checkedAtStart),
    )
    const window = new Window(fromIndex)
    for (let index = fromIndex; index <= log.lastIndex; ) {
      const entries = log.read(index, mib)
      for (const entry of entries) window.push(entry.bytes.length)
      this.#machine.apply(entries)
      index += entries.length
    }
    assert(this.#machine.appliedIndex === log.lastIndex, 'the whole log is applied')
    return window
  }

  /**
   * Reads the applied entries that `#recover` left out, in pieces between other work. They matter
   * to members that will ask for them, so a damaged one is fatal, only not at the very start.
   */
  async #check(): Promise<void> {
    const endIndex = this.#window.firstIndex
    const sizes: number[] = []
    let index = this.#log.firstIndex
    try {
      while (index < endIndex) {
        await Bun.sleep(1)
        if (this.#state !== 'open' && this.#state !== 'stalled') return
        const entries = this.#log.read(index, checkedPieceBytes)
        for (const entry of entries) {
          if (entry.index < endIndex) sizes.push(entry.bytes.length)
        }
        index += entries.length
      }
    } catch (error) {
      this.#fail(error as Error)
      return
    }
    this.#window.prepend(sizes)
    this.#isChecked = true
  }

  async #drain(): Promise<void> {
    // One turn of the loop, so that everything proposed in this one shares an fsync.
    await new Promise(setImmediate)
    while (this.#pending.length > 0 && this.#state !== 'failed') {
      const batch = this.#take()
      const entries = this.#entriesFrom(batch)
      try {
        await this.#append(entries)
      } catch (error) {
        for (const proposal of batch) proposal.reject(error as Error)
        if ((error as { code?: string }).code !== 'disk-full') this.#fail(error as Error)
        continue
      }
      await this.#answer(batch, entries)
      if (this.#state === 'open') this.#maybeFlush()
    }
    this.#draining = undefined
  }

  #take(): Proposal[] {
    const { batchMax, batchBytesMax } = this.#limits
    let bytes = 0
    let count = 0
    for (const proposal of this.#pending) {
      const isFull = count >= batchMax || bytes + proposal.bytes.length > batchBytesMax
      if (isFull && count > 0) break
      bytes += proposal.bytes.length
      count += 1
    }
    this.#pendingBytes -= bytes
    return this.#pending.splice(0, count)
  }

  #entriesFrom(batch: readonly Proposal[]): CommittedEntry[] {
    const base = this.#log.lastIndex + 1
    return batch.map(({ bytes }, at) => ({ index: base + at, term: this.#term, bytes }))
  }

  async #append(entries: readonly CommittedEntry[]): Promise<void> {
    const commitIndex = this.#log.lastIndex + entries.length
    await this.#log.append({
      entries,
      hardState: { ...this.#log.hardState, commitIndex },
      dropThrough: this.#droppableIndex,
    })
    for (const entry of entries) this.#window.push(entry.bytes.length)
    this.#window.dropBelow(this.#log.firstIndex)
  }

  /** The entries are durable, so they are applied and answered, however long that takes. */
  async #answer(batch: readonly Proposal[], entries: readonly CommittedEntry[]): Promise<void> {
    for (;;) {
      try {
        const results = this.#machine.apply(entries)
        assert(results.length === batch.length, 'one result for each entry')
        batch.forEach((proposal, at) => {
          proposal.resolve(results[at])
        })
        if (this.#state === 'stalled') this.#state = 'open'
        return
      } catch (error) {
        const code = (error as { code?: unknown }).code
        const isPassing = code === 'disk-full' || code === 'write-overload'
        // At shutdown nobody waits for that: the next start applies what the log keeps.
        if (!isPassing || this.#state === 'closing') {
          for (const proposal of batch)
            proposal.reject(new FndError('store-failed', { cause: error }))
          this.#fail(error as Error)
          return
        }
        this.#state = 'stalled'
        this.#stallCode = code
        await Bun.sleep(this.#limits.retryMs)
      }
    }
  }

  #fail(error: Error): void {
    if (this.#state === 'failed') return
    this.#state = 'failed'
    for (const proposal of this.#pending.splice(0)) proposal.reject(new FndError('store-failed'))
    this.#pendingBytes = 0
    this.#onFatal(error)
  }

  /** Soon after the answers of a batch went out, at most one at a time. */
  #maybeFlush(): void {
    const { trailingMax, trailingBytesMax } = this.#limits
    const isDue =
      this.#window.count > trailingMax + flushEveryMax ||
      this.#window.bytes > trailingBytesMax + flushEveryBytes
    const isUnderWay =
      !this.#isChecked || this.#isFlushing || this.#droppableIndex >= this.#log.firstIndex
    if (!isDue || isUnderWay) return
    this.#isFlushing = true
    setImmediate(() => {
      this.#isFlushing = false
      if (this.#state !== 'open') return
      // Everything in the window is applied or waits for its append to end; the former is flushed.
      const outside = this.#window.outside(trailingMax, trailingBytesMax)
      const appliedIndex = this.#machine.appliedIndex
      try {
        this.#machine.flush()
        this.#droppableIndex = Math.min(outside, appliedIndex)
      } catch (error) {
        this.#fail(error as Error)
      }
    })
  }
}
