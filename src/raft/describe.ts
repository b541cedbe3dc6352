/** The state of a member for those who look at it from outside. */
import { isLearner } from './confchange.ts'
import type { RaftState } from './role-state.ts'
import type { CoreStatus, NodeId, ProgressStatus } from './types.ts'

export function describe(state: RaftState): CoreStatus {
  const progress = new Map<NodeId, ProgressStatus>()
  if (state.role === 'leader') {
    for (const [id, member] of state.progress) {
      progress.set(id, member.status(isLearner(state.conf, id)))
    }
  }
  return {
    id: state.id,
    role: state.role,
    term: state.term,
    vote: state.vote,
    lead: state.lead,
    commit: state.log.commit,
    applied: state.log.applied,
    lastIndex: state.log.lastIndex,
    confState: state.conf,
    transferee: state.transferee,
    progress,
  }
}
