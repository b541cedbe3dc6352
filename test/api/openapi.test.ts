import { expect, test } from 'bun:test'
import { Validator } from '@seriousme/openapi-schema-validator'
import { gatewayApi } from '../../src/api/gateway.ts'
import { healthApi } from '../../src/api/health.ts'
import { invokeApi } from '../../src/api/invoke.ts'
import { logsApi } from '../../src/api/logs.ts'
import { metricsApi } from '../../src/api/metrics.ts'
import { systemClock } from '../../src/clock.ts'
import { FndError } from '../../src/errors.ts'
import { CallOutput } from '../../src/exec/output.ts'
import { Metrics } from '../../src/watch/metrics.ts'
import { openApi } from './harness.ts'

interface Operation {
  readonly summary?: string
  readonly description?: string
  readonly operationId?: string
  readonly security?: readonly object[]
  readonly parameters?: readonly { readonly name: string }[]
  readonly requestBody?: { readonly content: Record<string, { schema: { $ref?: string } }> }
  readonly responses: Record<string, unknown>
}

interface Document {
  readonly openapi: string
  readonly paths: Record<string, Record<string, Operation>>
  readonly components: { readonly schemas: Record<string, unknown> }
}

/** Every instance that a node serves; no call is made. */
function allInstances() {
  const stamp = { version: '0.0.0-test', commit: 'none' }
  const parts = {
    routes: { fnById: () => undefined, appByName: () => undefined, fnBySource: () => undefined },
    invoker: { call: () => Promise.reject(new FndError('busy')) },
    limits: { requestBytesMax: 0 },
    newCallId: () => '',
    unexpected: () => new Response(null, { status: 500 }),
    counterOf: () => ({ request: () => undefined, response: () => undefined }),
  }
  const output = new CallOutput({
    limits: { callLogBytesMax: 1000, logBytesMax: 1000 },
    clock: systemClock,
  })
  return {
    extra: [
      invokeApi(parts),
      gatewayApi(parts),
      healthApi({ ...stamp, readyChecks: () => [] }),
      metricsApi(new Metrics({ clock: systemClock, ...stamp })),
    ],
    extraAdmin: [logsApi({ output, hasFn: () => false })],
  }
}

async function documentOf(): Promise<{ document: Document; routes: [string, string][] }> {
  await using api = await openApi(allInstances())
  const { body } = await api.call('GET', '/fnd/openapi.json', undefined, { isAnonymous: true })
  const routes = api.app.routes.map(({ method, path }): [string, string] => [method, path])
  return { document: body, routes }
}

test('the document is valid OpenAPI 3.1', async () => {
  const { document } = await documentOf()
  const result = await new Validator().validate({ ...document })
  expect(result.errors ?? '').toEqual('')
  expect(result.valid).toBe(true)
})

test('it lists every route, described, with answers; the page itself aside', async () => {
  const { document, routes } = await documentOf()
  for (const [method, path] of routes) {
    if (path.startsWith('/fnd/docs/')) continue
    const name = path.replace(/:([^/]+)/g, '{$1}').replace(/\*$/, '{path}')
    const item = document.paths[name]
    const operation = item?.[method === 'ALL' ? 'get' : method.toLowerCase()]
    expect([method, name, typeof operation]).toEqual([method, name, 'object'])
    expect((operation?.description ?? operation?.summary ?? '').length).toBeGreaterThan(5)
    expect(Object.keys(operation?.responses ?? {}).length).toBeGreaterThan(0)
    if (path.startsWith('/v2/') || path.startsWith('/fnd/v1/')) {
      expect(operation?.security).toEqual([{ adminToken: [] }])
      expect(Object.keys(operation?.responses ?? {})).toContain('401')
    }
  }
})

test('operation ids are unique, and every reference leads somewhere', async () => {
  const { document } = await documentOf()
  const ids = Object.values(document.paths).flatMap(item =>
    Object.values(item).map(operation => operation.operationId),
  )
  expect(new Set(ids).size).toBe(ids.length)
  for (const [, name] of JSON.stringify(document).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) {
    expect(Object.keys(document.components.schemas)).toContain(name ?? '')
  }
})

test('reads of what is replicated say how fresh they may be asked to be', async () => {
  const { document } = await documentOf()
  const names = (path: string, method = 'get') =>
    document.paths[path]?.[method]?.parameters?.map(parameter => parameter.name) ?? []
  for (const path of ['/v2/apps', '/v2/fns/{fn_id}', '/fnd/v1/fns/{fn_id}']) {
    expect(names(path)).toContain('consistency')
    expect(names(path)).toContain('min-index')
    expect(document.paths[path]?.get?.responses[503]).toBeDefined()
  }
  expect(names('/v2/apps', 'post')).not.toContain('consistency')
  expect(document.paths['/v2/apps']?.post?.responses[503]).toBeDefined()
  for (const path of ['/fnd/v1/status', '/fnd/v1/nodes', '/fnd/v1/fns/{fn_id}/logs']) {
    expect(names(path)).not.toContain('consistency')
  }
})

test('public instances answer without the token, logs do not', async () => {
  await using api = await openApi(allInstances())
  const status = async (path: string) =>
    (await api.call('GET', path, undefined, { isAnonymous: true })).status
  expect(await status('/healthz')).toBe(200)
  expect(await status('/metrics')).toBe(200)
  expect(await status('/version')).toBe(200)
  expect(await status('/t/app/%ff')).toBe(404)
  expect(await status('/fnd/v1/fns/f/logs')).toBe(401)
  for (const id of ['unknown', '%ff', '%C3%A9', 'x'.repeat(300)]) {
    const answer = await api.call('POST', `/invoke/${id}`, '', { isAnonymous: true })
    expect([id, answer.status]).toEqual([id, 404])
  }
  expect((await api.call('GET', '/fnd/v1/fns/f/logs')).status).toBe(404)
})

test('bodies are JSON by their name', async () => {
  const { document } = await documentOf()
  const cases: readonly [string, string, string][] = [
    ['/v2/apps', 'post', 'App'],
    ['/v2/apps/{app_id}', 'put', 'App'],
    ['/v2/fns', 'post', 'Fn'],
    ['/v2/triggers/{trigger_id}', 'put', 'Trigger'],
  ]
  for (const [path, method, name] of cases) {
    const content = document.paths[path]?.[method]?.requestBody?.content
    expect(content).toEqual({
      'application/json': { schema: { $ref: `#/components/schemas/${name}` } },
    })
  }
})

test('the page and its assets come from this server', async () => {
  await using api = await openApi()
  const page = await api.call('GET', '/fnd/docs', undefined, { isAnonymous: true })
  expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8')
  const links = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map(match => match[1] ?? '')
  expect(links).toHaveLength(4)
  for (const link of links.filter(each => !each.startsWith('data:'))) {
    const asset = await api.call('GET', link, undefined, { isAnonymous: true })
    expect([link, asset.status]).toEqual([link, 200])
    expect(asset.text.length).toBeGreaterThan(50)
  }
})
