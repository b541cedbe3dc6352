import { assert } from '../errors.ts'
import { decodeConfChange } from './confchange.ts'
import type { RaftCore } from './core.ts'
import type { MemberLimits } from './member-options.ts'
import type { DriverObserver } from './observer.ts'
import type { CommittedEntry, Scheduler, StateMachine } from './ports.ts'
import type { Entry } from './types.ts'

export interface ApplierOptions {
  readonly core: RaftCore
  readonly machine: StateMachine
  readonly observer: DriverObserver
  readonly scheduler: Scheduler
  readonly limits: MemberLimits
  readonly onApplied: (entry: Entry, result: unknown) => void
  /** The state machine cannot apply or settle just now, and is asked again. */
  readonly onStall: (code: 'disk-full' | 'write-overload') => void
  /** It could again what it could not. */
  readonly onResume: () => void
  /** The state machine failed for good. */
  readonly onFail: (error: Error) => void
}

/** After which the state machine is asked again while somebody else writes, in ms. */
const heldRetryMs = 2

/**
 * Hands committed entries to the state machine, in order. What it cannot take just now, for want of
 * room, it is offered again until it does: the entries are committed, so there is no way back.
 *
 * What it took is settled a little later, many batches at a time: that costs as much for one as
 * for all. Changes of the configuration are settled at once, so that a start knows the newest.
 */
export class Applier {
  readonly #options: ApplierOptions
  #queue: CommittedEntry[] = []
  #unsettledCount = 0
  #unsettledBytes = 0
  #isSettlingDue = false
  #cancelSettle: (() => void) | undefined
  #isStalled = false
  /** It is asked again soon. */
  #isWaiting = false
  /** Since when the state machine has been asked in vain. */
  #heldMs: number | undefined
  #onDrained: (() => void) | undefined
  #isClosed = false

  constructor(options: ApplierOptions) {
    this.#options = options
  }

  get isStalled(): boolean {
    return this.#isStalled
  }

  /** What was handed over before is not applied yet. */
  get isHeldUp(): boolean {
    return this.#queue.length > 0
  }

  /** The core's configuration changes here; the state machine keeps what it came to. */
  add(entries: readonly Entry[]): void {
    this.#enqueue(entries)
    if (!this.#isWaiting && entries.length > 0) this.#run()
  }

  /** In a later turn, unless more is added before; then `done` is called. */
  addSoon(entries: readonly Entry[], done: () => void): void {
    if (entries.length === 0) return
    this.#enqueue(entries)
    this.#runSoon(done)
  }

  #runSoon(done: () => void): void {
    this.#options.scheduler.soon(() => {
      if (this.#isClosed) return
      if (!this.#isWaiting && this.#queue.length > 0) this.#run()
      done()
    })
  }

  #enqueue(entries: readonly Entry[]): void {
    for (const entry of entries) {
      this.#queue.push(
        entry.kind === 'normal'
          ? entry
          : { ...entry, confState: this.#options.core.applyConf(decodeConfChange(entry.bytes)) },
      )
    }
  }

  /** At once when nothing waits. */
  whenDrained(run: () => void): void {
    assert(this.#onDrained === undefined, 'one Ready at a time is applied')
    if (this.#queue.length === 0) run()
    else this.#onDrained = run
  }

  /** Nothing is applied or settled any more. */
  close(): void {
    this.#isClosed = true
    this.#cancelSettle?.()
  }

  #run(): void {
    if (this.#isClosed) return
    const { machine, observer, scheduler, onResume } = this.#options
    const entries = this.#queue
    const startedMs = scheduler.monotonicMs()
    let results: readonly unknown[]
    try {
      if (this.#isSettlingDue) this.#settle()
      results = entries.length === 0 ? [] : machine.apply(entries)
    } catch (error) {
      return this.#failed(error as Error & { code?: unknown }, startedMs)
    }
    assert(results.length === entries.length, 'one result for each entry')
    this.#heldMs = undefined
    this.#queue = []
    if (this.#isStalled) {
      this.#isStalled = false
      onResume()
    }
    if (entries.length === 0) return
    observer.applied(entries.length, scheduler.monotonicMs() - startedMs)
    this.#told(entries, results)
    this.#settleLater(entries)
    const onDrained = this.#onDrained
    this.#onDrained = undefined
    onDrained?.()
  }

  #told(entries: readonly CommittedEntry[], results: readonly unknown[]): void {
    const { onApplied } = this.#options
    let at = 0
    for (const entry of entries) onApplied(entry, results[at++])
  }

  #settleLater(entries: readonly CommittedEntry[]): void {
    const { scheduler, limits } = this.#options
    let isConf = false
    for (const { bytes, kind } of entries) {
      this.#unsettledBytes += bytes.length
      isConf ||= kind !== 'normal'
    }
    this.#unsettledCount += entries.length
    const isMuch =
      this.#unsettledCount >= limits.settleMax || this.#unsettledBytes >= limits.settleBytes
    if (isConf || isMuch) {
      this.#isSettlingDue = true
      // Not before the answers are on their way.
      if (isConf) this.#run()
      else scheduler.soon(this.#settleNow)
    } else this.#cancelSettle ??= scheduler.after(limits.settleMs, this.#settleNow)
  }

  readonly #settleNow = (): void => {
    if (this.#unsettledCount === 0) return
    this.#isSettlingDue = true
    if (!this.#isWaiting) this.#run()
  }

  #settle(): void {
    this.#options.machine.settle()
    this.#isSettlingDue = false
    this.#unsettledCount = 0
    this.#unsettledBytes = 0
    this.#cancelSettle?.()
    this.#cancelSettle = undefined
  }

  /** Another writer is mostly done within milliseconds; only one that stays is told of. */
  #failed(error: Error & { code?: unknown }, nowMs: number): void {
    const { scheduler, onStall, onFail, limits } = this.#options
    const { code } = error
    if (code !== 'disk-full' && code !== 'write-overload') return onFail(error)
    this.#heldMs ??= nowMs
    const isBrief = code === 'write-overload' && nowMs - this.#heldMs < limits.retryMs
    this.#isWaiting = true
    scheduler.after(isBrief ? heldRetryMs : limits.retryMs, () => {
      this.#isWaiting = false
      this.#run()
    })
    if (isBrief) return
    this.#isStalled = true
    onStall(code)
  }
}
