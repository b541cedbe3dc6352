/**
 * How fresh the reads of the admin API are. `linear`, unless told otherwise: they see whatever was
 * acknowledged before, on any node. `local`: what this node knows, also without a majority. At
 * least an index: what another answer has shown (raft thesis §6.4.1). Calls never come here.
 */
import { type AnyElysia, Elysia } from 'elysia'
import { FndError } from '../errors.ts'
import type { State } from '../store/state.ts'
import { queryOf } from './url.ts'

export interface Fresh {
  /** Resolves when reads here see all that was acknowledged. `FndError`: `no-leader` and such. */
  linear(): Promise<void>
  /** Resolves when this entry is applied here; `FndError` `not-fresh` when that takes long. */
  atLeast(index: number): Promise<void>
  readonly appliedIndex: number
}

export const consistencyHeader = 'fnd-consistency'
export const minIndexHeader = 'fnd-min-index'
export const appliedIndexHeader = 'fnd-applied-index'

interface Wanted {
  readonly isLinear: boolean
  readonly index: number
}

function wantedBy(request: Request): Wanted {
  const query = new URLSearchParams(queryOf(request.url))
  const consistency = query.get('consistency') ?? request.headers.get(consistencyHeader) ?? ''
  const minIndex = query.get('min-index') ?? request.headers.get(minIndexHeader) ?? ''
  if (!['', 'linear', 'local'].includes(consistency)) {
    throw new FndError('invalid-field', {
      field: 'consistency',
      message: 'consistency must be linear or local',
    })
  }
  const index = Number(minIndex)
  if (!/^\d*$/.test(minIndex) || !Number.isSafeInteger(index)) {
    throw new FndError('invalid-field', {
      field: 'min-index',
      message: 'min-index must be a number, as an answer has it in Fnd-Applied-Index',
    })
  }
  // Who names an index asks for what it saw before, and no more.
  const isLinear = consistency === 'linear' || (consistency === '' && minIndex === '')
  return { isLinear, index }
}

/** Ids that a change may give, in its path or its body. */
interface Named {
  readonly app_id?: unknown
  readonly fn_id?: unknown
  readonly trigger_id?: unknown
}

function namesUnknown(state: State, place: unknown): boolean {
  if (typeof place !== 'object' || place === null) return false
  const { app_id: app, fn_id: fn, trigger_id: trigger } = place as Named
  return (
    (typeof app === 'string' && state.app(app) === undefined) ||
    (typeof fn === 'string' && state.fn(fn) === undefined) ||
    (typeof trigger === 'string' && state.trigger(trigger) === undefined)
  )
}

/**
 * The same routes, as fresh as their requests ask for. A change is judged where its entry is
 * applied, so it need not be fresh; but what it names may have been made through another node a
 * moment ago, and is not said to be missing before this node has caught up.
 */
export function freshly(fresh: Fresh, state: State, instance: AnyElysia): AnyElysia {
  return new Elysia()
    .onBeforeHandle(async ({ request, params, body }) => {
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        if (namesUnknown(state, params) || namesUnknown(state, body)) await fresh.linear()
        return
      }
      const { isLinear, index } = wantedBy(request)
      if (isLinear) await fresh.linear()
      if (index > 0) await fresh.atLeast(index)
    })
    .onAfterHandle(({ responseValue }) => {
      // Taken after the read or the change, so that it is never less than what the answer shows.
      if (responseValue instanceof Response) {
        responseValue.headers.set(appliedIndexHeader, String(fresh.appliedIndex))
      }
    })
    .use(instance)
}
