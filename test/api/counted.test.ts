import { expect, test } from 'bun:test'
import { openApi } from './harness.ts'

test('admin requests are counted by route and status, failures and refusals too', async () => {
  await using api = await openApi()
  expect((await api.call('POST', '/v2/apps', { name: 'one' })).status).toBe(200)
  expect((await api.call('POST', '/v2/apps', { name: 'one' })).status).toBe(409)
  expect((await api.call('GET', '/v2/apps/nobody')).status).toBe(404)
  expect((await api.call('GET', '/v2/apps/nobody', undefined, { isAnonymous: true })).status).toBe(
    401,
  )
  // They are counted after the answer went out.
  await Bun.sleep(20)
  const text = await api.metrics.scrape()
  const of = (method: string, path: string, status: number) =>
    new RegExp(
      `^fn_api_response_count\\{method="${method}",path="${path}",status="${status}",.*\\} 1$`,
      'm',
    )
  expect(text).toMatch(of('POST', '/v2/apps', 200))
  expect(text).toMatch(of('POST', '/v2/apps', 409))
  expect(text).toMatch(of('GET', '/v2/apps/:app_id', 404))
  expect(text).toMatch(of('GET', '/v2/apps/:app_id', 401))
})
