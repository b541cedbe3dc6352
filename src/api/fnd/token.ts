/** How a machine becomes a node, and how this node stops being one. */
import { Elysia, t } from 'elysia'
import type { ClusterControl } from '../../cluster/control.ts'
import { tokenLifeMsDefault, tokenLifeMsMax } from '../../config-cluster.ts'
import { type AdminParts, adminGuard } from '../admin.ts'
import { json, responses, adminSecurity as security } from '../detail.ts'
import { jsonResponse, timeText } from '../v2/json.ts'
import * as wire from '../v2/schemas.ts'

const lifeSMax = tokenLifeMsMax / 1000

export const tokenBody = wire.wireObject(
  {
    ttl_s: t.Optional(
      t.Number({
        multipleOf: 1,
        minimum: 60,
        maximum: lifeSMax,
        description: 'How long it may be used: seconds, default a day, at most 30 days.',
      }),
    ),
  },
  'For how long.',
)

export const tokenSchema = t.Object(
  {
    token: t.String({ description: 'Secret: whoever has it can join, and read all there is.' }),
    expires_at: t.String({ description: 'RFC 3339, UTC.' }),
    address: t.String({ description: 'What the next node can be told to join.' }),
  },
  { description: 'A token to join with.' },
)

export const leavingSchema = t.Object(
  { state: t.String({ description: '`leaving`' }) },
  { description: 'That this node is on its way out.' },
)

const tags = ['Cluster']

const tokenRoute = {
  body: tokenBody,
  detail: {
    tags,
    security,
    summary: 'Make a join token',
    description: 'It pins the authority of this cluster, and is not stored anywhere.',
    responses: responses({ 200: json('JoinToken', 'The token') }, 400),
  },
}

const leaveRoute = {
  detail: {
    tags,
    security,
    summary: 'Take this node out of the cluster',
    description:
      'It hands leadership over, ends its calls, is taken out, and its process ends with 0.',
    responses: responses({ 202: json('Leaving', 'It is on its way out') }, 409, 503),
  },
}

export function tokenApi(parts: AdminParts & { readonly cluster: ClusterControl }) {
  const { cluster } = parts
  return new Elysia()
    .use(adminGuard(parts, { isBodyOptional: true }))
    .post(
      '/fnd/v1/token',
      async ({ body }) => {
        const lifeMs = body.ttl_s === undefined ? tokenLifeMsDefault : body.ttl_s * 1000
        const { token, expiresMs, address } = await cluster.mintToken(lifeMs)
        return jsonResponse({ token, expires_at: timeText(expiresMs), address })
      },
      tokenRoute,
    )
    .post(
      '/fnd/v1/leave',
      async () => {
        await cluster.leave()
        return jsonResponse({ state: 'leaving' }, 202)
      },
      leaveRoute,
    )
}
