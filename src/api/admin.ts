/** What the resources of the admin API share: authorization, then the body, then the schema. */
import { Elysia } from 'elysia'
import type { Clock } from '../clock.ts'
import type { Config } from '../config.ts'
import { assert, FndError } from '../errors.ts'
import type { IdSource } from '../ids.ts'
import type { Outcome } from '../store/commands.ts'
import type { App, Fn, Trigger } from '../store/objects.ts'
import type { State } from '../store/state.ts'
import type { Authorize } from './auth.ts'
import { readObject } from './body.ts'
import { baseOf } from './url.ts'
import type { Stamp } from './v2/validate.ts'

export interface AdminParts {
  readonly config: Config
  readonly state: State
  readonly clock: Clock
  readonly ids: IdSource
  readonly authorize: Authorize
}

/**
 * Hooks for one resource. Elysia's first hook of a route is `parse`, but only of routes that may
 * have a body; `transform` comes next, on all. So both check, and no byte of a stranger's body is
 * read. Scoped: nothing of this runs on the routes of calls.
 */
export function adminGuard(
  { config, authorize }: Pick<AdminParts, 'config' | 'authorize'>,
  { isBodyOptional = false } = {},
) {
  const { adminBodyBytesMax, requestBytesMax } = config.limits
  const bytesMax = Math.min(adminBodyBytesMax, requestBytesMax || adminBodyBytesMax)
  return new Elysia()
    .onParse({ as: 'scoped' }, ({ request }) => {
      authorize(request)
      // Whatever a client sends with the other methods is ignored, not parsed.
      const hasBody = request.method === 'POST' || request.method === 'PUT'
      const isLeftOut = isBodyOptional && request.body === null
      return hasBody && !isLeftOut ? readObject(request, bytesMax) : {}
    })
    .onTransform({ as: 'scoped' }, ({ request }) => authorize(request))
}

/** For resources whose bodies are not JSON, or that have none. */
export function adminOnly(authorize: Authorize) {
  return new Elysia().onTransform({ as: 'scoped' }, ({ request }) => authorize(request))
}

export function stampFrom(parts: AdminParts): Stamp {
  return { id: parts.ids.next(), nowMs: parts.clock.nowMs() }
}

/** The address to show in derived annotations. */
export function publicBase(config: Config, request: Request): string {
  return config.publicUrl === '' ? baseOf(request) : config.publicUrl
}

/** The object a change came to. A conflict becomes the error of its code. */
function objectOf(outcome: Outcome): NonNullable<Extract<Outcome, { ok: true }>['object']> {
  if (!outcome.ok) throw new FndError(outcome.code)
  assert(outcome.object !== null, 'creating or updating an object returns it')
  return outcome.object
}

export function appOf(outcome: Outcome): App {
  const object = objectOf(outcome)
  assert('syslogUrl' in object, 'a command on an app returns an app')
  return object
}

export function fnOf(outcome: Outcome): Fn {
  const object = objectOf(outcome)
  assert('image' in object, 'a command on a function returns a function')
  return object
}

export function triggerOf(outcome: Outcome): Trigger {
  const object = objectOf(outcome)
  assert('source' in object, 'a command on a trigger returns a trigger')
  return object
}

export function deletedResponse(outcome: Outcome): Response {
  if (!outcome.ok) throw new FndError(outcome.code)
  return new Response(null, { status: 204 })
}
