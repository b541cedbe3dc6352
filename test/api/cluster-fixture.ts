/** Three nodes in memory, behind the interface that the API is given. */
import type { ClusterControl, ClusterStatus, NodeReport } from '../../src/cluster/control.ts'
import { type ErrorCode, FndError } from '../../src/errors.ts'
import type { NodeState } from '../../src/store/objects.ts'

export class ClusterFixture implements ClusterControl {
  /** What was asked for, in words. */
  readonly asked: string[] = []
  readonly states = new Map<number, NodeState>()
  leaderId: number | undefined = 1
  readonly gone = new Set<number>()
  /** A node that is to be taken out stays. */
  isStuck = false
  /** What the next wish fails with. */
  failure: ErrorCode | undefined
  warnings: ClusterStatus['warnings'] = []
  health: ClusterStatus['health'] = 'healthy'
  onLeave: () => void = () => {}

  report(id: number): NodeReport {
    const isSelf = id === 1
    return {
      id,
      uuid: `uuid-${id}`,
      name: `n${id}`,
      role: id === this.leaderId ? 'leader' : id < 3 ? 'voter' : 'learner',
      state: this.states.get(id) ?? 'active',
      health: isSelf ? 'up' : id === 2 ? 'down' : 'slow',
      peerAddress: `10.0.0.${id}:8081`,
      apiUrl: `http://10.0.0.${id}:8080`,
      version: '0.1.0',
      commandVersion: 3,
      joinedMs: Date.parse('2026-11-20T10:14:50.102Z'),
      lag: id === 3 ? 70_000 : isSelf ? 0 : undefined,
      rttMs: isSelf ? undefined : 1.25,
      silentMs: isSelf ? 0 : id === 2 ? undefined : 900,
      problem: id === 2 ? 'connection refused' : undefined,
      skewMs: isSelf ? undefined : -3,
    }
  }

  async status(): Promise<ClusterStatus> {
    return {
      health: this.health,
      clusterId: 'c-1',
      nodeId: 1,
      name: 'n1',
      role: this.leaderId === 1 ? 'leader' : 'voter',
      state: this.states.get(1) ?? 'active',
      term: 7,
      leaderId: this.leaderId,
      leaderName: this.leaderId === undefined ? undefined : `n${this.leaderId}`,
      voters: [1, 2],
      learners: [3],
      isJoint: false,
      votersAlive: 1,
      quorum: 2,
      commitIndex: 120,
      appliedIndex: 119,
      lastIndex: 121,
      commandVersion: 3,
      warnings: this.warnings,
    }
  }

  async nodes() {
    return {
      seenBy: 1,
      leaderId: this.leaderId,
      nodes: [1, 2, 3].filter(id => !this.gone.has(id)).map(id => this.report(id)),
    }
  }

  async remove(id: number, isForced: boolean): Promise<void> {
    this.#ask(`remove ${id}${isForced ? ' by force' : ''}`)
    this.states.set(id, 'leaving')
    if (!this.isStuck) this.gone.add(id)
  }

  async drain(id: number): Promise<void> {
    this.#ask(`drain ${id}`)
    this.states.set(id, 'draining')
  }

  async undrain(id: number): Promise<void> {
    this.#ask(`undrain ${id}`)
    this.states.delete(id)
  }

  async promote(id: number): Promise<void> {
    this.#ask(`promote ${id}`)
  }

  async demote(id: number): Promise<void> {
    this.#ask(`demote ${id}`)
  }

  async transfer(to: number | undefined): Promise<number> {
    this.#ask(`transfer ${to}`)
    this.leaderId = to ?? 2
    return this.leaderId
  }

  async pending() {
    this.#ask('pending')
    return [this.#pending]
  }

  async approve(fingerprint: string) {
    this.#ask(`approve ${fingerprint}`)
    if (fingerprint !== this.#pending.fingerprint) throw new FndError('join-not-found')
    return 4
  }

  async mintToken(lifeMs: number) {
    this.#ask(`token ${lifeMs}`)
    const expiresMs = Date.parse('2026-11-21T10:14:50.102Z')
    return { token: 'fnd-abc.1.def', expiresMs, address: '10.0.0.1:8081' }
  }

  async leave(): Promise<void> {
    this.#ask('leave')
    this.onLeave()
  }

  readonly #pending = {
    fingerprint: 'ab12-cd34',
    name: 'n4',
    address: '10.0.0.4:8081',
    remoteAddress: '10.0.0.4',
    apiUrl: 'http://10.0.0.4:8080',
    version: '0.1.0',
    sinceMs: Date.parse('2026-11-20T10:14:50.102Z'),
  }

  #ask(what: string): void {
    this.asked.push(what)
    if (this.failure !== undefined) throw new FndError(this.failure)
  }
}
