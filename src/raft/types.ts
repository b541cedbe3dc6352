/**
 * The words of the pure core. Messages and their fields are those of etcd's raft, so that its
 * published scenarios apply (test/raft/conformance). Numbers are integers that fit a double.
 */

/** At least 1; 0 means "no node". Never reused within a cluster, and not an address. */
export type NodeId = number

/** `conf` holds one change (etcd's V1 entry), `conf-v2` any number of them. */
export type EntryKind = 'normal' | 'conf' | 'conf-v2'

export interface Entry {
  /** Starts at 1, without gaps. */
  readonly index: number
  readonly term: number
  readonly kind: EntryKind
  /** Empty in the entry with which a leader begins its term. `conf*`: see `encodeConfChange`. */
  readonly bytes: Uint8Array
}

export interface ConfChange {
  /** `auto`: simple for one change, joint and left by itself for more. Etcd's V2 rules. */
  readonly transition: 'auto' | 'implicit' | 'explicit'
  /** None of them and `auto`: leave the joint configuration. */
  readonly changes: readonly SingleChange[]
}

export interface SingleChange {
  readonly type: 'add-voter' | 'add-learner' | 'remove' | 'update'
  readonly nodeId: NodeId
}

/** Ids ascending. Joint exactly if `votersOutgoing` is not empty. */
export interface ConfState {
  readonly voters: readonly NodeId[]
  readonly votersOutgoing: readonly NodeId[]
  readonly learners: readonly NodeId[]
  readonly learnersNext: readonly NodeId[]
  readonly autoLeave: boolean
}

export interface HardState {
  readonly term: number
  /** The node voted for in `term`; 0 for none. */
  readonly vote: NodeId
  readonly commit: number
}

export interface Snapshot {
  readonly index: number
  readonly term: number
  readonly confState: ConfState
  /** The state machine's own; the core carries it. */
  readonly data: string
}

export type MessageType =
  | 'MsgProp'
  | 'MsgApp'
  | 'MsgAppResp'
  | 'MsgVote'
  | 'MsgVoteResp'
  | 'MsgPreVote'
  | 'MsgPreVoteResp'
  | 'MsgSnap'
  | 'MsgHeartbeat'
  | 'MsgHeartbeatResp'
  | 'MsgTransferLeader'
  | 'MsgTimeoutNow'
  | 'MsgReadIndex'
  | 'MsgReadIndexResp'
  // Local: never on the wire.
  | 'MsgHup'
  | 'MsgBeat'
  | 'MsgUnreachable'
  | 'MsgSnapStatus'
  | 'MsgCheckQuorum'

/** One shape for all types, every field always there. Zero, empty and false mean "not used". */
export interface Message {
  readonly type: MessageType
  readonly from: NodeId
  readonly to: NodeId
  readonly term: number
  readonly logTerm: number
  readonly index: number
  readonly commit: number
  readonly entries: readonly Entry[]
  readonly reject: boolean
  readonly rejectHint: number
  readonly snapshot: Snapshot | undefined
  /**
   * `MsgHeartbeat` and its answer: number of the round that confirms reads, 0 for none.
   * `MsgReadIndex` and its answer: the asking node's number of the read.
   * `MsgVote`, `MsgPreVote`: how far the candidate's log is committed. Their rejections: how far
   * it is, as the voter knows.
   */
  readonly context: number
  /** `MsgVote`, `MsgTimeoutNow`: the leader asked for this election. */
  readonly isTransfer: boolean
}

export type Role = 'follower' | 'pre-candidate' | 'candidate' | 'leader'

/** What `ready` hands out. The driver's duties, in order: see `RaftCore.ready`. */
export interface Ready {
  /** Present when it changed. */
  readonly soft: { readonly lead: NodeId; readonly role: Role } | undefined
  /** Present when it changed. */
  readonly hard: HardState | undefined
  /** To be persisted; the first replaces everything at or after its index. */
  readonly entries: readonly Entry[]
  /** To be installed. The log is empty after it. */
  readonly snapshot: Snapshot | undefined
  /** To be applied once `entries` are persisted. */
  readonly committed: readonly Entry[]
  /** May leave before anything is persisted. */
  readonly messages: readonly Message[]
  /**
   * Leave after everything above is persisted: answers that promise durability, and requests for
   * votes, whose term and log must not be forgotten once others voted for them.
   */
  readonly answers: readonly Message[]
  /** Reads whose index is known and confirmed: serve them once that index is applied. */
  readonly reads: readonly ReadState[]
  /** Whether entries, term or vote changed. The commit index alone needs no flush. */
  readonly mustSync: boolean
}

export interface ReadState {
  /** As `RaftCore.readIndex` returned it. */
  readonly read: number
  /** `undefined`: leadership was lost or there is none; ask again. */
  readonly index: number | undefined
}

export type ProgressState = 'probe' | 'replicate' | 'snapshot'

export interface ProgressStatus {
  readonly state: ProgressState
  readonly match: number
  readonly next: number
  readonly isPaused: boolean
  readonly pendingSnapshot: number
  readonly isRecentlyActive: boolean
  readonly isLearner: boolean
  /** Append messages in the window, and whether it is full. */
  readonly inflight: number
  readonly isInflightFull: boolean
}

export interface CoreStatus {
  readonly id: NodeId
  readonly role: Role
  readonly term: number
  readonly vote: NodeId
  readonly lead: NodeId
  readonly commit: number
  readonly applied: number
  readonly lastIndex: number
  readonly confState: ConfState
  /** 0: no transfer is under way. */
  readonly transferee: NodeId
  /** Empty unless leader. Ids ascending. */
  readonly progress: ReadonlyMap<NodeId, ProgressStatus>
}

/** The stable log as the core reads it. Synchronous; what is not held any more is `undefined`. */
export interface LogReader {
  /** `base.index + 1`. */
  readonly firstIndex: number
  /** `base.index` when the log is empty. */
  readonly lastIndex: number
  /** Also of `firstIndex - 1`, whose entry is gone but whose term stays known. */
  term(index: number): number | undefined
  /** Entries of [fromIndex, endIndex), cut after `bytesMax` but at least one. All are held. */
  entries(fromIndex: number, endIndex: number, bytesMax: number): readonly Entry[]
  /** The newest snapshot that could be sent; `undefined` while there is none: ask later. */
  snapshot(): Snapshot | undefined
}

export interface CoreConfig {
  readonly id: NodeId
  /** Ticks of the shortest election timeout; the next is drawn from [n, 2n). */
  readonly electionTick: number
  readonly heartbeatTick: number
  readonly preVote: boolean
  readonly checkQuorum: boolean
  readonly stepDownOnRemoval: boolean
  /** For the conformance harness only: etcd's scenario of a changed rule. */
  readonly disableConfChangeValidation?: boolean
  /** Append messages on the way to one follower, and the bytes of their entries. */
  readonly inflightMax: number
  readonly inflightBytesMax: number
  /** Bytes of entries in one `MsgApp`; at least one entry. */
  readonly messageBytesMax: number
  /** Bytes of `committed` in one `Ready`; at least one entry. */
  readonly committedBytesMax: number
  /** Bytes of entries a leader holds that are not committed; more proposals are refused. */
  readonly uncommittedBytesMax: number
  /** Uniform in [0, n). The only chance that the core sees. */
  readonly random: (n: number) => number
}

export type ProposalRefusal = 'no-leader' | 'transferring' | 'not-member' | 'too-much-uncommitted'

export type Proposed =
  /** `index` of the first entry. It may still be lost to a later leader: watch the term. */
  | { readonly ok: true; readonly index: number; readonly term: number }
  /** A follower sent it on to its leader as `MsgProp`. */
  | { readonly ok: true; readonly index: 0; readonly term: 0 }
  | { readonly ok: false; readonly reason: ProposalRefusal }
