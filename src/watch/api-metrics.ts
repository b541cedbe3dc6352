/** What is counted of HTTP requests, per route template: looked up once per route, then numbers. */
import { Buckets, type Sample, type SeriesRegistry } from './series.ts'

/** Whose fault a failure is, in Fn's words. */
export type Blame = '' | 'user' | 'service'

/** Fn's own, in milliseconds, so that its dashboards keep working. */
const boundsMs = [1, 10, 50, 100, 250, 500, 1000, 10_000, 60_000, 120_000]
const routesMax = 500
const methods = new Set(['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'])

interface Answers {
  readonly labels: Readonly<Record<string, string | number>>
  readonly latencyMs: Buckets
  count: number
}

export class RouteMetrics {
  readonly #method: string
  readonly #path: string
  /** By status and blame: `status * 4 + index of the blame`. */
  readonly #answers = new Map<number, Answers>()
  readonly labels: { readonly method: string; readonly path: string }
  requests = 0

  constructor(method: string, path: string) {
    this.#method = method
    this.#path = path
    this.labels = { method, path }
  }

  request(): void {
    this.requests += 1
  }

  /** `blame` is needed only where the status does not tell: a 502 is the fault of the function. */
  response(status: number, latencyMs: number, blame?: Blame): void {
    const whose = blame ?? (status < 400 ? '' : status < 500 ? 'user' : 'service')
    const key = status * 4 + (whose === '' ? 0 : whose === 'user' ? 1 : 2)
    const answers = this.#answers.get(key) ?? this.#add(key, status, whose)
    answers.count += 1
    answers.latencyMs.observe(latencyMs)
  }

  get answers(): Iterable<Answers> {
    return this.#answers.values()
  }

  #add(key: number, status: number, blame: Blame): Answers {
    const labels = { method: this.#method, path: this.#path, status, blame }
    const answers = { labels, latencyMs: new Buckets(boundsMs), count: 0 }
    this.#answers.set(key, answers)
    return answers
  }
}

export class ApiMetrics {
  readonly #routes: RouteMetrics[] = []
  /** By path, then method: a key of both would be a new text for each request. */
  readonly #byPath = new Map<string, Map<string, RouteMetrics>>()

  /** `path` is the template (`/v2/fns/:fn_id`), never the path of a request. */
  route(method: string, path: string): RouteMetrics {
    const known = methods.has(method) ? method : 'other'
    return this.#byPath.get(path)?.get(known) ?? this.#add(known, path)
  }

  #add(method: string, path: string): RouteMetrics {
    if (this.#routes.length >= routesMax && path !== 'other') return this.route(method, 'other')
    const route = new RouteMetrics(method, path)
    this.#routes.push(route)
    const ofPath = this.#byPath.get(path)
    if (ofPath === undefined) this.#byPath.set(path, new Map([[method, route]]))
    else ofPath.set(method, route)
    return route
  }

  register(registry: SeriesRegistry): void {
    const routes = this.#routes
    registry.add({
      name: 'fn_api_request_count',
      type: 'counter',
      help: 'Requests by route',
      *samples(): Generator<Sample> {
        for (const route of routes) {
          yield { value: route.requests, sharedLabels: route.labels }
        }
      },
    })
    registry.add({
      name: 'fn_api_response_count',
      type: 'counter',
      help: 'Answers by route, status and whose fault a failure is',
      *samples(): Generator<Sample> {
        for (const route of routes) {
          for (const { count, labels } of route.answers) {
            yield { value: count, sharedLabels: labels }
          }
        }
      },
    })
    registry.add({
      name: 'fn_api_latency',
      type: 'histogram',
      help: 'Milliseconds from a request to its answer',
      *samples(): Generator<Sample> {
        for (const route of routes) {
          for (const { latencyMs, labels } of route.answers) {
            yield* latencyMs.samples('fn_api_latency', labels)
          }
        }
      },
    })
  }
}
