/** What this node says of itself and of the functions it runs: fnd's own read-only resources. */
import { Elysia, t } from 'elysia'
import type { ClusterControl } from '../../cluster/control.ts'
import { FndError } from '../../errors.ts'
import { type AdminParts, adminOnly, publicBase } from '../admin.ts'
import { json, responses, adminSecurity as security } from '../detail.ts'
import { idFrom } from '../url.ts'
import { fnToWire, jsonResponse } from '../v2/json.ts'
import { idParameter } from '../v2/schemas.ts'
import { clusterSchema, clusterToWire } from './nodes.ts'

/** Reports are plain objects, made by the parts that know. */
export interface NodeReports {
  /** Settings, isolation and instances of a function. */
  readonly describeFn: (fnId: string) => object | Promise<object>
  readonly status: () => object | Promise<object>
  readonly doctor: () => object | Promise<object>
}

const report = {
  description: 'A report',
  content: { 'application/json': { schema: { type: 'object' as const } } },
}

export const statusSchema = t.Object(
  { cluster: clusterSchema },
  { additionalProperties: true, description: 'The node, and the cluster as it sees it.' },
)

/** What the rows say of a function, so as fresh as any other read of them. */
export function fnReportApi(parts: AdminParts & { readonly reports: NodeReports }) {
  const { state, reports, config } = parts
  return new Elysia().use(adminOnly(parts.authorize)).get(
    '/fnd/v1/fns/:fn_id',
    async ({ params, request }) => {
      const fn = state.fn(idFrom(params.fn_id))
      const app = fn === undefined ? undefined : state.app(fn.appId)
      if (fn === undefined || app === undefined) throw new FndError('fn-not-found')
      return jsonResponse({
        ...fnToWire(fn, publicBase(config, request)),
        app_name: app.name,
        ...(await reports.describeFn(fn.id)),
      })
    },
    {
      params: t.Object({ fn_id: idParameter('Id of the function') }),
      detail: {
        tags: ['Functions'],
        security,
        summary: 'Describe a function as this node runs it',
        description: "Fn's fields, the app's name, settings, isolation in force, and instances.",
        responses: responses({ 200: report }, 404),
      },
    },
  )
}

/** What this node says of itself, whatever the others do. */
export function nodeApi(
  parts: AdminParts & { readonly reports: NodeReports; readonly cluster: ClusterControl },
) {
  const { reports, cluster } = parts
  return new Elysia()
    .use(adminOnly(parts.authorize))
    .get(
      '/fnd/v1/status',
      async () => {
        const report = await reports.status()
        return jsonResponse({ ...report, cluster: clusterToWire(await cluster.status()) })
      },
      {
        detail: {
          tags: ['Node'],
          security,
          summary: 'State of this node',
          description:
            'Version, replication, memory and running functions; and `cluster`, as this node ' +
            'sees it. It answers without a leader too.',
          responses: responses({ 200: json('Status', 'The node and the cluster') }),
        },
      },
    )
    .get('/fnd/v1/doctor', async () => jsonResponse(await reports.doctor()), {
      detail: {
        tags: ['Node'],
        security,
        summary: 'What this host can and cannot enforce',
        description: 'The same report as `fnd doctor`.',
        responses: responses({ 200: report }),
      },
    })
}
