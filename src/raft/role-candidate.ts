/** A candidate or pre-candidate: counts votes until it wins, loses, or hears a leader. */
import { voteResult } from './quorum.ts'
import { campaign, learnCommit } from './role-election.ts'
import { stepFollower } from './role-follower.ts'
import { becomeLeader } from './role-leader.ts'
import type { RaftState } from './role-state.ts'
import type { Message, ProposalRefusal } from './types.ts'

export function stepCandidate(state: RaftState, received: Message): ProposalRefusal | undefined {
  switch (received.type) {
    case 'MsgProp':
      return 'no-leader'
    case 'MsgApp':
    case 'MsgHeartbeat':
    case 'MsgSnap':
      state.becomeFollower(received.term, received.from)
      return stepFollower(state, received)
    case 'MsgPreVoteResp':
    case 'MsgVoteResp': {
      // What is committed stays so, however late this comes: requests name what is on the disk.
      if (received.reject) learnCommit(state, received.context)
      // Late pre-votes are no votes.
      const isPre = received.type === 'MsgPreVoteResp'
      if (state.role === (isPre ? 'pre-candidate' : 'candidate')) countVote(state, received)
      return undefined
    }
    default:
      return undefined
  }
}

function countVote(state: RaftState, { from, reject }: Message): void {
  if (!state.votes.has(from)) state.votes.set(from, !reject)
  const { voters, votersOutgoing } = state.conf
  const result = voteResult(voters, votersOutgoing, id => state.votes.get(id))
  if (result === 'won') {
    if (state.role === 'pre-candidate') campaign(state, 'election')
    else becomeLeader(state)
  } else if (result === 'lost') state.becomeFollower(state.term, 0)
}
