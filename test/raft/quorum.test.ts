/** Majorities against a second implementation that only counts. */
import { expect, test } from 'bun:test'
import { committedIndex, type VoteResult, voteResult } from '../../src/raft/quorum.ts'
import type { NodeId } from '../../src/raft/types.ts'
import { seeded } from '../seed.ts'
import { randomOf } from './members.ts'

const { seed } = seeded()
const cases = 50_000

type Half = readonly NodeId[]

/** The largest of all acknowledged indexes that more than half of each half reached. */
function countedIndex(halves: readonly Half[], acked: ReadonlyMap<NodeId, number>): number {
  const candidates = [Number.POSITIVE_INFINITY, 0, ...acked.values()].sort((a, b) => b - a)
  const isHeld = (half: Half, index: number) =>
    half.length === 0 || half.filter(id => (acked.get(id) ?? 0) >= index).length * 2 > half.length
  return candidates.find(index => halves.every(half => isHeld(half, index))) ?? -1
}

/** Decided when the missing votes cannot change it, whichever way they fall. */
function countedVote(halves: readonly Half[], votes: ReadonlyMap<NodeId, boolean>): VoteResult {
  const wins = (half: Half, missing: boolean) =>
    half.length === 0 || half.filter(id => votes.get(id) ?? missing).length * 2 > half.length
  if (halves.every(half => wins(half, false))) return 'won'
  return halves.every(half => wins(half, true)) ? 'pending' : 'lost'
}

function randomHalf(random: (n: number) => number): Half {
  const all = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
  const size = random(8)
  return Array.from({ length: size }, () => all.splice(random(all.length), 1)[0] ?? 0)
}

test(`${cases} random configurations`, () => {
  const random = randomOf(seed)
  for (let at = 0; at < cases; at++) {
    const incoming = randomHalf(random)
    const outgoing = random(2) === 0 ? [] : randomHalf(random)
    const acked = new Map<NodeId, number>()
    const votes = new Map<NodeId, boolean>()
    for (const id of [...incoming, ...outgoing]) {
      // Up to 20, so that an order by strings shows.
      if (random(4) > 0) acked.set(id, random(20))
      if (random(4) > 0) votes.set(id, random(2) === 0)
    }
    const index = committedIndex(incoming, outgoing, id => acked.get(id) ?? 0)
    const result = voteResult(incoming, outgoing, id => votes.get(id))
    const context = { incoming, outgoing, acked, votes }
    const halves = [incoming, outgoing]
    expect({ ...context, index }).toEqual({ ...context, index: countedIndex(halves, acked) })
    expect({ ...context, result }).toEqual({ ...context, result: countedVote(halves, votes) })
  }
})
