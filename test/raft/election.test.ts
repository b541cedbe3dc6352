/**
 * Pre-vote (thesis 9.6), check-quorum (6.2, 4.2.3), and elections of members that do not agree
 * about the configuration. The scenarios are those of etcd's raft_test.go.
 */
import { describe, expect, test } from 'bun:test'
import { emptyConf, encodeConfChange } from '../../src/raft/confchange.ts'
import type { Message, MessageType } from '../../src/raft/types.ts'
import { electionTick, entry, Group, Member, to } from './members.ts'

const three = [1, 2, 3]

/** Three voters whose log ends differently: 1 was cut off, 2 leads, 3 follows. */
function groupWithStraggler(options: { preVote: boolean; checkQuorum?: boolean }): Group {
  const group = Group.of(3, options)
  group.campaign(1)
  group.isolate(1)
  group.campaign(2)
  group.propose(2, 'unheard')
  group.heal()
  return group
}

describe('pre-vote', () => {
  test.each(['follower', 'pre-candidate', 'candidate', 'leader'])(
    'a %s answers a pre-vote and keeps its role, term and vote',
    role => {
      const member = new Member({ id: 1, voters: three, preVote: role === 'pre-candidate' })
      if (role === 'follower') member.step(to(1, 'MsgVote', { from: 3, term: 1 }))
      else if (role === 'leader') member.lead()
      else {
        member.core.campaign()
        member.settle()
      }
      expect<string>(member.role).toBe(role)
      const before = member.core.status()
      const request = { from: 2, term: before.term + 1, logTerm: before.term, index: 42 }
      const [answer] = member.step(to(1, 'MsgPreVote', request))
      expect([answer?.type, answer?.term, answer?.reject]).toEqual([
        'MsgPreVoteResp',
        before.term + 1,
        false,
      ])
      expect(member.core.status()).toEqual(before)
    },
  )

  test('who cannot win raises no term', () => {
    const group = groupWithStraggler({ preVote: true })
    const before = group.terms
    group.tick(1, 5 * electionTick)
    expect(group.terms.slice(1)).toEqual(before.slice(1))
    expect(group.at(1).core.term).toBeLessThanOrEqual(group.at(2).core.term)
  })

  test('a rejection carries the real term, which the pre-candidate takes', () => {
    const member = new Member({
      id: 1,
      voters: three,
      preVote: true,
      hardState: { term: 2, vote: 0, commit: 0 },
    })
    member.core.campaign()
    member.settle()
    expect<string>(member.role).toBe('pre-candidate')
    member.step(to(1, 'MsgPreVoteResp', { from: 2, term: 7, reject: true }))
    expect([member.role, member.core.term]).toEqual(['follower', 7])
  })

  test('late pre-votes are no votes', () => {
    const member = new Member({ id: 1, voters: [1, 2, 3, 4, 5], preVote: true })
    member.core.campaign()
    member.settle()
    for (const from of [2, 3]) member.step(to(1, 'MsgPreVoteResp', { from, term: 1 }))
    expect([member.role, member.core.term]).toEqual(['candidate', 1])
    for (const from of [4, 5]) member.step(to(1, 'MsgPreVoteResp', { from, term: 1 }))
    expect<string>(member.role).toBe('candidate')
  })

  test('a split vote ends, and another election follows', () => {
    const group = Group.of(3, { preVote: true })
    group.campaign(1)
    group.isolate(1)
    // Both pre-votes are granted before either asks for votes.
    for (const id of [2, 3]) group.at(id).core.campaign()
    group.run()
    expect([...group.roles.slice(1)].sort()).toEqual(['candidate', 'candidate'])
    group.campaign(2)
    expect(group.roles).toEqual(['leader', 'leader', 'follower'])
    expect(group.at(2).core.term).toBe(3)
  })

  test('a node of a higher term that was cut off rejoins by the answer to the leader', () => {
    // As after switching pre-vote on: 3 raised its term alone, and its log is behind.
    const group = Group.of(3)
    group.campaign(1)
    group.isolate(3)
    group.propose(1, 'some data')
    group.tick(3, 4 * electionTick)
    const members = three.map(id => {
      const { log, hard, appliedIndex } = group.at(id)
      return new Member({
        id,
        voters: three,
        preVote: true,
        log,
        hardState: hard,
        applied: appliedIndex,
      })
    })
    const renewed = new Group(members)
    renewed.isolate(3)
    renewed.campaign(1)
    renewed.heal()
    const high = renewed.at(3).core.term
    expect(high).toBeGreaterThan(renewed.at(1).core.term)
    renewed.tick(1)
    expect(renewed.at(1).core.term).toBe(high)
    renewed.campaign(1)
    renewed.tick(1)
    expect(renewed.roles).toEqual(['leader', 'follower', 'follower'])
    expect(renewed.at(3).words).toEqual(['some data'])
  })

  test('works with check-quorum: who hears a leader grants nothing', () => {
    const group = Group.of(3, { preVote: true, checkQuorum: true })
    group.campaign(1)
    group.isolate(1)
    group.tick(2, electionTick)
    group.tick(3, electionTick)
    group.campaign(2)
    expect(group.roles.slice(1)).toContain('leader')
    const leader = group.roles[1] === 'leader' ? 2 : 3
    const before = group.at(leader).core.term
    group.heal()
    group.campaign(1)
    expect(group.at(leader).role).toBe('leader')
    expect(group.at(leader).core.term).toBe(before)
  })
})

describe('check-quorum', () => {
  test('a leader that hears a quorum stays', () => {
    const leader = new Member({ id: 1, voters: three, checkQuorum: true })
    leader.lead()
    for (let at = 0; at < 3 * electionTick; at++) {
      leader.step(to(1, 'MsgHeartbeatResp', { from: 2, term: 1 }))
      leader.tick()
    }
    expect<string>(leader.role).toBe('leader')
  })

  test('a leader that hears none steps down, in its term', () => {
    const leader = new Member({ id: 1, voters: three, checkQuorum: true })
    leader.lead()
    leader.tick(2 * electionTick)
    expect([leader.role, leader.core.term, leader.core.lead]).toEqual(['follower', 1, 0])
  })

  test('learners are no quorum', () => {
    const leader = new Member({ id: 1, voters: three, learners: [4, 5], checkQuorum: true })
    leader.lead()
    for (let at = 0; at < 2 * electionTick; at++) {
      for (const from of [4, 5]) leader.step(to(1, 'MsgHeartbeatResp', { from, term: 1 }))
      leader.tick()
    }
    expect<string>(leader.role).toBe('follower')
  })

  test('who hears a leader refuses to vote, until it has not for an election timeout', () => {
    const group = Group.of(3, { checkQuorum: true })
    for (const id of [1, 2, 3]) group.tick(id, electionTick - 1)
    group.campaign(1)
    group.campaign(3)
    expect(group.roles).toEqual(['leader', 'follower', 'candidate'])
    // Follower 2 hears nothing more.
    group.isolate(1)
    group.at(2).core.setElectionTimeout(2 * electionTick)
    group.tick(2, electionTick)
    group.campaign(3)
    expect(group.at(3).role).toBe('leader')
    group.heal()
    group.tick(3)
    expect(group.roles).toEqual(['follower', 'follower', 'leader'])
  })

  test('a candidate of a higher term is set free by its answer to the leader', () => {
    const group = Group.of(3, { checkQuorum: true })
    group.campaign(1)
    group.isolate(1)
    group.campaign(3)
    group.campaign(3)
    group.heal()
    expect(group.at(3).role).toBe('candidate')
    expect(group.at(3).core.term).toBeGreaterThan(group.at(1).core.term)
    group.tick(1)
    expect(group.at(1).role).toBe('follower')
    expect(group.at(1).core.term).toBe(group.at(3).core.term)
    group.tick(2, electionTick)
    group.campaign(3)
    group.campaign(3)
    expect(group.at(3).role).toBe('leader')
  })

  test('a voter that does not know yet that it is one follows and does not campaign', () => {
    const group = new Group([
      new Member({ id: 1, voters: [1, 2], checkQuorum: true }),
      new Member({ id: 2, voters: [1], checkQuorum: true }),
    ])
    group.tick(2, 3 * electionTick)
    expect(group.at(2).role).toBe('follower')
    group.campaign(1)
    expect(group.roles).toEqual(['leader', 'follower'])
    expect(group.at(2).core.lead).toBe(1)
  })

  test.each([
    [false, ['follower', 'follower', 'candidate'], 2],
    [true, ['leader', 'follower', 'follower'], 1],
  ])(
    'a follower that lost sight of the leader, with pre-vote %p, leads to %p',
    (preVote, roles, term) => {
      const group = Group.of(3, { checkQuorum: true, preVote })
      group.campaign(1)
      expect(group.at(1).role).toBe('leader')
      group.cut(1, 3)
      group.at(3).core.setElectionTimeout(electionTick)
      group.tick(3, electionTick)
      group.heal()
      group.tick(1)
      expect([group.roles, group.at(1).core.term]).toEqual([roles, term])
    },
  )
})

describe('who may campaign', () => {
  test.each(['conf', 'conf-v2'] as const)('nobody with an unapplied change of kind %s', kind => {
    const group = Group.of(3)
    group.campaign(1)
    const change = { transition: 'auto', changes: [{ type: 'remove', nodeId: 2 }] } as const
    // Follower 2 learns that the change is committed, and applies nothing meanwhile.
    group.filter(({ to: id }) => id !== 2)
    group.at(1).core.proposeConf(kind, change)
    group.run()
    expect(group.at(1).conf.voters).toEqual([1, 3])
    const held = new Member({ id: 2, voters: three, committedBytesMax: 1, log: group.at(2).log })
    const { log, core } = group.at(1)
    const entries = log.entries(2, log.lastIndex + 1, Infinity)
    const append = { from: 1, term: 1, index: 1, logTerm: 1, entries, commit: core.commit }
    held.core.step(to(2, 'MsgApp', append))
    const ready = held.core.ready()
    held.log.persist(ready ?? { snapshot: undefined, entries: [] })
    expect(ready?.committed.map(({ index }) => index)).toEqual([1])
    held.core.advance()
    for (let at = 0; at < 3 * electionTick; at++) held.core.tick()
    held.core.campaign()
    held.core.step(to(2, 'MsgTimeoutNow', { from: 1, term: 1 }))
    expect([held.role, held.core.term]).toEqual(['follower', 1])
    held.settle()
    held.core.campaign()
    // It is no voter by now.
    expect(held.role).toBe('follower')
  })

  test('no learner, and nobody outside; but a learner votes, since it may be a voter', () => {
    const learner = new Member({ id: 2, voters: [1], learners: [2] })
    learner.core.campaign()
    learner.tick(3 * electionTick)
    learner.core.step(to(2, 'MsgTimeoutNow', { from: 1, term: 0 }))
    expect([learner.role, learner.core.term]).toEqual(['follower', 0])
    const [answer] = learner.step(to(2, 'MsgVote', { from: 1, term: 2 }))
    expect([answer?.type, answer?.reject]).toEqual(['MsgVoteResp', false])
    const stranger = new Member({ id: 9, voters: [1] })
    stranger.tick(3 * electionTick)
    expect(stranger.role).toBe('follower')
  })

  test('nobody that a snapshot is about to replace', () => {
    const member = new Member({ id: 1, voters: three })
    const confState = { ...emptyConf, voters: three }
    const snapshot = { index: 11, term: 11, confState, data: '' }
    member.core.step(to(1, 'MsgSnap', { from: 2, term: 11, snapshot }))
    member.core.campaign()
    expect(member.role).toBe('follower')
    member.settle()
    member.core.campaign()
    expect(member.role).toBe('candidate')
  })

  test('a new leader admits no change before everything earlier is applied', () => {
    const leader = new Member({
      id: 1,
      voters: three,
      terms: [1],
      hardState: { term: 1, vote: 0, commit: 0 },
    })
    leader.lead()
    const change = { transition: 'auto', changes: [{ type: 'add-voter', nodeId: 4 }] } as const
    leader.core.proposeConf('conf', change)
    leader.settle()
    const kinds = () =>
      leader.log.entries(1, leader.log.lastIndex + 1, Infinity).map(({ kind }) => kind)
    expect(kinds()).toEqual(['normal', 'normal', 'normal'])
    leader.acknowledge([2])
    leader.core.proposeConf('conf', change)
    leader.settle()
    expect(kinds().at(-1)).toBe('conf')
    // One at a time.
    leader.core.proposeConf('conf', change)
    leader.settle()
    expect(kinds().at(-1)).toBe('normal')
  })

  test('a change that would fail everywhere when applied is not admitted', () => {
    const leader = new Member({ id: 1, voters: [1] })
    leader.lead()
    leader.settle()
    const none = { transition: 'auto', changes: [{ type: 'remove', nodeId: 1 }] } as const
    leader.core.proposeConf('conf-v2', none)
    leader.settle()
    expect(leader.conf.voters).toEqual([1])
    const foreign = { ...entry(0, 0), kind: 'conf' as const, bytes: new Uint8Array([250]) }
    leader.step(to(1, 'MsgProp', { from: 2, entries: [foreign] }))
    expect(leader.applied.map(({ kind }) => kind)).toEqual(['normal', 'normal', 'normal'])
  })
})

describe('a change of members that not all know to be committed', () => {
  const change = (type: 'add-voter' | 'remove', nodeId: number) =>
    ({ transition: 'auto', changes: [{ type, nodeId }] }) as const

  test.each([true, false])(
    'a leader that crashed after it is elected by who was added (pre-vote %p)',
    preVote => {
      const options = { voters: [1], learners: [2], preVote }
      const group = new Group([1, 2].map(id => new Member({ id, ...options })))
      group.campaign(1)
      const [leader, added] = [group.at(1), group.at(2)]
      group.filter(({ type, commit }) => type !== 'MsgApp' || commit < 2)
      leader.core.proposeConf('conf-v2', change('add-voter', 2))
      group.run()
      expect([leader.conf.voters, added.conf.voters]).toEqual([[1, 2], [1]])
      // An entry on its way when the leader crashed, before it had that itself.
      added.step(
        to(2, 'MsgApp', { from: 1, term: 1, index: 2, logTerm: 1, entries: [entry(3, 1)] }),
      )
      leader.restart()
      group.heal()
      group.campaign(1)
      expect(leader.role).not.toBe('leader')
      expect(added.conf.voters).toEqual([1, 2])
      group.campaign(2)
      expect(added.role).toBe('leader')
      group.propose(2, 'some data')
      expect([leader.words, added.words]).toEqual([['some data'], ['some data']])
    },
  )

  test.each([true, false])('who stays learns of it from who left (pre-vote %p)', preVote => {
    const group = Group.of(2, { preVote })
    group.campaign(1)
    const [left, stays] = [group.at(1), group.at(2)]
    const isLate = ({ commit, entries }: Message) => commit > 1 || (entries[0]?.index ?? 0) > 2
    group.filter(sent => sent.type !== 'MsgApp' || !isLate(sent))
    left.core.proposeConf('conf-v2', change('remove', 1))
    // Its log is the longer one, so that it refuses its vote, which seems to be needed.
    left.core.propose([new Uint8Array(1)])
    group.run()
    group.heal()
    expect([left.core.lastIndex, stays.core.lastIndex]).toEqual([3, 2])
    expect([left.conf.voters, left.role]).toEqual([[2], 'follower'])
    expect(stays.conf.voters).toEqual([1, 2])
    group.campaign(2)
    expect(stays.conf.voters).toEqual([2])
    group.campaign(2)
    expect(stays.role).toBe('leader')
  })

  test('a candidate that learns of it does not go on under the old one', () => {
    const member = new Member({ id: 2, voters: three })
    const bytes = encodeConfChange(change('remove', 1))
    const entries = [entry(1, 1), { ...entry(2, 1), kind: 'conf-v2' as const, bytes }]
    member.step(to(2, 'MsgApp', { from: 1, term: 1, entries }))
    member.core.campaign()
    member.settle()
    expect(member.role).toBe('candidate')
    const rejection = to(2, 'MsgVoteResp', { from: 1, term: 2, reject: true, context: 2 })
    member.core.step(rejection)
    expect([member.role, member.core.commit]).toEqual(['follower', 2])
    member.settle()
    expect(member.conf.voters).toEqual([2, 3])
  })

  test('a log that differs teaches nothing', () => {
    const member = new Member({ id: 1, voters: three, terms: [1, 2, 2] })
    const request = { from: 2, term: 4, index: 3, logTerm: 3, context: 3 }
    member.step(to(1, 'MsgVote', request))
    expect(member.core.commit).toBe(0)
    member.step(to(1, 'MsgVote', { ...request, term: 5, index: 2, logTerm: 2, context: 9 }))
    expect(member.core.commit).toBe(2)
  })
})

describe('messages that must not count', () => {
  const own: MessageType[] = ['MsgAppResp', 'MsgVoteResp', 'MsgHeartbeatResp', 'MsgApp', 'MsgVote']
  test.each(own)('%s from oneself', type => {
    const member = new Member({ id: 1, voters: three })
    expect(member.core.step(to(1, type, { from: 1, term: 1 }))).toBe('not-known-peer')
  })

  test('answers of strangers, and what is local', () => {
    const member = new Member({ id: 1, voters: three })
    expect(member.core.step(to(1, 'MsgVoteResp', { from: 9, term: 5 }))).toBe('not-known-peer')
    expect(member.core.step(to(1, 'MsgHup', { from: 2, term: 5 }))).toBe('local-message')
    expect(member.core.term).toBe(0)
  })
})
