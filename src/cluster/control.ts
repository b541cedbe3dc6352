/** What the API, and with it the command line, sees of the cluster. `members.ts` implements it. */
import type { NodeId } from '../raft/types.ts'
import type { NodeState } from '../store/objects.ts'

/** `none`: not in the configuration, yet or any more. */
export type NodeRole = 'leader' | 'voter' | 'learner' | 'none'

/** `unknown`: it has not been heard, and not been waited for long enough either. */
export type NodeHealthWord = 'up' | 'slow' | 'down' | 'unknown'

export interface NodeReport {
  readonly id: NodeId
  readonly uuid: string
  readonly name: string
  readonly role: NodeRole
  readonly state: NodeState
  /** `slow`: heard, but too far behind to become a voter. */
  readonly health: NodeHealthWord
  readonly peerAddress: string
  readonly apiUrl: string
  readonly version: string
  readonly commandVersion: number
  readonly joinedMs: number
  /** Entries behind what is committed; undefined where only a leader knows and none was asked. */
  readonly lag: number | undefined
  readonly rttMs: number | undefined
  /** Since it was last heard by the node that made this report; undefined for never. */
  readonly silentMs: number | undefined
  /** Why there is no connection, where that is known. */
  readonly problem: string | undefined
  /** Its wall clock less that of the reporting node. */
  readonly skewMs: number | undefined
}

export interface NodesReport {
  /** Whose view this is: the leader's, or that of the asked node where no leader answers. */
  readonly seenBy: NodeId
  readonly leaderId: NodeId | undefined
  /** Ids ascending. */
  readonly nodes: readonly NodeReport[]
}

/** What an operator should look at, worst first. */
export interface Warning {
  readonly code: string
  readonly message: string
  /** What to do. */
  readonly hint: string
}

/** `healthy`; `degraded`: it works, with warnings; `no-quorum`: nothing can be changed. */
export type ClusterHealth = 'healthy' | 'degraded' | 'no-quorum'

export interface ClusterStatus {
  readonly health: ClusterHealth
  readonly clusterId: string
  readonly nodeId: NodeId
  readonly name: string
  readonly role: NodeRole
  readonly state: NodeState
  readonly term: number
  readonly leaderId: NodeId | undefined
  readonly leaderName: string | undefined
  /** Of both halves while the configuration is joint. */
  readonly voters: readonly NodeId[]
  readonly learners: readonly NodeId[]
  readonly isJoint: boolean
  readonly votersAlive: number
  /** Voters that must be alive for a change. */
  readonly quorum: number
  readonly commitIndex: number
  readonly appliedIndex: number
  readonly lastIndex: number
  readonly commandVersion: number
  readonly warnings: readonly Warning[]
}

/** A node that asked to join without a token. */
export interface PendingJoin {
  /** Of its key: what `fnd` there shows, so that an operator can compare. */
  readonly fingerprint: string
  readonly name: string
  /** Where it says that its peer port is. */
  readonly address: string
  /** Where it connects from. */
  readonly remoteAddress: string
  readonly apiUrl: string
  readonly version: string
  readonly sinceMs: number
}

export interface JoinToken {
  readonly token: string
  readonly expiresMs: number
  /** `host:port` that the next node can be told to join. */
  readonly address: string
}

/** All reject with `FndError`; whatever takes the leader is brought to it. */
export interface ClusterControl {
  /** Of this node alone, so that it answers without a quorum. */
  status(): Promise<ClusterStatus>
  nodes(): Promise<NodesReport>
  /** Takes a node out for good. One that cannot be reached is refused unless `isForced`. */
  remove(id: NodeId, isForced: boolean): Promise<void>
  /** No new calls, and no voter if another can be. */
  drain(id: NodeId): Promise<void>
  undrain(id: NodeId): Promise<void>
  promote(id: NodeId): Promise<void>
  demote(id: NodeId): Promise<void>
  /** Resolves with the new leader. Undefined: to the voter that is most up to date. */
  transfer(to: NodeId | undefined): Promise<NodeId>
  pending(): Promise<readonly PendingJoin[]>
  /** Resolves when it is a node, with its id. */
  approve(fingerprint: string): Promise<NodeId>
  mintToken(lifeMs: number): Promise<JoinToken>
  /** Resolves once this node is on its way out; it ends by itself when it is out. */
  leave(): Promise<void>
}
