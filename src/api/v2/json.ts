/** fnd's objects to Fn's words on the wire, and times both ways. */
import type { Annotations, App, Fn, Trigger } from '../../store/objects.ts'
import { hiddenValue, invokeKeySetting } from '../../store/settings.ts'
import { parseExact, stringifyExact } from '../json-text.ts'

export const invokeEndpointKey = 'fnproject.io/fn/invokeEndpoint'
export const httpEndpointKey = 'fnproject.io/trigger/httpEndpoint'
/** Computed on read, so they are dropped on write. */
export const derivedKeys: ReadonlySet<string> = new Set([invokeEndpointKey, httpEndpointKey])

/** Go's zero time, which Fn's CLI sends where it has none. */
const zeroTimeMs = Date.parse('0001-01-01T00:00:00Z')

export function timeText(ms: number): string {
  return new Date(ms).toISOString()
}

/**
 * RFC 3339 with up to nine fraction digits → ms. `absent` for the zero time, the epoch for `''`
 * (both as Fn reads them), undefined for anything else.
 */
export function parseTime(text: string): number | 'absent' | undefined {
  if (text === '') return 0
  const match = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/i.exec(text)
  if (match === null) return undefined
  const fraction = (match[3] ?? '').slice(0, 3).padEnd(3, '0')
  const ms = Date.parse(`${match[1]}T${match[2]}.${fraction}${(match[4] ?? 'Z').toUpperCase()}`)
  if (Number.isNaN(ms)) return undefined
  return ms === zeroTimeMs ? 'absent' : ms
}

function annotationsToWire(
  annotations: Annotations,
  derived: Readonly<Record<string, string>>,
): Readonly<Record<string, unknown>> | undefined {
  const entries = Object.entries(annotations).map(([key, text]) => [
    key,
    key === invokeKeySetting ? hiddenValue : parseExact(text),
  ])
  entries.push(...Object.entries(derived))
  return entries.length === 0 ? undefined : Object.fromEntries(entries)
}

/** For JSON, which leaves out what is undefined. */
function unlessEmpty(text: string): string | undefined {
  return text === '' ? undefined : text
}

export function appToWire(app: App): object {
  return {
    id: app.id,
    name: app.name,
    config: Object.keys(app.config).length === 0 ? undefined : app.config,
    annotations: annotationsToWire(app.annotations, {}),
    syslog_url: unlessEmpty(app.syslogUrl),
    shape: unlessEmpty(app.shape),
    created_at: timeText(app.createdMs),
    updated_at: timeText(app.updatedMs),
  }
}

/** `base` is the server's address for the derived annotation, or undefined to leave it out. */
export function fnToWire(fn: Fn, base: string | undefined): object {
  const derived = base === undefined ? {} : { [invokeEndpointKey]: `${base}/invoke/${fn.id}` }
  return {
    id: fn.id,
    name: fn.name,
    app_id: fn.appId,
    image: fn.image,
    memory: fn.memoryMb,
    timeout: fn.timeoutS,
    idle_timeout: fn.idleTimeoutS,
    config: fn.config,
    annotations: annotationsToWire(fn.annotations, derived),
    shape: unlessEmpty(fn.shape),
    created_at: timeText(fn.createdMs),
    updated_at: timeText(fn.updatedMs),
  }
}

/** `base` and `appName` make the derived annotation; without them it is left out. */
export function triggerToWire(
  trigger: Trigger,
  endpoint: { readonly base: string; readonly appName: string } | undefined,
): object {
  const derived =
    endpoint === undefined
      ? {}
      : { [httpEndpointKey]: `${endpoint.base}/t/${endpoint.appName}${trigger.source}` }
  return {
    id: trigger.id,
    name: trigger.name,
    app_id: trigger.appId,
    fn_id: trigger.fnId,
    type: trigger.type,
    source: trigger.source,
    annotations: annotationsToWire(trigger.annotations, derived),
    created_at: timeText(trigger.createdMs),
    updated_at: timeText(trigger.updatedMs),
  }
}

/** Kept, because a `Response` copies them faster than it reads an object. */
const jsonHeaders = new Headers({ 'content-type': 'application/json; charset=utf-8' })

/** A success answer in Fn's form. */
export function jsonResponse(body: object, status = 200): Response {
  return new Response(`${stringifyExact(body)}\n`, { status, headers: jsonHeaders })
}
