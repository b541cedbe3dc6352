/**
 * What is counted of a member of the Raft group while it works. Its methods write numbers into
 * what was made before; `raft-metrics.ts` reads them when somebody asks.
 */
import type { Clock } from '../clock.ts'
import type { DriverObserver, ProposalOutcome, SnapshotEvent } from '../raft/observer.ts'
import type { NodeId } from '../raft/types.ts'
import { Buckets } from './series.ts'

/** From a write to an SSD with a battery to a disk that nearly stands still. */
const diskBoundsMs = [0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384]
const rttBoundsMs = [0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096]
const snapshotBoundsMs = [10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000]
/** From here on a disk endangers the heartbeats of the default settings. */
export const slowMs = 100

const windowMs = 60_000
const slices = 12

/** The greatest value of the last minute, to within five seconds, and of all time. */
export class LongestRecently {
  readonly #values = new Float64Array(slices)
  #slice = 0
  longest = 0

  note(value: number, nowMs: number): void {
    this.#turnTo(nowMs)
    const at = this.#slice % slices
    if (value > (this.#values[at] ?? 0)) this.#values[at] = value
    if (value > this.longest) this.longest = value
  }

  recent(nowMs: number): number {
    this.#turnTo(nowMs)
    let greatest = 0
    for (const value of this.#values) if (value > greatest) greatest = value
    return greatest
  }

  #turnTo(nowMs: number): void {
    const slice = Math.floor((nowMs * slices) / windowMs)
    const passed = slice - this.#slice
    if (passed <= 0) return
    if (passed >= slices) this.#values.fill(0)
    else for (let at = this.#slice + 1; at <= slice; at += 1) this.#values[at % slices] = 0
    this.#slice = slice
  }
}

export interface SnapshotCounts {
  count: number
  bytes: number
}

export class RaftRecorder implements DriverObserver {
  readonly #clock: Clock
  readonly fsyncMs = new Buckets(diskBoundsMs)
  readonly applyMs = new Buckets(diskBoundsMs)
  readonly snapshotMs = new Buckets(snapshotBoundsMs)
  readonly rttMs = new Map<NodeId, Buckets>()
  readonly heartbeatGaps = new LongestRecently()
  readonly stalls = new LongestRecently()
  /** By outcome; made at the start, so that a failure that never happened is 0 and not absent. */
  readonly proposals: Record<ProposalOutcome, number> = {
    committed: 0,
    'no-leader': 0,
    transferring: 0,
    'not-member': 0,
    'too-much-uncommitted': 0,
    'write-overload': 0,
    'disk-full': 0,
    'shutting-down': 0,
    lost: 0,
    'outcome-unknown': 0,
  }
  readonly snapshots: Record<SnapshotEvent, SnapshotCounts> = {
    built: { count: 0, bytes: 0 },
    sent: { count: 0, bytes: 0 },
    'send-failed': { count: 0, bytes: 0 },
    installed: { count: 0, bytes: 0 },
    'install-failed': { count: 0, bytes: 0 },
  }
  lastSnapshotBytes = 0
  pending = 0
  appliedEntries = 0
  slowFsyncs = 0
  slowApplies = 0
  leaderChanges = 0
  electionTimeouts = 0
  diskFulls = 0
  #leader = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get nowMs(): number {
    return this.#clock.monotonicMs()
  }

  fsync(ms: number): void {
    this.fsyncMs.observe(ms)
    if (ms > slowMs) this.slowFsyncs += 1
  }

  applied(count: number, ms: number): void {
    this.appliedEntries += count
    this.applyMs.observe(ms)
    if (ms > slowMs) this.slowApplies += 1
  }

  proposed(count: number): void {
    this.pending += count
  }

  proposal(outcome: ProposalOutcome, count: number): void {
    this.pending -= count
    this.proposals[outcome] += count
  }

  heartbeatGap(ms: number): void {
    this.heartbeatGaps.note(ms, this.#clock.monotonicMs())
  }

  stall(ms: number): void {
    this.stalls.note(ms, this.#clock.monotonicMs())
  }

  snapshot(event: SnapshotEvent, _peer: NodeId, bytes: number, ms: number): void {
    const counts = this.snapshots[event]
    counts.count += 1
    counts.bytes += bytes
    if (bytes > 0) this.lastSnapshotBytes = bytes
    if (ms > 0) this.snapshotMs.observe(ms)
  }

  leaderChanged(_role: unknown, lead: NodeId, _term: number): void {
    if (lead === 0 || lead === this.#leader) return
    this.#leader = lead
    this.leaderChanges += 1
  }

  electionTimeout(): void {
    this.electionTimeouts += 1
  }

  diskFull(): void {
    this.diskFulls += 1
  }

  /** A peer answered a ping. */
  rtt(peer: NodeId, ms: number): void {
    let buckets = this.rttMs.get(peer)
    if (buckets === undefined) {
      buckets = new Buckets(rttBoundsMs)
      this.rttMs.set(peer, buckets)
    }
    buckets.observe(ms)
  }

  /** The node left the cluster: its series end. */
  forgetPeer(peer: NodeId): void {
    this.rttMs.delete(peer)
  }
}
