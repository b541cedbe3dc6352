import type { ConfState, CoreStatus, NodeId } from './types.ts'

/** To whom a leader that must go hands over: the living voter that has most of its log. */
export function successorOf({ id, progress }: CoreStatus): NodeId | undefined {
  let best: { readonly peer: NodeId; readonly match: number } | undefined
  for (const [peer, { match, isLearner, isRecentlyActive }] of progress) {
    if (peer === id || isLearner || !isRecentlyActive) continue
    if (best === undefined || match > best.match) best = { peer, match }
  }
  return best?.peer
}

/** Nobody else has a say. */
export function isOnlyVoter({ voters, votersOutgoing }: ConfState, nodeId: NodeId): boolean {
  return voters.length === 1 && voters[0] === nodeId && votersOutgoing.length === 0
}
