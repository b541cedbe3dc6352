/** A follower: takes what its leader sends, and passes on what only a leader can do. */
import { isMember, trackerOf } from './confchange.ts'
import { startElection } from './role-election.ts'
import type { RaftState } from './role-state.ts'
import type { Message, ProposalRefusal, Snapshot } from './types.ts'

export function stepFollower(state: RaftState, received: Message): ProposalRefusal | undefined {
  switch (received.type) {
    case 'MsgProp':
      return forwardProposal(state, received)
    case 'MsgApp':
    case 'MsgHeartbeat':
    case 'MsgSnap':
      state.follow(received.from)
      state.electionElapsed = 0
      takeFromLeader(state, received)
      return undefined
    case 'MsgTransferLeader':
      // `from` stays the node that shall take over, and may have done so.
      if (state.lead !== 0 && state.lead !== received.from) {
        state.messages.push({ ...received, to: state.lead, term: state.term })
      }
      return undefined
    case 'MsgTimeoutNow':
      startElection(state, true)
      return undefined
    case 'MsgReadIndexResp':
      state.reads.answered(received.context, received.index)
      return undefined
    default:
      return undefined
  }
}

function forwardProposal(state: RaftState, received: Message): ProposalRefusal | undefined {
  // Who proposed it may lead by now; it asks again, or not.
  if (state.lead === 0 || state.lead === received.from) return 'no-leader'
  state.messages.push({ ...received, to: state.lead })
  return undefined
}

function takeFromLeader(state: RaftState, received: Message): void {
  if (received.type === 'MsgApp') takeEntries(state, received)
  else if (received.type === 'MsgSnap') takeSnapshot(state, received)
  else {
    state.log.commitTo(received.commit)
    state.send('MsgHeartbeatResp', received.from, { context: received.context })
  }
}

function takeEntries(state: RaftState, received: Message): void {
  const { log } = state
  if (received.index < log.commit) {
    // An old message; everything up to the commit index is the leader's anyway.
    state.send('MsgAppResp', received.from, { index: log.commit })
    return
  }
  const last = log.merge(received.index, received.logTerm, received.entries, received.commit)
  if (last !== undefined) {
    state.send('MsgAppResp', received.from, { index: last })
    return
  }
  const hint = log.findConflict(Math.min(received.index, log.lastIndex), received.logTerm)
  state.send('MsgAppResp', received.from, {
    index: received.index,
    reject: true,
    rejectHint: hint.index,
    logTerm: hint.term,
  })
}

function takeSnapshot(state: RaftState, { from, snapshot }: Message): void {
  if (snapshot !== undefined) restore(state, snapshot)
  // The last entry is durable when this leaves: the snapshot, or what was committed before.
  state.send('MsgAppResp', from, { index: state.log.commit })
}

/** Only forward, only as a member, and not when the log already holds its last entry. */
function restore(state: RaftState, snapshot: Snapshot): void {
  const { log } = state
  const { index, term, confState } = snapshot
  if (index <= log.commit || !isMember(confState, state.id)) return
  if (log.term(index) === term) {
    log.commitTo(index)
    return
  }
  log.restore(snapshot)
  state.setTracker(trackerOf(confState, index, state.config))
}
