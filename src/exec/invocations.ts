/**
 * From a route to the spec that its calls run on, made once per version of a function. When the
 * function or its app changes, the instances of the old version are retired in the same turn.
 * Calls of a function whose code is still on its way here are held back: how many of them one
 * instance takes is written in the code.
 */
import { type ErrorCode, FndError } from '../errors.ts'
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

/** Where the code of functions is: on this node, or on others. */
export interface CodeSource {
  /** Whether all that `specOf` reads of the route's code is here. */
  isHere(route: FnRoute): boolean
  /** Resolves when it is. Rejects with `FndError`. */
  bring(route: FnRoute): Promise<unknown>
  /** Calls that may wait for code, on this node; more are refused as `busy`. */
  readonly heldMax: number
  readonly waitMs: number
}

export interface InvocationParts {
  readonly runner: Pick<Runner, 'call' | 'refuse' | 'define' | 'retire'>
  readonly specOf: (route: FnRoute) => FnSpec
  /** Absent: all code is here. */
  readonly code?: CodeSource
}

export class Invocations {
  readonly #parts: InvocationParts
  readonly #targets = new Map<string, Target>()
  /** Functions that would be targets if their code were here. */
  readonly #awaited = new Map<string, FnRoute>()
  #held = 0

  constructor(parts: InvocationParts) {
    this.#parts = parts
  }

  /** Calls that wait for code. */
  get held(): number {
    return this.#held
  }

  call(route: FnRoute, asker: CallAsker): void {
    const target = this.#targets.get(route.fn.id)
    if (target !== undefined && target.route === route) {
      this.#parts.runner.call(target.spec, asker)
    } else if (this.#isHere(route)) this.#parts.runner.call(this.#aim(route), asker)
    else this.#hold(route, asker)
  }

  /** The spec of a route, defined in the pool if its code is here. */
  specOf(route: FnRoute): FnSpec {
    const target = this.#targets.get(route.fn.id)
    if (target !== undefined && target.route === route) return target.spec
    return this.#isHere(route) ? this.#aim(route) : this.#parts.specOf(route)
  }

  /** A function was added, changed, or removed (`after` undefined). */
  routeChanged(fnId: string, after: FnRoute | undefined): void {
    const isUsed = this.#targets.has(fnId) || this.#awaited.has(fnId)
    if (after === undefined) {
      this.#awaited.delete(fnId)
      this.#forget(fnId)
    } else if (isUsed || this.#parts.specOf(after).instancesMin > 0) {
      if (this.#isHere(after)) this.#aim(after)
      else this.#await(after)
    }
  }

  /** Code came to this node: functions that it was missed by can be had. */
  codeArrived(): void {
    for (const route of this.#awaited.values()) if (this.#isHere(route)) this.#aim(route)
  }

  #isHere(route: FnRoute): boolean {
    return this.#parts.code?.isHere(route) ?? true
  }

  #aim(route: FnRoute): FnSpec {
    const target = this.#targets.get(route.fn.id)
    const spec = this.#parts.specOf(route)
    if (target !== undefined && target.spec.key !== spec.key) {
      this.#parts.runner.retire(target.spec.key)
    }
    this.#awaited.delete(route.fn.id)
    this.#targets.set(route.fn.id, { route, spec })
    this.#parts.runner.define(spec)
    return spec
  }

  #await(route: FnRoute): void {
    this.#awaited.set(route.fn.id, route)
    this.#forget(route.fn.id)
  }

  #forget(fnId: string): void {
    const target = this.#targets.get(fnId)
    if (target === undefined) return
    this.#targets.delete(fnId)
    this.#parts.runner.retire(target.spec.key)
  }

  #hold(route: FnRoute, asker: CallAsker): void {
    const { code, runner, specOf } = this.#parts
    this.#await(route)
    if (code === undefined || this.#held >= code.heldMax) {
      return runner.refuse(specOf(route), asker, new FndError('busy'))
    }
    void this.#callWhenHere(code, route, asker)
  }

  async #callWhenHere(code: CodeSource, route: FnRoute, asker: CallAsker): Promise<void> {
    this.#held += 1
    const refusal = await brought(code, route)
    this.#held -= 1
    const { runner, specOf } = this.#parts
    const target = this.#targets.get(route.fn.id)
    // The function may have changed meanwhile; the call still gets what it was made for.
    const spec = target?.route === route ? target.spec : specOf(route)
    if (refusal !== undefined) runner.refuse(spec, asker, refusal)
    else if (asker.caller.signal.aborted) runner.refuse(spec, asker, new FndError('client-gone'))
    else runner.call(spec, asker)
  }
}

async function brought(code: CodeSource, route: FnRoute): Promise<FndError | undefined> {
  const late = Promise.withResolvers<FndError>()
  const timer = setTimeout(() => {
    late.resolve(new FndError('busy', { detail: 'its code is being fetched from another node' }))
  }, code.waitMs)
  try {
    return await Promise.race([code.bring(route).then(() => undefined), late.promise])
  } catch (cause) {
    if (cause instanceof FndError) return cause
    throw cause
  } finally {
    clearTimeout(timer)
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
