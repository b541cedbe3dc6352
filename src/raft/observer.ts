/**
 * What a member's driver tells whoever counts and logs. Called on the driver's own path, so every
 * method must return at once, allocate nothing, and not throw.
 */
import type { NodeId, ProposalRefusal, Role } from './types.ts'

/** How a proposal of this node's own clients ended. */
export type ProposalOutcome =
  /** It is durable on a majority, and applied here. */
  | 'committed'
  | ProposalRefusal
  /** Refused before it was logged: too many wait, or the disk has no room. */
  | 'write-overload'
  | 'disk-full'
  | 'shutting-down'
  /** It was logged, and another leader's entry took its place. */
  | 'lost'
  /** Whether it is kept is not known. */
  | 'outcome-unknown'

export type SnapshotEvent = 'built' | 'sent' | 'send-failed' | 'installed' | 'install-failed'

export interface DriverObserver {
  /** A write of the log is on the disk; from the call of `LogStore.write` to its `done`. */
  fsync(ms: number): void
  /** One batch went through `StateMachine.apply`. */
  applied(count: number, ms: number): void
  /** `count` proposals of this node's own clients wait for their outcome from here on. */
  proposed(count: number): void
  /** `count` of them ended. What was refused at once was `proposed` too. */
  proposal(outcome: ProposalOutcome, count: number): void
  /**
   * Leader: time between two rounds of heartbeats that it sent. Follower: time between two signs of
   * life of the same leader.
   */
  heartbeatGap(ms: number): void
  /** How late a tick was: what the event loop did meanwhile. Told of each tick. */
  stall(ms: number): void
  /**
   * `peer`: the other side, 0 when there is none (`built`). `bytes` and `ms` are those of this
   * event, 0 where they are not known.
   */
  snapshot(event: SnapshotEvent, peer: NodeId, bytes: number, ms: number): void
  /** Role, leader (0: none is known) or term changed. Also told once at the start. */
  leaderChanged(role: Role, lead: NodeId, term: number): void
  /** The leader was silent for too long, or an election came to nothing: this node stands. */
  electionTimeout(term: number): void
  /** A write of the log was refused for want of room, with nothing kept. */
  diskFull(): void
}

const nothing = (): void => undefined

/** For a member that nobody watches. */
export const noObserver: DriverObserver = {
  fsync: nothing,
  applied: nothing,
  proposed: nothing,
  proposal: nothing,
  heartbeatGap: nothing,
  stall: nothing,
  snapshot: nothing,
  leaderChanged: nothing,
  electionTimeout: nothing,
  diskFull: nothing,
}

/** Tells both, `first` first. */
export function tellBoth(first: DriverObserver, second: DriverObserver): DriverObserver {
  return {
    fsync(ms) {
      first.fsync(ms)
      second.fsync(ms)
    },
    applied(count, ms) {
      first.applied(count, ms)
      second.applied(count, ms)
    },
    proposed(count) {
      first.proposed(count)
      second.proposed(count)
    },
    proposal(outcome, count) {
      first.proposal(outcome, count)
      second.proposal(outcome, count)
    },
    heartbeatGap(ms) {
      first.heartbeatGap(ms)
      second.heartbeatGap(ms)
    },
    stall(ms) {
      first.stall(ms)
      second.stall(ms)
    },
    snapshot(event, peer, bytes, ms) {
      first.snapshot(event, peer, bytes, ms)
      second.snapshot(event, peer, bytes, ms)
    },
    leaderChanged(role, lead, term) {
      first.leaderChanged(role, lead, term)
      second.leaderChanged(role, lead, term)
    },
    electionTimeout(term) {
      first.electionTimeout(term)
      second.electionTimeout(term)
    },
    diskFull() {
      first.diskFull()
      second.diskFull()
    },
  }
}
