import { expect, test } from 'bun:test'
import { directGateway } from '../../src/api/gateway.ts'
import { directInvoke } from '../../src/api/invoke.ts'
import { FndError } from '../../src/errors.ts'
import type { CallAsker } from '../../src/exec/active-call.ts'
import type { App, Fn } from '../../src/store/objects.ts'
import type { FnRoute } from '../../src/store/state.ts'

const app = { id: 'A1', name: 'shop', annotations: {} } as unknown as App
const route: FnRoute = { app, fn: { id: 'F1' } as unknown as Fn }
const failed: unknown[] = []
const parts = {
  routes: {
    fnById: (id: string) => (id === 'F1' ? route : undefined),
    appByName: (name: string) => (name === 'shop' ? app : undefined),
    fnBySource: (_: App, source: string) => (source === '/buy' ? route : undefined),
  },
  invoker: {
    call(_: FnRoute, asker: CallAsker): void {
      if (asker.headers.includes('x-bug')) throw new Error('a fault of our own')
      throw new FndError('busy')
    },
  },
  limits: { requestBytesMax: 0 },
  newCallId: () => 'C1',
  unexpected: (error: unknown) => {
    failed.push(error)
    return new Response(null, { status: 500 })
  },
  counterOf: () => ({ request: () => undefined, response: () => undefined }),
}
const invoke = directInvoke(parts)
const gateway = directGateway(parts)

async function statusOf(method: string, path: string, headers: Record<string, string> = {}) {
  const request = new Request(`http://fnd.test:8080${path}`, { method, headers })
  const answer = invoke(request) ?? gateway(request)
  return answer === undefined ? 'left to the router' : (await answer).status
}

test('URLs that plainly name a function are taken', async () => {
  expect(await statusOf('POST', '/invoke/F1')).toBe(503)
  expect(await statusOf('GET', '/t/shop/buy')).toBe(503)
  expect(await statusOf('OPTIONS', '/t/shop/buy?a=/b')).toBe(503)
  expect(await statusOf('GET', '/t/shop/sell')).toBe(404)
})

test('without a usable Host a path is a path from its beginning', () => {
  const bare = (method: string, url: string) => ({ method, url, headers: new Headers() }) as Request
  expect(invoke(bare('POST', '/invoke/F1'))).toBeDefined()
  expect(invoke(bare('POST', '/aaaaaaaa/invoke/F1'))).toBeUndefined()
  expect(gateway(bare('GET', '/t/shop/buy'))).toBeDefined()
  expect(gateway(bare('GET', '/t/aaaaa/t/shop/buy'))).toBeUndefined()
})

test('everything else is left to the router', async () => {
  const others: [string, string][] = [
    ['GET', '/invoke/F1'],
    ['POST', '/invoke/F2'],
    ['POST', '/invoke/F1?x=1'],
    ['POST', '/invoke/F1/'],
    ['POST', '/invoke/%461'],
    ['POST', '/invoke/'],
    ['POST', '/invoke'],
    ['POST', '/a/invoke/F1'],
    ['GET', '/t/shop'],
    ['GET', '/t/shop/'],
    ['GET', '/t/shop/?x'],
    ['GET', '/t/%73hop/buy'],
    ['GET', '/t/none/buy'],
    ['GET', '/t?/shop/buy'],
    ['GET', '/v2/apps'],
  ]
  for (const [method, path] of others) {
    expect({ path, status: await statusOf(method, path) }).toEqual({
      path,
      status: 'left to the router',
    })
  }
})

test('a fault of our own is answered, and told', async () => {
  expect(await statusOf('POST', '/invoke/F1', { 'x-bug': '1' })).toBe(500)
  expect(failed).toEqual([new Error('a fault of our own')])
})
