import { expect, test } from 'bun:test'
import { metricsApi } from '../../src/api/metrics.ts'
import { systemClock } from '../../src/clock.ts'
import { Metrics } from '../../src/watch/metrics.ts'
import { parseMetrics } from '../watch/exposition.ts'

test('GET /metrics answers in the text format of Prometheus', async () => {
  const metrics = new Metrics({ clock: systemClock, version: '1.2.3', commit: 'abc' })
  metrics.fn({ appId: 'a', appName: 'shop', fnId: 'f', fnName: 'hello' }).queued()
  const answer = await metricsApi(metrics).handle(new Request('http://localhost/metrics'))
  expect(answer.status).toBe(200)
  expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  const parsed = parseMetrics(await answer.text())
  expect(parsed.value('fn_calls', { app_id: 'a', fn_id: 'f' })).toBe(1)
})
