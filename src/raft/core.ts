/**
 * Raft as a pure machine: messages, ticks and proposals go in; what is to be persisted, sent and
 * applied comes out. No time, no chance but `config.random`, no effects. Message by message it
 * decides as etcd's raft does (test/raft/conformance); numbers of sections are of Ongaro's thesis.
 */
import { assert } from '../errors.ts'
import { applyChange, encodeConfChange } from './confchange.ts'
import { describe } from './describe.ts'
import { stepCandidate } from './role-candidate.ts'
import { answerVote, isDisruptive, startElection } from './role-election.ts'
import { stepFollower } from './role-follower.ts'
import {
  beginReads,
  type Draft,
  maybeLeaveJoint,
  peerUnreachable,
  proposeToLog,
  reconfigured,
  snapshotReported,
  stepLeader,
  tickLeader,
} from './role-leader.ts'
import { type Initial, message, RaftState } from './role-state.ts'
import type {
  ConfChange,
  ConfState,
  CoreConfig,
  CoreStatus,
  Entry,
  EntryKind,
  HardState,
  LogReader,
  Message,
  MessageType,
  NodeId,
  ProposalRefusal,
  Proposed,
  Ready,
  Role,
} from './types.ts'

const localTypes: ReadonlySet<MessageType> = new Set([
  'MsgHup',
  'MsgBeat',
  'MsgUnreachable',
  'MsgSnapStatus',
  'MsgCheckQuorum',
])

const answerTypes: ReadonlySet<MessageType> = new Set([
  'MsgAppResp',
  'MsgVoteResp',
  'MsgPreVoteResp',
  'MsgHeartbeatResp',
  'MsgReadIndexResp',
])

const none: readonly Message[] = []
const nobody: [readonly Message[], readonly Message[]] = [none, none]

const leave: Draft = {
  kind: 'conf-v2',
  bytes: encodeConfChange({ transition: 'auto', changes: [] }),
}

/** What `advance` must know of the Ready that is outstanding. */
interface Outstanding {
  readonly ready: Ready
  readonly toOneself: readonly Message[]
  /** That of `ready`, and what was handed out behind it. */
  committed: readonly Entry[]
}

export class RaftCore {
  readonly #state: RaftState
  #hard: HardState
  #soft: { readonly lead: NodeId; readonly role: Role }
  #outstanding: Outstanding | undefined
  /**
   * A snapshot that came while a Ready is outstanding waits for `advance`: the changes of the
   * configuration in that Ready are to be applied to the present configuration, not to a later one.
   */
  #deferred: Message | undefined

  /** Begins as a follower of nobody, with what `initial` and `log` remember. */
  constructor(config: CoreConfig, log: LogReader, initial: Initial) {
    this.#state = new RaftState(config, log, initial)
    this.#hard = initial.hardState
    this.#soft = { lead: 0, role: 'follower' }
  }

  get role(): Role {
    return this.#state.role
  }

  get term(): number {
    return this.#state.term
  }

  /** 0: no leader is known. */
  get lead(): NodeId {
    return this.#state.lead
  }

  get commit(): number {
    return this.#state.log.commit
  }

  get lastIndex(): number {
    return this.#state.log.lastIndex
  }

  status(): CoreStatus {
    return describe(this.#state)
  }

  /** One tick of the clock. */
  tick(): void {
    const state = this.#state
    state.reads.tick(state.config.electionTick)
    if (state.role === 'leader') {
      tickLeader(state)
      return
    }
    state.electionElapsed += 1
    if (state.electionElapsed < state.electionTimeout || !state.isElectable) return
    state.electionElapsed = 0
    startElection(state, false)
  }

  /** Begins an election as if the timer had fired; not if it cannot be won or may be unsafe. */
  campaign(): void {
    startElection(this.#state, false)
  }

  /**
   * A message from the network. Returns why nothing came of it: its sender is no member that could
   * answer, it must not come from a network, or its proposal was refused.
   */
  step(received: Message): undefined | 'not-known-peer' | 'local-message' | ProposalRefusal {
    const { type, from } = received
    const { id, progress } = this.#state
    if (localTypes.has(type)) return 'local-message'
    if (answerTypes.has(type) && !progress.has(from)) return 'not-known-peer'
    // What one promises oneself never takes this way. These two name whom they speak for.
    const mayBeOwn = type === 'MsgProp' || type === 'MsgTransferLeader'
    if (from === id && !mayBeOwn) return 'not-known-peer'
    if (type === 'MsgSnap' && this.#outstanding !== undefined) {
      this.#deferred = received
      return undefined
    }
    return this.#step(received)
  }

  #step(received: Message): ProposalRefusal | undefined {
    const state = this.#state
    const { type, term } = received
    // Proposals are of no term: a former leader passes them on.
    const isOfTerm = type !== 'MsgProp'
    if (isOfTerm && term < state.term) {
      this.#answerLowerTerm(received)
      return undefined
    }
    if (isOfTerm && term > state.term && !this.#takeHigherTerm(received)) return undefined
    if (type === 'MsgVote' || type === 'MsgPreVote') {
      answerVote(state, received)
      return undefined
    }
    if (state.role === 'leader') return stepLeader(state, received)
    if (state.role === 'follower') return stepFollower(state, received)
    return stepCandidate(state, received)
  }

  /** False: the message is ignored. */
  #takeHigherTerm(received: Message): boolean {
    const state = this.#state
    const { type, from, term } = received
    const isRequest = type === 'MsgVote' || type === 'MsgPreVote'
    if (isRequest && isDisruptive(state, received)) return false
    // A pre-vote is about a term that nobody entered. Its rejection carries a real one.
    if (type === 'MsgPreVote' || (type === 'MsgPreVoteResp' && !received.reject)) return true
    const isLeaders = type === 'MsgApp' || type === 'MsgHeartbeat' || type === 'MsgSnap'
    state.becomeFollower(term, isLeaders ? from : 0)
    return true
  }

  #answerLowerTerm({ type, from }: Message): void {
    const state = this.#state
    const { preVote, checkQuorum } = state.config
    if (type === 'MsgApp' || type === 'MsgHeartbeat') {
      // Without this, a node whose term is higher is never heard, since its requests for votes are
      // ignored, and never rejoins: the answer makes the leader step down.
      if (preVote || checkQuorum) state.send('MsgAppResp', from, {})
    } else if (type === 'MsgPreVote') state.send('MsgPreVoteResp', from, { reject: true })
  }

  /** Appends as leader, or sends to the leader. At least one payload. */
  propose(payloads: readonly Uint8Array[]): Proposed {
    assert(payloads.length > 0, 'a proposal has a payload')
    return this.#propose(payloads.map((bytes): Draft => ({ kind: 'normal', bytes })))
  }

  /**
   * Proposes a change of the configuration. A leader that may not admit it just then, or ever,
   * appends an empty entry instead: look at what is committed at that index.
   */
  proposeConf(kind: Exclude<EntryKind, 'normal'>, change: ConfChange): Proposed {
    const isV1 = change.transition === 'auto' && change.changes.length === 1
    assert(kind === 'conf-v2' || isV1, 'a V1 entry holds one change')
    return this.#propose([{ kind, bytes: encodeConfChange(change) }])
  }

  #propose(drafts: readonly Draft[]): Proposed {
    const state = this.#state
    const { id, lead, term } = state
    if (state.role === 'leader') {
      const index = state.log.lastIndex + 1
      const reason = proposeToLog(state, drafts)
      return reason === undefined ? { ok: true, index, term } : { ok: false, reason }
    }
    if (lead === 0) return { ok: false, reason: 'no-leader' }
    const entries = drafts.map(({ kind, bytes }): Entry => ({ index: 0, term: 0, kind, bytes }))
    state.messages.push(message('MsgProp', id, lead, { entries }))
    return { ok: true, index: 0, term: 0 }
  }

  /** Hands leadership to `to`; given up after an election timeout. A follower asks its leader. */
  transferLeader(to: NodeId): void {
    const { id, term } = this.#state
    this.#step(message('MsgTransferLeader', to, id, { term }))
  }

  /**
   * Asks for an index from which on the state is at least as new as everything that was answered
   * before this call. Returns the number of the read, whose `ReadState` comes in a `Ready`, always:
   * without an index when the leader changes or, on a follower, after an election timeout.
   * Undefined: no leader is known.
   */
  readIndex(): number | undefined {
    return this.#state.lead === 0 ? undefined : this.#state.reads.add()
  }

  /** The transport could not reach `id`. */
  reportUnreachable(id: NodeId): void {
    if (this.#state.role === 'leader') peerUnreachable(this.#state, id)
  }

  /** Every `MsgSnap` needs one: without it or an answer of the peer nothing more is sent there. */
  reportSnapshot(id: NodeId, isOk: boolean): void {
    if (this.#state.role === 'leader') snapshotReported(this.#state, id, isOk)
  }

  /**
   * Drains what may leave before anything is persisted, at any time, also between `ready` and
   * `advance`, so that heartbeats and appends never wait for the disk.
   */
  takeMessages(): readonly Message[] {
    this.#sendReads()
    return this.#drainMessages()
  }

  #drainMessages(): readonly Message[] {
    const { messages } = this.#state
    if (messages.length === 0) return none
    this.#state.messages = []
    return messages
  }

  /** All reads of a turn share one round of heartbeats, or one question to the leader. */
  #sendReads(): void {
    const state = this.#state
    if (!state.reads.hasWaiting) return
    if (state.role === 'leader') beginReads(state)
    else state.send('MsgReadIndex', state.lead, { context: state.reads.forward() })
  }

  #hardState(): HardState {
    const { term, vote, log } = this.#state
    const { commit } = log
    const before = this.#hard
    const isSame = before.term === term && before.vote === vote && before.commit === commit
    return isSame ? before : { term, vote, commit }
  }

  /** Whether `ready` has something. False while a Ready is outstanding. */
  hasReady(): boolean {
    if (this.#outstanding !== undefined) return false
    this.#sendReads()
    const { log, lead, role, messages, requests, answers, reads } = this.#state
    return (
      messages.length + requests.length + answers.length > 0 ||
      log.hasUnhanded ||
      log.hasCommitted ||
      reads.hasDone ||
      lead !== this.#soft.lead ||
      role !== this.#soft.role ||
      this.#hardState() !== this.#hard
    )
  }

  /**
   * Hands out what there is to do, or undefined. The driver's duties, in this order:
   *
   * 1. `messages` may be sent at once, as may what `takeMessages` gives at any time.
   * 2. Persist, all or nothing: `snapshot` takes the place of the log and of the state machine's
   *    content; then `entries`, the first of which replaces everything at or after its index; then
   *    `hard`. If `mustSync`, or if there is a snapshot, flush the disk: all of it must survive a
   *    power loss. Where that fails this node must stop, and send nothing more.
   * 3. Only then send `answers`. They promise that entries are kept and a vote is not given twice,
   *    or ask for votes in a term, and by a log, that must not be forgotten.
   * 4. Apply `committed`, in order, each once, also across restarts. For a `conf*` entry call
   *    `applyConf`, and keep what it returns together with the applied index.
   * 5. `advance`. By then `LogReader` shows what was persisted.
   *
   * `reads` may be served when their index is applied, which may be later than this Ready.
   *
   * One Ready is outstanding at a time. Between `ready` and `advance` anything else may be called:
   * steps, ticks and proposals work on the log in memory, and what they produce is in the next
   * Ready. The own vote and the own acknowledgement count from `advance` on, so nothing counts that
   * a crash could take back.
   */
  ready(): Ready | undefined {
    assert(this.#outstanding === undefined, 'one Ready is outstanding at a time')
    if (!this.hasReady()) return undefined
    const state = this.#state
    const before = this.#hard
    const hard = this.#hardState()
    const { lead, role, log } = state
    const isSoftSame = lead === this.#soft.lead && role === this.#soft.role
    const { entries, snapshot } = log.handOut()
    const [answers, toOneself] = this.#takeAnswers()
    const ready: Ready = {
      soft: isSoftSame ? undefined : { lead, role },
      hard: hard === before ? undefined : hard,
      entries,
      snapshot,
      committed: log.committed(state.config.committedBytesMax),
      messages: this.#drainMessages(),
      answers,
      reads: state.reads.takeDone(),
      mustSync: entries.length > 0 || hard.term !== before.term || hard.vote !== before.vote,
    }
    this.#outstanding = { ready, toOneself, committed: ready.committed }
    this.#hard = hard
    if (ready.soft !== undefined) this.#soft = ready.soft
    return ready
  }

  /** What waits for the disk: to others, and to oneself. */
  #takeAnswers(): [others: readonly Message[], toOneself: readonly Message[]] {
    const state = this.#state
    const { id, requests, answers } = state
    if (answers.length === 0) {
      if (requests.length === 0) return nobody
      state.requests = []
      return [requests, none]
    }
    const toOneself: Message[] = []
    for (const answer of answers) (answer.to === id ? toOneself : requests).push(answer)
    state.requests = []
    answers.length = 0
    return [requests, toOneself]
  }

  /**
   * What follows `committed` of the outstanding Ready by now, up to `stableIndex`, the last entry
   * that was on the disk before. It is applied in the same way, before `advance`: an acknowledged
   * entry need not wait for a write that began behind it.
   */
  takeCommitted(stableIndex: number): readonly Entry[] {
    assert(this.#outstanding !== undefined, 'a Ready is outstanding')
    const { committed } = this.#outstanding
    const { log, config } = this.#state
    const from = (committed[committed.length - 1]?.index ?? log.applied) + 1
    const entries = log.committedBetween(from, stableIndex, config.committedBytesMax)
    if (entries.length > 0) this.#outstanding.committed = committed.concat(entries)
    return entries
  }

  /** The duties of the outstanding Ready are done. */
  advance(): void {
    assert(this.#outstanding !== undefined, 'a Ready is outstanding')
    const outstanding = this.#outstanding
    this.#outstanding = undefined
    this.#settle(outstanding)
    const deferred = this.#deferred
    this.#deferred = undefined
    if (deferred !== undefined) this.#step(deferred)
  }

  #settle({ ready, toOneself, committed }: Outstanding): void {
    const state = this.#state
    const { log } = state
    for (const own of toOneself) this.#step(own)
    if (ready.snapshot !== undefined) {
      log.installed(ready.snapshot)
      maybeLeaveJoint(state, leave)
    }
    const applied = committed[committed.length - 1]
    if (applied === undefined) return
    for (const { term, bytes } of committed) {
      // Those of earlier terms were not counted.
      if (term === state.term) state.uncommittedBytes -= bytes.length
    }
    state.uncommittedBytes = Math.max(0, state.uncommittedBytes)
    log.appliedTo(applied.index)
    maybeLeaveJoint(state, leave)
  }

  /**
   * A committed change is being applied: it is in force at once. Called between `ready` and
   * `advance`, for each `conf*` entry that was handed out as committed, in order.
   */
  applyConf(change: ConfChange): ConfState {
    const state = this.#state
    const changed = applyChange(state.tracker, change, state.log.lastIndex, state.config)
    assert(changed.ok, 'a committed change fits the configuration')
    state.setTracker(changed.tracker)
    if (state.role === 'leader') reconfigured(state)
    return state.conf
  }

  /** For tests: the randomized election timeout in force, until the next is drawn. */
  setElectionTimeout(ticks: number): void {
    this.#state.electionTimeout = ticks
  }
}
