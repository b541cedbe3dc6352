/**
 * Fn's objects as fnd holds them. Names follow our code (camelCase, units last); `api/v2/json.ts`
 * knows the names on the wire.
 */

/**
 * Annotation key → its value as compact JSON text. Text, because a number beyond 2^53 must come
 * back as it was sent.
 */
export type Annotations = Readonly<Record<string, string>>

export type Config = Readonly<Record<string, string>>

export interface App {
  readonly id: string
  readonly name: string
  readonly config: Config
  readonly annotations: Annotations
  /** `''` when unset. */
  readonly syslogUrl: string
  /** `''` when unset, else one of Fn's GENERIC_* words. */
  readonly shape: string
  readonly createdMs: number
  readonly updatedMs: number
}

export interface Fn {
  readonly id: string
  readonly name: string
  readonly appId: string
  /** A Docker reference, or `bundle:sha256-<hex>` for code deployed without an image. */
  readonly image: string
  readonly memoryMb: number
  readonly timeoutS: number
  readonly idleTimeoutS: number
  readonly config: Config
  readonly annotations: Annotations
  readonly shape: string
  readonly createdMs: number
  readonly updatedMs: number
}

/** How an app pulls images from one registry. */
export interface RegistryLogin {
  readonly appId: string
  /** As references name it: `docker.io`, `registry.example:5000`. */
  readonly host: string
  /** `''` with an identity token. */
  readonly username: string
  /** The secret, sealed by `SecretBox`: it is never in clear in commands, rows or answers. */
  readonly sealed: string
  readonly updatedMs: number
}

/** What the secret of a login is bound to when it is sealed. */
export function ownerOfLogin({ appId, host }: Pick<RegistryLogin, 'appId' | 'host'>): string {
  return JSON.stringify([appId, host])
}

export interface Trigger {
  readonly id: string
  readonly name: string
  readonly appId: string
  readonly fnId: string
  readonly type: 'http'
  /** Starts with `/`. */
  readonly source: string
  readonly annotations: Annotations
  readonly createdMs: number
  readonly updatedMs: number
}

/** A member of the cluster, as all members know it. */
export interface Node {
  /** Raft's id: counted up by the cluster, never given twice. */
  readonly id: number
  /** Made with the data directory: tells a restarted node from one that was wiped. */
  readonly uuid: string
  /** For people; the host's name unless it was given. Need not be unique. */
  readonly name: string
  /** Where peers reach it, `host:port`. */
  readonly peerAddress: string
  /** Where its HTTP API is. */
  readonly apiUrl: string
  /** fnd's version there, and the newest version of commands that it understands. */
  readonly version: string
  readonly commandVersion: number
  /**
   * `active`; `draining`: takes no new calls and is no voter if that can be; `leaving`: to be taken
   * out of the configuration, whereupon its row goes; `replaced`: another node came with its
   * address, so it is taken out as soon as a voter can take its place.
   */
  readonly state: NodeState
  readonly joinedMs: number
}

export type NodeState = 'active' | 'draining' | 'leaving' | 'replaced'
