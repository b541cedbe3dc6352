/** Linear reads by ReadIndex (thesis 6.4), and the ways in which others got them wrong. */
import { describe, expect, test } from 'bun:test'
import type { Message } from '../../src/raft/types.ts'
import { electionTick, entry, Group, Member, to } from './members.ts'

const three = [1, 2, 3]

/** A leader of term 1 that committed its first entry. */
function readyLeader(voters: readonly number[] = three, learners: readonly number[] = []): Member {
  const leader = new Member({ id: 1, voters, learners })
  leader.lead()
  leader.acknowledge(voters.filter(id => id !== 1))
  return leader
}

function read(member: Member): number {
  const number = member.core.readIndex()
  if (number === undefined) throw new Error('no leader is known')
  return number
}

const contexts = (sent: readonly Message[]) =>
  sent.filter(({ type }) => type === 'MsgHeartbeat').map(({ to: id, context }) => [id, context])

const answerOf = (from: number, context: number, term = 1) =>
  to(1, 'MsgHeartbeatResp', { from, term, context })

describe('a leader', () => {
  test('confirms a read by a round of heartbeats begun after it', () => {
    const leader = readyLeader()
    const number = read(leader)
    expect(contexts(leader.settle())).toEqual([
      [2, 1],
      [3, 1],
    ])
    expect(leader.reads).toEqual([])
    leader.step(answerOf(3, 1))
    expect(leader.reads).toEqual([{ read: number, index: 1 }])
  })

  test('confirms all reads of a turn by one round, which may leave before the disk is done', () => {
    const leader = readyLeader()
    leader.core.propose([new Uint8Array(1)])
    leader.core.ready()
    const numbers = [read(leader), read(leader), read(leader)]
    expect(contexts(leader.core.takeMessages())).toEqual([
      [2, 1],
      [3, 1],
    ])
    expect(contexts(leader.core.takeMessages())).toEqual([])
    leader.core.step(answerOf(2, 1))
    leader.core.advance()
    leader.settle()
    expect(leader.reads).toEqual(numbers.map(number => ({ read: number, index: 1 })))
  })

  test('does not confirm by answers to earlier rounds, late or doubled (etcd#20418)', () => {
    const leader = readyLeader([1, 2, 3, 4, 5])
    const first = read(leader)
    leader.settle()
    leader.step(answerOf(2, 1))
    leader.step(answerOf(2, 1))
    expect(leader.reads).toEqual([])
    leader.step(answerOf(3, 1))
    expect(leader.reads).toEqual([{ read: first, index: 1 }])
    const second = read(leader)
    leader.settle()
    // Of the first round, or of no round at all.
    for (const from of [2, 3, 4, 5]) leader.step(answerOf(from, 1))
    for (const from of [2, 3, 4, 5]) leader.step(answerOf(from, 0))
    expect(leader.reads).toHaveLength(1)
    // Nobody can follow into a round that has not begun.
    for (const from of [2, 3, 4, 5]) leader.step(answerOf(from, 7))
    expect(leader.reads).toHaveLength(1)
    for (const from of [4, 5]) leader.step(answerOf(from, 2))
    expect(leader.reads.at(-1)).toEqual({ read: second, index: 1 })
  })

  test('confirms earlier rounds by answers to a later one', () => {
    const leader = readyLeader()
    const first = read(leader)
    leader.settle()
    leader.propose('x')
    leader.acknowledge([2, 3])
    const second = read(leader)
    leader.settle()
    leader.step(answerOf(2, 2))
    expect(leader.reads).toEqual([
      { read: first, index: 1 },
      { read: second, index: 2 },
    ])
  })

  test('asks again by every heartbeat, since answers may be lost', () => {
    const leader = readyLeader()
    const number = read(leader)
    leader.settle()
    expect(contexts(leader.tick())).toEqual([
      [2, 1],
      [3, 1],
    ])
    leader.step(answerOf(2, 1))
    expect(leader.reads).toEqual([{ read: number, index: 1 }])
    expect(contexts(leader.tick()).map(([, context]) => context)).toEqual([0, 0])
  })

  test('lets reads wait until it committed in its term', () => {
    const leader = new Member({
      id: 1,
      voters: three,
      terms: [1],
      hardState: { term: 1, vote: 0, commit: 1 },
    })
    leader.lead()
    const number = read(leader)
    leader.core.step(to(1, 'MsgReadIndex', { from: 2, term: 2, context: 77 }))
    expect(contexts(leader.settle())).toEqual([])
    for (const from of [2, 3]) leader.step(answerOf(from, 1, 2))
    expect(leader.reads).toEqual([])
    const sent = leader.acknowledge([2])
    expect(contexts(sent)).toEqual([
      [2, 1],
      [3, 1],
    ])
    const [answer] = leader
      .step(answerOf(3, 1, 2))
      .filter(({ type }) => type === 'MsgReadIndexResp')
    expect([answer?.to, answer?.context, answer?.index]).toEqual([2, 77, 2])
    expect(leader.reads).toEqual([{ read: number, index: 2 }])
  })

  test('of one voter confirms at once, whatever learners there are', () => {
    const leader = readyLeader([1], [2, 3])
    const number = read(leader)
    expect(contexts(leader.settle())).toEqual([])
    expect(leader.reads).toEqual([{ read: number, index: 1 }])
  })

  test('does not count learners', () => {
    const leader = readyLeader([1, 2], [3, 4])
    const number = read(leader)
    leader.settle()
    for (const from of [3, 4]) leader.step(answerOf(from, 1))
    expect(leader.reads).toEqual([])
    leader.step(answerOf(2, 1))
    expect(leader.reads).toEqual([{ read: number, index: 1 }])
  })

  test('needs both halves of a joint configuration', () => {
    const voters = [1, 2, 3]
    const conf = {
      voters,
      votersOutgoing: [1, 4, 5],
      learners: [],
      learnersNext: [],
      autoLeave: false,
    }
    const leader = new Member({ id: 1, conf })
    leader.lead()
    leader.acknowledge([2, 4])
    const number = read(leader)
    leader.settle()
    for (const from of [2, 3]) leader.step(answerOf(from, 1))
    expect(leader.reads).toEqual([])
    leader.step(answerOf(5, 1))
    expect(leader.reads).toEqual([{ read: number, index: 1 }])
  })

  test.each<[string, (leader: Member) => void]>([
    [
      'steps down',
      leader => leader.step(to(1, 'MsgApp', { from: 2, term: 2, index: 1, logTerm: 1 })),
    ],
    [
      'hands leadership on',
      leader => {
        leader.core.transferLeader(2)
        leader.step(to(1, 'MsgVote', { from: 2, term: 2, index: 1, logTerm: 1, isTransfer: true }))
      },
    ],
  ])('that %s ends the reads that it has not confirmed', (_, stepDown) => {
    const leader = readyLeader()
    const begun = read(leader)
    leader.settle()
    const waiting = read(leader)
    stepDown(leader)
    expect(leader.role).toBe('follower')
    expect(leader.reads).toEqual([
      { read: begun, index: undefined },
      { read: waiting, index: undefined },
    ])
    leader.step(answerOf(2, 1))
    expect(leader.reads).toHaveLength(2)
  })
})

describe('a follower', () => {
  /** Member 2 follows member 1 in term 1. */
  function follower(): Member {
    const member = new Member({ id: 2, voters: three })
    member.step(to(2, 'MsgApp', { from: 1, term: 1, entries: [entry(1, 1)], commit: 1 }))
    return member
  }

  test('asks its leader, once for all reads of a turn', () => {
    const group = Group.of(3)
    group.campaign(1)
    group.propose(1, 'x')
    const numbers = [read(group.at(2)), read(group.at(2))]
    group.run()
    expect(group.delivered.filter(({ type }) => type === 'MsgReadIndex')).toHaveLength(1)
    expect(group.at(2).reads).toEqual(numbers.map(number => ({ read: number, index: 2 })))
  })

  test('that knows no leader reads nothing', () => {
    const member = new Member({ id: 2, voters: three })
    expect(member.core.readIndex()).toBeUndefined()
    member.core.campaign()
    member.settle()
    expect(member.core.readIndex()).toBeUndefined()
    expect(member.reads).toEqual([])
  })

  test('gets an answer only to what it asked, and once', () => {
    const member = follower()
    const number = read(member)
    const [question] = member.settle()
    const context = question?.context ?? 0
    const answer = { from: 1, term: 1, index: 5 }
    member.step(to(2, 'MsgReadIndexResp', { ...answer, context: context + 1 }))
    expect(member.reads).toEqual([])
    member.step(to(2, 'MsgReadIndexResp', { ...answer, context }))
    member.step(to(2, 'MsgReadIndexResp', { ...answer, context, index: 6 }))
    expect(member.reads).toEqual([{ read: number, index: 5 }])
  })

  test('takes no answer to a question of before its restart', () => {
    const member = follower()
    read(member)
    const [question] = member.settle()
    const again = new Member({
      id: 2,
      voters: three,
      hardState: member.hard,
      log: member.log,
      random: n => n - 1,
    })
    again.step(to(2, 'MsgHeartbeat', { from: 1, term: 1, commit: 1 }))
    read(again)
    again.settle()
    again.step(
      to(2, 'MsgReadIndexResp', { from: 1, term: 1, index: 1, context: question?.context ?? 0 }),
    )
    expect(again.reads).toEqual([])
  })

  test.each<[string, (member: Member) => void]>([
    ['another leader', member => member.step(to(2, 'MsgHeartbeat', { from: 3, term: 2 }))],
    [
      'its own election',
      member => {
        member.core.campaign()
        member.settle()
      },
    ],
    [
      'an election timeout without an answer',
      member => {
        for (let at = 0; at < electionTick; at++) {
          member.step(to(2, 'MsgHeartbeat', { from: 1, term: 1 }))
          member.tick()
        }
      },
    ],
  ])('ends its reads by %s', (_, happen) => {
    const member = follower()
    const number = read(member)
    const [question] = member.settle()
    expect(question?.type).toBe('MsgReadIndex')
    happen(member)
    expect(member.reads).toEqual([{ read: number, index: undefined }])
    member.step(
      to(2, 'MsgReadIndexResp', { from: 1, term: 2, index: 9, context: question?.context ?? 0 }),
    )
    expect(member.reads).toHaveLength(1)
  })

  test('does not answer for its leader', () => {
    const member = follower()
    expect(member.step(to(2, 'MsgReadIndex', { from: 3, term: 1, context: 4 }))).toEqual([])
  })
})

test('an index never lies behind what was committed before the read, in a cut-off group', () => {
  const group = Group.of(3)
  group.campaign(1)
  group.isolate(1)
  group.campaign(2)
  group.propose(2, 'newer')
  const stale = read(group.at(1))
  group.run()
  group.tick(1, 3)
  expect(group.at(1).reads).toEqual([])
  group.heal()
  group.tick(2)
  expect(group.at(1).reads).toEqual([{ read: stale, index: undefined }])
  const fresh = read(group.at(1))
  group.run()
  expect(group.at(1).reads.at(-1)).toEqual({ read: fresh, index: 3 })
})
