/**
 * The cluster for its operators: reports, wishes, and the loop in which the leader carries out what
 * `autopilot.ts` plans. What only the leader can do or knows goes to it by one call (`cluster`).
 */
import { FndError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { ConfChange, CoreStatus, NodeId } from '../raft/types.ts'
import type { Node, NodeState } from '../store/objects.ts'
import {
  type Action,
  type AutopilotSettings,
  type AutopilotView,
  isJoint,
  type Planned,
  plan,
  planDemotion,
  planPromotion,
  successors,
} from './autopilot.ts'
import type {
  ClusterControl,
  ClusterStatus,
  JoinToken,
  NodesReport,
  PendingJoin,
} from './control.ts'
import { handOver } from './hand-over.ts'
import { HealthBook } from './health.ts'
import { lagOf, nodeReports, type ReportFacts, type SeenPeer, statusOf } from './report.ts'
import type { Where } from './seeker.ts'
import type { PeerHandlers, Peers } from './types.ts'

/** The driver, as far as it is needed here. */
export interface RaftPort {
  status(): CoreStatus
  /** There is no room on the disk of this node. */
  isStarved(): boolean
  /** What comes of it shows in `status`. */
  transfer(to: NodeId): void
  /** Resolves when it is applied here. Rejects with `FndError`. */
  proposeConf(change: ConfChange): Promise<void>
}

/** The replicated rows; changes are proposed, by way of the leader. All reject with `FndError`. */
export interface NodeRows {
  nodes(): readonly Node[]
  /** The version of commands that the cluster uses. */
  readonly commandVersion: number
  /** `node-not-found` when there is no such row. */
  setState(id: NodeId, state: NodeState): Promise<void>
  removeRow(id: NodeId): Promise<void>
  raiseVersion(version: number): Promise<void>
}

/** Requests to join that wait for an operator, in the memory of the leader; and join tokens. */
export interface JoinDesk {
  pending(): readonly PendingJoin[]
  /** Resolves when it is a node. Rejects with `join-not-found` when none such waits. */
  approve(fingerprint: string): Promise<NodeId>
  mint(lifeMs: number): JoinToken
}

export interface MembersParts {
  readonly nodeId: NodeId
  readonly clusterId: string
  readonly name: string
  readonly raft: RaftPort
  readonly rows: NodeRows
  readonly peers: Pick<Peers, 'call'> & { states(): readonly SeenPeer[] }
  readonly joins: JoinDesk
  readonly config: {
    readonly votersMax: number
    readonly voterDeadAfterMs: number
    readonly electionTimeoutMs: number
  }
  /** Never going back; the clock of `PeerState.lastHeardMs`. */
  readonly monotonicMs: () => number
  /** No new calls here; resolves when the running ones have ended or had their time. */
  readonly drainCalls: () => Promise<void>
  /** This node is out of the cluster: the process may end. Called once. */
  readonly onOut: () => void
  readonly log: Logger
}

type Ask =
  | { readonly op: 'nodes' | 'pending' | 'addresses' }
  | { readonly op: 'approve'; readonly fingerprint: string }
  | { readonly op: 'promote' | 'demote' | 'row'; readonly id: NodeId }
  | { readonly op: 'transfer'; readonly to?: NodeId }

/** Between two looks at the cluster, and how long the leader is waited for. */
const lookEveryMs = 250
const askTimeoutMs = 5000
const reportTimeoutMs = 1000
const lagMax = 1000

export class Members implements ClusterControl, AsyncDisposable {
  readonly #parts: MembersParts
  readonly #settings: AutopilotSettings
  readonly #healthyWithinMs: number
  readonly #book: HealthBook
  readonly #timer: ReturnType<typeof setInterval>
  #wasLeader = false
  /** The step of the autopilot that is under way. */
  #step: Promise<void> | undefined
  #departure: Promise<void> | undefined
  #isTurnedAway = false
  #isClosed = false

  constructor(parts: MembersParts) {
    const { votersMax, voterDeadAfterMs, electionTimeoutMs } = parts.config
    this.#parts = parts
    this.#settings = {
      votersMax,
      voterDeadAfterMs,
      stableForMs: Math.min(4 * electionTimeoutMs, voterDeadAfterMs / 2),
      lagMax,
    }
    this.#healthyWithinMs = Math.min(2 * electionTimeoutMs, voterDeadAfterMs / 2)
    this.#book = new HealthBook(this.#healthyWithinMs)
    this.#timer = setInterval(() => this.#look(), lookEveryMs)
    this.#look()
  }

  /** To be served on the peer port. */
  get calls(): PeerHandlers['calls'] {
    return { cluster: async ({ head }) => ({ head: await this.#answer(askFrom(head)) }) }
  }

  async status(): Promise<ClusterStatus> {
    return statusOf(this.#facts())
  }

  async nodes(): Promise<NodesReport> {
    const { lead } = this.#parts.raft.status()
    if (lead !== 0 && lead !== this.#parts.nodeId) {
      try {
        const head = await this.#call(lead, { op: 'nodes' }, reportTimeoutMs)
        return head as NodesReport
      } catch (error) {
        // At three in the morning half an answer is better than none.
        if (!(error instanceof FndError)) throw error
      }
    }
    return this.#ownReport()
  }

  async remove(id: NodeId, isForced: boolean): Promise<void> {
    const row = this.#mustFind(id)
    if (id === this.#parts.nodeId) return this.leave()
    if (!this.#hasOther(id)) throw new FndError('last-node')
    if (!isForced && !this.#isHeard(id)) {
      throw new FndError('node-unreachable', {
        detail:
          `${row.name} does not answer, so it cannot end its calls; if it is lost for good, ` +
          'remove it by force. To come back it then needs an empty data directory',
      })
    }
    await this.#parts.rows.setState(id, 'leaving')
  }

  async drain(id: NodeId): Promise<void> {
    const { state } = this.#mustFind(id)
    if (state === 'draining') return
    if (state !== 'active') throw new FndError('node-draining')
    await this.#parts.rows.setState(id, 'draining')
  }

  async undrain(id: NodeId): Promise<void> {
    const { state } = this.#mustFind(id)
    if (state === 'active') return
    if (state !== 'draining') throw new FndError('node-draining')
    await this.#parts.rows.setState(id, 'active')
  }

  async promote(id: NodeId): Promise<void> {
    await this.#ask({ op: 'promote', id })
  }

  async demote(id: NodeId): Promise<void> {
    await this.#ask({ op: 'demote', id })
  }

  async transfer(to: NodeId | undefined): Promise<NodeId> {
    return (await this.#ask(
      to === undefined ? { op: 'transfer' } : { op: 'transfer', to },
    )) as NodeId
  }

  async pending(): Promise<readonly PendingJoin[]> {
    return (await this.#ask({ op: 'pending' })) as PendingJoin[]
  }

  async approve(fingerprint: string): Promise<NodeId> {
    return (await this.#ask({ op: 'approve', fingerprint })) as NodeId
  }

  async mintToken(lifeMs: number): Promise<JoinToken> {
    return this.#parts.joins.mint(lifeMs)
  }

  /** First it drains, so that calls end and another voter is found while it is still one. */
  async leave(): Promise<void> {
    const { nodeId, rows } = this.#parts
    if (!this.#hasOther(nodeId)) throw new FndError('last-node')
    if (this.#mustFind(nodeId).state === 'active') await rows.setState(nodeId, 'draining')
    this.#depart()
  }

  /**
   * Another node said that this one is no member: on its way out, it has arrived. False when it is
   * not on its way: then it was removed while it did not look, and can only end.
   */
  turnedAway(): boolean {
    this.#isTurnedAway = true
    return this.#departure !== undefined
  }

  /** Whether it was asked to leave, and is about to. */
  get isDeparting(): boolean {
    return this.#departure !== undefined
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    clearInterval(this.#timer)
    await this.#step
  }

  // On the leader, for itself and for others.

  async #answer(ask: Ask): Promise<unknown> {
    const { joins, raft, nodeId, rows } = this.#parts
    if (ask.op === 'nodes') return this.#ownReport()
    if (ask.op === 'addresses') return connectedAt(this.#parts.peers.states())
    if (ask.op === 'row') return rows.nodes().find(row => row.id === ask.id)?.state ?? null
    if (raft.status().role !== 'leader') {
      throw new FndError('no-leader', { detail: `node ${nodeId} no longer leads` })
    }
    switch (ask.op) {
      case 'pending':
        return joins.pending()
      case 'approve':
        return joins.approve(ask.fingerprint)
      case 'promote':
        return this.#carryOut(planPromotion(this.#view(), ask.id))
      case 'demote':
        return this.#carryOut(planDemotion(this.#view(), ask.id))
      case 'transfer':
        return this.#handOver(ask.to)
    }
  }

  async #carryOut(planned: Planned): Promise<null> {
    if (!planned.ok) throw new FndError(planned.refusal)
    const { raft } = this.#parts
    await raft.proposeConf(planned.change)
    const { voters } = raft.status().confState
    for (const { type, nodeId } of planned.change.changes) {
      // The core puts an empty entry in the place of a change that comes too soon after another.
      const isDone = voters.includes(nodeId) === (type === 'add-voter')
      if (!isDone) throw new FndError('cluster-busy')
    }
    return null
  }

  /** To `wanted`, or to whoever takes it soonest. */
  async #handOver(wanted: NodeId | undefined): Promise<NodeId> {
    const { raft, nodeId, monotonicMs, config } = this.#parts
    const view = this.#view()
    if (view.isBusy) throw new FndError('cluster-busy')
    const to = wanted ?? successors(view)[0]
    if (to === undefined) throw new FndError('no-successor')
    if (!view.rows.some(row => row.id === to)) throw new FndError('node-not-found', { field: 'to' })
    if (to === nodeId) throw new FndError('node-is-leader', { field: 'to' })
    if (!view.confState.voters.includes(to)) throw new FndError('node-is-learner', { field: 'to' })
    return handOver({
      raft,
      nodeId,
      to,
      others: () => (wanted === undefined ? successors(this.#view()) : []),
      electionTimeoutMs: config.electionTimeoutMs,
      monotonicMs,
    })
  }

  // The loop.

  #look(): void {
    if (this.#isClosed) return
    const { raft, rows, peers, nodeId, monotonicMs } = this.#parts
    const isLeader = raft.status().role === 'leader'
    if (isLeader && !this.#wasLeader) this.#book.restart(monotonicMs())
    this.#wasLeader = isLeader
    // Who is heard but cannot be sent to can neither follow nor vote.
    const heard = peers.states().filter(({ isConnected }) => isConnected)
    const states = new Map(heard.map(({ id, lastHeardMs }) => [id, lastHeardMs]))
    const others = rows.nodes().filter(row => row.id !== nodeId)
    this.#book.sample(new Map(others.map(({ id }) => [id, states.get(id)])), monotonicMs())
    const own = rows.nodes().find(row => row.id === nodeId)
    if (own?.state === 'leaving') this.#depart()
    if (!isLeader || this.#step !== undefined) return
    const action = plan(this.#view())
    if (action !== undefined) this.#run(action)
  }

  #run(action: Action): void {
    const { log } = this.#parts
    const { reason, ...what } = action
    log.info({ ...what }, `autopilot: ${reason}`)
    this.#step = this.#do(action)
      .catch((error: unknown) => {
        // The next look finds what is left to do.
        if (!(error instanceof FndError)) throw error
        log.warn({ ...what, code: error.code }, `autopilot: ${error.message}`)
      })
      .finally(() => {
        this.#step = undefined
      })
  }

  async #do(action: Action): Promise<void> {
    const { raft, rows } = this.#parts
    switch (action.type) {
      case 'change':
        return raft.proposeConf(action.change)
      case 'transfer':
        await this.#handOver(undefined)
        return
      case 'remove-row':
        return rows.removeRow(action.id)
      case 'raise-version':
        return rows.raiseVersion(action.version)
    }
  }

  /** Ends the calls, asks to be taken out, and waits until that is done. */
  #depart(): void {
    if (this.#departure !== undefined) return
    const { drainCalls, onOut, log, monotonicMs, config } = this.#parts
    log.info('leaving the cluster')
    this.#departure = (async () => {
      await drainCalls()
      let heardMs = monotonicMs()
      while (!this.#isClosed) {
        const answer = this.#isTurnedAway ? 'out' : await this.#askWhetherOut()
        // Who was told to leave and is alone may go: the others take it out in either case.
        const isGivenUp = monotonicMs() - heardMs > config.voterDeadAfterMs
        if (answer === 'out' || isGivenUp) {
          log.info(isGivenUp ? 'no other node answers: going' : 'out of the cluster')
          return onOut()
        }
        if (answer === 'in') heardMs = monotonicMs()
        await Bun.sleep(lookEveryMs)
      }
    })()
  }

  /** The members send nothing to a node that is out, so it has to ask. */
  async #askWhetherOut(): Promise<'in' | 'out' | 'unanswered'> {
    const { rows, nodeId } = this.#parts
    const own = rows.nodes().find(row => row.id === nodeId)
    if (own === undefined) return 'out'
    const asks = [
      ...(own.state === 'leaving' ? [] : [async () => rows.setState(nodeId, 'leaving')]),
      ...this.#others().map(id => async () => {
        const state = await this.#call(id, { op: 'row', id: nodeId }, reportTimeoutMs)
        if (state === null) throw new FndError('node-removed')
      }),
    ]
    let answer: 'in' | 'unanswered' = 'unanswered'
    for (const ask of asks) {
      try {
        await ask()
        answer = 'in'
      } catch (error) {
        if (!(error instanceof FndError)) throw error
        if (error.code === 'node-removed' || error.code === 'node-not-found') return 'out'
      }
    }
    return answer
  }

  #others(): NodeId[] {
    const { rows, nodeId } = this.#parts
    return rows
      .nodes()
      .map(row => row.id)
      .filter(id => id !== nodeId)
  }

  // What is known here.

  #view(): AutopilotView {
    const { raft, rows, nodeId, monotonicMs } = this.#parts
    const core = raft.status()
    const nowMs = monotonicMs()
    const ids = rows.nodes().map(row => row.id)
    return {
      leaderId: nodeId,
      rows: rows.nodes(),
      confState: core.confState,
      // A change that is logged and not applied yet is the core's to see: it refuses a second one.
      isBusy: core.transferee !== 0 || isJoint(core.confState),
      health: new Map(ids.map(id => [id, this.#book.of(id, lagOf(id, core), nowMs)])),
      commandVersion: rows.commandVersion,
      settings: this.#settings,
    }
  }

  #facts(): ReportFacts {
    const { nodeId, name, clusterId, raft, rows, peers, monotonicMs } = this.#parts
    const nowMs = monotonicMs()
    return {
      selfId: nodeId,
      selfName: name,
      clusterId,
      core: raft.status(),
      isStarved: raft.isStarved(),
      rows: rows.nodes(),
      peers: peers.states(),
      nowMs,
      waitedMs: id => this.#book.of(id, 0, nowMs).silentMs,
      healthyWithinMs: this.#healthyWithinMs,
      lagMax,
      votersMax: this.#settings.votersMax,
      commandVersion: rows.commandVersion,
    }
  }

  #ownReport(): NodesReport {
    const facts = this.#facts()
    const { lead } = facts.core
    const leaderId = lead === 0 ? undefined : lead
    return { seenBy: facts.selfId, leaderId, nodes: nodeReports(facts) }
  }

  #mustFind(id: NodeId): Node {
    const row = this.#parts.rows.nodes().find(one => one.id === id)
    if (row === undefined) throw new FndError('node-not-found')
    return row
  }

  #hasOther(id: NodeId): boolean {
    const isStaying = (row: Node) => row.state === 'active' || row.state === 'draining'
    return this.#parts.rows.nodes().some(row => row.id !== id && isStaying(row))
  }

  #isHeard(id: NodeId): boolean {
    const report = nodeReports(this.#facts()).find(node => node.id === id)
    return report?.health === 'up' || report?.health === 'slow'
  }

  // To the leader.

  #ask(ask: Ask): Promise<unknown> {
    const { raft, nodeId } = this.#parts
    const { lead } = raft.status()
    if (lead === nodeId) return this.#answer(ask)
    if (lead === 0) return Promise.reject(this.whyLeaderless())
    return this.#call(lead, ask, askTimeoutMs)
  }

  async #call(to: NodeId, ask: Ask, timeoutMs: number): Promise<unknown> {
    return (await this.#parts.peers.call(to, 'cluster', ask, { timeoutMs })).head
  }

  /** `no-quorum` or `no-leader`, with the reason, for whoever needs the leader. */
  whyLeaderless(): FndError {
    const { health, warnings } = statusOf(this.#facts())
    const code = health === 'no-quorum' ? 'no-quorum' : 'no-leader'
    const detail = warnings.find(warning => warning.code === code)?.message
    return new FndError(code, detail === undefined ? {} : { detail })
  }
}

/** Throws `FndError` for what no node of this version asks. */
function askFrom(head: unknown): Ask {
  const { op, id, to, fingerprint } = (head ?? {}) as Record<string, unknown>
  const isAsk =
    op === 'nodes' ||
    op === 'pending' ||
    op === 'addresses' ||
    (op === 'approve' && typeof fingerprint === 'string') ||
    ((op === 'promote' || op === 'demote' || op === 'row') && Number.isSafeInteger(id)) ||
    (op === 'transfer' && (to === undefined || Number.isSafeInteger(to)))
  if (!isAsk) throw new FndError('peer-method-unknown', { detail: `cluster: ${String(op)}` })
  return head as Ask
}

/** Where those are that this node is connected to, for one that looks for them. */
function connectedAt(peers: readonly SeenPeer[]): readonly Where[] {
  return peers.filter(({ isConnected }) => isConnected).map(({ id, address }) => ({ id, address }))
}
