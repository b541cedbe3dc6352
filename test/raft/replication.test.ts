/** Flow control, backtracking, limits, snapshots, and messages that come late or twice. */
import { describe, expect, test } from 'bun:test'
import { emptyConf } from '../../src/raft/confchange.ts'
import { entrySize } from '../../src/raft/log.ts'
import type { Message } from '../../src/raft/types.ts'
import { bytesOf, entry, Group, Member, type MemberOptions, to } from './members.ts'

const three = [1, 2, 3]

/** A leader of two, of term 1, whose follower is in `replicate` and holds everything. */
function leaderOfTwo(options: Partial<MemberOptions> = {}): Member {
  const leader = new Member({ id: 1, voters: [1, 2], ...options })
  leader.lead()
  leader.acknowledge([2])
  expect(leader.core.status().progress.get(2)?.state).toBe('replicate')
  return leader
}

const appends = (sent: readonly Message[]) => sent.filter(({ type }) => type === 'MsgApp')
const progressOf = (leader: Member, id: number) => leader.core.status().progress.get(id)

describe('flow control', () => {
  test('a full window stops entries, and opens by an acknowledgement', () => {
    const leader = leaderOfTwo({ inflightMax: 3 })
    for (const index of [2, 3, 4])
      expect(appends(leader.propose('x'))[0]?.entries[0]?.index).toBe(index)
    expect(progressOf(leader, 2)).toMatchObject({
      inflight: 3,
      isInflightFull: true,
      isPaused: true,
    })
    expect(appends(leader.propose('x'))).toEqual([])
    // What is older than the window opens nothing.
    expect(appends(leader.acknowledge([2], 1))).toEqual([])
    const [sent] = appends(leader.acknowledge([2], 3)).filter(({ entries }) => entries.length > 0)
    expect(sent?.entries.map(({ index }) => index)).toEqual([5])
  })

  test('a full window still lets the commit index through, by heartbeats (etcd#14633)', () => {
    const leader = new Member({ id: 1, voters: three, inflightMax: 2 })
    leader.lead()
    leader.acknowledge([2, 3])
    for (let at = 0; at < 2; at++) leader.propose('x')
    leader.acknowledge([3])
    expect(leader.core.commit).toBe(3)
    expect(progressOf(leader, 2)?.isPaused).toBe(true)
    const sent = appends(leader.step(to(1, 'MsgHeartbeatResp', { from: 2, term: 1 })))
    expect(sent.map(({ entries, commit }) => [entries.length, commit])).toEqual([[0, 3]])
  })

  test('the window is bounded by bytes too; one message may exceed it', () => {
    const size = entrySize(entry(1, 1, 'x'.repeat(100)))
    const leader = leaderOfTwo({ inflightBytesMax: size * 2 })
    for (let at = 0; at < 2; at++) expect(appends(leader.propose('x'.repeat(100)))).toHaveLength(1)
    expect(appends(leader.propose('x'))).toEqual([])
    leader.acknowledge([2])
    expect(appends(leader.propose('x'.repeat(1000)))).toHaveLength(1)
    expect(progressOf(leader, 2)?.isInflightFull).toBe(true)
  })

  test('a message holds entries up to its bound, at least one', () => {
    const size = entrySize(entry(1, 1, 'four'))
    const leader = leaderOfTwo({ messageBytesMax: size * 2 })
    leader.core.propose(['four', 'more', 'less', 'last'].map(bytesOf))
    const first = appends(leader.settle())
    expect(first.map(({ entries }) => entries.length)).toEqual([2])
    const rest = appends(leader.acknowledge([2], 3))
    expect(rest.flatMap(({ entries }) => entries.map(({ index }) => index))).toEqual([4, 5])
    const [sent] = appends(leader.propose('x'.repeat(10 * size)))
    expect(sent?.entries).toHaveLength(1)
  })

  test('while probing, one message waits for its answer', () => {
    const leader = leaderOfTwo()
    leader.core.reportUnreachable(2)
    expect(progressOf(leader, 2)?.state).toBe('probe')
    expect(appends(leader.propose('x'))).toHaveLength(1)
    expect(appends(leader.propose('x'))).toEqual([])
    expect(appends(leader.step(to(1, 'MsgHeartbeatResp', { from: 2, term: 1 })))).toHaveLength(1)
    leader.acknowledge([2])
    expect(progressOf(leader, 2)?.state).toBe('replicate')
  })

  test('committed entries come in parts of bounded bytes', () => {
    const member = new Member({ id: 1, voters: three, committedBytesMax: 1 })
    const entries = [1, 2, 3].map(index => entry(index, 1, 'x'))
    member.core.step(to(1, 'MsgApp', { from: 2, term: 1, entries, commit: 3 }))
    const counts: number[] = []
    while (member.core.hasReady()) {
      member.handle()
      counts.push(member.applied.length)
    }
    expect(counts).toEqual([1, 2, 3])
  })

  test('proposals are refused beyond the bound of what is not committed', () => {
    const leader = leaderOfTwo({ uncommittedBytesMax: 10 })
    const refused = { ok: false, reason: 'too-much-uncommitted' } as const
    // The first may be of any size.
    expect(leader.core.propose([new Uint8Array(20)]).ok).toBe(true)
    expect(leader.core.propose([new Uint8Array(1)])).toEqual(refused)
    const prop = to(1, 'MsgProp', { from: 2, entries: [entry(0, 0, 'x')] })
    expect(leader.core.step(prop)).toBe('too-much-uncommitted')
    leader.settle()
    leader.acknowledge([2])
    expect(leader.core.propose([new Uint8Array(9)]).ok).toBe(true)
    expect(leader.core.propose([new Uint8Array(2)])).toEqual(refused)
    expect(leader.core.propose([new Uint8Array(0)]).ok).toBe(true)
  })
})

describe('late and doubled messages', () => {
  test('appends that come in any order lead to the same log', () => {
    const leader = leaderOfTwo()
    const sent: Message[] = []
    for (let at = 0; at < 4; at++) sent.push(...appends(leader.propose(`data ${at}`)))
    const follower = new Member({ id: 2, voters: [1, 2] })
    const start = { from: 1, term: 1, entries: [entry(1, 1)] }
    follower.step(to(2, 'MsgApp', start))
    const answers: Message[] = []
    for (const at of [1, 3, 0, 0, 1, 2, 3, 0, 2]) {
      const message = sent[at]
      if (message !== undefined) answers.push(...follower.step(message))
    }
    expect(follower.core.lastIndex).toBe(5)
    for (const answer of answers) leader.step(answer)
    expect([leader.core.commit, progressOf(leader, 2)?.match]).toEqual([5, 5])
  })

  test('an old append behind the commit index is answered by it, and truncates nothing', () => {
    const follower = new Member({ id: 2, voters: [1, 2] })
    const entries = [1, 2, 3].map(index => entry(index, 1))
    follower.step(to(2, 'MsgApp', { from: 1, term: 1, entries, commit: 2 }))
    const old = to(2, 'MsgApp', { from: 1, term: 1, entries: entries.slice(0, 1) })
    expect(follower.step(old).map(({ index, reject }) => [index, reject])).toEqual([[2, false]])
    expect(follower.core.lastIndex).toBe(3)
    // At the commit index, an old one that ends earlier keeps what is behind it.
    const atCommit = to(2, 'MsgApp', { from: 1, term: 1, index: 2, logTerm: 1 })
    expect(follower.step(atCommit).map(({ index }) => index)).toEqual([2])
    expect(follower.core.lastIndex).toBe(3)
  })

  test('what is behind the entries of an append is not committed by it', () => {
    const follower = new Member({ id: 2, voters: three, terms: [1, 1, 1] })
    const append = { from: 1, term: 2, index: 1, logTerm: 1, commit: 3 }
    follower.step(to(2, 'MsgApp', append))
    expect([follower.core.commit, follower.core.lastIndex]).toEqual([1, 3])
  })

  test('a committed entry is never replaced: that ends the process', () => {
    const follower = new Member({ id: 2, voters: [1, 2] })
    follower.step(
      to(2, 'MsgApp', { from: 1, term: 1, entries: [entry(1, 1), entry(2, 1)], commit: 2 }),
    )
    const wrong = to(2, 'MsgHeartbeat', { from: 1, term: 1, commit: 3 })
    expect(() => follower.core.step(wrong)).toThrow('nothing is committed beyond the end')
    const snapshot = { index: 2, term: 2, confState: emptyConf, data: '' }
    follower.step(to(2, 'MsgSnap', { from: 1, term: 2, snapshot }))
    expect(follower.core.lastIndex).toBe(2)
  })

  test('a stale rejection does not lower what is known to be durable', () => {
    const leader = leaderOfTwo()
    leader.propose('x')
    leader.acknowledge([2])
    const stale = { from: 2, term: 1, index: 1, reject: true, rejectHint: 0 }
    expect(leader.step(to(1, 'MsgAppResp', stale))).toEqual([])
    expect(progressOf(leader, 2)).toMatchObject({ state: 'replicate', match: 2, next: 3 })
    // One that is not stale leads back to what is durable, not below it.
    leader.propose('y')
    leader.step(to(1, 'MsgAppResp', { ...stale, index: 3 }))
    expect(progressOf(leader, 2)).toMatchObject({ state: 'probe', match: 2, next: 3 })
    leader.step(to(1, 'MsgAppResp', { ...stale, index: 2 }))
    expect(progressOf(leader, 2)).toMatchObject({ match: 2, next: 3 })
  })

  test('the acknowledgement of a log that was reverted does not count', () => {
    const leader = new Member({ id: 1, voters: three })
    leader.lead()
    leader.core.propose([bytesOf('lost'), bytesOf('lost too')])
    const lost = leader.core.ready()
    expect(lost?.entries.map(({ index, term }) => [index, term])).toEqual([
      [2, 1],
      [3, 1],
    ])
    // While they are being written, another leader replaces them, and this node wins again.
    const entries = [entry(1, 1), entry(2, 2)]
    leader.core.step(to(1, 'MsgApp', { from: 2, term: 2, entries }))
    leader.core.step(to(1, 'MsgTimeoutNow', { from: 2, term: 2 }))
    leader.log.persist(lost ?? { snapshot: undefined, entries: [] })
    leader.core.advance()
    const next = leader.core.ready()
    expect(next?.entries.map(({ index, term }) => [index, term])).toEqual([[2, 2]])
    leader.log.persist(next ?? { snapshot: undefined, entries: [] })
    leader.core.advance()
    for (const from of [2, 3]) leader.core.step(to(1, 'MsgVoteResp', { from, term: 3 }))
    leader.settle()
    expect([leader.role, leader.core.term, leader.core.commit]).toEqual(['leader', 3, 0])
    expect(progressOf(leader, 1)?.match).toBe(3)
    leader.acknowledge([2])
    expect(leader.core.commit).toBe(3)
  })

  test('the acknowledgement of an earlier term does not count: the entries may be gone', () => {
    const leader = new Member({ id: 1, voters: three, terms: [1, 1, 1] })
    leader.lead()
    const { term } = leader.core
    leader.step(to(1, 'MsgAppResp', { from: 2, term: term - 1, index: 3 }))
    expect(progressOf(leader, 2)?.match).toBe(0)
    leader.step(to(1, 'MsgAppResp', { from: 2, term, index: 3 }))
    expect(progressOf(leader, 2)?.match).toBe(3)
  })

  test('both sides skip whole terms when a follower diverged', () => {
    const terms = Array.from({ length: 100 }, (_, at) => (at < 10 ? 1 : 3))
    const other = Array.from({ length: 100 }, (_, at) => (at < 10 ? 1 : 2))
    const hardState = { term: 3, vote: 0, commit: 0 }
    const group = new Group([
      new Member({ id: 1, voters: three, terms, hardState }),
      new Member({ id: 2, voters: three, terms: other, hardState }),
      new Member({ id: 3, voters: three, terms, hardState }),
    ])
    group.campaign(1)
    const rejections = group.delivered.filter(({ type, reject }) => type === 'MsgAppResp' && reject)
    expect(rejections.length).toBeLessThanOrEqual(2)
    expect(group.at(2).core.commit).toBe(101)
  })
})

describe('snapshots', () => {
  const confState = { ...emptyConf, voters: three }
  const snapshot = { index: 11, term: 11, confState, data: 'eleven' }
  const withSnapshot = { from: 1, term: 11, snapshot }

  test('one takes the place of log and configuration, in the next Ready', () => {
    const member = new Member({ id: 2, voters: [1], terms: [1, 1] })
    member.core.step(to(2, 'MsgSnap', withSnapshot))
    const ready = member.core.ready()
    expect(ready?.snapshot).toEqual(snapshot)
    expect(ready?.hard?.commit).toBe(11)
    expect(ready?.committed).toEqual([])
    expect(ready?.answers.map(({ type, index }) => [type, index])).toEqual([['MsgAppResp', 11]])
    expect(member.core.takeMessages()).toEqual([])
    member.log.persist(ready ?? { snapshot: undefined, entries: [] })
    member.core.advance()
    expect(member.core.status()).toMatchObject({
      lastIndex: 11,
      commit: 11,
      applied: 11,
      confState,
    })
    const append = {
      from: 1,
      term: 11,
      index: 11,
      logTerm: 11,
      entries: [entry(12, 11)],
      commit: 12,
    }
    member.step(to(2, 'MsgApp', append))
    expect(member.applied.map(({ index }) => index)).toEqual([12])
  })

  test('entries behind one that is not installed yet are kept for the same Ready', () => {
    const member = new Member({ id: 2, voters: three })
    member.core.step(to(2, 'MsgSnap', withSnapshot))
    const append = {
      from: 1,
      term: 11,
      index: 11,
      logTerm: 11,
      entries: [entry(12, 11)],
      commit: 12,
    }
    member.core.step(to(2, 'MsgApp', append))
    const ready = member.core.ready()
    expect([ready?.snapshot?.index, ready?.entries.map(({ index }) => index)]).toEqual([11, [12]])
    expect(ready?.committed).toEqual([])
    member.log.persist(ready ?? { snapshot: undefined, entries: [] })
    member.core.advance()
    member.settle()
    expect(member.applied.map(({ index }) => index)).toEqual([12])
  })

  test('one that is older than the commit index is ignored, and so is another group', () => {
    const hardState = { term: 11, vote: 0, commit: 12 }
    const terms = Array.from({ length: 12 }, () => 11)
    const member = new Member({ id: 2, voters: three, terms, hardState })
    member.settle()
    const [answer] = member.step(to(2, 'MsgSnap', withSnapshot))
    expect([answer?.type, answer?.index, member.core.lastIndex]).toEqual(['MsgAppResp', 12, 12])
    const foreign = { ...snapshot, index: 50, confState: { ...emptyConf, voters: [1, 3] } }
    member.step(to(2, 'MsgSnap', { ...withSnapshot, snapshot: foreign }))
    expect(member.core.lastIndex).toBe(12)
  })

  test('one that is older than a log without entries is ignored', () => {
    const base = { ...snapshot, index: 12 }
    const member = new Member({ id: 2, base, hardState: { term: 11, vote: 0, commit: 12 } })
    const [answer] = member.step(to(2, 'MsgSnap', withSnapshot))
    expect([answer?.index, member.core.commit, member.core.lastIndex]).toEqual([12, 12, 12])
  })

  test('one whose last entry is in the log only moves the commit index', () => {
    const terms = Array.from({ length: 12 }, () => 11)
    const member = new Member({ id: 2, voters: three, terms })
    const [answer] = member.step(to(2, 'MsgSnap', withSnapshot))
    expect([answer?.index, member.core.commit, member.core.lastIndex]).toEqual([11, 11, 12])
    expect(member.applied).toHaveLength(11)
  })

  test.each([
    ['learner', { ...emptyConf, voters: [1, 3], learners: [2] }],
    ['outgoing voter', { ...emptyConf, voters: [1, 3], votersOutgoing: [1, 2] }],
    ['voter', confState],
  ])('a %s takes one', (_, conf) => {
    const member = new Member({ id: 2, voters: [1] })
    member.step(to(2, 'MsgSnap', { ...withSnapshot, snapshot: { ...snapshot, confState: conf } }))
    expect(member.core.status()).toMatchObject({ commit: 11, confState: conf })
  })

  test('one that comes while a change of the configuration is being applied waits for it', () => {
    const group = Group.of(3)
    group.campaign(1)
    group.isolate(3)
    const changes = [{ type: 'add-learner', nodeId: 4 }] as const
    group.at(1).core.proposeConf('conf-v2', { transition: 'auto', changes })
    group.run()
    const { log, core } = group.at(1)
    const entries = log.entries(2, log.lastIndex + 1, Infinity)
    const third = group.at(3)
    third.core.step(
      to(3, 'MsgApp', { from: 1, term: 1, index: 1, logTerm: 1, entries, commit: core.commit }),
    )
    const ready = third.core.ready()
    third.log.persist(ready ?? { snapshot: undefined, entries: [] })
    const later = { index: 20, term: 1, confState: { ...emptyConf, voters: [1, 3] }, data: '' }
    third.core.step(to(3, 'MsgSnap', { from: 1, term: 1, snapshot: later }))
    const change = { transition: 'auto', changes } as const
    expect(third.core.applyConf(change)).toEqual({ ...emptyConf, voters: three, learners: [4] })
    third.core.advance()
    expect(third.core.status().confState).toEqual(later.confState)
    expect(third.core.ready()?.snapshot).toEqual(later)
  })

  test('a follower behind the beginning of the log gets one, if it is alive', () => {
    const group = Group.of(3)
    group.campaign(1)
    group.isolate(3)
    for (let at = 0; at < 5; at++) group.propose(1, `data ${at}`)
    const leader = group.at(1)
    leader.compact()
    leader.core.status()
    group.heal()
    group.propose(1, 'more')
    expect(progressOf(leader, 3)?.state).not.toBe('snapshot')
    group.tick(1)
    const [sent] = group.delivered.filter(({ type }) => type === 'MsgSnap')
    expect(sent?.snapshot?.index).toBe(6)
    expect(group.at(3).core.commit).toBe(7)
    expect(progressOf(leader, 3)?.state).toBe('replicate')
  })

  test.each([true, false])('reports that it went there (%p) end the waiting', isOk => {
    const group = Group.of(3)
    group.campaign(1)
    group.isolate(3)
    for (let at = 0; at < 5; at++) group.propose(1, `data ${at}`)
    const leader = group.at(1)
    leader.compact()
    group.filter(({ type, to: id }) => !(type === 'MsgSnap' && id === 3))
    group.tick(1)
    expect(progressOf(leader, 3)).toMatchObject({ state: 'snapshot', pendingSnapshot: 6 })
    group.tick(1, 3)
    expect(progressOf(leader, 3)?.state).toBe('snapshot')
    leader.core.reportSnapshot(3, isOk)
    expect(progressOf(leader, 3)).toMatchObject({
      state: 'probe',
      next: isOk ? 7 : 2,
      isPaused: true,
    })
    group.heal()
    group.tick(1, 2)
    // The follower's rejection tells the leader when the snapshot never got there.
    group.tick(1, 2)
    expect(group.at(3).core.commit).toBe(6)
    expect(progressOf(leader, 3)?.state).toBe('replicate')
  })

  test('none is sent while the state machine has none to give', () => {
    const group = Group.of(3)
    group.campaign(1)
    group.isolate(3)
    group.propose(1, 'one')
    const leader = group.at(1)
    leader.compact()
    leader.log.newest = undefined
    group.heal()
    group.tick(1, 3)
    expect(progressOf(leader, 3)?.state).toBe('probe')
    leader.log.newest = leader.snapshotHere()
    group.tick(1, 2)
    expect(group.at(3).core.commit).toBe(2)
  })
})

describe('restarts', () => {
  test('a member goes on with what it persisted', () => {
    const group = Group.of(3)
    group.campaign(1)
    group.propose(1, 'one')
    for (const member of group.members.values()) member.restart()
    expect(group.at(1).core.hasReady()).toBe(false)
    expect(group.roles).toEqual(['follower', 'follower', 'follower'])
    group.campaign(2)
    group.propose(2, 'two')
    expect([...group.members.values()].map(({ words }) => words)).toEqual([
      ['one', 'two'],
      ['one', 'two'],
      ['one', 'two'],
    ])
  })

  test('a commit index that was not flushed may be behind what is applied', () => {
    const terms = [1, 1, 1]
    const hardState = { term: 1, vote: 0, commit: 1 }
    const member = new Member({ id: 1, voters: [1], terms, hardState, applied: 3 })
    member.core.campaign()
    member.settle()
    expect(member.applied.map(({ index }) => index)).toEqual([4])
  })

  test.each([
    [{ applied: 4 }, 'what is applied was persisted before'],
    [{ hardState: { term: 1, vote: 0, commit: 9 } }, 'what is committed here was persisted'],
  ])('a log that ends before %p is refused', (options, fault) => {
    expect(() => new Member({ id: 1, voters: [1], terms: [1, 1, 1], ...options })).toThrow(fault)
  })
})
