import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Harness, openApi } from '../harness.ts'

let api: Harness
let appId: string
beforeAll(async () => {
  api = await openApi()
  const app = { name: 'app', shape: 'GENERIC_ARM' }
  appId = (await api.call('POST', '/v2/apps', app)).body.id
})
afterAll(() => api[Symbol.asyncDispose]())

let count = 0
const valid = (fields: object = {}) => ({
  app_id: appId,
  name: `fn-${++count}`,
  image: 'repo/image:1',
  ...fields,
})

async function create(fields: object = {}) {
  const { status, body } = await api.call('POST', '/v2/fns', valid(fields))
  expect(status).toBe(200)
  return body
}

const timeoutFault = 'timeout value is out of range, must be between 0 and 300'
const idleFault = 'idle_timeout value is out of range, must be between 0 and 3600'
const memoryFault = 'memory value is out of range. It should be between 0 and 8192'

describe('POST /v2/fns refuses (fn-api §1.4, in this order)', () => {
  const cases: readonly [string, object, number, string][] = [
    ['an id', { id: 'x', app_id: '' }, 400, 'ID cannot be provided for Fn creation'],
    ['no app', { app_id: undefined, name: '' }, 400, 'Missing AppID on Fn'],
    ['no name', { name: '', image: '' }, 400, 'Missing Fn name'],
    ['a long name', { name: 'x'.repeat(256) }, 400, 'Fn name must be 255 characters or less'],
    ['a slash in the name', { name: 'a/b' }, 400, 'name must be a valid string'],
    ['a name with %', { name: 'a%20b', image: '' }, 400, 'name must be a valid string'],
    ['a name that is not ASCII', { name: 'é' }, 400, 'name must be a valid string'],
    ['no image', { image: undefined, timeout: 301 }, 400, 'Missing image on Fn'],
    ['a timeout of 301', { timeout: 301, memory: 9000 }, 400, timeoutFault],
    ['a negative timeout', { timeout: -1 }, 400, timeoutFault],
    ['an idle timeout of 3601', { idle_timeout: 3601, memory: 9000 }, 400, idleFault],
    ['8193 MB', { memory: 8193 }, 400, memoryFault],
    ['a text for memory', { memory: '128' }, 400, 'Invalid JSON'],
    ['half a second', { timeout: 0.5 }, 400, 'Invalid JSON'],
    ['negative memory', { memory: -1 }, 400, 'Invalid JSON'],
    ['an unknown app', { app_id: 'unknown' }, 404, 'App not found'],
  ]
  for (const [what, fields, status, message] of cases) {
    test(what, async () => {
      const answer = await api.call('POST', '/v2/fns', valid(fields))
      expect([answer.status, answer.body.message]).toEqual([status, message])
    })
  }

  test('1.0 as a number of seconds, as Go does', async () => {
    const text = `{"app_id":"${appId}","name":"float","image":"i","timeout":1.0}`
    expect((await api.call('POST', '/v2/fns', text)).body.message).toBe('Invalid JSON')
  })

  test('a name that exists in the app', async () => {
    const fn = await create()
    const answer = await api.call('POST', '/v2/fns', valid({ name: fn.name }))
    expect([answer.status, answer.body.message]).toEqual([
      409,
      'Fn with specified name already exists',
    ])
  })
})

describe('POST /v2/fns accepts', () => {
  test('the least, with defaults, the shape of the app, and where to call', async () => {
    const fn = await create({ memory: 0, timeout: 0, idle_timeout: 0, shape: 'ignored' })
    expect(fn).toMatchObject({ memory: 128, timeout: 30, idle_timeout: 30, config: {} })
    expect(fn.shape).toBe('GENERIC_ARM')
    expect(fn.annotations).toEqual({
      'fnproject.io/fn/invokeEndpoint': `http://fnd.test:8080/invoke/${fn.id}`,
    })
  })

  test('the limits themselves, every character of a name, and any image', async () => {
    const name = '-_.~$&+:=@azAZ09'
    const fn = await create({ name, image: '!', timeout: 300, idle_timeout: 3600, memory: 8192 })
    expect(fn).toMatchObject({ name, image: '!', timeout: 300, idle_timeout: 3600, memory: 8192 })
  })
})

describe('PUT /v2/fns/:id', () => {
  test('merges; zero leaves alone; name, app and shape are ignored', async () => {
    const fn = await create({ config: { a: '1', b: '1' }, annotations: { x: 1 }, timeout: 7 })
    const { status, body } = await api.call('PUT', `/v2/fns/${fn.id}`, {
      ...fn,
      name: 'other',
      app_id: 'other',
      shape: 'other',
      image: 'new',
      memory: 256,
      timeout: 0,
      idle_timeout: 60,
      config: { a: '', c: '3' },
    })
    expect(status).toBe(200)
    expect(body).toMatchObject({ name: fn.name, app_id: appId, shape: fn.shape, image: 'new' })
    expect(body).toMatchObject({ memory: 256, timeout: 7, idle_timeout: 60 })
    expect(body.config).toEqual({ b: '1', c: '3' })
    // The client sent the derived annotation back; it is neither stored nor shown here.
    expect(body.annotations).toEqual({ x: 1 })
    expect(Object.keys(api.store.state.fn(fn.id)?.annotations ?? {})).toEqual(['x'])
  })

  test('an emptied config reads back as {}', async () => {
    const fn = await create({ config: { a: '1' } })
    await api.call('PUT', `/v2/fns/${fn.id}`, { config: { a: '' } })
    expect((await api.call('GET', `/v2/fns/${fn.id}`)).body.config).toEqual({})
  })

  test('another id in the body: 400, and nothing changes (a bug of the real server)', async () => {
    const [one, two] = [await create(), await create()]
    const answer = await api.call('PUT', `/v2/fns/${one.id}`, { id: two.id, image: 'changed' })
    expect([answer.status, answer.body.message]).toEqual([
      400,
      'Fn ID in path does not match that in body',
    ])
    expect((await api.call('GET', `/v2/fns/${one.id}`)).body).toEqual(one)
    expect((await api.call('GET', `/v2/fns/${two.id}`)).body).toEqual(two)
  })

  test('a null annotation deletes its key (the real server hangs)', async () => {
    const fn = await create({ annotations: { gone: 1, stays: 2 } })
    const body = { annotations: { gone: null } }
    const answer = await api.call('PUT', `/v2/fns/${fn.id}`, body)
    expect(answer.body.annotations).toEqual({ stays: 2 })
  })

  const faults: readonly [object, string][] = [
    [{ timeout: 301 }, timeoutFault],
    [{ idle_timeout: -2 }, idleFault],
    [{ memory: 10_000 }, memoryFault],
  ]
  for (const [body, message] of faults) {
    test(`refuses ${JSON.stringify(body)}`, async () => {
      const { id } = await create()
      const answer = await api.call('PUT', `/v2/fns/${id}`, body)
      expect([answer.status, answer.body.message]).toEqual([400, message])
    })
  }
})

describe('GET and DELETE', () => {
  for (const method of ['GET', 'PUT', 'DELETE']) {
    for (const id of ['unknown', '%C3%A9', '%FF', 'x'.repeat(256)]) {
      test(`${method} ${id.slice(0, 9)}: 404`, async () => {
        const answer = await api.call(method, `/v2/fns/${id}`, method === 'PUT' ? {} : undefined)
        expect([answer.status, answer.body.message]).toEqual([404, 'Fn not found'])
      })
    }
  }

  test('a list needs an app; an unknown one has no functions', async () => {
    const none = await api.call('GET', '/v2/fns')
    expect([none.status, none.body.message]).toEqual([400, 'Missing AppID on Fn'])
    const unknown = await api.call('GET', '/v2/fns?app_id=unknown')
    expect([unknown.status, unknown.body]).toEqual([200, { items: [] }])
  })

  test('a list filters by name, and says where to call', async () => {
    const fn = await create()
    const { body } = await api.call('GET', `/v2/fns?app_id=${appId}&name=${fn.name}`)
    expect(body).toEqual({ items: [fn] })
  })

  test('the public url replaces scheme and host', async () => {
    await using own = await openApi({ env: { FN_PUBLIC_LB_URL: 'https://fns.example/' } })
    const app = await own.call('POST', '/v2/apps', { name: 'a' })
    const body = { app_id: app.body.id, name: 'f', image: 'i' }
    const fn = await own.call('POST', '/v2/fns', body)
    expect(fn.body.annotations['fnproject.io/fn/invokeEndpoint']).toBe(
      `https://fns.example/invoke/${fn.body.id}`,
    )
  })

  test('the removed call records: 410 and an empty body', async () => {
    for (const path of ['calls', 'calls/c', 'calls/c/log']) {
      const answer = await api.call('GET', `/v2/fns/f/${path}`)
      expect([answer.status, answer.text]).toEqual([410, ''])
    }
  })
})

describe('fnd.io settings of a function', () => {
  const refused: readonly [string, unknown][] = [
    ['fnd.io/concurrency', 0],
    ['fnd.io/concurrency', 1001],
    ['fnd.io/concurrency', '5'],
    ['fnd.io/concurrency', 1.5],
    ['fnd.io/min-instances', -1],
    ['fnd.io/min-instances', 1001],
    ['fnd.io/max-instances', 0],
    ['fnd.io/network', 'bridge'],
    ['fnd.io/invoke-key', 'x'.repeat(20)],
    ['fnd.io/concurency', 5],
  ]
  for (const [key, value] of refused) {
    test(`refuses ${key} = ${JSON.stringify(value)}`, async () => {
      const answer = await api.call('POST', '/v2/fns', valid({ annotations: { [key]: value } }))
      expect([answer.status, answer.body.field]).toEqual([400, `annotations.${key}`])
    })
  }

  test('takes those in range, and shows them', async () => {
    const annotations = {
      'fnd.io/concurrency': 1000,
      'fnd.io/min-instances': 0,
      'fnd.io/max-instances': 1,
      'fnd.io/network': 'none',
    }
    expect((await create({ annotations })).annotations).toMatchObject(annotations)
  })

  test('min-instances above max-instances is refused, also across an update', async () => {
    const { id } = await create({ annotations: { 'fnd.io/max-instances': 2 } })
    const annotations = { 'fnd.io/min-instances': 3 }
    const answer = await api.call('PUT', `/v2/fns/${id}`, { annotations })
    expect([answer.status, answer.body.field]).toEqual([400, 'annotations'])
  })
})
