import { assert } from '../errors.ts'
import { decodeConfChange } from './confchange.ts'
import type { RaftCore } from './core.ts'
import type { DriverObserver } from './observer.ts'
import type { CommittedEntry, Scheduler, StateMachine } from './ports.ts'
import type { Entry } from './types.ts'

export interface ApplierOptions {
  readonly core: RaftCore
  readonly machine: StateMachine
  readonly observer: DriverObserver
  readonly scheduler: Scheduler
  readonly retryMs: number
  readonly onApplied: (entry: Entry, result: unknown) => void
  /** The state machine cannot apply just now, and is asked again. */
  readonly onStall: (code: 'disk-full' | 'write-overload') => void
  /** The state machine failed for good. */
  readonly onFail: (error: Error) => void
}

/** After which the state machine is asked again while somebody else writes, in ms. */
const heldRetryMs = 2

/**
 * Hands committed entries to the state machine, in order. What it cannot take just now, for want of
 * room, it is offered again until it does: the entries are committed, so there is no way back.
 */
export class Applier {
  readonly #options: ApplierOptions
  #queue: CommittedEntry[] = []
  #isStalled = false
  /** It is asked again soon. */
  #isWaiting = false
  /** Since when the state machine has been asked in vain. */
  #heldMs: number | undefined
  #onDrained: (() => void) | undefined

  constructor(options: ApplierOptions) {
    this.#options = options
  }

  get isStalled(): boolean {
    return this.#isStalled
  }

  /** The core's configuration changes here; the state machine keeps what it came to. */
  add(entries: readonly Entry[]): void {
    if (entries.length === 0) return
    for (const entry of entries) {
      this.#queue.push(
        entry.kind === 'normal'
          ? entry
          : { ...entry, confState: this.#options.core.applyConf(decodeConfChange(entry.bytes)) },
      )
    }
    if (!this.#isWaiting) this.#run()
  }

  /** At once when nothing waits. */
  whenDrained(run: () => void): void {
    assert(this.#onDrained === undefined, 'one Ready at a time is applied')
    if (this.#queue.length === 0) run()
    else this.#onDrained = run
  }

  #run(): void {
    const { machine, observer, scheduler, onApplied, onFail } = this.#options
    const entries = this.#queue
    const startedMs = scheduler.monotonicMs()
    let results: readonly unknown[]
    try {
      results = machine.apply(entries)
    } catch (error) {
      const { code } = error as { code?: unknown }
      if (code !== 'disk-full' && code !== 'write-overload') return onFail(error as Error)
      return this.#retry(code, startedMs)
    }
    assert(results.length === entries.length, 'one result for each entry')
    this.#isStalled = false
    this.#heldMs = undefined
    this.#queue = []
    observer.applied(entries.length, scheduler.monotonicMs() - startedMs)
    entries.forEach((entry, at) => {
      onApplied(entry, results[at])
    })
    const onDrained = this.#onDrained
    this.#onDrained = undefined
    onDrained?.()
  }

  /** Another writer is mostly done within milliseconds; only one that stays is told of. */
  #retry(code: 'disk-full' | 'write-overload', nowMs: number): void {
    const { scheduler, onStall, retryMs } = this.#options
    this.#heldMs ??= nowMs
    const isBrief = code === 'write-overload' && nowMs - this.#heldMs < retryMs
    this.#isWaiting = true
    if (!isBrief) {
      this.#isStalled = true
      onStall(code)
    }
    scheduler.after(isBrief ? heldRetryMs : retryMs, () => {
      this.#isWaiting = false
      this.#run()
    })
  }
}
