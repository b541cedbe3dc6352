import { expect, test } from 'bun:test'
import { Validator } from '@seriousme/openapi-schema-validator'
import { openApi } from './harness.ts'

interface Operation {
  readonly summary?: string
  readonly description?: string
  readonly operationId?: string
  readonly security?: readonly object[]
  readonly requestBody?: { readonly content: Record<string, { schema: { $ref?: string } }> }
  readonly responses: Record<string, unknown>
}

interface Document {
  readonly openapi: string
  readonly paths: Record<string, Record<string, Operation>>
  readonly components: { readonly schemas: Record<string, unknown> }
}

async function documentOf(): Promise<{ document: Document; routes: [string, string][] }> {
  await using api = await openApi()
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
    expect(operation?.description?.length ?? 0).toBeGreaterThan(5)
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
