/** Counts the requests of admin resources by route, without a hook on the routes of calls. */
import { type AnyElysia, Elysia } from 'elysia'
import type { RouteCounter } from './answer.ts'

export type CounterOf = (method: string, path: string) => RouteCounter

export class RequestCount {
  readonly #counterOf: CounterOf
  readonly #startedMs = new WeakMap<Request, number>()
  /** Statuses of failures, which the hook below does not see. */
  readonly #failures = new WeakMap<Request, number>()

  constructor(counterOf: CounterOf) {
    this.#counterOf = counterOf
  }

  failed(request: Request, response: Response): Response {
    this.#failures.set(request, response.status)
    return response
  }

  /** The same routes, counted. */
  over(instance: AnyElysia): AnyElysia {
    return new Elysia()
      .onTransform(({ request }) => {
        this.#startedMs.set(request, performance.now())
      })
      .onAfterResponse(({ request, route, responseValue }) => {
        const own = responseValue instanceof Response ? responseValue.status : 200
        const counter = this.#counterOf(request.method, route)
        const nowMs = performance.now()
        counter.request()
        const startedMs = this.#startedMs.get(request) ?? nowMs
        counter.response(this.#failures.get(request) ?? own, nowMs - startedMs)
      })
      .use(instance)
  }
}
