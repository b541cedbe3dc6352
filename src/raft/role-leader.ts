/** A leader: appends, replicates, commits what a quorum holds, and confirms reads. */
import { assert } from '../errors.ts'
import { applyChange, isJoint, isLearner, isLeave, isVoter, readConfChange } from './confchange.ts'
import { entrySize } from './log.ts'
import type { Progress } from './progress.ts'
import { committedIndex } from './quorum.ts'
import type { RaftState } from './role-state.ts'
import type { ConfChange, Entry, EntryKind, Message, NodeId, ProposalRefusal } from './types.ts'

/** An entry before it has its place. */
export interface Draft {
  readonly kind: EntryKind
  readonly bytes: Uint8Array
}

const noBytes = new Uint8Array(0)
const none: readonly Entry[] = []

/** The election is won: an entry of the new term lets those of older terms commit (3.6.2). */
export function becomeLeader(state: RaftState): void {
  state.becomeLeader()
  const own = state.progress.get(state.id)
  if (own !== undefined) {
    own.becomeReplicate()
    own.isRecentlyActive = true
  }
  // A change of an earlier leader may be in the log. Until all of it is applied none is admitted;
  // together with the entry of this term that keeps two leaders from disjoint quorums.
  state.pendingConfIndex = state.log.lastIndex
  append(state, [{ kind: 'normal', bytes: noBytes }])
  broadcastAppend(state)
}

/** Undefined: appended and on its way. */
export function proposeToLog(
  state: RaftState,
  drafts: readonly Draft[],
  isForced = false,
): ProposalRefusal | undefined {
  if (!state.progress.has(state.id)) return 'not-member'
  if (state.transferee !== 0) return 'transferring'
  let bytes = 0
  for (const draft of drafts) bytes += draft.bytes.length
  // One proposal may exceed the limit, so that an entry of any size gets through.
  const held = state.uncommittedBytes
  const isTooMuch = held > 0 && bytes > 0 && held + bytes > state.config.uncommittedBytesMax
  if (isTooMuch && !isForced) return 'too-much-uncommitted'
  append(state, admitConfChanges(state, drafts))
  broadcastAppend(state)
  return undefined
}

/** Changes of the configuration that must not follow what is in the log become empty entries. */
function admitConfChanges(state: RaftState, drafts: readonly Draft[]): readonly Draft[] {
  if (drafts.every(({ kind }) => kind === 'normal')) return drafts
  const base = state.log.lastIndex + 1
  return drafts.map((draft, at) => {
    if (draft.kind === 'normal') return draft
    const change = readConfChange(draft.bytes)
    if (change === undefined || !mayPropose(state, change))
      return { kind: 'normal', bytes: noBytes }
    state.pendingConfIndex = base + at
    return draft
  })
}

function mayPropose(state: RaftState, change: ConfChange): boolean {
  if (state.config.disableConfChangeValidation === true) return true
  if (state.pendingConfIndex > state.log.applied) return false
  if (isJoint(state.conf) !== isLeave(change)) return false
  // No change comes in between, so it will be applied to the present configuration.
  return applyChange(state.tracker, change, state.log.lastIndex, state.config).ok
}

function append(state: RaftState, drafts: readonly Draft[]): void {
  const base = state.log.lastIndex + 1
  const { term } = state
  const entries: Entry[] = []
  for (const { kind, bytes } of drafts) {
    state.uncommittedBytes += bytes.length
    entries.push({ index: base + entries.length, term, kind, bytes })
  }
  state.log.append(entries)
  // Counts for the quorum when the entries are durable here.
  state.send('MsgAppResp', state.id, { index: state.log.lastIndex })
}

export function stepLeader(state: RaftState, received: Message): ProposalRefusal | undefined {
  switch (received.type) {
    case 'MsgProp':
      return proposeToLog(state, received.entries)
    case 'MsgReadIndex':
      state.reads.addFrom(received.from, received.context)
      return undefined
    default: {
      const member = state.progress.get(received.from)
      if (member !== undefined) stepFrom(state, member, received)
      return undefined
    }
  }
}

function stepFrom(state: RaftState, member: Progress, received: Message): void {
  switch (received.type) {
    case 'MsgAppResp':
      member.isRecentlyActive = true
      if (received.reject) takeRejection(state, member, received)
      else takeAcknowledgement(state, member, received)
      return
    case 'MsgHeartbeatResp':
      member.isRecentlyActive = true
      member.isHeld = false
      if (member.match < state.log.lastIndex || member.state === 'probe') {
        sendAppend(state, member, true)
      }
      if (received.context > 0) {
        state.reads.ack(received.from, received.context)
        confirmReads(state)
      }
      return
    case 'MsgTransferLeader':
      beginTransfer(state, member)
      return
    default:
      return
  }
}

function takeRejection(state: RaftState, member: Progress, received: Message): void {
  const { index, rejectHint, logTerm } = received
  const guess = logTerm > 0 ? state.log.findConflict(rejectHint, logTerm).index : rejectHint
  if (!member.rejected(index, guess)) return
  if (member.state === 'replicate') member.becomeProbe()
  sendAppend(state, member, true)
}

function takeAcknowledgement(state: RaftState, member: Progress, received: Message): void {
  const { from, index } = received
  const { log } = state
  assert(index <= log.lastIndex, 'nobody holds entries of this term that its leader does not')
  const isNews = member.acknowledged(index)
  if (!isNews && !(member.match === index && member.state === 'probe')) return
  if (member.state === 'probe') member.becomeReplicate()
  else if (member.state === 'replicate') member.inflights.freeThrough(index)
  // Any index from which the log goes on ends a snapshot, also one sent by other means.
  else if (member.match + 1 >= log.firstIndex) member.becomeReplicate()
  const isPeer = from !== state.id
  if (maybeCommit(state)) broadcastAppend(state)
  else if (isPeer && member.canBumpCommit(log.commit)) sendAppend(state, member, true)
  if (!isPeer) return
  while (sendAppend(state, member, false));
  if (from === state.transferee && member.match === log.lastIndex) {
    state.send('MsgTimeoutNow', from, {})
  }
}

/**
 * Commits what a quorum holds durably, if its entry is of this term: one of an older term may still
 * be replaced although a quorum holds it (figure 3.7).
 */
function maybeCommit(state: RaftState): boolean {
  const { log } = state
  const { voters, votersOutgoing } = state.conf
  const index = committedIndex(voters, votersOutgoing, state.matchOf)
  if (index <= log.commit || log.term(index) !== state.term) return false
  log.commitTo(index)
  return true
}

function broadcastAppend(state: RaftState): void {
  for (const member of state.progress.values()) {
    if (member.id !== state.id) sendAppend(state, member, true)
  }
}

/**
 * Sends what it lacks, as far as its window allows. An append without entries tells it of the
 * commit index, even when the window is full (etcd#14633). True if something was sent.
 */
function sendAppend(state: RaftState, member: Progress, evenIfEmpty: boolean): boolean {
  if (member.isPaused) return false
  const { log } = state
  const index = member.next - 1
  const logTerm = log.term(index)
  if (logTerm === undefined) return sendSnapshot(state, member)
  const mayCarry = member.state !== 'replicate' || !member.inflights.isFull
  const entries = mayCarry ? log.entriesFrom(member.next, state.config.messageBytesMax) : none
  if (entries.length === 0 && !evenIfEmpty) return false
  state.send('MsgApp', member.id, { index, logTerm, entries, commit: log.commit })
  let bytes = 0
  for (const entry of entries) bytes += entrySize(entry)
  member.sent(entries.length, bytes)
  member.sentCommit = log.commit
  return true
}

/** The log does not reach back far enough. Nothing is sent to who seems to be down. */
function sendSnapshot(state: RaftState, member: Progress): boolean {
  if (!member.isRecentlyActive) return false
  const snapshot = state.log.snapshotToSend()
  if (snapshot === undefined) return false
  member.becomeSnapshot(snapshot.index)
  state.send('MsgSnap', member.id, { snapshot })
  return true
}

/** Commit indexes in heartbeats never exceed what the member surely holds. */
export function broadcastHeartbeat(state: RaftState): void {
  const { context } = state.reads
  for (const member of state.progress.values()) {
    if (member.id === state.id) continue
    const commit = Math.min(member.match, state.log.commit)
    state.send('MsgHeartbeat', member.id, { commit, context })
    member.sentCommit = commit
  }
}

export function tickLeader(state: RaftState): void {
  const { config } = state
  state.electionElapsed += 1
  state.heartbeatElapsed += 1
  if (state.electionElapsed >= config.electionTick) {
    state.electionElapsed = 0
    if (config.checkQuorum && !checkQuorum(state)) return
    state.transferee = 0
  }
  if (state.heartbeatElapsed >= config.heartbeatTick) {
    state.heartbeatElapsed = 0
    broadcastHeartbeat(state)
  }
}

/** Steps down if no quorum was heard since the last check: somebody else may lead by now. */
function checkQuorum(state: RaftState): boolean {
  const isActive = state.isQuorumActive
  for (const member of state.progress.values()) {
    if (member.id !== state.id) member.isRecentlyActive = false
  }
  if (!isActive) state.becomeFollower(state.term, 0)
  return isActive
}

/** Catches `to` up, then asks it to begin an election at once (thesis 3.10). */
function beginTransfer(state: RaftState, member: Progress): void {
  const to = member.id
  if (isLearner(state.conf, to) || to === state.transferee) return
  state.transferee = 0
  if (to === state.id) return
  state.electionElapsed = 0
  state.transferee = to
  if (member.match === state.log.lastIndex) state.send('MsgTimeoutNow', to, {})
  else sendAppend(state, member, true)
}

/** A new configuration is in force, and with it another quorum. */
export function reconfigured(state: RaftState): void {
  const own = state.progress.get(state.id)
  if (own === undefined || isLearner(state.conf, state.id)) {
    if (state.config.stepDownOnRemoval) state.becomeFollower(state.term, 0)
    return
  }
  if (maybeCommit(state)) broadcastAppend(state)
  else {
    for (const member of state.progress.values()) {
      if (member.id !== state.id) sendAppend(state, member, false)
    }
  }
  if (state.transferee !== 0 && !isVoter(state.conf, state.transferee)) state.transferee = 0
  confirmReads(state)
}

/** Once the joint configuration is applied, it is left by an entry of the leader's own. */
export function maybeLeaveJoint(state: RaftState, leave: Draft): void {
  const isDue = state.conf.autoLeave && state.log.applied >= state.pendingConfIndex
  // While a transfer is under way that is refused; the next entry applied tries again.
  if (state.role === 'leader' && isDue) proposeToLog(state, [leave], true)
}

/** The peer cannot be reached: what is on its way to it is taken for lost. */
export function peerUnreachable(state: RaftState, id: NodeId): void {
  const member = state.progress.get(id)
  if (member?.state === 'replicate') member.becomeProbe()
}

/** The snapshot for this peer went there, or failed to. */
export function snapshotReported(state: RaftState, id: NodeId, isOk: boolean): void {
  const member = state.progress.get(id)
  if (member?.state !== 'snapshot') return
  if (!isOk) member.pendingSnapshot = 0
  member.becomeProbe()
  // The next append waits for the peer's answer, or after a failure for a heartbeat's.
  member.isHeld = true
}

/**
 * Begins a round of heartbeats for the reads that wait for one. Without an entry of its own term
 * committed, a new leader does not know how far its predecessors committed: they wait on.
 */
export function beginReads(state: RaftState): void {
  const { log, reads } = state
  if (log.term(log.commit) !== state.term) return
  reads.begin(log.commit)
  if (!confirmReads(state)) broadcastHeartbeat(state)
}

/** Ends the reads whose round a quorum answered. True if that is all of them. */
function confirmReads(state: RaftState): boolean {
  const { conf, id: self, reads } = state
  const { voters, votersOutgoing } = conf
  const ackedBy = (id: NodeId) => (id === self ? reads.round : reads.ackedBy(id))
  const round = committedIndex(voters, votersOutgoing, ackedBy)
  for (const { from, context, index } of reads.confirm(round)) {
    state.send('MsgReadIndexResp', from, { context, index })
  }
  return !reads.hasBegun
}
