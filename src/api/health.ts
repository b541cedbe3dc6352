import { Elysia, t } from 'elysia'

/** One condition of being ready. */
export interface ReadyCheck {
  readonly name: string
  readonly ok: boolean
  /** Why not, in a sentence for the operator. */
  readonly reason?: string
  /** When to ask again. */
  readonly retryAfterS?: number
}

export interface HealthOptions {
  readonly version: string
  readonly commit: string
  /** Asked at each request; cheap, because load balancers ask often. */
  readonly readyChecks: () => readonly ReadyCheck[]
}

const retryAfterSDefault = 1
const noStore = { 'cache-control': 'no-store' }

const checkSchema = t.Object({
  name: t.String(),
  ok: t.Boolean(),
  reason: t.Optional(t.String()),
})

const readySchema = t.Object({
  ready: t.Boolean(),
  message: t.Optional(t.String({ description: 'Why not' })),
  checks: t.Array(checkSchema),
})

/** Unauthenticated: for load balancers, supervisors and people. */
export function healthApi(options: HealthOptions) {
  const { version, commit, readyChecks } = options
  return new Elysia({ name: 'api/health' })
    .get('/', () => ({ goto: '/fnd/docs', hello: 'world!' as const }), {
      response: t.Object({ goto: t.String(), hello: t.Literal('world!') }),
      detail: { tags: ['Watching'], summary: 'Where to read on', security: [] },
    })
    .get(
      '/healthz',
      ({ set }) => {
        Object.assign(set.headers, noStore)
        return { status: 'ok' as const }
      },
      {
        response: t.Object({ status: t.Literal('ok') }),
        detail: {
          tags: ['Watching'],
          summary: 'Whether the process lives',
          description: 'Answers 200 while it does. A failure is a reason to restart it.',
          security: [],
        },
      },
    )
    .get(
      '/readyz',
      ({ set }) => {
        Object.assign(set.headers, noStore)
        const checks = readyChecks()
        const failed = checks.filter(check => !check.ok)
        const shown = checks.map(({ name, ok, reason }) =>
          reason === undefined ? { name, ok } : { name, ok, reason },
        )
        if (failed.length === 0) return { ready: true, checks: shown }
        const waits = failed.map(check => check.retryAfterS ?? retryAfterSDefault)
        set.status = 503
        set.headers['retry-after'] = String(Math.max(...waits))
        const message = failed.map(check => check.reason ?? check.name).join('; ')
        return { ready: false, message, checks: shown }
      },
      {
        response: { 200: readySchema, 503: readySchema },
        detail: {
          tags: ['Watching'],
          summary: 'Whether this node takes calls',
          description:
            'Answers 503 with Retry-After and the reason while the node starts, drains, or ' +
            'cannot write. A failure is a reason to send calls elsewhere, not to restart it.',
          security: [],
        },
      },
    )
    .get('/version', () => ({ version, commit }), {
      response: t.Object({ version: t.String(), commit: t.String() }),
      detail: { tags: ['Watching'], summary: 'What runs here', security: [] },
    })
}
