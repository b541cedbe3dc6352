/** The cluster of a node that has no peers: it leads itself, and nothing can be handed over. */

import type { ClusterControl, NodeReport } from '../../src/cluster/control.ts'
import type { Config } from '../../src/config.ts'
import { FndError } from '../../src/errors.ts'

export interface LoneParts {
  readonly config: Config
  readonly version: string
  readonly status: () => {
    readonly clusterId: string
    readonly uuid: string
    readonly term: number
    readonly commitIndex: number
    readonly appliedIndex: number
    readonly lastIndex: number
  }
}

const selfId = 1

export function loneCluster({ config, version, status }: LoneParts) {
  const refuse = () => Promise.reject(new FndError('last-node'))
  const { name, peerListen } = config.cluster
  const self = (): NodeReport => ({
    id: selfId,
    uuid: status().uuid,
    name,
    role: 'leader',
    state: 'active',
    health: 'up',
    peerAddress: `${peerListen.host}:${peerListen.port}`,
    apiUrl: `http://${config.host}:${config.port}`,
    version,
    commandVersion: 1,
    joinedMs: 0,
    lag: 0,
    rttMs: undefined,
    silentMs: 0,
    problem: undefined,
    skewMs: undefined,
  })
  const cluster: ClusterControl = {
    status: async () => {
      const { clusterId, term, commitIndex, appliedIndex, lastIndex } = status()
      return {
        health: 'healthy',
        clusterId,
        nodeId: selfId,
        name,
        role: 'leader',
        state: 'active',
        term,
        leaderId: selfId,
        leaderName: name,
        voters: [selfId],
        learners: [],
        isJoint: false,
        votersAlive: 1,
        quorum: 1,
        commitIndex,
        appliedIndex,
        lastIndex,
        commandVersion: 1,
        warnings: [],
      }
    },
    nodes: async () => ({ seenBy: selfId, leaderId: selfId, nodes: [self()] }),
    remove: refuse,
    drain: refuse,
    undrain: refuse,
    promote: refuse,
    demote: refuse,
    transfer: refuse,
    pending: async () => [],
    approve: () => Promise.reject(new FndError('join-not-found')),
    mintToken: refuse,
    leave: refuse,
  }
  const fresh = {
    linear: async () => undefined,
    atLeast: async (index: number) => {
      if (index > status().appliedIndex) throw new FndError('not-fresh')
    },
    get appliedIndex() {
      return status().appliedIndex
    },
  }
  const noBackup = () => new FndError('internal', { detail: 'this node makes no backups' })
  const backups = { open: () => Promise.reject(noBackup()) }
  return { cluster, fresh, backups }
}
