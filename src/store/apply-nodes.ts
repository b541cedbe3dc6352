/**
 * Changes of the cluster on its rows; pure and deterministic as `apply.ts`. A row says what is
 * wanted of a node; who is a member of the raft group is the configuration's to say.
 */
import type { Applied, NodeCommand, NodeJoin, NodePatch } from './commands.ts'
import type { Node } from './objects.ts'
import { nodeFrom, type Tx } from './rows.ts'

export function applyToNodes(tx: Tx, command: NodeCommand): Applied {
  switch (command.type) {
    case 'node.join':
      return joinNode(tx, command)
    case 'node.update':
      return updateNode(tx, command.id, command.patch)
    case 'node.remove':
      return removeNode(tx, command.id)
    case 'cluster.version':
      tx.run('UPDATE meta SET cluster_version = max(cluster_version, ?)', command.version)
      return { outcome: { ok: true, object: null }, changes: [] }
    case 'cluster.note':
      return { outcome: { ok: true, object: null }, changes: [] }
  }
}

function joinNode(tx: Tx, given: NodeJoin): Applied {
  const known = tx.get('SELECT * FROM nodes WHERE uuid = ?', given.uuid)
  if (known !== undefined) {
    const { name, peerAddress, apiUrl, version, commandVersion } = given
    return putNode(tx, nodeFrom(known), { name, peerAddress, apiUrl, version, commandVersion })
  }
  const next = Number(tx.get('SELECT next_node_id FROM meta')?.next_node_id)
  const id = given.id ?? next
  if (tx.get('SELECT 1 FROM nodes WHERE id = ?', id) !== undefined) {
    return { outcome: { ok: false, code: 'node-exists' }, changes: [] }
  }
  const replaced = tx
    .all('SELECT * FROM nodes WHERE peer_address = ? ORDER BY id', given.peerAddress)
    .flatMap(row => putNode(tx, nodeFrom(row), { state: 'replaced' }).changes)
  tx.run('UPDATE meta SET next_node_id = ?', Math.max(next, id + 1))
  const node: Node = {
    id,
    uuid: given.uuid,
    name: given.name.toWellFormed(),
    peerAddress: given.peerAddress.toWellFormed(),
    apiUrl: given.apiUrl.toWellFormed(),
    version: given.version.toWellFormed(),
    commandVersion: given.commandVersion,
    state: 'active',
    joinedMs: given.atMs,
  }
  tx.run(
    `INSERT INTO nodes (id, uuid, name, peer_address, api_url, version, command_version, state,
       joined_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    node.id,
    node.uuid,
    node.name,
    node.peerAddress,
    node.apiUrl,
    node.version,
    node.commandVersion,
    node.state,
    node.joinedMs,
  )
  const changes = [...replaced, { kind: 'node' as const, id, row: node }]
  return { outcome: { ok: true, object: node }, changes }
}

function updateNode(tx: Tx, id: number, patch: NodePatch): Applied {
  const row = tx.get('SELECT * FROM nodes WHERE id = ?', id)
  return row === undefined ? notFound : putNode(tx, nodeFrom(row), patch)
}

function removeNode(tx: Tx, id: number): Applied {
  if (tx.get('SELECT 1 FROM nodes WHERE id = ?', id) === undefined) return notFound
  tx.run('DELETE FROM nodes WHERE id = ?', id)
  return { outcome: { ok: true, object: null }, changes: [{ kind: 'node', id, row: null }] }
}

const notFound: Applied = { outcome: { ok: false, code: 'node-not-found' }, changes: [] }

function putNode(tx: Tx, old: Node, patch: NodePatch): Applied {
  const node: Node = {
    ...old,
    name: patch.name?.toWellFormed() ?? old.name,
    peerAddress: patch.peerAddress?.toWellFormed() ?? old.peerAddress,
    apiUrl: patch.apiUrl?.toWellFormed() ?? old.apiUrl,
    version: patch.version?.toWellFormed() ?? old.version,
    commandVersion: patch.commandVersion ?? old.commandVersion,
    state: patch.state ?? old.state,
  }
  // Same fields in the same order, so their text decides.
  if (JSON.stringify(node) === JSON.stringify(old)) {
    return { outcome: { ok: true, object: old }, changes: [] }
  }
  tx.run(
    `UPDATE nodes SET name = ?, peer_address = ?, api_url = ?, version = ?, command_version = ?,
       state = ? WHERE id = ?`,
    node.name,
    node.peerAddress,
    node.apiUrl,
    node.version,
    node.commandVersion,
    node.state,
    node.id,
  )
  return {
    outcome: { ok: true, object: node },
    changes: [{ kind: 'node', id: node.id, row: node }],
  }
}
