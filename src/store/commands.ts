import type { ErrorCode } from '../errors.ts'
import type {
  Annotations,
  App,
  Config,
  Fn,
  Node,
  NodeState,
  RegistryLogin,
  Trigger,
} from './objects.ts'

/**
 * Every durable change. The leader validates, then stamps ids and times into the command, so that
 * applying it is a pure function of the rows and the command on every node.
 *
 * In a patch an absent field leaves the old value. In `config` and `annotations` a key replaces or
 * adds, and `''` (for annotations: the text `""` or `null`) deletes that key. `updatedMs` moves to
 * `atMs` only when something changed.
 */
export type Command =
  | { readonly type: 'app.create'; readonly app: App }
  | {
      readonly type: 'app.update'
      readonly id: string
      readonly atMs: number
      readonly patch: AppPatch
    }
  | { readonly type: 'app.delete'; readonly id: string }
  | { readonly type: 'fn.create'; readonly fn: Fn }
  | {
      readonly type: 'fn.update'
      readonly id: string
      readonly atMs: number
      readonly patch: FnPatch
    }
  | { readonly type: 'fn.delete'; readonly id: string }
  | { readonly type: 'trigger.create'; readonly trigger: Trigger }
  | {
      readonly type: 'trigger.update'
      readonly id: string
      readonly atMs: number
      readonly patch: TriggerPatch
    }
  | { readonly type: 'trigger.delete'; readonly id: string }
  /** Sets or replaces. */
  | { readonly type: 'registry.set'; readonly login: RegistryLogin }
  | { readonly type: 'registry.delete'; readonly appId: string; readonly host: string }
  | NodeCommand

/** Changes of the cluster itself. */
export type NodeCommand =
  /**
   * A node that is there already, by its uuid, has its address and versions brought up to date. A
   * new one gets the next id; whoever had its peer address before becomes `replaced`.
   */
  | ({ readonly type: 'node.join' } & NodeJoin)
  | {
      readonly type: 'node.update'
      readonly id: number
      readonly atMs: number
      readonly patch: NodePatch
    }
  /** The row goes; its id is not given again. */
  | { readonly type: 'node.remove'; readonly id: number }
  /** Commands up to this version may be proposed from here on. Never lowers it. */
  | { readonly type: 'cluster.version'; readonly version: number }
  /** Changes nothing: shows that a command of the next version is understood by all. */
  | { readonly type: 'cluster.note'; readonly text: string }

export interface NodeJoin {
  /** Only of a member that has no row yet, as the node that began the cluster. */
  readonly id?: number
  readonly uuid: string
  readonly name: string
  readonly peerAddress: string
  readonly apiUrl: string
  readonly version: string
  readonly commandVersion: number
  readonly atMs: number
}

export interface NodePatch {
  readonly name?: string
  readonly peerAddress?: string
  readonly apiUrl?: string
  readonly version?: string
  readonly commandVersion?: number
  readonly state?: NodeState
}

export interface AppPatch {
  /** Given only to be compared: a different name is the conflict `app-name-immutable`. */
  readonly name?: string
  readonly config?: Config
  readonly annotations?: Annotations
  /** `''` clears. */
  readonly syslogUrl?: string
}

export interface FnPatch {
  readonly image?: string
  readonly memoryMb?: number
  readonly timeoutS?: number
  readonly idleTimeoutS?: number
  readonly config?: Config
  readonly annotations?: Annotations
}

export interface TriggerPatch {
  readonly name?: string
  readonly fnId?: string
  readonly source?: string
  readonly annotations?: Annotations
}

/** What applying a command came to: the object as it is now, or the conflict, as a value. */
export type Outcome =
  | { readonly ok: true; readonly object: App | Fn | Trigger | Node | null }
  | { readonly ok: false; readonly code: ErrorCode }

/** A row that a command changed; `null` says that it is gone. Feeds what is kept in memory. */
export type Change =
  | { readonly kind: 'app'; readonly id: string; readonly row: App | null }
  | { readonly kind: 'fn'; readonly id: string; readonly row: Fn | null }
  | { readonly kind: 'trigger'; readonly id: string; readonly row: Trigger | null }
  | { readonly kind: 'node'; readonly id: number; readonly row: Node | null }

export interface Applied {
  readonly outcome: Outcome
  /** Every row that changed or went, in the order it happened. Empty when nothing changed. */
  readonly changes: readonly Change[]
}
