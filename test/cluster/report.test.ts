/** How far behind a node is said to be. */
import { expect, test } from 'bun:test'
import { lagOf } from '../../src/cluster/report.ts'
import type { CoreStatus, ProgressStatus } from '../../src/raft/types.ts'

const followed: ProgressStatus = {
  state: 'replicate',
  match: 90,
  next: 91,
  isPaused: false,
  pendingSnapshot: 0,
  isRecentlyActive: true,
  isLearner: true,
  inflight: 0,
  isInflightFull: false,
}

function leaderWith(progress: Partial<ProgressStatus>): CoreStatus {
  return {
    id: 1,
    role: 'leader',
    term: 1,
    vote: 1,
    lead: 1,
    commit: 100,
    applied: 100,
    lastIndex: 100,
    confState: {
      voters: [1],
      votersOutgoing: [],
      learners: [2],
      learnersNext: [],
      autoLeave: false,
    },
    transferee: 0,
    progress: new Map([[2, { ...followed, ...progress }]]),
  }
}

test('the lag of a follower is in entries, and infinite while it needs a snapshot', () => {
  expect(lagOf(1, leaderWith({}))).toBe(0)
  expect(lagOf(2, leaderWith({}))).toBe(10)
  expect(lagOf(2, leaderWith({ state: 'probe' }))).toBe(10)
  expect(lagOf(2, leaderWith({ match: 120 }))).toBe(0)
  // A hundred entries may be a gigabyte of state, of which it has nothing yet.
  expect(lagOf(2, leaderWith({ match: 0, state: 'probe' }))).toBe(Number.POSITIVE_INFINITY)
  expect(lagOf(2, leaderWith({ state: 'snapshot' }))).toBe(Number.POSITIVE_INFINITY)
  expect(lagOf(3, leaderWith({}))).toBe(Number.POSITIVE_INFINITY)
})
