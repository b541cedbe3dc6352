/**
 * How a cluster goes from one version of fnd to the next, node by node. Each node tells in its row
 * which commands it understands. The replicated cluster version says which may be proposed: the
 * leader raises it when every member understands more, and it never falls (raft.md §7).
 */
import { FndError } from '../errors.ts'
import type { ConfState, NodeId } from '../raft/types.ts'
import type { Node } from '../store/objects.ts'

type Versions = Pick<Node, 'id' | 'name' | 'version' | 'commandVersion' | 'state'>

export interface UpgradeView {
  /** Replicated: commands up to this version may be proposed. */
  readonly clusterVersion: number
  readonly conf: ConfState
  readonly nodes: readonly Versions[]
}

/**
 * What the leader is to raise the cluster version to; undefined: it stays. Learners count, since
 * they apply every command, and so do nodes that are down: they will read the log when they come
 * back. One that never will is `replaced`, or removed by an operator (`fnd nodes rm`).
 */
export function versionToRaise({ clusterVersion, conf, nodes }: UpgradeView): number | undefined {
  const known = new Set(nodes.map(({ id }) => id))
  // What a member without a row understands is not known.
  if (membersOf(conf).some(id => !known.has(id))) return undefined
  const staying = nodes.filter(({ state }) => state !== 'replaced')
  if (staying.length === 0) return undefined
  const common = Math.min(...staying.map(({ commandVersion }) => commandVersion))
  return common > clusterVersion ? common : undefined
}

/**
 * Why a command that needs version `needed` may not be proposed; undefined: it may. `needed` is
 * infinite for one that this fnd does not know.
 */
export function upgradeRefusal(
  needed: number,
  view: Pick<UpgradeView, 'clusterVersion' | 'nodes'>,
): FndError | undefined {
  if (needed <= view.clusterVersion) return undefined
  const older = view.nodes.filter(
    ({ commandVersion, state }) => commandVersion < needed && state !== 'replaced',
  )
  const names = older.map(({ id, name, version }) => `node ${id} (${name}) runs ${version}`)
  const detail = names.length > 0 ? names.join(', ') : 'all are upgraded: a moment more'
  return new FndError('upgrade-pending', { detail })
}

/** Why a node that understands commands up to `commandVersion` may not join; undefined: it may. */
export function joinRefusal(
  commandVersion: number,
  { clusterVersion, nodes }: Pick<UpgradeView, 'clusterVersion' | 'nodes'>,
): string | undefined {
  if (commandVersion >= clusterVersion) return undefined
  const fit = nodes.filter(node => node.commandVersion >= clusterVersion)
  const versions = [...new Set(fit.map(({ version }) => version))].sort()
  const such = versions.length === 0 ? '' : ` (${versions.join(' or ')})`
  return (
    `this fnd is too old for the cluster: it understands commands up to version ` +
    `${commandVersion}, and the cluster uses version ${clusterVersion}; ` +
    `install the version that the other nodes run${such}, or a later one`
  )
}

/**
 * Why a node may not join with this peer address; undefined: it may. Of a node that was wiped the
 * new self comes with the address of the old one, which then cannot be there any more. Where that
 * one still is, the address was given by mistake, and would cost a living node its seat.
 */
export function addressRefusal(
  given: { readonly uuid: string; readonly address: string },
  nodes: readonly Node[],
  isThere: (id: NodeId) => boolean,
): string | undefined {
  const owner = nodes.find(
    ({ id, uuid, peerAddress }) =>
      peerAddress === given.address && uuid !== given.uuid && isThere(id),
  )
  if (owner === undefined) return undefined
  return (
    `${given.address} is the address of node ${owner.id} (${owner.name}), which is there; ` +
    'give this node its own with --advertise or --peer-listen'
  )
}

function membersOf(conf: ConfState): readonly NodeId[] {
  return [...conf.voters, ...conf.votersOutgoing, ...conf.learners, ...conf.learnersNext]
}
