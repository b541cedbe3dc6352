import { RaftCore } from './core.ts'
import type { DriverObserver } from './observer.ts'
import type { LogStore, Network, Scheduler, StateMachine } from './ports.ts'
import type { LogReader } from './types.ts'

export interface MemberOptions {
  readonly log: LogStore
  readonly machine: StateMachine
  readonly network: Network
  readonly scheduler: Scheduler
  readonly observer: DriverObserver
  /** Uniform in [0, n). */
  readonly random: (n: number) => number
  /** The log or the state machine failed for good: the process must end. Called once. */
  readonly onFatal: (error: Error) => void
  readonly limits?: Partial<MemberLimits>
}

export interface MemberLimits {
  readonly tickMs: number
  readonly electionTick: number
  readonly heartbeatTick: number
  /** Proposals that wait or are under way: more get `write-overload`. */
  readonly pendingMax: number
  readonly pendingBytesMax: number
  /** A single proposal larger than this gets `request-too-large`. */
  readonly entryBytesMax: number
  /** One append takes this much, but at least one entry. */
  readonly batchMax: number
  readonly batchBytesMax: number
  /** What is applied at a stretch, so that other work and heartbeats get their turn. */
  readonly applyBytesMax: number
  /** How long word of a commit waits for an append that tells it as well. */
  readonly holdMs: number
  /** What was applied is settled after that long, or sooner when it is that much. */
  readonly settleMs: number
  readonly settleMax: number
  readonly settleBytes: number
  /** On the way to one follower. One that was away is sent all of that in one turn. */
  readonly inflightMax: number
  readonly inflightBytesMax: number
  /** Messages that wait to be read; more are dropped, as a network may. */
  readonly inboxMax: number
  /** Entries kept in memory for followers. */
  readonly cacheBytesMax: number
  /** The log kept behind the applied index: whichever of the two is smaller. */
  readonly trailingMax: number
  readonly trailingBytesMax: number
  /** How far the log may outgrow that before the state machine is flushed for it. */
  readonly flushEveryMax: number
  readonly flushEveryBytes: number
  /** Applied entries whose checksums are looked at before the start is over; the rest follow. */
  readonly checkedAtStart: number
  readonly checkedPieceBytes: number
  /** What could not be written or applied for want of room is tried again after this time. */
  readonly retryMs: number
  /** A proposal logged by a leader that was deposed is unknown after this time. */
  readonly unknownAfterMs: number
}

const mib = 1024 * 1024

export const memberLimits: MemberLimits = {
  tickMs: 20,
  electionTick: 20,
  heartbeatTick: 2,
  pendingMax: 10_000,
  pendingBytesMax: 64 * mib,
  entryBytesMax: 8 * mib,
  batchMax: 1000,
  batchBytesMax: mib,
  applyBytesMax: 64 * 1024,
  holdMs: 2,
  settleMs: 20,
  settleMax: 256,
  settleBytes: mib,
  inflightMax: 256,
  inflightBytesMax: 4 * mib,
  inboxMax: 4096,
  cacheBytesMax: 2 * mib,
  trailingMax: 10_000,
  trailingBytesMax: 64 * mib,
  flushEveryMax: 1000,
  flushEveryBytes: 4 * mib,
  checkedAtStart: 1000,
  checkedPieceBytes: mib / 4,
  retryMs: 1000,
  unknownAfterMs: 3000,
}

/** The core of a member, as its log and its state machine remember it. */
export function newCore(options: MemberOptions, limits: MemberLimits, cache: LogReader): RaftCore {
  const { log, machine, random } = options
  const applied = machine.appliedIndex
  return new RaftCore(
    {
      id: log.identity.nodeId,
      electionTick: limits.electionTick,
      heartbeatTick: limits.heartbeatTick,
      preVote: true,
      checkQuorum: true,
      stepDownOnRemoval: true,
      inflightMax: limits.inflightMax,
      inflightBytesMax: limits.inflightBytesMax,
      messageBytesMax: limits.batchBytesMax,
      committedBytesMax: limits.applyBytesMax,
      uncommittedBytesMax: limits.pendingBytesMax,
      random,
    },
    cache,
    {
      // What is applied was committed, also when the note of that was not on the disk yet.
      hardState: { ...log.hardState, commit: Math.max(log.hardState.commit, applied) },
      confState: machine.confState,
      applied,
    },
  )
}
