import { expect, test } from 'bun:test'
import pino from 'pino'
import { PeerWatch } from '../../src/cluster/peer-watch.ts'
import { RaftLog } from '../../src/cluster/raft-log.ts'
import type { PeerState } from '../../src/cluster/types.ts'

function makeLog() {
  const lines: Record<string, unknown>[] = []
  const stream = { write: (line: string) => void lines.push(JSON.parse(line)) }
  const log = pino(
    { base: null, timestamp: false, formatters: { level: level => ({ level }) } },
    stream,
  )
  const time = { ms: 0 }
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms }
  return { lines, log, clock, time, taken: () => lines.splice(0) }
}

function makeRaftLog() {
  const parts = makeLog()
  return { ...parts, raft: new RaftLog({ ...parts, heartbeatGapMs: 130 }) }
}

test('who leads is told once for each change', () => {
  const { raft, taken } = makeRaftLog()
  raft.leaderChanged('follower', 0, 0)
  expect(taken()).toEqual([])
  raft.leaderChanged('follower', 2, 1)
  raft.leaderChanged('follower', 2, 1)
  raft.leaderChanged('pre-candidate', 0, 1)
  raft.leaderChanged('candidate', 0, 2)
  raft.leaderChanged('leader', 1, 2)
  raft.leaderChanged('leader', 1, 2)
  raft.leaderChanged('follower', 3, 4)
  expect(taken()).toEqual([
    { level: 'info', term: 1, leader: 2, msg: 'follows a leader' },
    { level: 'warn', term: 1, leader: 2, msg: 'lost the leader' },
    { level: 'info', term: 2, msg: 'became leader' },
    { level: 'warn', term: 4, leader: 3, msg: 'is not leader any more' },
  ])
})

test('what repeats is told every ten seconds, with the worst and how often', () => {
  const { raft, time, taken } = makeRaftLog()
  raft.fsync(99)
  expect(taken()).toEqual([])
  raft.fsync(150.4)
  for (let at = 0; at < 5; at += 1) raft.fsync(200 + at)
  const msg = 'the disk is slow: a write of the log took long'
  expect(taken()).toEqual([{ level: 'warn', ms: 150, msg }])
  time.ms = 10_000
  raft.fsync(101)
  expect(taken()).toEqual([{ level: 'warn', ms: 204, untold: 5, msg }])
})

test('each kind of trouble has its line, and good days have none', () => {
  const { raft, taken } = makeRaftLog()
  raft.applied(3, 10)
  raft.heartbeatGap(60)
  raft.stall(20)
  raft.proposed()
  raft.proposal()
  expect(taken()).toEqual([])
  raft.applied(3, 500)
  raft.heartbeatGap(200)
  raft.leaderChanged('leader', 1, 1)
  raft.heartbeatGap(300)
  raft.stall(400)
  raft.electionTimeout(7)
  raft.diskFull()
  expect(taken().map(({ level, ms, msg }) => [level, ms, msg])).toEqual([
    ['warn', 500, 'applying changes took long'],
    ['warn', 200, 'the leader was silent for long'],
    ['info', undefined, 'became leader'],
    ['warn', 300, 'heartbeats left late: this node or its disk is overloaded'],
    ['warn', 400, 'fnd stood still: the machine is overloaded'],
    ['warn', undefined, 'there is no word from a leader: stands for election'],
    ['error', undefined, 'the data directory is out of space: changes are refused'],
  ])
})

test('snapshots are told with their size', () => {
  const { raft, taken } = makeRaftLog()
  raft.snapshot('built', 0, 1000, 20.2)
  raft.snapshot('sent', 2, 1000, 30)
  raft.snapshot('send-failed', 3, 0, 0)
  raft.snapshot('installed', 0, 0, 5)
  raft.snapshot('install-failed', 0, 0, 5)
  expect(taken()).toMatchObject([
    { level: 'info', bytes: 1000, ms: 20, msg: 'built a snapshot' },
    { level: 'info', node: 2, bytes: 1000, msg: 'sent a snapshot' },
    { level: 'warn', node: 3, msg: 'a snapshot was not taken; it is sent again' },
    { level: 'info', msg: 'installed a snapshot' },
    { level: 'error', msg: 'a snapshot could not be installed' },
  ])
})

test('connections are told when they come and go, round trips once each', () => {
  const { log, taken } = makeLog()
  const rtts: [number, number][] = []
  const forgotten: number[] = []
  let states: (PeerState & { problem?: string })[] = []
  const watch = new PeerWatch({
    states: () => states,
    log,
    rtt: (peer, ms) => void rtts.push([peer, ms]),
    forget: peer => void forgotten.push(peer),
  })
  const state = (isConnected: boolean, rttMs?: number) =>
    ({ id: 2, address: 'b:1', isConnected, rttMs, lastHeardMs: 0, skewMs: 0 }) as const
  for (const [isConnected, rttMs] of [
    [false, undefined],
    [true, undefined],
    [true, 1.5],
    [true, 1.5],
    [true, 2.5],
  ] as const) {
    states = [state(isConnected, rttMs)]
    watch.look()
  }
  states = [{ ...state(false, 2.5), problem: 'it has gone silent' }]
  watch.look()
  states = []
  watch.look()
  expect(rtts).toEqual([
    [2, 1.5],
    [2, 2.5],
  ])
  expect(forgotten).toEqual([2])
  expect(taken()).toEqual([
    { level: 'info', node: 2, address: 'b:1', msg: 'connected to a node' },
    {
      ...{ level: 'warn', node: 2, address: 'b:1', why: 'it has gone silent' },
      msg: 'lost the connection to a node',
    },
  ])
})
