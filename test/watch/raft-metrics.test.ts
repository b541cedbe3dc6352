import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { noObserver, tellBoth } from '../../src/raft/observer.ts'
import { Metrics } from '../../src/watch/metrics.ts'
import { LongestRecently, RaftRecorder } from '../../src/watch/raft-recorder.ts'
import { parseMetrics } from './exposition.ts'
import { seed } from './seed.ts'

function makeMetrics() {
  const time = { ms: 0 }
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms }
  return { metrics: new Metrics({ clock, version: '1', commit: 'c' }), time }
}

test('what the driver tells is in the metrics', async () => {
  const { metrics, time } = makeMetrics()
  const raft = tellBoth(noObserver, metrics.raft)
  raft.fsync(3)
  raft.fsync(150)
  raft.applied(7, 0.3)
  raft.proposed(5)
  raft.proposal('committed', 2)
  raft.proposal('no-leader', 1)
  raft.leaderChanged('follower', 2, 1)
  raft.leaderChanged('pre-candidate', 0, 1)
  raft.leaderChanged('follower', 2, 1)
  raft.leaderChanged('leader', 1, 2)
  raft.electionTimeout(1)
  raft.diskFull()
  raft.snapshot('built', 0, 5000, 40)
  raft.snapshot('sent', 2, 5000, 60)
  raft.heartbeatGap(80)
  raft.stall(25)
  time.ms = 120_000
  raft.heartbeatGap(50)
  metrics.raft.rtt(2, 1.5)
  metrics.raft.rtt(3, 1.5)
  metrics.raft.forgetPeer(3)
  const parsed = parseMetrics(await metrics.scrape())
  const values = [
    ['fnd_raft_fsync_seconds_count', {}, 2],
    ['fnd_raft_fsync_seconds_bucket', { le: '0.004' }, 1],
    ['fnd_raft_slow_fsyncs_total', {}, 1],
    ['fnd_raft_apply_seconds_count', {}, 1],
    ['fnd_raft_applied_entries_total', {}, 7],
    ['fnd_raft_proposals_pending', {}, 2],
    ['fnd_raft_proposals_committed_total', {}, 2],
    ['fnd_raft_proposals_failed_total', { reason: 'no-leader' }, 1],
    ['fnd_raft_proposals_failed_total', { reason: 'lost' }, 0],
    ['fnd_raft_proposals_failed_total', { reason: 'committed' }, undefined],
    ['fnd_raft_leader_changes_total', {}, 2],
    ['fnd_raft_election_timeouts_total', {}, 1],
    ['fnd_raft_disk_full_total', {}, 1],
    ['fnd_raft_snapshots_total', { event: 'sent' }, 1],
    ['fnd_raft_snapshot_bytes_total', { event: 'built' }, 5000],
    ['fnd_raft_snapshot_last_bytes', {}, 5000],
    ['fnd_raft_snapshot_seconds_count', {}, 2],
    ['fnd_raft_heartbeat_gap_seconds', { since: 'start' }, 0.08],
    ['fnd_raft_heartbeat_gap_seconds', { since: 'minute' }, 0.05],
    ['fnd_raft_stall_seconds', { since: 'start' }, 0.025],
    ['fnd_raft_stall_seconds', { since: 'minute' }, 0],
    ['fnd_raft_rtt_seconds_count', { peer: '2' }, 1],
    ['fnd_raft_rtt_seconds_count', { peer: '3' }, undefined],
  ] as const
  for (const [name, labels, value] of values) {
    expect([name, labels, parsed.value(name, labels)]).toEqual([name, labels, value])
  }
})

test('members and bundles are read when somebody asks', async () => {
  const { metrics } = makeMetrics()
  metrics.watch({
    raft: () => ({
      ...{ term: 4, commitIndex: 9, appliedIndex: 7, lastIndex: 12, logEntries: 5 },
      ...{ isLeader: false, hasLeader: true, isVoter: false },
    }),
    peers: () => [
      { id: 2, isConnected: true, droppedTotal: 3, matchLag: 6 },
      { id: 3, isConnected: false, droppedTotal: 0, matchLag: undefined },
    ],
    bundles: () => ({
      ...{ sentTotal: 1, sentBytesTotal: 100, sendFailuresTotal: 2, fetchedTotal: 3 },
      ...{ fetchedBytesTotal: 300, fetchFailuresTotal: 4, missing: 5, callsHeld: 6 },
    }),
  })
  const parsed = parseMetrics(await metrics.scrape())
  const values = [
    ['fnd_raft_has_leader', {}, 1],
    ['fnd_raft_is_leader', {}, 0],
    ['fnd_raft_is_voter', {}, 0],
    ['fnd_raft_apply_lag', {}, 2],
    ['fnd_raft_last_index', {}, 12],
    ['fnd_raft_peers_connected', {}, 1],
    ['fnd_raft_peer_connected', { peer: '3' }, 0],
    ['fnd_raft_peer_match_lag', { peer: '2' }, 6],
    ['fnd_raft_peer_match_lag', { peer: '3' }, undefined],
    ['fnd_raft_messages_dropped_total', { peer: '2' }, 3],
    ['fnd_bundles_fetched_bytes_total', {}, 300],
    ['fnd_bundles_missing', {}, 5],
    ['fnd_bundle_calls_held', {}, 6],
  ] as const
  for (const [name, labels, value] of values) {
    expect([name, labels, parsed.value(name, labels)]).toEqual([name, labels, value])
  }
})

test('the longest of the last minute is at most five seconds too old, and never too small', () => {
  const step = fc.record({ afterMs: fc.nat(20_000), value: fc.nat(1000) })
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), steps => {
      const longest = new LongestRecently()
      const noted: { atMs: number; value: number }[] = []
      let nowMs = 0
      for (const { afterMs, value } of steps) {
        nowMs += afterMs
        longest.note(value, nowMs)
        noted.push({ atMs: nowMs, value })
        const within = (ms: number) =>
          Math.max(0, ...noted.filter(({ atMs }) => nowMs - atMs < ms).map(one => one.value))
        const recent = longest.recent(nowMs)
        expect(recent).toBeGreaterThanOrEqual(within(55_000))
        expect(recent).toBeLessThanOrEqual(within(60_000))
      }
      expect(longest.longest).toBe(Math.max(...noted.map(({ value }) => value)))
    }),
    { seed },
  )
})

test('what watching costs the driver', () => {
  const raft = new RaftRecorder({ nowMs: () => 0, monotonicMs: () => performance.now() })
  const times = 300_000
  const startMs = performance.now()
  for (let at = 0; at < times; at += 1) {
    raft.proposed(1)
    raft.fsync((at % 100) / 10)
    raft.applied(1, (at % 100) / 50)
    raft.proposal('committed', 1)
    raft.heartbeatGap(40)
  }
  // Printed, not asserted: a shared machine has no steady nanosecond.
  console.log(`five notes: ${(((performance.now() - startMs) * 1e6) / times).toFixed(0)} ns`)
  expect(raft.pending).toBe(0)
})
