/** Changes of the membership, at random, by the invariants that every configuration keeps. */
import { expect, test } from 'bun:test'
import {
  applyChange,
  decodeConfChange,
  emptyConf,
  encodeConfChange,
  isJoint,
  isVoter,
  leaveJoint,
  readConfChange,
  type Tracker,
  trackerOf,
  votersOf,
} from '../../src/raft/confchange.ts'
import type { ConfChange, SingleChange } from '../../src/raft/types.ts'
import { seeded } from '../seed.ts'
import { randomOf } from './members.ts'

const { seed } = seeded()
const limits = { inflightMax: 8, inflightBytesMax: 1000 }
const types = ['add-voter', 'add-learner', 'remove', 'update'] as const
const transitions = ['auto', 'auto', 'implicit', 'explicit'] as const

function randomChange(random: (n: number) => number): ConfChange {
  const changes = Array.from({ length: random(5) }, (): SingleChange => {
    return { type: types[random(4)] ?? 'update', nodeId: 1 + random(7) }
  })
  return { transition: transitions[random(4)] ?? 'auto', changes }
}

function faultsOf({ conf, progress }: Tracker): string[] {
  const { voters, votersOutgoing, learners, learnersNext, autoLeave } = conf
  const faults: string[] = []
  const check = (isKept: boolean, fault: string) => {
    if (!isKept) faults.push(fault)
  }
  for (const ids of [voters, votersOutgoing, learners, learnersNext, [...progress.keys()]]) {
    check(
      ids.every((id, at) => at === 0 || id > (ids[at - 1] ?? 0)),
      'ids ascend',
    )
  }
  check(voters.length > 0, 'there is a voter')
  check(!learners.some(id => isVoter(conf, id)), 'no learner votes')
  check(
    learnersNext.every(id => votersOutgoing.includes(id)),
    'next learners vote still',
  )
  check(!learnersNext.some(id => voters.includes(id)), 'next learners leave the voters')
  check(isJoint(conf) || (learnersNext.length === 0 && !autoLeave), 'nothing waits for no joint')
  const members = [...votersOf(conf), ...learners].sort((a, b) => a - b)
  check(Bun.deepEquals(members, [...progress.keys()]), 'one progress for each member')
  return faults
}

test('30,000 random changes keep every configuration whole', () => {
  const random = randomOf(seed)
  let tracker = trackerOf({ ...emptyConf, voters: [1] }, 5, limits)
  const outcomes = { taken: 0, refused: 0, joint: 0 }
  for (let at = 0; at < 30_000; at++) {
    const change = randomChange(random)
    const copy = structuredClone({ conf: tracker.conf, ids: [...tracker.progress.keys()] })
    const changed = applyChange(tracker, change, 5 + at, limits)
    if (changed.ok) {
      const { conf } = tracker
      const before = new Set(conf.voters)
      const after = new Set(changed.tracker.conf.voters)
      const isOverlapping = isJoint(conf) || isJoint(changed.tracker.conf)
      // Any two majorities of these meet.
      if (!isOverlapping) expect(before.symmetricDifference(after).size).toBeLessThanOrEqual(1)
      tracker = changed.tracker
      expect({ change, faults: faultsOf(tracker) }).toEqual({ change, faults: [] })
      outcomes.taken += 1
      if (isJoint(tracker.conf)) outcomes.joint += 1
    } else {
      expect({ conf: tracker.conf, ids: [...tracker.progress.keys()] }).toEqual(copy)
      outcomes.refused += 1
    }
  }
  for (const count of Object.values(outcomes)) expect(count).toBeGreaterThan(1000)
})

test('a configuration that was stored comes back whole', () => {
  const random = randomOf(seed)
  let tracker = trackerOf({ ...emptyConf, voters: [1, 2, 3] }, 5, limits)
  for (let at = 0; at < 2000; at++) {
    const changed = applyChange(tracker, randomChange(random), 5, limits)
    if (!changed.ok) continue
    tracker = changed.tracker
    const again = trackerOf(tracker.conf, 5, limits)
    expect(again.conf).toEqual(tracker.conf)
    expect([...again.progress.keys()]).toEqual([...tracker.progress.keys()])
    expect(faultsOf(again)).toEqual([])
  }
})

test('leaving joint ends in the incoming half', () => {
  const random = randomOf(seed)
  let joints = 0
  for (let at = 0; at < 2000; at++) {
    const start = trackerOf({ ...emptyConf, voters: [1, 2, 3], learners: [4] }, 5, limits)
    const { changes } = randomChange(random)
    const changed = applyChange(start, { transition: 'explicit', changes }, 5, limits)
    if (!changed.ok) continue
    joints += 1
    const { conf } = changed.tracker
    expect(conf.votersOutgoing).toEqual([1, 2, 3])
    const left = leaveJoint(changed.tracker, 5, limits)
    expect(left.ok && left.tracker.conf).toEqual({
      voters: conf.voters,
      votersOutgoing: [],
      learners: [...conf.learners, ...conf.learnersNext].sort((a, b) => a - b),
      learnersNext: [],
      autoLeave: false,
    })
  }
  expect(joints).toBeGreaterThan(500)
})

test('changes survive their encoding; other bytes are no change', () => {
  const random = randomOf(seed)
  for (let at = 0; at < 2000; at++) {
    const change = randomChange(random)
    const bytes = encodeConfChange(change)
    expect(decodeConfChange(bytes)).toEqual(change)
    expect(readConfChange(bytes.subarray(0, random(bytes.length)))).not.toEqual(change)
  }
  const large = { type: 'add-voter', nodeId: 2 ** 48 - 1 } as const
  const change: ConfChange = { transition: 'implicit', changes: [large] }
  expect(decodeConfChange(encodeConfChange(change))).toEqual(change)
  const foreign = [[], [1], [2, 0], [1, 9], [1, 0, 4, 0, 0, 0, 0, 0, 1], [1, 0, 0]]
  for (const bytes of foreign) expect(readConfChange(new Uint8Array(bytes))).toBeUndefined()
})
