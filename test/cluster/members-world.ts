/**
 * Members over one shared configuration and one shared table of rows: everything is agreed on at
 * once. What a group really does is shown on real processes; here it is what `Members` asks for.
 */
import pino from 'pino'
import { Forwarder, type ProposalPort } from '../../src/cluster/forward.ts'
import { Members } from '../../src/cluster/members.ts'
import type { SeenPeer } from '../../src/cluster/report.ts'
import type { PeerHandlers, Peers } from '../../src/cluster/types.ts'
import { FndError } from '../../src/errors.ts'
import type { ConfState, CoreStatus, ProgressStatus } from '../../src/raft/types.ts'
import type { Command, Outcome } from '../../src/store/commands.ts'
import type { Node, NodeState } from '../../src/store/objects.ts'
import { changed, rowOf } from './autopilot-world.ts'

export const config = { votersMax: 5, voterDeadAfterMs: 1000, electionTimeoutMs: 100 }

interface Seat {
  readonly members: Members
  readonly forwarder: Forwarder
  readonly calls: PeerHandlers['calls']
}

export class World implements AsyncDisposable {
  conf: ConfState = {
    voters: [1],
    votersOutgoing: [],
    learners: [],
    learnersNext: [],
    autoLeave: false,
  }
  rows: Node[] = []
  leader = 1
  index = 10
  commandVersion = 3
  readonly seats = new Map<number, Seat>()
  /** Nodes that hear and answer nobody. */
  readonly down = new Set<number>()
  /** Nodes that are heard, and that nobody can connect to. */
  readonly deaf = new Set<number>()
  readonly lags = new Map<number, number>()
  /** So many wishes to hand leadership over come to nothing. */
  lostTransfers = 0
  /** Nodes that do not take leadership over, and that were asked to. */
  readonly unwilling = new Set<number>()
  readonly asked: number[] = []
  readonly out: number[] = []
  readonly commands: { readonly by: number; readonly command: Command }[] = []
  readonly waiting = new Map<string, { name: string }>()
  readonly #listeners = new Set<() => void>()

  add(id: number): Seat {
    this.rows.push(rowOf(id))
    const member = this.#port(id)
    const members = new Members({
      nodeId: id,
      clusterId: 'c1',
      name: `node${id}`,
      raft: {
        status: () => this.core(id),
        isStarved: () => false,
        transfer: to => {
          if (this.asked.at(-1) !== to) this.asked.push(to)
          if (this.unwilling.has(to)) return
          if (this.lostTransfers > 0) this.lostTransfers -= 1
          else this.lead(to)
        },
        proposeConf: async change => {
          this.#mustLead(id)
          this.conf = changed(this.conf, change.changes)
          this.changed()
        },
      },
      rows: this.#rowsPort(id),
      peers: this.#peers(id),
      joins: {
        pending: () =>
          [...this.waiting].map(([fingerprint, { name }]) => ({
            fingerprint,
            name,
            address: '10.0.0.9:8081',
            remoteAddress: '10.0.0.9',
            apiUrl: 'http://10.0.0.9:8080',
            version: '0.1.0',
            sinceMs: 1,
          })),
        approve: async fingerprint => {
          if (!this.waiting.delete(fingerprint)) throw new FndError('join-not-found')
          return 9
        },
        mint: lifeMs => ({ token: `fnd-${id}`, expiresMs: lifeMs, address: `10.0.0.${id}:8081` }),
      },
      config,
      monotonicMs: () => performance.now(),
      drainCalls: async () => undefined,
      onOut: () => void this.out.push(id),
      log: pino({ level: 'silent' }),
    })
    const forwarder = new Forwarder({
      nodeId: id,
      member,
      peers: this.#peers(id),
      nowMs: () => 1_000_000 + id,
      electionTimeoutMs: config.electionTimeoutMs,
      whyLeaderless: () => members.whyLeaderless(),
    })
    const seat = { members, forwarder, calls: { ...members.calls, ...forwarder.calls } }
    this.seats.set(id, seat)
    return seat
  }

  seat(id: number): Seat {
    const seat = this.seats.get(id)
    if (seat === undefined) throw new Error(`no node ${id}`)
    return seat
  }

  lead(id: number): void {
    this.leader = id
    this.changed()
  }

  changed(): void {
    for (const listener of [...this.#listeners]) listener()
  }

  core(id: number): CoreStatus {
    const progress = new Map<number, ProgressStatus>()
    if (id === this.leader) {
      for (const one of [...this.conf.voters, ...this.conf.learners]) {
        progress.set(one, {
          state: 'replicate',
          match: this.index - (this.lags.get(one) ?? 0),
          next: this.index + 1,
          isPaused: false,
          pendingSnapshot: 0,
          isRecentlyActive: true,
          isLearner: this.conf.learners.includes(one),
          inflight: 0,
          isInflightFull: false,
        })
      }
    }
    return {
      id,
      role: id === this.leader ? 'leader' : 'follower',
      term: 3,
      vote: 0,
      lead: this.down.has(id) ? 0 : this.leader,
      commit: this.index,
      applied: this.index,
      lastIndex: this.index,
      confState: this.conf,
      transferee: 0,
      progress,
    }
  }

  #port(id: number): ProposalPort {
    const world = this
    return {
      get lead() {
        return world.core(id).lead
      },
      get appliedIndex() {
        return world.index
      },
      propose: async command => {
        this.#mustLead(id)
        this.commands.push({ by: id, command })
        this.index += 1
        const outcome: Outcome = { ok: true, object: null }
        return { index: this.index, outcome }
      },
      tellCommit: () => undefined,
      onChange: listener => {
        this.#listeners.add(listener)
        return () => this.#listeners.delete(listener)
      },
    }
  }

  #mustLead(id: number): void {
    if (id !== this.leader) throw new FndError('no-leader')
  }

  #rowsPort(id: number) {
    const world = this
    const mustReach = () => {
      if (this.down.has(id)) throw new FndError('no-leader')
    }
    return {
      nodes: () => this.rows,
      get commandVersion() {
        return world.commandVersion
      },
      setState: async (row: number, state: NodeState) => {
        mustReach()
        if (!this.rows.some(one => one.id === row)) throw new FndError('node-not-found')
        this.rows = this.rows.map(one => (one.id === row ? { ...one, state } : one))
      },
      removeRow: async (row: number) => {
        mustReach()
        this.rows = this.rows.filter(one => one.id !== row)
      },
      raiseVersion: async (version: number) => {
        mustReach()
        this.commandVersion = version
      },
    }
  }

  #peers(from: number): Pick<Peers, 'call'> & { states(): SeenPeer[] } {
    const isCut = (to: number) => this.down.has(from) || this.down.has(to)
    return {
      states: (): SeenPeer[] =>
        [...this.seats.keys()]
          .filter(id => id !== from)
          .map(id => ({
            id,
            address: `10.0.0.${id}:8081`,
            isConnected: !isCut(id) && !this.deaf.has(id),
            problem: this.deaf.has(id) ? 'nothing listens there' : undefined,
            rttMs: 1,
            lastHeardMs: isCut(id) ? 0 : performance.now(),
            skewMs: 0,
          })),
      call: async (to, method, head, options = {}) => {
        if (isCut(to)) throw new FndError('peer-unreachable')
        const handler = this.seats.get(to)?.calls[method]
        if (handler === undefined) throw new FndError('peer-unreachable')
        const body = options.body ?? new Uint8Array()
        const answer = await handler({ from, method, head: JSON.parse(JSON.stringify(head)) }, body)
        const text = JSON.stringify(answer.head)
        return { head: JSON.parse(text), body: answer.body ?? new Uint8Array() }
      },
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { members } of this.seats.values()) await members[Symbol.asyncDispose]()
  }
}

/** Waits for a condition, for as long as a busy machine may need. */
export async function eventually(isSo: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + 30_000
  while (!(await isSo())) {
    if (performance.now() > endMs) throw new Error('it did not come true')
    await Bun.sleep(10)
  }
}
