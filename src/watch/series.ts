/**
 * Metrics that are read at scrape time. What counts on the invoke path is plain numbers in objects
 * that were looked up before; prom-client formats them, and holds none of them.
 */
import { type Metric, Registry } from 'prom-client'

type Labels = Readonly<Record<string, string | number>>

export interface Sample {
  readonly value: number
  /** Labels of this sample alone. */
  readonly labels?: Labels
  /** Labels of a whole series; prom-client caches their text by the identity of the object. */
  readonly sharedLabels?: Labels
  /** When it differs from the metric's: `…_bucket`, `…_sum`, `…_count`. */
  readonly metricName?: string
}

export interface Series {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  samples(): Iterable<Sample>
}

/** prom-client's registry, for metrics that are read from elsewhere. */
export class SeriesRegistry {
  readonly #registry = new Registry()
  #turn: Promise<void> = Promise.resolve()

  get contentType(): string {
    return this.#registry.contentType
  }

  /**
   * `Registry.metrics()` calls nothing but `get()` on what is registered (prom-client 15,
   * lib/registry.js, getMetricsAsString), and this is its shape.
   */
  add(series: Series): void {
    const metric = {
      name: series.name,
      help: series.help,
      type: series.type,
      get: async () => {
        await this.#nextTurn()
        return { ...series, values: [...series.samples()] }
      },
    }
    this.#registry.registerMetric(metric as unknown as Metric)
  }

  text(): Promise<string> {
    return this.#registry.metrics()
  }

  /** The registry formats all metrics at once; calls go on between one metric and the next. */
  #nextTurn(): Promise<void> {
    this.#turn = this.#turn.then(() => new Promise(resolve => setImmediate(resolve)))
    return this.#turn
  }
}

/** A histogram with fixed bounds: observing writes into one preallocated array. */
export class Buckets {
  readonly bounds: readonly number[]
  /** One count per bound, then the count above all bounds, then the sum. */
  readonly #cells: Float64Array

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.#cells = new Float64Array(bounds.length + 2)
  }

  observe(value: number): void {
    const { bounds } = this
    let low = 0
    let high = bounds.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((bounds[middle] ?? 0) < value) low = middle + 1
      else high = middle
    }
    const cells = this.#cells
    cells[low] = (cells[low] ?? 0) + 1
    const sum = cells.length - 1
    cells[sum] = (cells[sum] ?? 0) + value
  }

  get count(): number {
    let count = 0
    for (let at = 0; at <= this.bounds.length; at += 1) count += this.#cells[at] ?? 0
    return count
  }

  /** In Prometheus' form: cumulative, `+Inf` last, then sum and count. `scale` changes the unit. */
  *samples(name: string, sharedLabels: Labels, scale = 1): Generator<Sample> {
    let count = 0
    for (const [at, bound] of this.bounds.entries()) {
      count += this.#cells[at] ?? 0
      const le = boundText(bound * scale)
      yield { metricName: `${name}_bucket`, labels: { le }, sharedLabels, value: count }
    }
    count += this.#cells[this.bounds.length] ?? 0
    yield { metricName: `${name}_bucket`, labels: { le: '+Inf' }, sharedLabels, value: count }
    const sum = (this.#cells[this.bounds.length + 1] ?? 0) * scale
    yield { metricName: `${name}_sum`, sharedLabels, value: sum }
    yield { metricName: `${name}_count`, sharedLabels, value: count }
  }
}

/** Without the noise of a multiplication: 0.3 and not 0.30000000000000004. */
function boundText(bound: number): string {
  return String(Number(bound.toPrecision(12)))
}
