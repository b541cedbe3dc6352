/**
 * All metrics of a node. Counting costs nothing that shows (see `FnMetrics`); reading costs in
 * proportion to the series, so it happens once for all who ask at the same time, and takes at most
 * a tenth of the time however often somebody asks: `/metrics` needs no token.
 */
import type { Clock } from '../clock.ts'
import { ApiMetrics, type RouteMetrics } from './api-metrics.ts'
import { type FnLabels, type FnMetrics, FnMetricsTable, registerFnMetrics } from './fn-metrics.ts'
import { registerNodeMetrics } from './node-metrics.ts'
import { eventLoopLagS, registerProcessMetrics } from './process-metrics.ts'
import { registerRecorder } from './raft-metrics.ts'
import { RaftRecorder } from './raft-recorder.ts'
import { SeriesRegistry } from './series.ts'
import type { MetricSources } from './sources.ts'

export interface MetricsOptions {
  readonly clock: Clock
  readonly version: string
  readonly commit: string
  /** Functions with series of their own; those above share one. */
  readonly fnsMax?: number
}

/** A function has up to 70 samples: a scrape stays below 2 MB. */
const fnsMaxDefault = 250
const restFactor = 9

export class Metrics {
  readonly #clock: Clock
  readonly #registry = new SeriesRegistry()
  readonly #fns: FnMetricsTable
  readonly #api = new ApiMetrics()
  /** Told by the driver of this node's member. */
  readonly raft: RaftRecorder
  #lagS = 0
  #scraping: Promise<string> | undefined
  #text = ''
  /** Until then `#text` is fresh enough. */
  #freshUntilMs = Number.NEGATIVE_INFINITY

  constructor(options: MetricsOptions) {
    this.#clock = options.clock
    this.#fns = new FnMetricsTable(options.fnsMax ?? fnsMaxDefault)
    registerFnMetrics(this.#registry, this.#fns)
    this.#api.register(this.#registry)
    this.raft = new RaftRecorder(options.clock)
    registerRecorder(this.#registry, this.raft)
    registerProcessMetrics(this.#registry)
    const { version, commit } = options
    this.#registry.add({
      name: 'fnd_build_info',
      type: 'gauge',
      help: 'Always 1; the labels tell what runs',
      samples: () => [{ value: 1, labels: { version, commit } }],
    })
    this.#registry.add({
      name: 'fnd_event_loop_lag_seconds',
      type: 'gauge',
      help: 'How late a timer fired when this was read',
      samples: () => [{ value: this.#lagS }],
    })
  }

  get contentType(): string {
    return this.#registry.contentType
  }

  /** Adds what is read from other parts. To be called once, when they exist. */
  watch(sources: MetricSources): void {
    registerNodeMetrics(this.#registry, sources)
  }

  /** To be kept by who counts, not looked up for each call. */
  fn(labels: FnLabels): FnMetrics {
    return this.#fns.of(labels)
  }

  /** The function was deleted. */
  forgetFn(fnId: string): void {
    this.#fns.forget(fnId)
  }

  /** To be kept by who counts. `path` is a route's template. */
  route(method: string, path: string): RouteMetrics {
    return this.#api.route(method, path)
  }

  /** The text of Prometheus' exposition format. */
  async scrape(): Promise<string> {
    if (this.#clock.monotonicMs() < this.#freshUntilMs) return this.#text
    this.#scraping ??= this.#format().finally(() => {
      this.#scraping = undefined
    })
    return this.#scraping
  }

  async #format(): Promise<string> {
    this.#lagS = await eventLoopLagS()
    const startMs = this.#clock.monotonicMs()
    this.#text = await this.#registry.text()
    const endMs = this.#clock.monotonicMs()
    this.#freshUntilMs = endMs + (endMs - startMs) * restFactor
    return this.#text
  }
}
