/** Counts the requests of admin resources by route, without a hook on the routes of calls. */
import { type AnyElysia, Elysia } from 'elysia'
import type { RouteCounter } from './answer.ts'

export type CounterOf = (method: string, path: string) => RouteCounter

interface Begun {
  readonly counter: RouteCounter
  readonly startedMs: number
}

export class RequestCount {
  readonly #counterOf: CounterOf
  readonly #routes = new Set<string>()
  /** Requests that were not answered yet. */
  readonly #begun = new WeakMap<Request, Begun>()

  constructor(counterOf: CounterOf) {
    this.#counterOf = counterOf
  }

  /** For the error hook, which has the last word on a request that failed. */
  failed(request: Request, route: string, response: Response): Response {
    // A body that is refused ends a request before its first hook here.
    if (this.#routes.has(route) && !this.#begun.has(request)) this.#begin(request, route)
    this.#end(request, response.status)
    return response
  }

  /** The same routes, counted. A hook after the response would cost a timer and a promise more. */
  over(instance: AnyElysia): AnyElysia {
    for (const { path } of instance.routes) this.#routes.add(path)
    return new Elysia()
      .onTransform(({ request, route }) => {
        this.#begin(request, route)
      })
      .onAfterHandle(({ request, responseValue }) => {
        this.#end(request, responseValue instanceof Response ? responseValue.status : 200)
      })
      .use(instance)
  }

  #begin(request: Request, route: string): void {
    const counter = this.#counterOf(request.method, route)
    counter.request()
    this.#begun.set(request, { counter, startedMs: performance.now() })
  }

  #end(request: Request, status: number): void {
    const begun = this.#begun.get(request)
    if (begun === undefined) return
    this.#begun.delete(request)
    begun.counter.response(status, performance.now() - begun.startedMs)
  }
}
