import { Elysia } from 'elysia'
import type { Metrics } from '../watch/metrics.ts'

export type MetricsReader = Pick<Metrics, 'scrape' | 'contentType'>

/** Unauthenticated, as Fn's: what is in it names functions, never their data. */
export function metricsApi(metrics: MetricsReader) {
  return new Elysia({ name: 'api/metrics' }).get(
    '/metrics',
    async () =>
      new Response(await metrics.scrape(), {
        headers: { 'content-type': metrics.contentType, 'cache-control': 'no-store' },
      }),
    {
      detail: {
        tags: ['Watching'],
        summary: 'Metrics in the text format of Prometheus',
        security: [],
      },
    },
  )
}
