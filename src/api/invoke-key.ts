import { FndError } from '../errors.ts'
import type { App } from '../store/objects.ts'
import { asksForInvokeKey, isInvokeKeyRight } from '../store/settings.ts'

/**
 * Refuses a call of an app that asks for a key, unless the request carries it: as `Fnd-Invoke-Key`,
 * or as a bearer token for clients that can set nothing else.
 */
export function checkInvokeKey(app: App, headers: Headers): void {
  if (!asksForInvokeKey(app.annotations)) return
  const own = headers.get('fnd-invoke-key')
  const bearer = /^Bearer +(\S+)$/i.exec(headers.get('authorization') ?? '')?.[1]
  if (!isInvokeKeyRight(app.annotations, own ?? bearer ?? null)) {
    throw new FndError('call-key-required')
  }
}
