/** The nodes of the cluster: who they are, and what an operator can do with them. */
import { Elysia, t } from 'elysia'
import type {
  ClusterControl,
  ClusterStatus,
  NodeReport,
  PendingJoin,
} from '../../cluster/control.ts'
import { FndError } from '../../errors.ts'
import { type AdminParts, adminGuard } from '../admin.ts'
import { json, responses, adminSecurity as security } from '../detail.ts'
import { jsonResponse, timeText } from '../v2/json.ts'
import * as wire from '../v2/schemas.ts'

const nullable = (schema: ReturnType<typeof t.Number>) => t.Union([schema, t.Null()])

export const nodeSchema = t.Object(
  {
    id: t.Number({ description: 'Given by the cluster, never twice.' }),
    uuid: t.String({ description: 'Of its data directory.' }),
    name: t.String({ description: 'For people; need not be unique.' }),
    role: t.String({
      description: '`leader`, `voter`, `learner`, or `none`: not in the configuration.',
    }),
    state: t.String({ description: '`active`, `draining`, `leaving` or `replaced`.' }),
    health: t.String({
      description: '`up`, `slow` (far behind), `down`, or `unknown`: not heard yet.',
    }),
    address: t.String({ description: 'Where other nodes reach it.' }),
    api_url: t.String({ description: 'Where its HTTP API is.' }),
    version: t.String({ description: "fnd's version there." }),
    command_version: t.Number({ description: 'The newest version of commands it understands.' }),
    lag: nullable(t.Number({ description: 'Entries behind; null where no leader was asked.' })),
    rtt_ms: nullable(t.Number({ description: 'Round trip to it.' })),
    silent_ms: nullable(t.Number({ description: 'Since it was last heard; null for never.' })),
    problem: t.Union([t.String(), t.Null()], { description: 'Why there is no connection.' }),
    skew_ms: nullable(t.Number({ description: 'Its wall clock less that of `seen_by`.' })),
    joined_at: t.String({ description: 'RFC 3339, UTC.' }),
  },
  { description: 'A node of the cluster.' },
)

export const nodeListSchema = t.Object(
  {
    seen_by: t.Number({
      description: "Whose view this is: the leader's, or the asked node's where none answers.",
    }),
    leader_id: nullable(t.Number({ description: 'null: none is known.' })),
    items: t.Array(t.Unknown({ $ref: '#/components/schemas/Node' })),
  },
  { description: 'The nodes by id.' },
)

export const leaderSchema = t.Object(
  { leader_id: t.Number({ description: 'Who leads from here on.' }) },
  { description: 'The leader.' },
)

export const pendingSchema = t.Object(
  {
    fingerprint: t.String({ description: 'Of its key; the node itself prints the same.' }),
    name: t.String(),
    address: t.String({ description: 'Where it says that its peer port is.' }),
    remote_address: t.String({ description: 'Where it connects from.' }),
    api_url: t.String(),
    version: t.String(),
    asked_at: t.String({ description: 'RFC 3339, UTC.' }),
  },
  { description: 'A node that asks to join and has no token.' },
)

export const joinedSchema = t.Object(
  { node_id: t.Number({ description: 'Its id in the cluster.' }) },
  { description: 'A node that was let in.' },
)

export const clusterSchema = t.Object(
  {
    health: t.String({ description: '`healthy`, `degraded` (see `warnings`) or `no-quorum`.' }),
    id: t.String(),
    node_id: t.Number({ description: 'Of the asked node, as are the indices.' }),
    name: t.String(),
    role: t.String(),
    state: t.String(),
    term: t.Number(),
    leader_id: nullable(t.Number()),
    leader_name: t.Union([t.String(), t.Null()]),
    voters: t.Array(t.Number()),
    learners: t.Array(t.Number()),
    is_joint: t.Boolean({ description: 'A change of several voters is under way.' }),
    voters_alive: t.Number({ description: 'As seen from the asked node.' }),
    quorum: t.Number({ description: 'Voters that must be alive for a change.' }),
    commit_index: t.Number(),
    applied_index: t.Number(),
    last_index: t.Number(),
    command_version: t.Number(),
    warnings: t.Array(t.Object({ code: t.String(), message: t.String(), hint: t.String() }), {
      description: 'What to look at, and what to do about it.',
    }),
  },
  { description: 'The cluster as the asked node sees it.' },
)

export const transferBody = wire.wireObject(
  {
    to: t.Optional(
      wire.integer({ minimum: 1, description: 'Without it, the voter that is most up to date.' }),
    ),
  },
  'To whom.',
)

export const approveBody = wire.wireObject(
  { fingerprint: t.String({ description: 'As the list of pending nodes has it.' }) },
  'Which node.',
)

const tags = ['Cluster']
const params = t.Object({ node_id: wire.idParameter('Id of the node') })
const forceQuery = t.Object(
  { force: t.Optional(t.String({ description: '`true`: though it cannot be reached.' })) },
  { additionalProperties: true },
)
const viaLeader = 'Asked of any node, and done by the leader.'

function route(summary: string, description: string, name: Parameters<typeof json>[0]) {
  return {
    params,
    detail: {
      tags,
      security,
      summary,
      description,
      responses: responses({ 200: json(name, 'The node as it is now') }, 404, 409, 503),
    },
  }
}

const listRoute = {
  detail: {
    tags,
    security,
    summary: 'List the nodes',
    description: 'Answered by the leader if it can be asked, else from what the node itself knows.',
    responses: responses({ 200: json('NodeList', 'All nodes') }),
  },
}

const getRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Get a node',
    description: 'One node of the list.',
    responses: responses({ 200: json('Node', 'The node') }, 404),
  },
}

const deleteRoute = {
  params,
  query: forceQuery,
  detail: {
    tags,
    security,
    summary: 'Take a node out of the cluster',
    description:
      'For good: it ends its calls and then itself. One that cannot be reached is refused unless ' +
      '`force=true`. It is out when it is no longer listed.',
    responses: responses({ 202: json('Node', 'It is on its way out') }, 400, 404, 409, 503),
  },
}

const drainRoute = route(
  'Drain a node',
  'Load balancers learn of it by `/readyz`; it hands leadership over, and is no voter if ' +
    'another node can be.',
  'Node',
)
const undrainRoute = route('End the draining of a node', 'It takes calls again.', 'Node')
const promoteRoute = route(
  'Make a node a voter',
  'It takes the seat of another one, so that the number of voters stays odd.',
  'Node',
)
const demoteRoute = route('Make a voter a learner', 'Another node takes its seat.', 'Node')

const transferRoute = {
  body: transferBody,
  detail: {
    tags,
    security,
    summary: 'Hand the leadership over',
    description: viaLeader,
    responses: responses({ 200: json('Leader', 'The new leader') }, 400, 404, 409, 503),
  },
}

const pendingRoute = {
  detail: {
    tags,
    security,
    summary: 'List the nodes that wait to join',
    description: 'Those that came without a token.',
    responses: responses({ 200: json('PendingJoinList', 'Who waits') }, 503),
  },
}

const approveRoute = {
  body: approveBody,
  detail: {
    tags,
    security,
    summary: 'Let a node join',
    description: `Compare the fingerprint with what the node itself prints. ${viaLeader}`,
    responses: responses({ 200: json('Joined', 'It is a node') }, 400, 404, 503),
  },
}

export function nodeToWire(node: NodeReport): object {
  return {
    id: node.id,
    uuid: node.uuid,
    name: node.name,
    role: node.role,
    state: node.state,
    health: node.health,
    address: node.peerAddress,
    api_url: node.apiUrl,
    version: node.version,
    command_version: node.commandVersion,
    lag: node.lag ?? null,
    rtt_ms: node.rttMs ?? null,
    silent_ms: node.silentMs ?? null,
    problem: node.problem ?? null,
    skew_ms: node.skewMs ?? null,
    joined_at: timeText(node.joinedMs),
  }
}

export function clusterToWire(status: ClusterStatus): object {
  return {
    health: status.health,
    id: status.clusterId,
    node_id: status.nodeId,
    name: status.name,
    role: status.role,
    state: status.state,
    term: status.term,
    leader_id: status.leaderId ?? null,
    leader_name: status.leaderName ?? null,
    voters: status.voters,
    learners: status.learners,
    is_joint: status.isJoint,
    voters_alive: status.votersAlive,
    quorum: status.quorum,
    commit_index: status.commitIndex,
    applied_index: status.appliedIndex,
    last_index: status.lastIndex,
    command_version: status.commandVersion,
    warnings: status.warnings.map(({ code, message, hint }) => ({ code, message, hint })),
  }
}

function pendingToWire(pending: PendingJoin): object {
  const { fingerprint, name, address, remoteAddress, apiUrl, version, sinceMs } = pending
  return {
    fingerprint,
    name,
    address,
    remote_address: remoteAddress,
    api_url: apiUrl,
    version,
    asked_at: timeText(sinceMs),
  }
}

function idFrom(parameter: unknown): number {
  if (typeof parameter === 'string' && /^[1-9]\d{0,14}$/.test(parameter)) return Number(parameter)
  throw new FndError('node-not-found')
}

function isForced(text: string | undefined): boolean {
  if (text === undefined || text === 'false' || text === '0') return false
  if (text === 'true' || text === '1') return true
  throw new FndError('invalid-field', { field: 'force', message: 'force must be true or false' })
}

type ClusterParts = AdminParts & { readonly cluster: ClusterControl }

async function nodeBody(cluster: ClusterControl, id: number): Promise<object> {
  const node = (await cluster.nodes()).nodes.find(one => one.id === id)
  if (node === undefined) throw new FndError('node-not-found')
  return nodeToWire(node)
}

export function nodesApi(parts: ClusterParts) {
  const { cluster } = parts
  return new Elysia()
    .use(adminGuard(parts, { isBodyOptional: true }))
    .get(
      '/fnd/v1/nodes',
      async () => {
        const { seenBy, leaderId, nodes } = await cluster.nodes()
        const items = nodes.map(nodeToWire)
        return jsonResponse({ seen_by: seenBy, leader_id: leaderId ?? null, items })
      },
      listRoute,
    )
    .get(
      '/fnd/v1/nodes/pending',
      async () => jsonResponse({ items: (await cluster.pending()).map(pendingToWire) }),
      pendingRoute,
    )
    .post(
      '/fnd/v1/nodes/approve',
      async ({ body }) => jsonResponse({ node_id: await cluster.approve(body.fingerprint) }),
      approveRoute,
    )
    .post(
      '/fnd/v1/nodes/transfer',
      async ({ body }) => jsonResponse({ leader_id: await cluster.transfer(body.to) }),
      transferRoute,
    )
    .get(
      '/fnd/v1/nodes/:node_id',
      async ({ params }) => jsonResponse(await nodeBody(cluster, idFrom(params.node_id))),
      getRoute,
    )
    .delete(
      '/fnd/v1/nodes/:node_id',
      async ({ params, query }) => {
        const id = idFrom(params.node_id)
        const force = isForced(query.force)
        const node = await nodeBody(cluster, id)
        await cluster.remove(id, force)
        return jsonResponse({ ...node, state: 'leaving' }, 202)
      },
      deleteRoute,
    )
}

/** What may be wished of a single node. */
export function nodeWishesApi(parts: ClusterParts) {
  const { cluster } = parts
  /** Does something with a node, and tells what it is then. */
  const change =
    (act: (id: number) => Promise<void>) =>
    async ({ params }: { readonly params: { readonly node_id: unknown } }) => {
      const id = idFrom(params.node_id)
      await act(id)
      return jsonResponse(await nodeBody(cluster, id))
    }
  const path = '/fnd/v1/nodes/:node_id' as const
  return new Elysia()
    .use(adminGuard(parts, { isBodyOptional: true }))
    .post(
      `${path}/drain`,
      change(id => cluster.drain(id)),
      drainRoute,
    )
    .post(
      `${path}/undrain`,
      change(id => cluster.undrain(id)),
      undrainRoute,
    )
    .post(
      `${path}/promote`,
      change(id => cluster.promote(id)),
      promoteRoute,
    )
    .post(
      `${path}/demote`,
      change(id => cluster.demote(id)),
      demoteRoute,
    )
}
