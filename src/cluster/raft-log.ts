/**
 * The Raft group in the log of the node: what whoever runs a cluster looks for after a bad night.
 * What repeats is told at most every ten seconds, with how often it happened meanwhile.
 */
import type { Clock } from '../clock.ts'
import type { Logger } from '../log.ts'
import type { DriverObserver, SnapshotEvent } from '../raft/observer.ts'
import type { NodeId, Role } from '../raft/types.ts'

export interface RaftLogOptions {
  readonly log: Logger
  readonly clock: Clock
  /** Heartbeats that are further apart are told of; a third of the election timeout. */
  readonly heartbeatGapMs: number
}

const slowMs = 100
const repeatMs = 10_000

type Level = 'info' | 'warn' | 'error'

/** One kind of line that may repeat. */
class Repeating {
  readonly #options: RaftLogOptions
  readonly #level: Level
  readonly #text: string
  #toldMs = Number.NEGATIVE_INFINITY
  #untold = 0
  #worstMs = 0

  constructor(options: RaftLogOptions, level: Level, text: string) {
    this.#options = options
    this.#level = level
    this.#text = text
  }

  /** `ms`: how bad it was; the line tells the worst since the one before. */
  tell(about: Readonly<Record<string, unknown>>, ms = 0): void {
    const nowMs = this.#options.clock.monotonicMs()
    this.#worstMs = Math.max(this.#worstMs, ms)
    if (nowMs - this.#toldMs < repeatMs) {
      this.#untold += 1
      return
    }
    const worst = this.#worstMs === 0 ? {} : { ms: Math.round(this.#worstMs) }
    const before = this.#untold === 0 ? {} : { untold: this.#untold }
    this.#options.log[this.#level]({ ...about, ...worst, ...before }, this.#text)
    this.#toldMs = nowMs
    this.#untold = 0
    this.#worstMs = 0
  }
}

const noDetails = {}

export class RaftLog implements DriverObserver {
  readonly #options: RaftLogOptions
  readonly #slowFsync: Repeating
  readonly #slowApply: Repeating
  readonly #lateLeader: Repeating
  readonly #quietLeader: Repeating
  readonly #stalls: Repeating
  readonly #elections: Repeating
  readonly #full: Repeating
  #role: Role = 'follower'
  #lead: NodeId = 0

  constructor(options: RaftLogOptions) {
    this.#options = options
    const of = (level: Level, text: string) => new Repeating(options, level, text)
    this.#slowFsync = of('warn', 'the disk is slow: a write of the log took long')
    this.#slowApply = of('warn', 'applying changes took long')
    this.#lateLeader = of('warn', 'heartbeats left late: this node or its disk is overloaded')
    this.#quietLeader = of('warn', 'the leader was silent for long')
    this.#stalls = of('warn', 'fnd stood still: the machine is overloaded')
    this.#elections = of('warn', 'there is no word from a leader: stands for election')
    this.#full = of('error', 'the data directory is out of space: changes are refused')
  }

  fsync(ms: number): void {
    if (ms > slowMs) this.#slowFsync.tell(noDetails, ms)
  }

  applied(count: number, ms: number): void {
    if (ms > slowMs) this.#slowApply.tell({ entries: count }, ms)
  }

  proposed(): void {
    // Each is answered to whoever asked.
  }

  proposal(): void {
    // As above.
  }

  heartbeatGap(ms: number): void {
    if (ms <= this.#options.heartbeatGapMs) return
    if (this.#role === 'leader') this.#lateLeader.tell(noDetails, ms)
    else this.#quietLeader.tell({ leader: this.#lead }, ms)
  }

  stall(ms: number): void {
    if (ms > this.#options.heartbeatGapMs) this.#stalls.tell(noDetails, ms)
  }

  snapshot(event: SnapshotEvent, peer: NodeId, bytes: number, ms: number): void {
    const { log } = this.#options
    const about = {
      ...(peer === 0 ? {} : { node: peer }),
      ...(bytes === 0 ? {} : { bytes }),
      ms: Math.round(ms),
    }
    if (event === 'built') log.info(about, 'built a snapshot')
    else if (event === 'sent') log.info(about, 'sent a snapshot')
    else if (event === 'installed') log.info(about, 'installed a snapshot')
    else if (event === 'send-failed') log.warn(about, 'a snapshot was not taken; it is sent again')
    else log.error(about, 'a snapshot could not be installed')
  }

  leaderChanged(role: Role, lead: NodeId, term: number): void {
    const { log } = this.#options
    const [wasLeader, before] = [this.#role === 'leader', this.#lead]
    this.#role = role
    this.#lead = lead
    if (role === 'leader') {
      if (!wasLeader) log.info({ term }, 'became leader')
    } else if (wasLeader) {
      log.warn(lead === 0 ? { term } : { term, leader: lead }, 'is not leader any more')
    } else if (lead === before) return
    else if (lead === 0) log.warn({ term, leader: before }, 'lost the leader')
    else log.info({ term, leader: lead }, 'follows a leader')
  }

  electionTimeout(term: number): void {
    this.#elections.tell({ term })
  }

  diskFull(): void {
    this.#full.tell(noDetails)
  }
}
