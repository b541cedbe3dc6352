/** Who hears of calls and instances from the runner. */
import type { ErrorCode, FndError } from '../errors.ts'
import type { ActiveCall } from './active-call.ts'
import type { CallEnd } from './call.ts'
import type { FnSpec } from './driver.ts'

/** What the runner tells of each call to whoever counts; on the invoke path, so nearly free. */
export interface CallObserver {
  queued(spec: FnSpec): void
  placed(call: ActiveCall): void
  /** The call never got a slot. */
  refused(call: ActiveCall, code: ErrorCode): void
  /** The call gave its slot back; its answer may have begun long before. */
  released(call: ActiveCall, end: CallEnd): void
}

/** Who listens to instances: their output belongs to the call that is between begin and end. */
export interface InstanceObserver {
  begin(instanceId: string, fnId: string, callId: string): void
  end(instanceId: string, callId: string): void
  event(event: InstanceEvent): void
}

export type InstanceEvent = {
  readonly instanceId: string
  readonly spec: FnSpec
} & (
  | { readonly kind: 'starting' }
  | { readonly kind: 'ready'; readonly pid: number; readonly startMs: number }
  | { readonly kind: 'start-failed'; readonly error: FndError }
  | { readonly kind: 'paused' }
  | { readonly kind: 'pause-failed'; readonly error: FndError }
  | { readonly kind: 'resumed' }
  | { readonly kind: 'resume-failed'; readonly error: FndError }
  | { readonly kind: 'stopping'; readonly why: string }
  | { readonly kind: 'gone'; readonly reason: string }
)
