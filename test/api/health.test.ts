import { expect, test } from 'bun:test'
import { healthApi, type ReadyCheck } from '../../src/api/health.ts'

function ask(path: string, checks: readonly ReadyCheck[] = []): Promise<Response> {
  const api = healthApi({ version: '1.2.3', commit: 'abc', readyChecks: () => checks })
  return api.handle(new Request(`http://localhost${path}`))
}

test('GET /healthz answers while the process lives, ready or not', async () => {
  const answer = await ask('/healthz', [{ name: 'state', ok: false }])
  expect(answer.status).toBe(200)
  expect(await answer.json()).toEqual({ status: 'ok' })
})

test('GET /readyz lists the checks', async () => {
  const answer = await ask('/readyz', [{ name: 'state', ok: true }])
  expect(answer.status).toBe(200)
  expect(answer.headers.get('cache-control')).toBe('no-store')
  expect(await answer.json()).toEqual({ ready: true, checks: [{ name: 'state', ok: true }] })
})

test('GET /readyz answers 503 with the reasons and the longest Retry-After', async () => {
  const answer = await ask('/readyz', [
    { name: 'state', ok: true },
    { name: 'drain', ok: false, reason: 'the node drains', retryAfterS: 5 },
    { name: 'disk', ok: false, reason: '12 MB are free', retryAfterS: 60 },
  ])
  expect(answer.status).toBe(503)
  expect(answer.headers.get('retry-after')).toBe('60')
  expect(await answer.json()).toEqual({
    ready: false,
    message: 'the node drains; 12 MB are free',
    checks: [
      { name: 'state', ok: true },
      { name: 'drain', ok: false, reason: 'the node drains' },
      { name: 'disk', ok: false, reason: '12 MB are free' },
    ],
  })
})

test('GET /version', async () => {
  expect(await (await ask('/version')).json()).toEqual({ version: '1.2.3', commit: 'abc' })
})
