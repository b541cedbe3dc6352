/**
 * The sentences of the Raft paper (Ongaro and Ousterhout, extended version), one test for each, on
 * single members. The choice of sentences is etcd's.
 */
import { describe, expect, test } from 'bun:test'
import type { Message, NodeId } from '../../src/raft/types.ts'
import { electionTick, entry, Group, Member, randomOf, to } from './members.ts'

const three = [1, 2, 3]

type RoleName = 'follower' | 'candidate' | 'leader'

/** Member 1 of three, in this role of term 1. */
function memberAs(role: RoleName): Member {
  const member = new Member({ id: 1, voters: three, random: () => 0 })
  if (role === 'follower') member.step(to(1, 'MsgHeartbeat', { from: 2, term: 1 }))
  else if (role === 'candidate') member.tick(electionTick)
  else member.lead()
  expect([member.role, member.core.term]).toEqual([role, 1])
  return member
}

const typesTo = (sent: readonly Message[]): unknown[] =>
  sent.map(({ type, to: id, term }) => [type, id, term])
const persisted = (member: Member) =>
  member.log.entries(1, member.log.lastIndex + 1, Infinity).map(({ index, term }) => [index, term])

describe('5.1 Raft basics', () => {
  const roles: RoleName[] = ['follower', 'candidate', 'leader']
  test.each(roles)("a %s's term that is smaller than another server's is updated", role => {
    const member = memberAs(role)
    member.step(to(1, 'MsgApp', { from: 2, term: 2 }))
    expect([member.core.term, member.role, member.core.lead]).toEqual([2, 'follower', 2])
    expect(member.hard.term).toBe(2)
  })

  test.each(roles)('a %s rejects a request with a stale term number', role => {
    const member = memberAs(role)
    const before = member.core.status()
    const stale = { from: 2, term: 0, index: 0, logTerm: 0, entries: [entry(1, 0)] }
    expect(member.step(to(1, 'MsgApp', stale))).toEqual([])
    expect(member.core.status()).toEqual(before)
  })
})

describe('5.2 Leader election', () => {
  test('servers begin as followers', () => {
    const member = new Member({ id: 1, voters: three })
    expect([member.role, member.core.lead, member.core.hasReady()]).toEqual(['follower', 0, false])
  })

  test('a leader sends periodic heartbeats to all followers', () => {
    const member = new Member({ id: 1, voters: three, heartbeatTick: 2 })
    member.lead()
    expect(member.tick()).toEqual([])
    const sent = [
      ['MsgHeartbeat', 2, 1],
      ['MsgHeartbeat', 3, 1],
    ]
    expect(typesTo(member.tick())).toEqual(sent)
    expect(member.tick()).toEqual([])
    expect(typesTo(member.tick())).toEqual(sent)
  })

  test('a follower that hears nothing over the election timeout becomes candidate', () => {
    const member = memberAs('follower')
    const sent = member.tick(2 * electionTick - 1)
    expect([member.role, member.core.term, member.hard.vote]).toEqual(['candidate', 2, 1])
    expect(typesTo(sent)).toEqual([
      ['MsgVote', 2, 2],
      ['MsgVote', 3, 2],
    ])
  })

  test('a candidate that times out begins another election with a higher term', () => {
    const member = memberAs('candidate')
    const sent = member.tick(electionTick)
    expect([member.role, member.core.term, member.hard.vote]).toEqual(['candidate', 2, 1])
    expect(typesTo(sent)).toEqual([
      ['MsgVote', 2, 2],
      ['MsgVote', 3, 2],
    ])
  })

  test.each([
    [1, '', 'leader'],
    [3, 'yes yes', 'leader'],
    [3, 'yes', 'leader'],
    [5, 'yes yes yes yes', 'leader'],
    [5, 'yes yes yes', 'leader'],
    [5, 'yes yes', 'leader'],
    [3, 'no no', 'follower'],
    [5, 'no no no no', 'follower'],
    [5, 'yes no no no', 'follower'],
    [3, '', 'candidate'],
    [5, 'yes', 'candidate'],
    [5, 'no no', 'candidate'],
    [5, '', 'candidate'],
  ])('of %p servers, with the votes "%s" of others, a candidate is %s', (size, votes, role) => {
    const voters = Array.from({ length: size }, (_, at) => at + 1)
    const member = new Member({ id: 1, voters })
    member.core.campaign()
    member.settle()
    for (const [at, vote] of votes.split(' ').filter(Boolean).entries()) {
      member.step(to(1, 'MsgVoteResp', { from: at + 2, term: 1, reject: vote === 'no' }))
    }
    expect<unknown[]>([member.role, member.core.term]).toEqual([role, 1])
  })

  test.each([
    [0, 2, true],
    [0, 3, true],
    [2, 2, true],
    [3, 3, true],
    [2, 3, false],
    [3, 2, false],
  ])(
    'a server votes once in a term: having voted for %p, it grants %p %p',
    (vote, from, isGranted) => {
      const member = new Member({ id: 1, voters: three, hardState: { term: 1, vote, commit: 0 } })
      const sent = member.step(to(1, 'MsgVote', { from, term: 1 }))
      expect(sent.map(({ type, to: id, reject }) => [type, id, reject])).toEqual([
        ['MsgVoteResp', from, !isGranted],
      ])
      expect(member.hard.vote).toBe(isGranted ? from : vote)
    },
  )

  test('a vote is durable before its answer leaves, and survives a restart', () => {
    const member = new Member({ id: 1, voters: three })
    member.core.step(to(1, 'MsgVote', { from: 2, term: 1 }))
    expect(member.core.takeMessages()).toEqual([])
    const ready = member.core.ready()
    expect(ready?.messages).toEqual([])
    expect(ready?.answers.map(({ type }) => type)).toEqual(['MsgVoteResp'])
    expect([ready?.hard, ready?.mustSync]).toEqual([{ term: 1, vote: 2, commit: 0 }, true])
    member.hard = ready?.hard ?? member.hard
    member.restart()
    const [answer] = member.step(to(1, 'MsgVote', { from: 3, term: 1 }))
    expect(answer?.reject).toBe(true)
  })

  test('a request for votes leaves after the term and the log that it claims', () => {
    const member = new Member({ id: 1, voters: three })
    member.core.campaign()
    expect(member.core.takeMessages()).toEqual([])
    const ready = member.core.ready()
    expect(ready?.messages).toEqual([])
    expect(ready?.answers.map(({ type, to: id }) => [type, id])).toEqual([
      ['MsgVote', 2],
      ['MsgVote', 3],
    ])
  })

  test.each([1, 2])('a candidate of term 1 that hears a leader of term %p follows it', term => {
    const member = memberAs('candidate')
    member.step(to(1, 'MsgApp', { from: 2, term }))
    expect([member.role, member.core.term, member.core.lead]).toEqual(['follower', term, 2])
  })

  test.each<[RoleName]>([['follower'], ['candidate']])(
    'election timeouts of a %s are chosen randomly from an interval',
    role => {
      const seen = new Set<number>()
      const member = new Member({ id: 1, voters: three, random: randomOf(7) })
      for (let round = 0; round < 50 * electionTick; round++) {
        const term = member.core.term + 1
        if (role === 'follower') member.step(to(1, 'MsgHeartbeat', { from: 2, term }))
        else member.core.campaign()
        member.settle()
        const start = member.core.term
        let ticks = 0
        while (member.core.term === start) {
          member.tick()
          ticks += 1
        }
        seen.add(ticks)
      }
      const interval = Array.from({ length: electionTick }, (_, at) => electionTick + at)
      expect([...seen].sort((a, b) => a - b)).toEqual(interval)
    },
  )

  test.each<[RoleName]>([['follower'], ['candidate']])(
    'in most cases only a single %s times out first',
    role => {
      const random = randomOf(11)
      const voters = [1, 2, 3, 4, 5]
      const members = voters.map(id => new Member({ id, voters, random }))
      let conflicts = 0
      const rounds = 500
      for (let round = 0; round < rounds; round++) {
        const term = Math.max(...members.map(({ core }) => core.term)) + 1
        for (const member of members) {
          const from = member.id === 1 ? 2 : 1
          member.step(to(member.id, 'MsgHeartbeat', { from, term }))
          if (role === 'candidate') member.core.campaign()
          member.settle()
        }
        const start = members[0]?.core.term ?? 0
        let timedOut = 0
        while (timedOut === 0) {
          for (const member of members) member.tick()
          timedOut = members.filter(({ core }) => core.term > start).length
        }
        if (timedOut > 1) conflicts += 1
      }
      // Five draws from ten: the lowest is unique in two of three rounds.
      expect(conflicts / rounds).toBeLessThan(0.45)
      expect(conflicts).toBeGreaterThan(0)
    },
  )
})

/** A leader of term 1 whose first entry is committed and applied. */
function committedLeader(size = 3): Member {
  const voters = Array.from({ length: size }, (_, at) => at + 1)
  const leader = new Member({ id: 1, voters })
  leader.lead()
  leader.acknowledge(voters.slice(1))
  expect(leader.core.commit).toBe(1)
  return leader
}

describe('5.3 Log replication', () => {
  test('the leader appends a command, then sends it in parallel to the others', () => {
    const leader = committedLeader()
    const sent = leader.propose('some data')
    expect(leader.core.commit).toBe(1)
    expect(persisted(leader).at(-1)).toEqual([2, 1])
    expect(
      sent.map(({ type, to: id, index, logTerm, commit }) => [type, id, index, logTerm, commit]),
    ).toEqual([
      ['MsgApp', 2, 1, 1, 1],
      ['MsgApp', 3, 1, 1, 1],
    ])
    const carried = sent.map(({ entries }) => entries.map(({ index, term }) => [index, term]))
    expect(carried).toEqual([[[2, 1]], [[2, 1]]])
  })

  test('what is safely replicated is applied, and the followers are told', () => {
    const leader = committedLeader()
    leader.propose('some data')
    const sent = leader.acknowledge([2, 3])
    expect([leader.core.commit, leader.words]).toEqual([2, ['some data']])
    const told = sent.filter(({ type, commit }) => type === 'MsgApp' && commit === 2)
    expect(told.map(({ to: id }) => id)).toEqual([2, 3])
  })

  test.each<[number, NodeId[], boolean]>([
    [1, [], true],
    [3, [], false],
    [3, [2], true],
    [3, [2, 3], true],
    [5, [], false],
    [5, [2], false],
    [5, [2, 3], true],
    [5, [2, 3, 4], true],
    [5, [2, 3, 4, 5], true],
  ])(
    'of %p servers, an entry that %p and the leader hold is committed: %p',
    (size, ids, isDone) => {
      const leader = committedLeader(size)
      leader.propose('some data')
      leader.acknowledge(ids)
      expect(leader.core.commit > 1).toBe(isDone)
    },
  )

  test("the leader's own copy counts when it is durable, not before", () => {
    const leader = committedLeader()
    leader.core.propose([new Uint8Array(1)])
    leader.core.step(to(1, 'MsgAppResp', { from: 2, term: 1, index: 2 }))
    leader.core.ready()
    expect(leader.core.commit).toBe(1)
    leader.core.advance()
    expect(leader.core.commit).toBe(2)
  })

  test.each([[[]], [[2]], [[1, 2]], [[1]]])(
    'a committed entry commits all before it, of terms %p too',
    terms => {
      const leader = new Member({
        id: 1,
        voters: three,
        terms,
        hardState: { term: 2, vote: 0, commit: 0 },
      })
      leader.lead()
      leader.propose('some data')
      leader.acknowledge([2, 3])
      const last = terms.length + 2
      expect(leader.applied.map(({ index, term }) => [index, term])).toEqual([
        ...terms.map((term, at) => [at + 1, term]),
        [last - 1, 3],
        [last, 3],
      ])
    },
  )

  test.each([1, 2, 3, 4])(
    'a follower applies, in order, %p entries that it learns to be committed',
    commit => {
      const member = new Member({
        id: 1,
        voters: three,
        hardState: { term: 1, vote: 0, commit: 0 },
      })
      const entries = [1, 2, 3, 4].map(index => entry(index, 1, `data ${index}`))
      member.step(to(1, 'MsgApp', { from: 2, term: 1, entries, commit }))
      expect([member.core.commit, member.words]).toEqual([
        commit,
        entries.slice(0, commit).map((_, at) => `data ${at + 1}`),
      ])
    },
  )

  test.each([
    [0, 0, 1, false, 0],
    [1, 1, 1, false, 0],
    [2, 2, 2, false, 0],
    [1, 2, 1, true, 1],
    [3, 3, 3, true, 2],
  ])(
    'an append behind (index %p, term %p) is answered with %p',
    (index, logTerm, answered, reject, hint) => {
      const member = new Member({
        id: 1,
        voters: three,
        terms: [1, 2],
        hardState: { term: 2, vote: 0, commit: 1 },
      })
      const [answer] = member.step(to(1, 'MsgApp', { from: 2, term: 2, index, logTerm }))
      expect(answer?.type).toBe('MsgAppResp')
      expect([answer?.index, answer?.reject, answer?.rejectHint]).toEqual([answered, reject, hint])
    },
  )

  test.each<[number, number, [number, number][], [number, number][], [number, number][]]>([
    [
      2,
      2,
      [[3, 3]],
      [
        [1, 1],
        [2, 2],
        [3, 3],
      ],
      [[3, 3]],
    ],
    [
      1,
      1,
      [
        [2, 3],
        [3, 4],
      ],
      [
        [1, 1],
        [2, 3],
        [3, 4],
      ],
      [
        [2, 3],
        [3, 4],
      ],
    ],
    [
      0,
      0,
      [[1, 1]],
      [
        [1, 1],
        [2, 2],
      ],
      [],
    ],
    [0, 0, [[1, 3]], [[1, 3]], [[1, 3]]],
  ])(
    'a follower replaces what conflicts: behind (%p, %p) come %p',
    (index, logTerm, sent, log, fresh) => {
      const member = new Member({
        id: 1,
        voters: three,
        terms: [1, 2],
        hardState: { term: 2, vote: 0, commit: 0 },
      })
      const entries = sent.map(([at, term]) => entry(at, term))
      member.core.step(to(1, 'MsgApp', { from: 2, term: 4, index, logTerm, entries }))
      const ready = member.core.ready()
      expect(ready?.entries.map(entry => [entry.index, entry.term])).toEqual(fresh)
      member.log.persist(ready ?? { snapshot: undefined, entries: [] })
      member.core.advance()
      expect(persisted(member)).toEqual(log)
    },
  )

  const seventh: [string, number[]][] = [
    ['a', [1, 1, 1, 4, 4, 5, 5, 6, 6]],
    ['b', [1, 1, 1, 4]],
    ['c', [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]],
    ['d', [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]],
    ['e', [1, 1, 1, 4, 4, 4, 4]],
    ['f', [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]],
  ]
  test.each(seventh)(
    "the leader makes a follower's log like its own: figure 7 (%s)",
    (_, terms) => {
      const leaderTerms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
      const hardState = { term: 8, vote: 0, commit: leaderTerms.length }
      const leader = new Member({ id: 1, voters: three, terms: leaderTerms, hardState })
      const follower = new Member({
        id: 2,
        voters: three,
        terms,
        hardState: { ...hardState, term: 7, commit: 0 },
      })
      const group = new Group([leader, follower])
      leader.core.campaign()
      group.run()
      // The third server's vote; the second one's log may be the longer one.
      group.run(leader.step(to(1, 'MsgVoteResp', { from: 3, term: 9 })))
      group.propose(1, 'some data')
      expect(persisted(follower)).toEqual(persisted(leader))
      expect(follower.core.commit).toBe(leaderTerms.length + 2)
    },
  )
})

describe('5.4 Safety', () => {
  test.each<[number[], number]>([
    [[1], 2],
    [[1, 2], 3],
  ])('a request for votes tells of the log of terms %p', (terms, term) => {
    const member = new Member({ id: 1, voters: three, terms })
    const sent = member.tick(2 * electionTick - 1)
    expect(sent.map(({ type, to: id }) => [type, id])).toEqual([
      ['MsgVote', 2],
      ['MsgVote', 3],
    ])
    for (const request of sent) {
      expect<unknown[]>([request.term, request.index, request.logTerm]).toEqual([
        term,
        terms.length,
        terms.at(-1),
      ])
    }
  })

  test.each<[number[], number, number, boolean]>([
    [[1], 1, 1, false],
    [[1], 1, 2, false],
    [[1, 1], 1, 1, true],
    [[1], 2, 1, false],
    [[1], 2, 2, false],
    [[1, 1], 1, 2, false],
    [[2], 1, 1, true],
    [[2], 2, 1, true],
    [[1, 2], 1, 1, true],
  ])(
    'a voter with the log %p denies one that ends at (%p, %p): %p',
    (terms, index, logTerm, reject) => {
      const member = new Member({ id: 1, voters: [1, 2], terms })
      const [answer] = member.step(to(1, 'MsgVote', { from: 2, term: 3, index, logTerm }))
      expect([answer?.type, answer?.reject]).toEqual(['MsgVoteResp', reject])
    },
  )

  test.each([
    [1, 0],
    [2, 0],
    [3, 3],
  ])(
    'only an entry of the current term commits by counting copies: of index %p, up to %p',
    (index, commit) => {
      const hardState = { term: 2, vote: 0, commit: 0 }
      const leader = new Member({ id: 1, voters: [1, 2], terms: [1, 2], hardState })
      leader.lead()
      expect(leader.core.term).toBe(3)
      leader.acknowledge([2], index)
      expect(leader.core.commit).toBe(commit)
    },
  )
})
