/** Leadership transfer (thesis 3.10). The scenarios are those of etcd's raft_test.go. */
import { describe, expect, test } from 'bun:test'
import { bytesOf, electionTick, Group, to } from './members.ts'

function ledGroup(options = {}): Group {
  const group = Group.of(3, options)
  group.campaign(1)
  expect<string>(group.at(1).role).toBe('leader')
  return group
}

/** Asks `by` to hand leadership to `id`. */
function transfer(group: Group, by: number, id: number): void {
  group.at(by).core.transferLeader(id)
  group.run()
}

function expectLeader(group: Group, id: number): void {
  expect(group.at(id).role).toBe('leader')
  for (const member of group.members.values()) expect(member.core.lead).toBe(id)
  expect(group.at(id).core.status().transferee).toBe(0)
}

describe('goes', () => {
  test.each([1, 2, 3])('to a node that is up to date and back, when member %p is asked', by => {
    const group = ledGroup()
    transfer(group, by, 2)
    expectLeader(group, 2)
    group.propose(2, 'some data')
    transfer(group, by, 1)
    expectLeader(group, 1)
  })

  test('also while the voters hear the leader, with check-quorum and pre-vote', () => {
    const group = ledGroup({ checkQuorum: true, preVote: true })
    for (const id of [1, 2, 3]) group.tick(id, electionTick - 1)
    transfer(group, 1, 2)
    expectLeader(group, 2)
    const requests = group.delivered.filter(({ type }) => type === 'MsgVote')
    expect(requests.slice(-2).map(({ isTransfer }) => isTransfer)).toEqual([true, true])
  })

  test('to a slow node, after it caught up', () => {
    const group = ledGroup()
    group.isolate(3)
    group.propose(1, 'one')
    group.heal()
    expect(group.at(3).core.lastIndex).toBe(1)
    transfer(group, 1, 3)
    expectLeader(group, 3)
    expect(group.at(3).words).toEqual(['one'])
  })

  test('to a node that needs a snapshot, after it', () => {
    const group = ledGroup()
    group.isolate(3)
    group.propose(1, 'one')
    group.at(1).compact()
    group.heal()
    expect(group.at(1).core.status().progress.get(3)?.match).toBe(1)
    transfer(group, 1, 3)
    // The first append is behind the beginning of the log; the probe of a heartbeat goes on.
    group.tick(1)
    expectLeader(group, 3)
  })

  test('to the second target, when another is asked for meanwhile', () => {
    const group = ledGroup()
    group.isolate(3)
    transfer(group, 1, 3)
    expect(group.at(1).core.status().transferee).toBe(3)
    transfer(group, 1, 2)
    expect(group.roles.slice(0, 2)).toEqual(['follower', 'leader'])
  })
})

describe('goes nowhere', () => {
  test.each([
    ['itself', 1],
    ['a node that does not exist', 9],
  ])('to %s', (_, id) => {
    const group = ledGroup()
    transfer(group, 1, id)
    expectLeader(group, 1)
  })

  test('to a learner', () => {
    const group = ledGroup()
    const changes = [{ type: 'add-learner', nodeId: 3 }] as const
    group.at(1).core.proposeConf('conf-v2', { transition: 'auto', changes })
    group.run()
    expect(group.at(1).conf.learners).toEqual([3])
    transfer(group, 1, 3)
    expectLeader(group, 1)
  })

  test('by a message to who is no voter', () => {
    const group = ledGroup()
    const outsider = Group.of(1, { voters: [2, 3] }).at(1)
    outsider.step(to(1, 'MsgTimeoutNow', { from: 2, term: 1 }))
    outsider.step(to(1, 'MsgVoteResp', { from: 2, term: 1 }))
    outsider.step(to(1, 'MsgVoteResp', { from: 3, term: 1 }))
    expect<string>(outsider.role).toBe('follower')
    expectLeader(group, 1)
  })

  test('after an election timeout; asking the same target again does not prolong it', () => {
    const group = ledGroup()
    group.isolate(3)
    transfer(group, 1, 3)
    group.tick(1, electionTick / 2)
    expect(group.at(1).core.status().transferee).toBe(3)
    transfer(group, 1, 3)
    group.tick(1, electionTick / 2)
    expect(group.at(1).core.status().transferee).toBe(0)
    expect<string>(group.at(1).role).toBe('leader')
  })

  test('when the target is removed or demoted meanwhile', () => {
    for (const type of ['remove', 'add-learner'] as const) {
      const group = ledGroup()
      group.filter(({ type: sent }) => sent !== 'MsgTimeoutNow')
      const changes = [{ type, nodeId: 3 }]
      // Only proposed, a change has no effect.
      group.at(1).core.proposeConf('conf-v2', { transition: 'auto', changes })
      group.at(1).core.transferLeader(3)
      expect(group.at(1).core.status().transferee).toBe(3)
      group.run()
      expect(group.at(1).conf.voters).toEqual([1, 2])
      expect(group.at(1).core.status().transferee).toBe(0)
    }
  })

  test('when a vote of a higher term ends the leadership', () => {
    const group = ledGroup()
    group.isolate(3)
    transfer(group, 1, 3)
    group.at(1).step(to(1, 'MsgVote', { from: 2, term: 2, index: 1, logTerm: 1 }))
    expect(group.at(1).role).toBe('follower')
    expect(group.at(1).core.status().transferee).toBe(0)
  })
})

test('proposals are refused while it is under way', () => {
  const group = ledGroup()
  group.isolate(3)
  transfer(group, 1, 3)
  const before = group.at(1).core.lastIndex
  const refused = { ok: false, reason: 'transferring' } as const
  expect(group.at(1).core.propose([bytesOf('late')])).toEqual(refused)
  expect(group.at(1).core.lastIndex).toBe(before)
  group.tick(1, electionTick)
  expect(group.at(1).core.propose([bytesOf('later')]).ok).toBe(true)
})
