/**
 * From a route to the spec that its calls run on, made once per version of a function. When the
 * function or its app changes, the instances of the old version are retired in the same turn.
 */

import type { ErrorCode } from '../errors.ts'
import type { FnRoute } from '../store/state.ts'
import type { FnMetrics } from '../watch/fn-metrics.ts'
import type { ActiveCall, CallAsker } from './active-call.ts'
import { type CallEnd, codeOf } from './call.ts'
import type { FnSpec } from './driver.ts'
import type { CallObserver } from './observers.ts'
import type { Runner } from './runner.ts'

interface Target {
  readonly route: FnRoute
  readonly spec: FnSpec
}

export interface InvocationParts {
  readonly runner: Pick<Runner, 'call' | 'define' | 'retire'>
  readonly specOf: (route: FnRoute) => FnSpec
}

export class Invocations {
  readonly #parts: InvocationParts
  readonly #targets = new Map<string, Target>()

  constructor(parts: InvocationParts) {
    this.#parts = parts
  }

  call(route: FnRoute, asker: CallAsker): void {
    this.#parts.runner.call(this.specOf(route), asker)
  }

  /** The spec of a route, defined in the pool. */
  specOf(route: FnRoute): FnSpec {
    const target = this.#targets.get(route.fn.id)
    if (target !== undefined && target.route === route) return target.spec
    const spec = this.#parts.specOf(route)
    if (target !== undefined && target.spec.key !== spec.key) {
      this.#parts.runner.retire(target.spec.key)
    }
    this.#targets.set(route.fn.id, { route, spec })
    this.#parts.runner.define(spec)
    return spec
  }

  /** A function was added, changed, or removed (`after` undefined). */
  routeChanged(fnId: string, after: FnRoute | undefined): void {
    const target = this.#targets.get(fnId)
    if (after === undefined) {
      if (target === undefined) return
      this.#targets.delete(fnId)
      this.#parts.runner.retire(target.spec.key)
    } else if (target !== undefined || this.#parts.specOf(after).instancesMin > 0) {
      this.specOf(after)
    }
  }
}

/** Counts calls into the metrics of their functions. */
export class CallCounter implements CallObserver {
  readonly #metricsOf: (spec: FnSpec) => FnMetrics
  readonly #byFn = new Map<string, FnMetrics>()

  constructor(metricsOf: (spec: FnSpec) => FnMetrics) {
    this.#metricsOf = metricsOf
  }

  /** The function is gone. What its last calls still come to is counted no more. */
  forget(fnId: string): void {
    this.#byFn.delete(fnId)
  }

  queued(spec: FnSpec): void {
    this.#of(spec).queued()
  }

  placed(call: ActiveCall): void {
    this.#byFn.get(call.spec.fnId)?.start()
  }

  refused(call: ActiveCall, code: ErrorCode): void {
    const waitMs = call.phases(call.answeredMs).queueMs
    const end = code === 'client-gone' ? 'canceled' : code === 'busy' ? 'busy' : 'error'
    this.#byFn.get(call.spec.fnId)?.leave(Math.max(0, waitMs), end)
  }

  released(call: ActiveCall, end: CallEnd): void {
    const { queueMs, startMs, runMs } = call.phases(0)
    const code = codeOf(end)
    const how =
      code === undefined
        ? 'completed'
        : code === 'call-timeout'
          ? 'timeout'
          : end === 'client-gone'
            ? 'canceled'
            : 'error'
    this.#byFn.get(call.spec.fnId)?.done(queueMs, startMs, runMs, how)
  }

  #of(spec: FnSpec): FnMetrics {
    let metrics = this.#byFn.get(spec.fnId)
    if (metrics === undefined) {
      metrics = this.#metricsOf(spec)
      this.#byFn.set(spec.fnId, metrics)
    }
    return metrics
  }
}
