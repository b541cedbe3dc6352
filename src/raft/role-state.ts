/**
 * What a member knows and remembers, whatever its role, and how it changes roles. What it does in
 * each of them is in role-follower, role-candidate and role-leader.
 */
import { isVoter, type ProgressMap, type Tracker, trackerOf } from './confchange.ts'
import { RaftLog } from './log.ts'
import { voteResult } from './quorum.ts'
import { Reads } from './readindex.ts'
import type {
  ConfState,
  CoreConfig,
  HardState,
  LogReader,
  Message,
  MessageType,
  NodeId,
  Role,
} from './types.ts'

export interface Initial {
  readonly hardState: HardState
  /** As of `applied`. */
  readonly confState: ConfState
  /** Index of the last entry whose effect the state machine holds. */
  readonly applied: number
}

type Fields = Partial<Omit<Message, 'type' | 'from' | 'to'>>

const noEntries: Message['entries'] = []

/**
 * A message with every field, in one order, so that all of them have one shape. `term` counts
 * unless the fields have another.
 */
export function message(
  type: MessageType,
  from: NodeId,
  to: NodeId,
  fields: Fields,
  term = 0,
): Message {
  return {
    type,
    from,
    to,
    term: fields.term ?? term,
    logTerm: fields.logTerm ?? 0,
    index: fields.index ?? 0,
    commit: fields.commit ?? 0,
    entries: fields.entries ?? noEntries,
    reject: fields.reject ?? false,
    rejectHint: fields.rejectHint ?? 0,
    snapshot: fields.snapshot,
    context: fields.context ?? 0,
    isTransfer: fields.isTransfer ?? false,
  }
}

export class RaftState {
  readonly id: NodeId
  readonly config: CoreConfig
  readonly log: RaftLog
  readonly reads: Reads
  role: Role = 'follower'
  term: number
  /** Voted for in `term`; 0 for nobody. */
  vote: NodeId
  /** 0 while none is known. */
  #lead: NodeId = 0
  conf: ConfState
  /** Ids ascending. Holds this node too, unless it is no member. */
  progress: ProgressMap
  /** Answers to the election under way; the first of each voter counts. */
  readonly votes = new Map<NodeId, boolean>()
  /** Ticks since an election began, a leader was heard, or (as leader) the quorum was checked. */
  electionElapsed = 0
  heartbeatElapsed = 0
  /** Ticks; drawn anew with every change of role. */
  electionTimeout = 0
  /** Leader: who takes over; 0 for nobody. */
  transferee: NodeId = 0
  /** Leader: no change of the configuration is admitted before this index is applied. */
  pendingConfIndex = 0
  /** Leader: bytes of entries of this term that are not applied yet. */
  uncommittedBytes = 0
  /** May leave before anything is persisted. */
  messages: Message[] = []
  /** Claim a term and a log that must be durable before. */
  requests: Message[] = []
  /** Promise durability; also those to oneself, which count when the promise holds. */
  answers: Message[] = []

  constructor(config: CoreConfig, log: LogReader, initial: Initial) {
    this.id = config.id
    this.config = config
    const { hardState, confState, applied } = initial
    this.log = new RaftLog(log, hardState.commit, applied)
    // Two draws, since a simulation's generator may yield no more than 32 bits at once.
    this.reads = new Reads(config.random(2 ** 20) * 2 ** 32 + config.random(2 ** 32))
    this.term = hardState.term
    this.vote = hardState.vote
    const { conf, progress } = trackerOf(confState, this.log.lastIndex, config)
    this.conf = conf
    this.progress = progress
    this.#drawTimeout()
  }

  get lead(): NodeId {
    return this.#lead
  }

  /** Takes `lead` for the leader. Reads that another one has not confirmed end. */
  follow(lead: NodeId): void {
    if (this.#lead !== lead) this.reads.end()
    this.#lead = lead
  }

  /** Index up to which it is known to hold the log. */
  readonly matchOf = (id: NodeId): number => this.progress.get(id)?.match ?? 0

  get tracker(): Tracker {
    return this
  }

  setTracker({ conf, progress }: Tracker): void {
    this.conf = conf
    this.progress = progress
  }

  /** A voter that is complete enough to win. */
  get isElectable(): boolean {
    return isVoter(this.conf, this.id) && !this.log.hasSnapshotPending
  }

  get isQuorumActive(): boolean {
    const { voters, votersOutgoing } = this.conf
    const isActive = (id: NodeId) => this.progress.get(id)?.isRecentlyActive ?? false
    return voteResult(voters, votersOutgoing, isActive) === 'won'
  }

  /** With the own term. Answers and requests for votes wait until the disk has what they claim. */
  send(type: MessageType, to: NodeId, fields: Fields): void {
    const sent = message(type, this.id, to, fields, this.term)
    if (type === 'MsgAppResp' || type === 'MsgVoteResp' || type === 'MsgPreVoteResp') {
      this.answers.push(sent)
    } else if (type === 'MsgVote' || type === 'MsgPreVote') this.requests.push(sent)
    else this.messages.push(sent)
  }

  becomeFollower(term: number, lead: NodeId): void {
    this.#reset(term)
    this.role = 'follower'
    this.follow(lead)
  }

  /** Leaves term and vote as they are, so that a node that cannot win disturbs nobody (9.6). */
  becomePreCandidate(): void {
    this.votes.clear()
    this.role = 'pre-candidate'
    this.follow(0)
  }

  becomeCandidate(): void {
    this.#reset(this.term + 1)
    this.vote = this.id
    this.role = 'candidate'
    this.follow(0)
  }

  /** The rest of what a leader begins with is in role-leader. */
  becomeLeader(): void {
    this.#reset(this.term)
    this.role = 'leader'
    this.follow(this.id)
  }

  #reset(term: number): void {
    if (this.term !== term) {
      this.term = term
      this.vote = 0
    }
    this.follow(0)
    this.electionElapsed = 0
    this.heartbeatElapsed = 0
    this.#drawTimeout()
    this.votes.clear()
    this.transferee = 0
    this.pendingConfIndex = 0
    this.uncommittedBytes = 0
    const last = this.log.lastIndex
    for (const member of this.progress.values()) {
      member.reset(member.id === this.id ? last : 0, last + 1)
    }
  }

  #drawTimeout(): void {
    const { electionTick, random } = this.config
    this.electionTimeout = electionTick + random(electionTick)
  }
}
