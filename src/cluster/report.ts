/** The facts of this node and its peers, as reports for the API. Pure. */
import type { ConfState, CoreStatus, NodeId } from '../raft/types.ts'
import type { Node } from '../store/objects.ts'
import { advise } from './advice.ts'
import type { ClusterStatus, NodeHealthWord, NodeReport, NodeRole } from './control.ts'
import type { PeerState } from './types.ts'

/** A peer, and why there is no connection to it, where that is known. */
export type SeenPeer = PeerState & { readonly problem?: string | undefined }

export interface ReportFacts {
  readonly selfId: NodeId
  readonly selfName: string
  readonly clusterId: string
  readonly core: CoreStatus
  /** There is no room on the disk of this node. */
  readonly isStarved: boolean
  readonly rows: readonly Node[]
  readonly peers: readonly SeenPeer[]
  /** On the clock of `PeerState.lastHeardMs`. */
  readonly nowMs: number
  /** For how long a node was silent since it was first waited for. */
  readonly waitedMs: (id: NodeId) => number
  readonly healthyWithinMs: number
  readonly lagMax: number
  readonly votersMax: number
  readonly commandVersion: number
}

export function roleOf(id: NodeId, { confState: conf, lead }: CoreStatus): NodeRole {
  if (id === lead) return 'leader'
  if (conf.voters.includes(id) || conf.votersOutgoing.includes(id)) return 'voter'
  return conf.learners.includes(id) || conf.learnersNext.includes(id) ? 'learner' : 'none'
}

/**
 * Infinity where it is not known. A node that still has to get a snapshot may lack few entries and
 * much state: until it has acknowledged entries it is infinitely far behind, and does not vote.
 */
export function lagOf(id: NodeId, core: CoreStatus): number {
  if (id === core.id) return 0
  const progress = core.progress.get(id)
  if (progress === undefined || progress.state === 'snapshot' || progress.match === 0) {
    return Number.POSITIVE_INFINITY
  }
  return Math.max(0, core.commit - progress.match)
}

export function nodeReports(facts: ReportFacts): NodeReport[] {
  const { rows, core, peers, selfId } = facts
  return [...rows]
    .sort((a, b) => a.id - b.id)
    .map(({ state, ...row }) => {
      const isSelf = row.id === selfId
      const peer = peers.find(one => one.id === row.id)
      const lag = lagOf(row.id, core)
      return {
        ...row,
        role: roleOf(row.id, core),
        state,
        health: isSelf ? 'up' : healthWord(facts, row.id, peer, lag),
        lag: Number.isFinite(lag) ? lag : undefined,
        rttMs: peer?.rttMs,
        silentMs: isSelf ? 0 : silenceOf(facts, peer),
        problem: peer?.isConnected === true ? undefined : peer?.problem,
        skewMs: peer?.skewMs,
      }
    })
}

/** Between two nodes that do not lead only pings go, about one a second. */
const connectedSilentMsMax = 3000

function healthWord(
  facts: ReportFacts,
  id: NodeId,
  peer: SeenPeer | undefined,
  lag: number,
): NodeHealthWord {
  // It may be heard all the same, where only one direction is open.
  if (peer?.isConnected === false && peer.problem !== undefined) return 'down'
  const silentMsMax = Math.max(
    facts.healthyWithinMs,
    peer?.isConnected === true ? connectedSilentMsMax : 0,
  )
  const silentMs = silenceOf(facts, peer)
  if (silentMs === undefined) return facts.waitedMs(id) > silentMsMax ? 'down' : 'unknown'
  if (silentMs > silentMsMax) return 'down'
  return Number.isFinite(lag) && lag > facts.lagMax ? 'slow' : 'up'
}

function silenceOf(facts: ReportFacts, peer: PeerState | undefined): number | undefined {
  return peer?.lastHeardMs === undefined ? undefined : Math.max(0, facts.nowMs - peer.lastHeardMs)
}

function votersOf({ voters, votersOutgoing }: ConfState): NodeId[] {
  return [...new Set([...voters, ...votersOutgoing])].sort((a, b) => a - b)
}

export function statusOf(facts: ReportFacts): ClusterStatus {
  const { core, rows, selfId } = facts
  const { confState: conf } = core
  const nodes = nodeReports(facts)
  const leader = core.lead === 0 ? undefined : core.lead
  const advice = advise({
    selfId,
    leaderId: leader,
    voters: conf.voters,
    votersOutgoing: conf.votersOutgoing,
    nodes,
    votersMax: facts.votersMax,
    backlog: core.commit - core.applied,
    isStarved: facts.isStarved,
  })
  return {
    health: advice.health,
    clusterId: facts.clusterId,
    nodeId: selfId,
    name: facts.selfName,
    role: roleOf(selfId, core),
    state: rows.find(row => row.id === selfId)?.state ?? 'active',
    term: core.term,
    leaderId: leader,
    leaderName: rows.find(row => row.id === leader)?.name,
    voters: votersOf(conf),
    learners: conf.learners,
    isJoint: conf.votersOutgoing.length > 0,
    votersAlive: advice.votersAlive,
    quorum: advice.quorum,
    commitIndex: core.commit,
    appliedIndex: core.applied,
    lastIndex: core.lastIndex,
    commandVersion: facts.commandVersion,
    warnings: advice.warnings,
  }
}
