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

/**
 * Hands committed entries to the state machine, in order. What it cannot take just now, for want of
 * room, it is offered again until it does: the entries are committed, so there is no way back.
 */
export class Applier {
  readonly #options: ApplierOptions
  #queue: CommittedEntry[] = []
  #isStalled = false
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
    if (!this.#isStalled) this.#run()
  }

  /** At once when nothing waits. */
  whenDrained(run: () => void): void {
    assert(this.#onDrained === undefined, 'one Ready at a time is applied')
    if (this.#queue.length === 0) run()
    else this.#onDrained = run
  }

  #run(): void {
    const { machine, observer, scheduler, onApplied, onFail, onStall, retryMs } = this.#options
    const entries = this.#queue
    const startedMs = scheduler.monotonicMs()
    let results: readonly unknown[]
    try {
      results = machine.apply(entries)
    } catch (error) {
      const { code } = error as { code?: unknown }
      if (code !== 'disk-full' && code !== 'write-overload') return onFail(error as Error)
      this.#isStalled = true
      onStall(code)
      scheduler.after(retryMs, () => this.#run())
      return
    }
    assert(results.length === entries.length, 'one result for each entry')
    this.#isStalled = false
    this.#queue = []
    observer.applied(entries.length, scheduler.monotonicMs() - startedMs)
    entries.forEach((entry, at) => {
      onApplied(entry, results[at])
    })
    const onDrained = this.#onDrained
    this.#onDrained = undefined
    onDrained?.()
  }
}
