/** How an election begins, and how anybody answers a candidate (thesis 3.4, 3.6, 9.6). */
import { votersOf } from './confchange.ts'
import type { RaftState } from './role-state.ts'
import type { Message } from './types.ts'

/** Why an election begins: the timer with or without pre-vote, or the leader asked for it. */
export type Campaign = 'pre-election' | 'election' | 'transfer'

/**
 * Begins an election unless it cannot be won or may be unsafe: with a committed change of the
 * configuration that is not applied, this node does not know who decides.
 */
export function startElection(state: RaftState, isTransfer: boolean): void {
  if (state.role === 'leader' || !state.isElectable || state.log.hasUnappliedConfChange()) return
  if (isTransfer) campaign(state, 'transfer')
  else campaign(state, state.config.preVote ? 'pre-election' : 'election')
}

/** Asks all other voters, and itself by an answer that counts once the disk has it. */
export function campaign(state: RaftState, kind: Campaign): void {
  const isPre = kind === 'pre-election'
  if (isPre) state.becomePreCandidate()
  else state.becomeCandidate()
  const term = isPre ? state.term + 1 : state.term
  const { lastIndex, lastTerm } = state.log
  for (const id of votersOf(state.conf)) {
    if (id === state.id) state.send(isPre ? 'MsgPreVoteResp' : 'MsgVoteResp', id, { term })
    else {
      const isTransfer = kind === 'transfer'
      const context = state.log.commit
      const fields = { term, index: lastIndex, logTerm: lastTerm, isTransfer, context }
      state.send(isPre ? 'MsgPreVote' : 'MsgVote', id, fields)
    }
  }
}

/**
 * Whether a request for a vote is not even looked at: this node hears a leader, so the sender is
 * cut off or removed (6.2, 4.2.3). Not so when the leader itself asked for the election.
 */
export function isDisruptive(state: RaftState, request: Message): boolean {
  const hearsLeader =
    state.config.checkQuorum &&
    state.lead !== 0 &&
    state.electionElapsed < state.config.electionTick
  return hearsLeader && !request.isTransfer
}

/** Answers `MsgVote` and `MsgPreVote`. Learners vote too: they may be voters and not know it. */
export function answerVote(state: RaftState, request: Message): void {
  // Where the logs share an entry, they share all before it, and what is committed of that.
  const isShared = state.log.term(request.index) === request.logTerm
  if (isShared) learnCommit(state, Math.min(request.context, request.index))
  const isPre = request.type === 'MsgPreVote'
  const answer = isPre ? 'MsgPreVoteResp' : 'MsgVoteResp'
  const mayVote =
    state.vote === request.from ||
    (state.vote === 0 && state.lead === 0) ||
    (isPre && request.term > state.term)
  if (mayVote && state.log.isUpToDate(request.index, request.logTerm)) {
    state.send(answer, request.from, { term: request.term })
    if (isPre) return
    state.electionElapsed = 0
    state.vote = request.from
  } else {
    const context = isShared ? Math.min(state.log.commit, request.index) : 0
    state.send(answer, request.from, { reject: true, context })
  }
}

/**
 * Entries up to `index` of this log are committed, as another member knows. Elections carry that,
 * because a change of the membership is in force where it is applied: a leader that crashed or left
 * just then may need the vote, or be needed for the vote, of one that is not aware of the change,
 * and whose log forbids it. Nobody could win (after raft-rs; etcd does not).
 */
export function learnCommit(state: RaftState, index: number): void {
  if (state.role === 'leader' || index <= state.log.commit) return
  state.log.commitTo(index)
  const isElecting = state.role !== 'follower'
  // Who decides this election may just have changed.
  if (isElecting && state.log.hasUnappliedConfChange()) state.becomeFollower(state.term, 0)
}
