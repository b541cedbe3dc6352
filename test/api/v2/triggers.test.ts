import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Harness, openApi } from '../harness.ts'

let api: Harness
let appId: string
let fnId: string
let otherFnId: string
let foreignFnId: string

async function fnIn(app: string, name: string): Promise<string> {
  return (await api.call('POST', '/v2/fns', { app_id: app, name, image: 'i' })).body.id
}

beforeAll(async () => {
  api = await openApi()
  appId = (await api.call('POST', '/v2/apps', { name: 'app' })).body.id
  const foreignId = (await api.call('POST', '/v2/apps', { name: 'foreign' })).body.id
  fnId = await fnIn(appId, 'one')
  otherFnId = await fnIn(appId, 'two')
  foreignFnId = await fnIn(foreignId, 'three')
})
afterAll(() => api[Symbol.asyncDispose]())

let count = 0
const valid = (fields: object = {}) => {
  count++
  return {
    app_id: appId,
    fn_id: fnId,
    name: `t${count}`,
    type: 'http',
    source: `/s${count}`,
    ...fields,
  }
}

async function create(fields: object = {}) {
  const { status, body } = await api.call('POST', '/v2/triggers', valid(fields))
  expect(status).toBe(200)
  return body
}

const sourceTaken = 'Trigger with the same type and source exists on this app'
const notOwned = 'Invalid Fn ID - not owned by specified app'

describe('POST /v2/triggers refuses (fn-api §1.5, in this order)', () => {
  const time = '2026-11-20T10:14:50.102Z'
  const cases: readonly [string, () => object, number, string][] = [
    ['an id', () => ({ id: 'x', app_id: '' }), 400, 'ID cannot be provided for Trigger creation'],
    [
      'a creation time',
      () => ({ created_at: time }),
      400,
      'Trigger Created At Provided for Create',
    ],
    ['an update time', () => ({ updated_at: time }), 400, 'Trigger ID Provided for Create'],
    ['no app', () => ({ app_id: '', name: '' }), 400, 'Missing App ID on Trigger'],
    ['no name', () => ({ name: '', fn_id: '' }), 400, 'Missing name on Trigger'],
    [
      'a long name',
      () => ({ name: 'x'.repeat(256) }),
      400,
      'Trigger name must be 255 characters or less',
    ],
    ['a dot in the name', () => ({ name: 'a.b' }), 400, 'Invalid name for Trigger'],
    ['no function', () => ({ fn_id: '', type: '' }), 400, 'Missing Fn ID on Trigger'],
    ['no type', () => ({ type: undefined, source: '' }), 400, 'Trigger Type Not Supported'],
    ['another type', () => ({ type: 'cron' }), 400, 'Trigger Type Not Supported'],
    ['no source', () => ({ source: '' }), 400, 'Missing Trigger Source'],
    ['no slash', () => ({ source: 'x' }), 400, "Missing Trigger Source Prefix '/'"],
    ['an unknown app', () => ({ app_id: 'unknown' }), 404, 'App not found'],
    ['an unknown function', () => ({ fn_id: 'unknown' }), 404, 'Fn not found'],
    ["another app's function", () => ({ fn_id: foreignFnId }), 400, notOwned],
  ]
  for (const [what, fields, status, message] of cases) {
    test(what, async () => {
      const answer = await api.call('POST', '/v2/triggers', valid(fields()))
      expect([answer.status, answer.body.message]).toEqual([status, message])
    })
  }

  test('a source that is taken, and a name that is taken in its function', async () => {
    const { source, name } = await create()
    const bySource = await api.call('POST', '/v2/triggers', valid({ source }))
    expect([bySource.status, bySource.body.message]).toEqual([409, sourceTaken])
    const byName = await api.call('POST', '/v2/triggers', valid({ name }))
    expect([byName.status, byName.body.message]).toEqual([409, 'Trigger already exists'])
    await create({ name, fn_id: otherFnId })
  })
})

describe('POST, GET and list', () => {
  const zero = '0001-01-01T00:00:00.000Z'

  test('zero times are none; the URL is shown', async () => {
    const trigger = await create({ created_at: zero, updated_at: zero })
    expect(trigger.annotations).toEqual({
      'fnproject.io/trigger/httpEndpoint': `http://fnd.test:8080/t/app${trigger.source}`,
    })
    const read = await api.call('GET', `/v2/triggers/${trigger.id}`)
    expect(read.body).toEqual(trigger)
    const path = `/v2/triggers?app_id=${appId}&fn_id=${fnId}&name=${trigger.name}`
    expect((await api.call('GET', path)).body).toEqual({ items: [trigger] })
  })

  test('a list needs an app, and answers once', async () => {
    const answer = await api.call('GET', '/v2/triggers?fn_id=x')
    expect([answer.status, answer.body.message]).toEqual([400, 'Missing App ID on Trigger'])
  })

  test('a list filters by function', async () => {
    const mine = await create({ fn_id: otherFnId })
    const { body } = await api.call('GET', `/v2/triggers?app_id=${appId}&fn_id=${otherFnId}`)
    expect(body.items.map((item: { id: string }) => item.id)).toContain(mine.id)
    expect(body.items.every((item: { fn_id: string }) => item.fn_id === otherFnId)).toBe(true)
  })

  test('by source: it follows the type with a slash of its own', async () => {
    const trigger = await create({ source: '/deep/a b' })
    const base = `/v2/runner/apps/${appId}/triggerBySource`
    const found = await api.call('GET', `${base}/http//deep/a%20b`)
    expect([found.status, found.body.id]).toEqual([200, trigger.id])
    for (const path of [
      'http/deep/a%20b',
      'cron//deep/a%20b',
      'http//none',
      'http//%ff',
      'http/',
    ]) {
      const missed = await api.call('GET', `${base}/${path}`)
      expect([missed.status, missed.body.message]).toEqual([404, 'Trigger not found'])
    }
  })
})

test('pages lose none of several triggers of one name', async () => {
  const app = (await api.call('POST', '/v2/apps', { name: 'namesakes' })).body.id
  for (const fn of ['a', 'b', 'c']) {
    const fields = { app_id: app, fn_id: await fnIn(app, fn) }
    await create({ ...fields, name: 'same' })
    await create({ ...fields, name: `z${fn}` })
  }
  const names: string[] = []
  for (let cursor: string | undefined = ''; cursor !== undefined; ) {
    const path = `/v2/triggers?app_id=${app}&per_page=2&cursor=${cursor}`
    const { body } = await api.call('GET', path)
    names.push(...body.items.map((item: { name: string }) => item.name))
    cursor = body.next_cursor
  }
  expect(names).toEqual(['same', 'same', 'same', 'za', 'zb', 'zc'])
})

describe('PUT /v2/triggers/:id', () => {
  test('changes name, function, source and annotations; not the type', async () => {
    const trigger = await create({ annotations: { a: 1 } })
    const { status, body } = await api.call('PUT', `/v2/triggers/${trigger.id}`, {
      ...trigger,
      name: 'renamed',
      fn_id: otherFnId,
      source: '/moved',
      type: 'ignored',
      app_id: 'ignored',
    })
    expect(status).toBe(200)
    expect(body).toMatchObject({ name: 'renamed', fn_id: otherFnId, source: '/moved' })
    expect(body).toMatchObject({ type: 'http', app_id: appId, annotations: { a: 1 } })
  })

  test('refuses what create refuses (the real server does not look)', async () => {
    const [taken, trigger] = [await create(), await create()]
    const cases: readonly [object, number, string][] = [
      [{ id: taken.id }, 400, 'ID in path does not match ID in body'],
      [{ source: taken.source }, 409, sourceTaken],
      [{ name: taken.name }, 409, 'Trigger already exists'],
      [{ fn_id: 'unknown' }, 404, 'Fn not found'],
      [{ fn_id: foreignFnId }, 400, notOwned],
      [{ source: 'x' }, 400, "Missing Trigger Source Prefix '/'"],
      [{ name: 'a b' }, 400, 'Invalid name for Trigger'],
    ]
    for (const [body, status, message] of cases) {
      const answer = await api.call('PUT', `/v2/triggers/${trigger.id}`, body)
      expect([answer.status, answer.body.message]).toEqual([status, message])
    }
    expect((await api.call('GET', `/v2/triggers/${trigger.id}`)).body).toEqual(trigger)
    expect((await api.call('GET', `/v2/triggers/${taken.id}`)).body).toEqual(taken)
  })

  for (const method of ['GET', 'PUT', 'DELETE']) {
    test(`${method} of an unknown id: 404`, async () => {
      const body = method === 'PUT' ? {} : undefined
      const answer = await api.call(method, '/v2/triggers/unknown', body)
      expect([answer.status, answer.body.message]).toEqual([404, 'Trigger not found'])
    })
  }

  test('DELETE: 204', async () => {
    const { id } = await create()
    expect((await api.call('DELETE', `/v2/triggers/${id}`)).status).toBe(204)
    expect((await api.call('GET', `/v2/triggers/${id}`)).status).toBe(404)
  })
})
