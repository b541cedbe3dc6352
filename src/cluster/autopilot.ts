/**
 * Which node is a voter, decided by the leader from what it sees. Rows say what is wanted, the
 * configuration what is; one change at a time closes the gap.
 *
 * Seats. The wanted number of voters is the largest odd number that is no more than `votersMax`
 * and than the nodes there are for it: an even one is as many copies more, but tolerates no failure
 * more. Seats go to, in this order: voters that live (the leader first), learners that have caught
 * up, voters that drain, voters that are dead or replaced. So a learner takes the seat of a dead or
 * draining voter, and never that of a living one; and what is changed once is not changed back.
 *
 * What removing does to the quorum. A change is made only if
 * 1. a majority of the new voters is healthy now, as is one of the old: else it would not commit,
 *    or be the last to do so;
 * 2. the living voters do not become fewer than a majority of the living nodes that could be one
 *    and do not drain: of two voters none is taken out to make their number odd, as an acknowledged
 *    change would then be on one disk alone;
 * 3. a dead voter gives its seat up without a successor only if three living ones remain: of three
 *    voters with one dead, two stay responsible for the third's return. An operator who removes the
 *    dead one says that it does not come back, and this rule does not hold for it.
 * Where the wanted number breaks one of these, the next larger one is tried, up to as many as now;
 * if none is left the configuration stays, and `advice.ts` says why.
 */
import type { ConfChange, ConfState, NodeId, SingleChange } from '../raft/types.ts'
import type { Node } from '../store/objects.ts'
import { versionToRaise } from './upgrade.ts'

export interface AutopilotSettings {
  /** 1, 3, 5 or 7. */
  readonly votersMax: number
  /** A voter silent for so long is dead. */
  readonly voterDeadAfterMs: number
  /** A learner must have been healthy for so long without a break. */
  readonly stableForMs: number
  /** Entries by which a learner may be behind and still be caught up. */
  readonly lagMax: number
}

export interface NodeHealth {
  /** Since it was last heard, or since it was waited for; Infinity where that is not known. */
  readonly silentMs: number
  /** For how long it was healthy without a break; undefined when it is not. */
  readonly healthyForMs: number | undefined
  /** Entries that the leader has committed and this node does not have; Infinity if not known. */
  readonly lag: number
}

/** What the leader sees. Its own health is not asked for. */
export interface AutopilotView {
  readonly leaderId: NodeId
  readonly rows: readonly Node[]
  /** As applied. */
  readonly confState: ConfState
  /** A change of the configuration is in the log and not applied, or leadership moves. */
  readonly isBusy: boolean
  /** Nodes that are not in it count as silent. */
  readonly health: ReadonlyMap<NodeId, NodeHealth>
  /** The version of commands that the cluster uses. */
  readonly commandVersion: number
  readonly settings: AutopilotSettings
}

export type Action =
  | { readonly type: 'change'; readonly change: ConfChange; readonly reason: string }
  | { readonly type: 'transfer'; readonly to: NodeId; readonly reason: string }
  | { readonly type: 'remove-row'; readonly id: NodeId; readonly reason: string }
  | { readonly type: 'raise-version'; readonly version: number; readonly reason: string }

export type Refusal =
  | 'cluster-busy'
  | 'node-not-found'
  | 'node-is-voter'
  | 'node-is-learner'
  | 'node-is-leader'
  | 'node-unreachable'
  | 'node-behind'
  | 'node-draining'
  | 'voters-even'
  | 'no-successor'
  | 'no-quorum'

export type Planned =
  | { readonly ok: true; readonly change: ConfChange }
  | { readonly ok: false; readonly refusal: Refusal }

/** A joint configuration is one that is being left. */
export function isJoint({ votersOutgoing }: ConfState): boolean {
  return votersOutgoing.length > 0
}

export function majority(count: number): number {
  return Math.floor(count / 2) + 1
}

const silent: NodeHealth = {
  silentMs: Number.POSITIVE_INFINITY,
  healthyForMs: undefined,
  lag: Number.POSITIVE_INFINITY,
}

/** The view with what follows from it. */
class Scene {
  readonly view: AutopilotView
  readonly voters: readonly NodeId[]
  readonly learners: readonly NodeId[]
  readonly #rows: ReadonlyMap<NodeId, Node>

  constructor(view: AutopilotView) {
    this.view = view
    this.voters = view.confState.voters
    this.learners = view.confState.learners
    this.#rows = new Map(view.rows.map(row => [row.id, row]))
  }

  row(id: NodeId): Node | undefined {
    return this.#rows.get(id)
  }

  health(id: NodeId): NodeHealth {
    return this.view.health.get(id) ?? silent
  }

  isHealthy(id: NodeId): boolean {
    return id === this.view.leaderId || this.health(id).healthyForMs !== undefined
  }

  isDead(id: NodeId): boolean {
    const { leaderId, settings } = this.view
    return id !== leaderId && this.health(id).silentMs >= settings.voterDeadAfterMs
  }

  isCaughtUp(id: NodeId): boolean {
    return id === this.view.leaderId || this.health(id).lag <= this.view.settings.lagMax
  }

  isStable(id: NodeId): boolean {
    return (this.health(id).healthyForMs ?? -1) >= this.view.settings.stableForMs
  }

  isActive(id: NodeId): boolean {
    return this.row(id)?.state === 'active'
  }

  /** Taken out whatever becomes of its seat; a node without a row is one that was removed. */
  isDeparting(id: NodeId): boolean {
    const state = this.row(id)?.state
    return state === undefined || state === 'leaving'
  }

  /** Learners that may be voters in the next configuration, the most recent first. */
  get candidates(): NodeId[] {
    return this.learners
      .filter(id => this.isActive(id) && this.isStable(id) && this.isCaughtUp(id))
      .sort((a, b) => this.health(a).lag - this.health(b).lag || a - b)
  }

  hasQuorum(voters: readonly NodeId[]): boolean {
    return voters.filter(id => this.isHealthy(id)).length >= majority(voters.length)
  }
}

/** The next step, or undefined when all is as it should be, or nothing can be done just now. */
export function plan(view: AutopilotView): Action | undefined {
  const scene = new Scene(view)
  if (view.isBusy || isJoint(view.confState) || !scene.hasQuorum(scene.voters)) return undefined
  return (
    planTransfer(scene) ??
    planLearner(scene) ??
    planSeats(scene) ??
    planRemoval(scene) ??
    planRows(scene) ??
    planVersion(scene)
  )
}

/** A leader that departs or drains hands over first: that takes a round trip, not an election. */
function planTransfer(scene: Scene): Action | undefined {
  const { leaderId } = scene.view
  if (scene.isActive(leaderId)) return undefined
  const to = successor(scene)
  if (to === undefined) return undefined
  return { type: 'transfer', to, reason: `leader ${leaderId} ${wordFor(scene, leaderId)}` }
}

function successor(scene: Scene): NodeId | undefined {
  return successors(scene.view).find(id => scene.isCaughtUp(id))
}

/** Who leadership may go to, those first that have the most of the log. */
export function successors(view: AutopilotView): NodeId[] {
  const scene = new Scene(view)
  return scene.voters
    .filter(id => id !== view.leaderId && scene.isActive(id) && scene.isHealthy(id))
    .sort((a, b) => scene.health(a).lag - scene.health(b).lag || a - b)
}

/** Every node that stays is a member. A learner changes no quorum, so it need not even live. */
function planLearner(scene: Scene): Action | undefined {
  const { rows, confState } = scene.view
  const members = new Set([...confState.voters, ...confState.learners])
  const missing = rows
    .filter(({ id, state }) => !members.has(id) && (state === 'active' || state === 'draining'))
    .map(({ id }) => id)
    .sort((a, b) => a - b)[0]
  if (missing === undefined) return undefined
  return change([{ type: 'add-learner', nodeId: missing }], `node ${missing} joined`)
}

function planSeats(scene: Scene): Action | undefined {
  const next = votersWanted(scene)
  if (next === undefined) return undefined
  const changes = changesTo(scene, next)
  if (changes.length === 0) return undefined
  return change(changes, `voters ${scene.voters.join(', ')} become ${next.join(', ')}`)
}

/** Who sits where, best first: see the top of this file. */
function seating(scene: Scene): { order: NodeId[]; living: number } {
  const { leaderId } = scene.view
  const staying = scene.voters.filter(id => !scene.isDeparting(id))
  const isLost = (id: NodeId) => scene.isDead(id) || scene.row(id)?.state === 'replaced'
  const rank = (id: NodeId) => (id === leaderId ? 0 : scene.isHealthy(id) ? 1 : 2)
  const ranked = [...staying].sort((a, b) => rank(a) - rank(b) || a - b)
  const kept = ranked.filter(id => scene.isActive(id) && !isLost(id))
  const draining = ranked.filter(id => scene.row(id)?.state === 'draining' && !isLost(id))
  const lost = ranked.filter(isLost)
  const { candidates } = scene
  return {
    order: [...kept, ...candidates, ...draining, ...lost],
    living: kept.length + candidates.length,
  }
}

function votersWanted(scene: Scene): readonly NodeId[] | undefined {
  const { votersMax } = scene.view.settings
  const { order, living } = seating(scene)
  if (order.length === 0) return undefined
  const most = Math.min(order.length, votersMax)
  const wanted = most % 2 === 0 ? most - 1 : most
  const largest = Math.min(order.length, Math.max(wanted, scene.voters.length))
  for (let size = wanted; size <= largest; size++) {
    const next = withLeader(scene, order.slice(0, size))
    // A leader that departs may sit in excess; nobody gives up a seat for an even number.
    const isLossForNothing = next.length % 2 === 0 && isSeatLost(scene, next)
    if (!isLossForNothing && isAllowed(scene, next, living)) {
      return next.length < scene.voters.length && isCandidateNear(scene) ? undefined : next
    }
  }
  return undefined
}

/** Whether somebody who lives and wants to stay is voted out. */
function isSeatLost(scene: Scene, next: readonly NodeId[]): boolean {
  return scene.voters.some(id => !next.includes(id) && scene.isActive(id) && !scene.isDead(id))
}

/** A learner that only has to prove itself a moment longer is worth the wait before a seat goes. */
function isCandidateNear(scene: Scene): boolean {
  return scene.learners.some(
    id => scene.isActive(id) && scene.isHealthy(id) && scene.isCaughtUp(id) && !scene.isStable(id),
  )
}

/** A leader is never voted out: it stays until another voter can be handed the leadership. */
function withLeader(scene: Scene, next: readonly NodeId[]): readonly NodeId[] {
  const { leaderId } = scene.view
  return next.includes(leaderId) || !scene.voters.includes(leaderId) ? next : [...next, leaderId]
}

function isAllowed(scene: Scene, next: readonly NodeId[], living: number): boolean {
  if (!scene.hasQuorum(next)) return false
  const livingNext = next.filter(id => !scene.isDead(id)).length
  const least = majority(Math.min(living, scene.view.settings.votersMax))
  if (next.length < scene.voters.length && livingNext < least) return false
  const gained = next.filter(id => !scene.voters.includes(id)).length
  const lost = scene.voters.filter(
    id => !next.includes(id) && !scene.isDeparting(id) && !scene.isHealthy(id),
  )
  return lost.length <= gained || livingNext >= 3
}

/** Nothing where both are the same. Who loses a seat and stays a node is a learner after that. */
function changesTo(scene: Scene, next: readonly NodeId[]): SingleChange[] {
  const added = next
    .filter(id => !scene.voters.includes(id))
    .map(nodeId => ({ type: 'add-voter', nodeId }) as const)
  const dropped = scene.voters
    .filter(id => !next.includes(id))
    .map(nodeId => {
      const state = scene.row(nodeId)?.state
      const stays = state === 'active' || state === 'draining'
      return { type: stays ? 'add-learner' : 'remove', nodeId } as const
    })
  return [...added, ...dropped].sort((a, b) => a.nodeId - b.nodeId)
}

function planRemoval(scene: Scene): Action | undefined {
  const id = scene.learners.find(one => {
    return scene.isDeparting(one) || scene.row(one)?.state === 'replaced'
  })
  if (id === undefined) return undefined
  return change([{ type: 'remove', nodeId: id }], `node ${id} ${wordFor(scene, id)}`)
}

function planRows(scene: Scene): Action | undefined {
  const members = new Set([...scene.voters, ...scene.learners])
  const row = scene.view.rows.find(
    ({ id, state }) => !members.has(id) && (state === 'leaving' || state === 'replaced'),
  )
  if (row === undefined) return undefined
  return { type: 'remove-row', id: row.id, reason: `node ${row.id} is out of the configuration` }
}

function planVersion(scene: Scene): Action | undefined {
  const { rows, commandVersion, confState } = scene.view
  const version = versionToRaise({ clusterVersion: commandVersion, conf: confState, nodes: rows })
  if (version === undefined) return undefined
  return { type: 'raise-version', version, reason: `every node understands version ${version}` }
}

/** An operator's wish. The worst voter that is not the leader makes room. */
export function planPromotion(view: AutopilotView, id: NodeId): Planned {
  const scene = new Scene(view)
  if (view.isBusy || isJoint(view.confState)) return refused('cluster-busy')
  if (scene.row(id) === undefined) return refused('node-not-found')
  if (scene.voters.includes(id)) return refused('node-is-voter')
  if (!scene.isActive(id)) return refused('node-draining')
  if (!scene.learners.includes(id) || !scene.isHealthy(id)) return refused('node-unreachable')
  if (!scene.isCaughtUp(id)) return refused('node-behind')
  const { order } = seating(scene)
  const isSeatFree = scene.voters.length % 2 === 0 && scene.voters.length < view.settings.votersMax
  const departing = scene.voters.find(one => one !== view.leaderId && !order.includes(one))
  const victim = departing ?? worstOf(scene, order)
  if (victim === undefined && !isSeatFree) return refused('voters-even')
  const rest = isSeatFree ? scene.voters : scene.voters.filter(one => one !== victim)
  return swapped(scene, [...rest, id])
}

function worstOf(scene: Scene, order: readonly NodeId[]): NodeId | undefined {
  return [...order].reverse().find(id => scene.voters.includes(id) && id !== scene.view.leaderId)
}

/** An operator's wish. A learner takes the seat; without one, only one of two gives it up. */
export function planDemotion(view: AutopilotView, id: NodeId): Planned {
  const scene = new Scene(view)
  if (view.isBusy || isJoint(view.confState)) return refused('cluster-busy')
  if (scene.row(id) === undefined) return refused('node-not-found')
  if (!scene.voters.includes(id)) return refused('node-is-learner')
  if (id === view.leaderId) return refused('node-is-leader')
  const rest = scene.voters.filter(one => one !== id)
  const best = scene.candidates[0]
  if (best === undefined && rest.length % 2 === 0) return refused('no-successor')
  return swapped(scene, rest.length % 2 === 1 || best === undefined ? rest : [...rest, best])
}

function swapped(scene: Scene, next: readonly NodeId[]): Planned {
  if (!scene.hasQuorum(next) || !scene.hasQuorum(scene.voters)) return refused('no-quorum')
  return { ok: true, change: { transition: 'auto', changes: changesTo(scene, next) } }
}

function refused(refusal: Refusal): Planned {
  return { ok: false, refusal }
}

function change(changes: readonly SingleChange[], reason: string): Action {
  return { type: 'change', change: { transition: 'auto', changes }, reason }
}

function wordFor(scene: Scene, id: NodeId): string {
  const words = {
    active: 'is active',
    draining: 'drains',
    leaving: 'leaves',
    replaced: 'is replaced',
  }
  const state = scene.row(id)?.state
  return state === undefined ? 'is removed' : words[state]
}
