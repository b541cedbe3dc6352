import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Elysia } from 'elysia'
import { AssertionError, FndError } from '../../src/errors.ts'
import { type Harness, openApi, openRoutes } from './harness.ts'

const faults = new Elysia()
  .get('/fault/unknown', () => {
    throw new TypeError('secret of the inside')
  })
  .get('/fault/bug', () => {
    throw new AssertionError('broken invariant: of a test')
  })
  .get('/fault/busy', () => {
    throw new FndError('busy')
  })
  .get('/fault/late', async () => {
    await Bun.sleep(1)
    throw new FndError('call-timeout')
  })
const logs = new Elysia({ prefix: '/fnd/v1' }).get(
  '/calls/:call_id/log',
  () => new Response('line'),
)

let api: Harness
beforeAll(async () => {
  api = await openApi({ extra: [openRoutes(), faults], extraAdmin: [logs] })
})
afterAll(() => api[Symbol.asyncDispose]())

describe('what no route takes (fn-api §1.1)', () => {
  const cases: readonly [string, string, number, string][] = [
    ['GET', '/v2/nope', 404, 'Path not found: GET /v2/nope'],
    ['GET', '/v2/nope/?a=b', 404, 'Path not found: GET /v2/nope/'],
    ['POST', '/v2/apps/x/y', 404, 'Path not found: POST /v2/apps/x/y'],
    ['GET', '//v2/apps/', 404, 'Path not found: GET //v2/apps/'],
    ['PATCH', '/v2/apps/x', 405, 'Method not allowed: PATCH /v2/apps/x'],
    ['DELETE', '/v2/apps', 405, 'Method not allowed: DELETE /v2/apps'],
    ['PUT', '/invoke/x', 405, 'Method not allowed: PUT /invoke/x'],
  ]
  for (const [method, path, status, message] of cases) {
    test(`${method} ${path}: ${status}`, async () => {
      const answer = await api.call(method, path, undefined)
      expect([answer.status, answer.body?.message ?? '']).toEqual([status, message])
    })
  }

  test('405 names the methods that are allowed', async () => {
    const answer = await api.call('PATCH', '/v2/apps/x')
    expect(answer.headers.get('allow')).toBe('GET, PUT, DELETE, HEAD')
  })

  test('HEAD answers as GET, without the body', async () => {
    const answer = await api.call('HEAD', '/v2/apps')
    expect([answer.status, answer.text]).toEqual([200, ''])
  })

  const redirects: readonly [string, string, number, string][] = [
    ['GET', '/v2/apps/', 301, '/v2/apps'],
    ['POST', '/v2/apps/?a=/b/', 307, '/v2/apps?a=/b/'],
    ['DELETE', '/v2/fns/x/', 307, '/v2/fns/x'],
    ['POST', '/invoke/x/', 307, '/invoke/x'],
  ]
  for (const [method, path, status, location] of redirects) {
    test(`${method} ${path}: ${status}`, async () => {
      const answer = await api.call(method, path)
      expect([answer.status, answer.headers.get('location')]).toEqual([status, location])
    })
  }
})

describe('the admin token', () => {
  const admin: readonly [string, string][] = [
    ['GET', '/v2/apps'],
    ['POST', '/v2/apps'],
    ['PUT', '/v2/apps/x'],
    ['DELETE', '/v2/apps/x'],
    ['GET', '/v2/fns?app_id=x'],
    ['POST', '/v2/fns'],
    ['GET', '/v2/fns/x'],
    ['GET', '/v2/fns/x/calls'],
    ['GET', '/v2/triggers'],
    ['POST', '/v2/triggers'],
    ['GET', '/v2/runner/apps/x/triggerBySource/http//y'],
    ['GET', '/fnd/v1/status'],
    ['GET', '/fnd/v1/doctor'],
    ['GET', '/fnd/v1/fns/x'],
    ['PUT', '/fnd/v1/bundles/x'],
    ['GET', '/fnd/v1/bundles/x'],
    ['HEAD', '/fnd/v1/bundles/x'],
    ['GET', '/fnd/v1/calls/x/log'],
  ]
  for (const [method, path] of admin) {
    test(`${method} ${path} needs it`, async () => {
      // The body would be refused too, were it read.
      const body = method === 'POST' || method === 'PUT' ? '{' : undefined
      for (const authorization of [undefined, '', 'Bearer', 'Bearer wrong', 'Basic dTpw']) {
        const headers = authorization === undefined ? {} : { authorization }
        const answer = await api.call(method, path, body, { headers, isAnonymous: true })
        expect(answer.status).toBe(401)
        expect(answer.headers.get('www-authenticate')).toBe('Bearer')
      }
    })
  }

  test('the refusal says where the token is, and nothing of the machine', async () => {
    const { body } = await api.call('GET', '/v2/apps', undefined, { isAnonymous: true })
    expect(body.code).toBe('unauthorized')
    expect(body.message).toContain('admin.token')
    expect(body.message).not.toContain(api.config.dataDir)
  })

  const open = ['/fnd/openapi.json', '/fnd/docs', '/t/app/x', '/v2/nope']
  for (const path of open) {
    test(`GET ${path} does not`, async () => {
      const answer = await api.call('GET', path, undefined, { isAnonymous: true })
      expect(answer.status).not.toBe(401)
    })
  }

  test('logs answer with it', async () => {
    expect((await api.call('GET', '/fnd/v1/calls/x/log')).text).toBe('line')
  })

  test('without authorization, pages of other origins may not write', async () => {
    await using own = await openApi({ env: { FND_NO_AUTH: '1' } })
    const post = async (origin: string | undefined, name: string) => {
      const headers = { host: '127.0.0.1:8080', ...(origin === undefined ? {} : { origin }) }
      const answer = await own.call('POST', '/v2/apps', { name }, { headers, isAnonymous: true })
      return answer.status
    }
    expect(await post(undefined, 'a')).toBe(200)
    expect(await post('http://localhost:3000', 'b')).toBe(200)
    expect(await post('http://127.0.0.1', 'c')).toBe(200)
    expect(await post('http://[::1]:80', 'd')).toBe(200)
    expect(await post('https://evil.example', 'e')).toBe(403)
    expect(await post('http://localhost.evil.example', 'f')).toBe(403)
    expect(await post('null', 'g')).toBe(403)
  })

  test('without authorization, no name but loopback and FND_PUBLIC_URL is served', async () => {
    const env = { FND_NO_AUTH: '1', FND_PUBLIC_URL: 'https://fn.example' }
    await using own = await openApi({ env })
    const get = async (host: string) => {
      const answer = await own.call('GET', '/v2/apps', undefined, {
        headers: { host },
        isAnonymous: true,
      })
      return answer.status
    }
    expect(await get('localhost:8080')).toBe(200)
    expect(await get('127.0.0.1')).toBe(200)
    expect(await get('[::1]:8080')).toBe(200)
    expect(await get('fn.example')).toBe(200)
    expect(await get('rebound.example:8080')).toBe(403)
    expect(await get('127.0.0.1.rebound.example')).toBe(403)
  })
})

describe('errors', () => {
  test('an unexpected one is masked, logged once, and found by its request id', async () => {
    api.logLines.length = 0
    const answer = await api.call('GET', '/fault/unknown?secret=1')
    expect([answer.status, answer.body.message]).toEqual([500, 'internal server error'])
    expect(answer.text).not.toContain('secret')
    expect(api.logLines).toHaveLength(1)
    const line = JSON.parse(api.logLines[0] ?? '')
    expect(line).toMatchObject({ requestId: answer.body.requestId, path: '/fault/unknown' })
    expect(line.err.message).toBe('secret of the inside')
    expect(api.bugs).toHaveLength(0)
  })

  test('a broken assertion ends the process', async () => {
    expect((await api.call('GET', '/fault/bug')).status).toBe(500)
    expect(api.bugs.map(bug => bug.message)).toEqual(['broken invariant: of a test'])
  })

  test('a retryable one says when', async () => {
    const answer = await api.call('GET', '/fault/busy')
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '15'])
    expect(answer.body).toEqual({ message: 'Timed out - server too busy', code: 'busy' })
  })

  test('one thrown late', async () => {
    expect((await api.call('GET', '/fault/late')).status).toBe(504)
  })

  test('the field at fault is named', async () => {
    const cases: readonly [string, object, string][] = [
      ['/v2/apps', { name: 3 }, 'name'],
      ['/v2/apps', { name: 'x', config: { a: 1 } }, 'config'],
      ['/v2/fns', { app_id: 'x', name: 'f', image: '' }, 'image'],
      ['/v2/triggers', { app_id: 'x', name: 't', created_at: 'now' }, 'created_at'],
    ]
    for (const [path, body, field] of cases) {
      expect((await api.call('POST', path, body)).body.field).toBe(field)
    }
  })

  test('a body over the limit: 413, declared or not', async () => {
    await using own = await openApi({ env: { FND_MAX_ADMIN_BODY_SIZE: '100' } })
    const body = JSON.stringify({ name: 'x'.repeat(100) })
    const answer = await own.call('POST', '/v2/apps', body)
    expect([answer.status, answer.body.code]).toEqual([413, 'request-too-large'])
    const headers = { 'content-length': '101' }
    const declared = await own.call('POST', '/v2/apps', '{}', { headers })
    expect(declared.body.message).toBe('Content-Length too large for this server, 101 > max 100')
  })
})

describe('the way of a call', () => {
  test('carries no hooks of ours but the one for errors', () => {
    const invoke = api.app.router.history.find(route => route.path === '/invoke/:fn_id')
    const hooks = invoke?.hooks as unknown as Record<string, unknown>
    const names = ['parse', 'transform', 'beforeHandle', 'afterHandle', 'mapResponse', 'trace']
    const ours = names.filter(name => {
      const hook = hooks[name]
      return Array.isArray(hook) && hook.some(each => typeof each.fn === 'function')
    })
    expect(ours).toEqual([])
    // What Elysia prepares for a call follows from what hooks mention: neither headers nor query.
    const source = String(invoke?.compile())
    expect(source).not.toContain('c.headers')
    expect(source).not.toContain('c.query')
  })

  test('nothing wraps the server when CORS is off', () => {
    const { higherOrderFunctions } = (
      api.app as unknown as { extender: { higherOrderFunctions: unknown[] } }
    ).extender
    expect(higherOrderFunctions).toEqual([])
  })
})

describe('/fnd/v1', () => {
  test('a function with what this node knows of it', async () => {
    const app = await api.call('POST', '/v2/apps', { name: 'described' })
    const fn = { app_id: app.body.id, name: 'f', image: 'i' }
    const { id } = (await api.call('POST', '/v2/fns', fn)).body
    const { body } = await api.call('GET', `/fnd/v1/fns/${id}`)
    expect(body).toMatchObject({ id, app_name: 'described', described: id, instances: [] })
    expect((await api.call('GET', '/fnd/v1/fns/unknown')).status).toBe(404)
  })

  test('reports', async () => {
    expect((await api.call('GET', '/fnd/v1/status')).body).toMatchObject({ role: 'leader' })
    expect((await api.call('GET', '/fnd/v1/doctor')).body).toEqual({ checks: [] })
  })
})
