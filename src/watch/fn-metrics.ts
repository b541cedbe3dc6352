/**
 * What is counted of each function. The runner looks a `FnMetrics` up once per function and keeps
 * it; each of its methods writes a few numbers and allocates nothing. At most `fnsMax` functions
 * have series of their own, those above share one that is called `other`.
 */
import { Buckets, type Sample, type SeriesRegistry } from './series.ts'

export interface FnLabels {
  readonly appId: string
  readonly appName: string
  readonly fnId: string
  readonly fnName: string
}

/** How a call that got a slot ended. */
export type CallEnd = 'completed' | 'canceled' | 'timeout' | 'error'
/** How a call that never got one ended. */
export type WaitEnd = 'canceled' | 'busy' | 'error'

/** From a hot call on a fast machine to the longest timeout that Fn allows. */
const boundsMs = [
  0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000,
  300_000,
]

export class FnMetrics {
  readonly ids: { readonly app_id: string; readonly fn_id: string }
  readonly names: { readonly app: string; readonly fn: string }
  readonly waitMs = new Buckets(boundsMs)
  readonly startMs = new Buckets(boundsMs)
  readonly runMs = new Buckets(boundsMs)
  calls = 0
  waiting = 0
  running = 0
  completed = 0
  canceled = 0
  timeouts = 0
  errors = 0
  busy = 0

  constructor(labels: FnLabels) {
    this.ids = { app_id: labels.appId, fn_id: labels.fnId }
    this.names = { app: labels.appName, fn: labels.fnName }
  }

  /** A call arrived and waits for a slot. `start` or `leave` follows. */
  queued(): void {
    this.calls += 1
    this.waiting += 1
  }

  /** The call got a slot. `done` follows. */
  start(): void {
    this.waiting -= 1
    this.running += 1
  }

  /** The call never got a slot. */
  leave(waitMs: number, end: WaitEnd): void {
    this.waiting -= 1
    this.waitMs.observe(waitMs)
    if (end === 'busy') this.busy += 1
    else if (end === 'canceled') this.canceled += 1
    else this.errors += 1
  }

  /** `startMs` is 0 when the call found a running instance: only cold starts are observed. */
  done(waitMs: number, startMs: number, runMs: number, end: CallEnd): void {
    this.running -= 1
    this.waitMs.observe(waitMs)
    if (startMs > 0) this.startMs.observe(startMs)
    this.runMs.observe(runMs)
    if (end === 'completed') this.completed += 1
    else if (end === 'error') this.errors += 1
    else if (end === 'timeout') this.timeouts += 1
    else this.canceled += 1
  }
}

export class FnMetricsTable {
  readonly #fnsMax: number
  readonly #fns = new Map<string, FnMetrics>()
  #other: FnMetrics | undefined

  constructor(fnsMax: number) {
    this.#fnsMax = fnsMax
  }

  of(labels: FnLabels): FnMetrics {
    const known = this.#fns.get(labels.fnId)
    if (known !== undefined) return known
    if (this.#fns.size >= this.#fnsMax) {
      this.#other ??= new FnMetrics({
        appId: 'other',
        appName: 'other',
        fnId: 'other',
        fnName: 'other',
      })
      return this.#other
    }
    const metrics = new FnMetrics(labels)
    this.#fns.set(labels.fnId, metrics)
    return metrics
  }

  /** The function was deleted: its series end. Calls still running count into the void. */
  forget(fnId: string): void {
    this.#fns.delete(fnId)
  }

  *all(): Generator<FnMetrics> {
    yield* this.#fns.values()
    if (this.#other !== undefined) yield this.#other
  }
}

type Count = (fn: FnMetrics) => number

const counts: readonly (readonly [string, 'counter' | 'gauge', string, Count])[] = [
  ['fn_queued', 'gauge', 'Calls that wait for a slot', fn => fn.waiting],
  ['fn_calls', 'counter', 'Calls that arrived', fn => fn.calls],
  ['fn_running', 'gauge', 'Calls that run', fn => fn.running],
  ['fn_completed', 'counter', 'Calls that the function answered', fn => fn.completed],
  ['fn_canceled', 'counter', 'Calls whose caller went away', fn => fn.canceled],
  ['fn_timeouts', 'counter', 'Calls that ran out of time', fn => fn.timeouts],
  ['fn_errors', 'counter', 'Calls that failed', fn => fn.errors],
  ['fn_server_busy', 'counter', 'Calls refused for want of a slot', fn => fn.busy],
]

const histograms: readonly (readonly [string, string, (fn: FnMetrics) => Buckets])[] = [
  ['fnd_call_wait_seconds', 'Time from arrival to a slot', fn => fn.waitMs],
  [
    'fnd_call_start_seconds',
    'Start of an instance, of calls that waited for one',
    fn => fn.startMs,
  ],
  ['fnd_call_run_seconds', 'Time from a slot to the end of the answer', fn => fn.runMs],
]

export function registerFnMetrics(registry: SeriesRegistry, table: FnMetricsTable): void {
  for (const [name, type, help, count] of counts) {
    registry.add({
      name,
      type,
      help,
      *samples(): Generator<Sample> {
        for (const fn of table.all()) yield { value: count(fn), sharedLabels: fn.ids }
      },
    })
  }
  for (const [name, help, buckets] of histograms) {
    registry.add({
      name,
      type: 'histogram',
      help,
      *samples(): Generator<Sample> {
        for (const fn of table.all()) {
          const observed = buckets(fn)
          if (observed.count > 0) yield* observed.samples(name, fn.names, 0.001)
        }
      },
    })
  }
}
