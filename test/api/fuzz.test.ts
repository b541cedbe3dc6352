/** Whatever comes in, the answer is never a 5xx, and the server stands. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import fc from 'fast-check'
import { type Harness, openApi, token } from './harness.ts'

const seed = Number(process.env.FND_SEED ?? Date.now() % 2 ** 31)
const parameters = { seed, numRuns: 1500 }

let api: Harness
let appId: string
let fnId: string
beforeAll(async () => {
  api = await openApi()
  appId = (await api.call('POST', '/v2/apps', { name: 'fuzz' })).body.id
  fnId = (await api.call('POST', '/v2/fns', { app_id: appId, name: 'fuzz', image: 'i' })).body.id
})
afterAll(() => api[Symbol.asyncDispose]())

const method = fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'HEAD', 'OPTIONS')
const odd = fc.constantFrom(
  '..',
  '%',
  '%00',
  '%ff',
  '%2f',
  '__proto__',
  'constructor',
  '*',
  ':id',
  '',
)
const segment = fc.oneof(odd, fc.string({ unit: 'binary' }).map(encodeURI_), fc.constant('calls'))
const roots = [
  '/v2/apps',
  '/v2/fns',
  '/v2/triggers',
  '/fnd/v1/fns',
  '/fnd/v1/bundles',
  '/fnd/v1/nodes',
  '/v2/runner',
]
const path = fc
  .tuple(fc.constantFrom(...roots), fc.array(segment, { maxLength: 5 }))
  .map(([root, rest]) => [root, ...rest].join('/'))
const value = fc.oneof(odd, fc.string().map(encodeURI_), fc.constantFrom('-1', '1e9', '0x10'))
const key = fc.constantFrom('cursor', 'per_page', 'name', 'app_id', 'fn_id', '__proto__', 'x')
const query = fc
  .array(fc.tuple(key, value), { maxLength: 4 })
  .map(pairs => pairs.map(pair => pair.join('=')).join('&'))

const known = ['id', 'name', 'app_id', 'fn_id', 'type', 'source', 'image', 'memory', 'timeout']
const more = ['idle_timeout', 'config', 'annotations', 'syslog_url', 'shape', 'created_at']
const field = fc.constantFrom(...known, ...more, 'updated_at', '__proto__')
const fieldValue = fc.oneof(
  fc.jsonValue(),
  fc.string({ unit: 'binary' }),
  fc.dictionary(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' })),
  fc.dictionary(fc.constantFrom('fnd.io/concurrency', 'fnd.io/invoke-key', 'a'), fc.jsonValue()),
  fc.constantFrom('http', '/x', 'fuzz', 1e308, -1, 2 ** 53, { toString: 1, valueOf: null }),
)
const object = fc.dictionary(field, fieldValue, { noNullPrototype: false })
const body = fc.oneof(
  { weight: 4, arbitrary: object.map(each => JSON.stringify(each)) },
  fc.json(),
  fc.string({ unit: 'binary' }),
  object.map(each => JSON.stringify(each).slice(0, -2)),
)

/** Lone surrogates have no percent-encoding. */
function encodeURI_(text: string): string {
  return encodeURIComponent(text.toWellFormed())
}

async function statusOf(request: Request): Promise<number> {
  const response = await api.app.handle(request)
  await response.arrayBuffer()
  return response.status
}

function expectServed(status: number): void {
  expect(status).toBeLessThan(500)
  expect(api.bugs).toEqual([])
  expect(api.logLines).toEqual([])
}

test(`any path, method, query and body (FND_SEED=${seed})`, async () => {
  const property = fc.asyncProperty(method, path, query, body, async (verb, where, what, text) => {
    const init = { method: verb, headers: { authorization: `Bearer ${token}` } }
    const hasBody = verb !== 'GET' && verb !== 'HEAD'
    const url = `http://fnd.test${where}?${what}`
    expectServed(await statusOf(new Request(url, hasBody ? { ...init, body: text } : init)))
  })
  await fc.assert(property, parameters)
}, 60_000)

test(`any object on the routes that write (FND_SEED=${seed})`, async () => {
  const target = fc.constantFrom<[string, () => string]>(
    ['POST', () => '/v2/apps'],
    ['POST', () => '/v2/fns'],
    ['POST', () => '/v2/triggers'],
    ['PUT', () => `/v2/apps/${appId}`],
    ['PUT', () => `/v2/fns/${fnId}`],
  )
  const valid = fc.constantFrom({}, { name: 'fuzz' }, { image: 'i', source: '/f', type: 'http' })
  const property = fc.asyncProperty(target, object, valid, async ([verb, where], fields, base) => {
    const text = JSON.stringify({ app_id: appId, fn_id: fnId, ...base, ...fields })
    const answer = await api.call(verb, where(), text)
    expectServed(answer.status)
    // What was taken can be read back.
    if (answer.status === 200 && verb === 'PUT') {
      expect((await api.call('GET', where())).status).toBe(200)
    }
  })
  await fc.assert(property, parameters)
  const lists = [`/v2/apps`, `/v2/fns?app_id=${appId}`, `/v2/triggers?app_id=${appId}`]
  for (const list of lists) expect((await api.call('GET', list)).status).toBe(200)
}, 60_000)

test(`any headers (FND_SEED=${seed})`, async () => {
  const name = fc.constantFrom('authorization', 'host', 'origin', 'content-length', 'content-type')
  const text = fc.stringMatching(/^[\x20-\x7e\x80-\xff]{0,60}$/)
  const content = fc.oneof(text, fc.constantFrom('-1', '99999999999', 'NaN', '[::1', 'a b:c'))
  const property = fc.asyncProperty(fc.dictionary(name, content), path, async (headers, where) => {
    const init = { method: 'POST', headers, body: '{}' }
    expectServed(await statusOf(new Request(`http://fnd.test${where}`, init)))
  })
  await fc.assert(property, parameters)
}, 60_000)

test(`any authorization but the right one is refused (FND_SEED=${seed})`, async () => {
  const text = fc.stringMatching(/^[\x21-\x7e]{0,60}$/)
  const property = fc.asyncProperty(text, async wrong => {
    fc.pre(wrong !== token)
    const headers = { authorization: `Bearer ${wrong}` }
    expect(await statusOf(new Request('http://fnd.test/v2/apps', { headers }))).toBe(401)
  })
  await fc.assert(property, { seed, numRuns: 300 })
})
