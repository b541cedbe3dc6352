/** How fresh reads are, at a client's wish; and backups, which are as of one index. */
import { expect, test } from 'bun:test'
import type { Fresh } from '../../src/api/freshness.ts'
import { FndError } from '../../src/errors.ts'
import { openApi, token } from './harness.ts'

class FreshFixture implements Fresh {
  readonly asked: string[] = []
  appliedIndex = 41
  isLed = true

  async linear(): Promise<void> {
    this.asked.push('linear')
    if (!this.isLed) throw new FndError('no-quorum', { detail: '1 of 3' })
  }

  async atLeast(index: number): Promise<void> {
    this.asked.push(`at least ${index}`)
    if (index > this.appliedIndex) throw new FndError('not-fresh')
  }
}

test('reads are linear unless they ask for less', async () => {
  const fresh = new FreshFixture()
  await using api = await openApi({ fresh })
  const ask = async (path: string, headers: Record<string, string> = {}) => {
    fresh.asked.length = 0
    const answer = await api.call('GET', path, undefined, { headers })
    return [answer.status, ...fresh.asked]
  }
  expect(await ask('/v2/apps')).toEqual([200, 'linear'])
  expect(await ask('/v2/apps?consistency=linear')).toEqual([200, 'linear'])
  expect(await ask('/v2/apps?consistency=local')).toEqual([200])
  expect(await ask('/v2/apps', { 'Fnd-Consistency': 'local' })).toEqual([200])
  expect(await ask('/v2/apps?min-index=40')).toEqual([200, 'at least 40'])
  expect(await ask('/v2/apps', { 'Fnd-Min-Index': '41' })).toEqual([200, 'at least 41'])
  expect(await ask('/v2/apps?min-index=0')).toEqual([200])
  const both = { 'Fnd-Consistency': 'linear', 'Fnd-Min-Index': '7' }
  expect(await ask('/v2/apps', both)).toEqual([200, 'linear', 'at least 7'])
  expect(await ask('/v2/apps?consistency=local', both)).toEqual([200, 'at least 7'])
  expect(await ask('/v2/apps?min-index=42')).toEqual([503, 'at least 42'])
  for (const path of ['/v2/fns?app_id=x', '/v2/triggers?app_id=x', '/v2/apps/x', '/fnd/v1/fns/x']) {
    expect([path, (await ask(path))[1]]).toEqual([path, 'linear'])
  }
})

test('what a change names is not said to be missing before this node has caught up', async () => {
  const fresh = new FreshFixture()
  await using api = await openApi({ fresh })
  const ask = async (method: string, path: string, body?: unknown) => {
    fresh.asked.length = 0
    const { status } = await api.call(method, path, body)
    return [status, ...fresh.asked]
  }
  const app = (await api.call('POST', '/v2/apps', { name: 'a' })).body.id
  expect(await ask('PUT', `/v2/apps/${app}`, { config: {} })).toEqual([200])
  for (const kind of ['apps', 'fns', 'triggers']) {
    expect([kind, ...(await ask('PUT', `/v2/${kind}/x`, {}))]).toEqual([kind, 404, 'linear'])
    expect([kind, ...(await ask('DELETE', `/v2/${kind}/x`))]).toEqual([kind, 404, 'linear'])
  }
  const fn = { name: 'f', app_id: 'x', image: 'bundle:x' }
  expect((await ask('POST', '/v2/fns', fn))[1]).toBe('linear')
  // What is here needs no leader to be found.
  fresh.isLed = false
  expect(await ask('DELETE', `/v2/apps/${app}`)).toEqual([204])
})

test('answers say as of which entry they are, those to changes too', async () => {
  const fresh = new FreshFixture()
  await using api = await openApi({ fresh })
  const list = await api.call('GET', '/v2/apps')
  expect(list.headers.get('fnd-applied-index')).toBe('41')
  const made = await api.call('POST', '/v2/apps', { name: 'a' })
  expect(made.status).toBe(200)
  expect(made.headers.get('fnd-applied-index')).toBe('41')
  expect(fresh.asked).toEqual(['linear'])
  const missing = await api.call('GET', '/v2/apps/none')
  expect(missing.headers.get('fnd-applied-index')).toBeNull()
})

test.each([
  ['/v2/apps?consistency=strong', 'consistency'],
  ['/v2/apps?min-index=x', 'min-index'],
  ['/v2/apps?min-index=-1', 'min-index'],
  ['/v2/apps?min-index=99999999999999999999', 'min-index'],
])('%s is refused by name', async (path, field) => {
  await using api = await openApi({ fresh: new FreshFixture() })
  expect((await api.call('GET', path)).body).toMatchObject({ code: 'invalid-field', field })
})

test('without a majority linear reads say so, and local ones go on', async () => {
  const fresh = new FreshFixture()
  fresh.isLed = false
  await using api = await openApi({ fresh })
  const answer = await api.call('GET', '/v2/apps')
  expect([answer.status, answer.body.code, answer.headers.get('retry-after')]).toEqual([
    503,
    'no-quorum',
    '5',
  ])
  expect(answer.body.message).toContain('1 of 3')
  expect((await api.call('GET', '/v2/apps?consistency=local')).status).toBe(200)
  for (const path of ['/fnd/v1/status', '/fnd/v1/nodes', '/fnd/v1/doctor', '/fnd/v1/images']) {
    expect([path, (await api.call('GET', path)).status]).toEqual([path, 200])
  }
})

test('a stranger learns nothing, not even whether there is a leader', async () => {
  const fresh = new FreshFixture()
  await using api = await openApi({ fresh })
  const { status } = await api.call('GET', '/v2/apps', undefined, { isAnonymous: true })
  expect({ status, asked: fresh.asked }).toEqual({ status: 401, asked: [] })
})

test('a backup streams, and says what it is of', async () => {
  let isEnded = false
  async function* parts() {
    try {
      for (let at = 0; at < 3; at++) yield new TextEncoder().encode(`part ${at}\n`)
    } finally {
      isEnded = true
    }
  }
  const backups = {
    open: async () => ({ body: parts(), index: 77, fileName: 'fnd-77.backup', missing: [] }),
  }
  await using api = await openApi({ backups })
  const { headers, text } = await api.call('GET', '/fnd/v1/backup')
  expect(text).toBe('part 0\npart 1\npart 2\n')
  expect(headers.get('fnd-applied-index')).toBe('77')
  expect(headers.get('content-disposition')).toBe('attachment; filename="fnd-77.backup"')
  expect(isEnded).toBe(true)
  isEnded = false
  const request = new Request('http://fnd.test/fnd/v1/backup', {
    headers: { authorization: `Bearer ${token}` },
  })
  const { body } = await api.app.handle(request)
  await body?.cancel()
  expect(isEnded).toBe(true)
})
