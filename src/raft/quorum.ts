/**
 * Arithmetic of majorities. A configuration has an incoming half and, while it is joint, an
 * outgoing one; a decision then needs a majority of each (thesis 4.3).
 */
import type { NodeId } from './types.ts'

export type VoteResult = 'won' | 'lost' | 'pending'

function majorityIndex(voters: readonly NodeId[], ackedBy: (id: NodeId) => number): number {
  if (voters.length === 0) return Number.POSITIVE_INFINITY
  const quorum = Math.floor(voters.length / 2) + 1
  let highest = 0
  // Seven voters at most, and this runs for every answer: counting makes nothing to collect.
  for (const id of voters) {
    const index = ackedBy(id)
    if (index <= highest) continue
    let count = 0
    for (const other of voters) if (ackedBy(other) >= index) count += 1
    if (count >= quorum) highest = index
  }
  return highest
}

/**
 * The highest index that a majority of each half acknowledged. `ackedBy` gives 0 for who did not
 * answer. An empty half does not limit: without any voter the index is infinite.
 */
export function committedIndex(
  incoming: readonly NodeId[],
  outgoing: readonly NodeId[],
  ackedBy: (id: NodeId) => number,
): number {
  const index = majorityIndex(incoming, ackedBy)
  return outgoing.length === 0 ? index : Math.min(index, majorityIndex(outgoing, ackedBy))
}

function majorityVote(
  voters: readonly NodeId[],
  voteOf: (id: NodeId) => boolean | undefined,
): VoteResult {
  if (voters.length === 0) return 'won'
  const quorum = Math.floor(voters.length / 2) + 1
  let yes = 0
  let missing = 0
  for (const id of voters) {
    const vote = voteOf(id)
    if (vote === undefined) missing += 1
    else if (vote) yes += 1
  }
  if (yes >= quorum) return 'won'
  return yes + missing >= quorum ? 'pending' : 'lost'
}

/** `voteOf` gives undefined for who did not answer. An empty half has won. */
export function voteResult(
  incoming: readonly NodeId[],
  outgoing: readonly NodeId[],
  voteOf: (id: NodeId) => boolean | undefined,
): VoteResult {
  const one = majorityVote(incoming, voteOf)
  const other = majorityVote(outgoing, voteOf)
  if (one === other) return one
  return one === 'lost' || other === 'lost' ? 'lost' : 'pending'
}
