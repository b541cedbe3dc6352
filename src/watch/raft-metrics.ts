/** The Raft group and what travels in it, under names that whoever runs etcd will recognise. */
import type { RaftRecorder } from './raft-recorder.ts'
import type { Sample, SeriesRegistry } from './series.ts'
import type { BundleStats, RaftPeerStats, RaftStats } from './sources.ts'

type Kind = 'counter' | 'gauge'
type Row<T> = readonly [name: string, type: Kind, help: string, read: (from: T) => number]

const statRows: readonly Row<RaftStats>[] = [
  ['fnd_raft_term', 'gauge', 'Current term', raft => raft.term],
  ['fnd_raft_is_leader', 'gauge', '1 on the leader', raft => Number(raft.isLeader)],
  ['fnd_raft_has_leader', 'gauge', '0 while no leader is known', raft => Number(raft.hasLeader)],
  ['fnd_raft_is_voter', 'gauge', '0 on a learner', raft => Number(raft.isVoter)],
  ['fnd_raft_commit_index', 'gauge', 'Index of the last committed entry', raft => raft.commitIndex],
  ['fnd_raft_applied_index', 'gauge', 'Index of the last applied entry', raft => raft.appliedIndex],
  ['fnd_raft_last_index', 'gauge', 'Index of the last entry of the log', raft => raft.lastIndex],
  [
    'fnd_raft_apply_lag',
    'gauge',
    'Committed entries that are not applied',
    raft => Math.max(0, raft.commitIndex - raft.appliedIndex),
  ],
  ['fnd_raft_log_entries', 'gauge', 'Entries held in the log', raft => raft.logEntries],
]

const recorderRows: readonly Row<RaftRecorder>[] = [
  ['fnd_raft_leader_changes_total', 'counter', 'Leaders seen', of => of.leaderChanges],
  [
    'fnd_raft_election_timeouts_total',
    'counter',
    'Times that this node stood for election',
    of => of.electionTimeouts,
  ],
  ['fnd_raft_proposals_pending', 'gauge', 'Changes that wait for their outcome', of => of.pending],
  [
    'fnd_raft_proposals_committed_total',
    'counter',
    'Changes made through this node',
    of => of.proposals.committed,
  ],
  ['fnd_raft_applied_entries_total', 'counter', 'Entries applied', of => of.appliedEntries],
  ['fnd_raft_slow_fsyncs_total', 'counter', 'Fsyncs of over 100 ms', of => of.slowFsyncs],
  ['fnd_raft_slow_applies_total', 'counter', 'Applies of over 100 ms', of => of.slowApplies],
  ['fnd_raft_disk_full_total', 'counter', 'Times that the disk became full', of => of.diskFulls],
  [
    'fnd_raft_snapshot_last_bytes',
    'gauge',
    'Size of the last snapshot',
    of => of.lastSnapshotBytes,
  ],
]

const bundleRows: readonly Row<BundleStats>[] = [
  ['fnd_bundles_sent_total', 'counter', 'Bundles given to other nodes', of => of.sentTotal],
  ['fnd_bundles_sent_bytes_total', 'counter', 'Their size', of => of.sentBytesTotal],
  [
    'fnd_bundle_send_failures_total',
    'counter',
    'Attempts to give one that failed',
    of => of.sendFailuresTotal,
  ],
  ['fnd_bundles_fetched_total', 'counter', 'Bundles had from other nodes', of => of.fetchedTotal],
  ['fnd_bundles_fetched_bytes_total', 'counter', 'Their size', of => of.fetchedBytesTotal],
  [
    'fnd_bundle_fetch_failures_total',
    'counter',
    'Attempts to have one that failed',
    of => of.fetchFailuresTotal,
  ],
  [
    'fnd_bundles_missing',
    'gauge',
    'Bundles that functions need and are not here',
    of => of.missing,
  ],
  ['fnd_bundle_calls_held', 'gauge', 'Calls that wait for a bundle', of => of.callsHeld],
]

/** Those of the driver, which are there whether or not the rest is. */
export function registerRecorder(registry: SeriesRegistry, recorder: RaftRecorder): void {
  registerRows(registry, recorderRows, () => recorder)
  registry.add({
    name: 'fnd_raft_proposals_failed_total',
    type: 'counter',
    help: 'Changes that this node refused or lost, by reason',
    *samples(): Generator<Sample> {
      for (const [reason, value] of Object.entries(recorder.proposals)) {
        if (reason !== 'committed') yield { value, labels: { reason } }
      }
    },
  })
  registerSnapshots(registry, recorder)
  registerLongest(registry, recorder)
  for (const [name, help, buckets] of [
    ['fnd_raft_fsync_seconds', 'Time to bring a write of the log to the disk', recorder.fsyncMs],
    ['fnd_raft_apply_seconds', 'Time to apply a batch of entries', recorder.applyMs],
    ['fnd_raft_snapshot_seconds', 'Time to build, send or install one', recorder.snapshotMs],
  ] as const) {
    const samples = () => buckets.samples(name, noLabels, 0.001)
    registry.add({ name, type: 'histogram', help, samples })
  }
  registry.add({
    name: 'fnd_raft_rtt_seconds',
    type: 'histogram',
    help: 'Round trips to other nodes',
    *samples(): Generator<Sample> {
      for (const [peer, buckets] of recorder.rttMs) {
        yield* buckets.samples('fnd_raft_rtt_seconds', { peer: String(peer) }, 0.001)
      }
    },
  })
}

export function registerRaft(registry: SeriesRegistry, source: () => RaftStats): void {
  registerRows(registry, statRows, source)
}

export function registerPeers(
  registry: SeriesRegistry,
  source: () => readonly RaftPeerStats[],
): void {
  registry.add({
    name: 'fnd_raft_peers_connected',
    type: 'gauge',
    help: 'Other nodes that this one is connected to',
    samples: () => [{ value: source().filter(({ isConnected }) => isConnected).length }],
  })
  const rows: readonly (readonly [
    string,
    Kind,
    string,
    (peer: RaftPeerStats) => number | undefined,
  ])[] = [
    ['fnd_raft_peer_connected', 'gauge', '1 if connected', peer => Number(peer.isConnected)],
    [
      'fnd_raft_peer_match_lag',
      'gauge',
      'Entries that a node has not confirmed; on the leader',
      peer => peer.matchLag,
    ],
    [
      'fnd_raft_messages_dropped_total',
      'counter',
      'Messages not sent, for want of a connection or of room',
      peer => peer.droppedTotal,
    ],
  ]
  for (const [name, type, help, read] of rows) {
    registry.add({
      name,
      type,
      help,
      *samples(): Generator<Sample> {
        for (const peer of source()) {
          const value = read(peer)
          if (value !== undefined) yield { value, labels: { peer: String(peer.id) } }
        }
      },
    })
  }
}

export function registerBundles(registry: SeriesRegistry, source: () => BundleStats): void {
  registerRows(registry, bundleRows, source)
}

const noLabels = {}

function registerRows<T>(registry: SeriesRegistry, rows: readonly Row<T>[], source: () => T): void {
  for (const [name, type, help, read] of rows) {
    registry.add({ name, type, help, samples: () => [{ value: read(source()) }] })
  }
}

function registerSnapshots(registry: SeriesRegistry, recorder: RaftRecorder): void {
  registry.add({
    name: 'fnd_raft_snapshots_total',
    type: 'counter',
    help: 'Snapshots built, sent and installed, and those that failed',
    *samples(): Generator<Sample> {
      for (const [event, { count }] of Object.entries(recorder.snapshots)) {
        yield { value: count, labels: { event } }
      }
    },
  })
  registry.add({
    name: 'fnd_raft_snapshot_bytes_total',
    type: 'counter',
    help: 'Their size',
    *samples(): Generator<Sample> {
      for (const [event, { bytes }] of Object.entries(recorder.snapshots)) {
        yield { value: bytes, labels: { event } }
      }
    },
  })
}

function registerLongest(registry: SeriesRegistry, recorder: RaftRecorder): void {
  const rows = [
    [
      'fnd_raft_heartbeat_gap_seconds',
      'Longest time between two heartbeats, sent by a leader or heard by a follower',
      recorder.heartbeatGaps,
    ],
    ['fnd_raft_stall_seconds', 'How late a tick of the clock was at worst', recorder.stalls],
  ] as const
  for (const [name, help, longest] of rows) {
    registry.add({
      name,
      type: 'gauge',
      help,
      samples: () => [
        { value: longest.longest / 1000, labels: { since: 'start' } },
        { value: longest.recent(recorder.nowMs) / 1000, labels: { since: 'minute' } },
      ],
    })
  }
}
