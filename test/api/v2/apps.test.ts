import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Harness, openApi } from '../harness.ts'

let api: Harness
beforeAll(async () => {
  api = await openApi()
})
afterAll(() => api[Symbol.asyncDispose]())

const zeroTime = '0001-01-01T00:00:00.000Z'
let count = 0
const freshName = () => `app-${++count}`

async function create(fields: object = {}) {
  const { status, body } = await api.call('POST', '/v2/apps', { name: freshName(), ...fields })
  expect(status).toBe(200)
  return body
}

describe('POST /v2/apps refuses (fn-api §1.3)', () => {
  const cases: readonly [string, unknown, number, string][] = [
    ['an id', { id: 'x', name: 'n' }, 400, 'App ID cannot be supplied on create'],
    ['an id before a missing name', { id: 'x' }, 400, 'App ID cannot be supplied on create'],
    ['no name', {}, 400, 'Missing Name'],
    ['null', 'null', 400, 'Missing Name'],
    ['a null name', { name: null }, 400, 'Missing Name'],
    ['256 bytes', { name: 'é'.repeat(128) }, 400, 'App name must be 255 characters or less'],
    ['a space', { name: 'a b' }, 400, 'Invalid app name'],
    ['a slash', { name: 'a/b' }, 400, 'Invalid app name'],
    ['a shape', { name: 'n', shape: 'ARM' }, 400, 'Invalid app shape'],
    [
      'a syslog URL without a host',
      { name: 'n', syslog_url: 'tcp://' },
      400,
      'invalid syslog url: "tcp://" no host, as in tcp://host',
    ],
    [
      'a syslog scheme',
      { name: 'n', syslog_url: 'http://h' },
      400,
      'invalid syslog url: "http://h" invalid scheme, ' +
        'only [tcp, udp, unix, unixgram, tcp+tls] are supported',
    ],
    ['an empty body', '', 400, 'Invalid JSON'],
    ['half an object', '{"name":"n"', 400, 'Invalid JSON'],
    ['an array', '[]', 400, 'Invalid JSON'],
    ['a number for a name', { name: 3 }, 400, 'Invalid JSON'],
    ['an object that has no text', '{"name":{"toString":1}}', 400, 'Invalid JSON'],
    ['a number that is no double', '{"name":1.0}', 400, 'Invalid JSON'],
    ['the same in config', '{"config":{"a":1e999}}', 400, 'Invalid JSON'],
    ['a list for config', { name: 'n', config: [] }, 400, 'Invalid JSON'],
    ['a number for annotations', '{"annotations":1.0}', 400, 'Invalid JSON'],
    [
      'a config name that is no variable',
      { name: 'n', config: { 'a=b': 'c' } },
      400,
      'config keys must not contain an equals sign',
    ],
    ['a number in config', { name: 'n', config: { a: 1 } }, 400, 'Invalid JSON'],
    ['a time that is none', { name: 'n', created_at: 'yesterday' }, 400, 'Invalid JSON'],
    ['a byte order mark', '\ufeff{"name":"n"}', 400, 'Invalid JSON'],
    ['nesting without end', `{"x":${'['.repeat(100_000)}`, 400, 'Invalid JSON'],
  ]
  for (const [what, body, status, message] of cases) {
    test(what, async () => {
      const answer = await api.call('POST', '/v2/apps', body)
      expect([answer.status, answer.body.message]).toEqual([status, message])
      expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8')
      expect(answer.text.endsWith('}\n')).toBe(true)
      expect(typeof answer.body.code).toBe('string')
    })
  }

  test('a name that exists', async () => {
    const { name } = await create()
    const answer = await api.call('POST', '/v2/apps', { name })
    expect([answer.status, answer.body.message]).toEqual([409, 'App already exists'])
  })
})

describe('POST /v2/apps accepts', () => {
  test('a name alone, and leaves out what is empty', async () => {
    const app = await create()
    expect(Object.keys(app)).toEqual(['id', 'name', 'created_at', 'updated_at'])
    expect(app.id).toMatch(/^[0-9A-HJKMNP-TV-Z]{26}$/)
    expect(app.created_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    expect(app.updated_at).toBe(app.created_at)
  })

  test('zero times, unknown fields and trailing bytes, as clients send', async () => {
    const name = freshName()
    const text = JSON.stringify({ name, created_at: zeroTime, updated_at: zeroTime, more: [1] })
    const { status, body } = await api.call('POST', '/v2/apps', `  ${text} {"more`)
    expect([status, body.name]).toEqual([200, name])
    expect(body.created_at).not.toBe(zeroTime)
    expect(body.more).toBeUndefined()
  })

  test('unicode letters and digits of 255 bytes', async () => {
    await create({ name: `${'é'.repeat(126)}٣_` })
  })

  test('any content type', async () => {
    const options = { headers: { 'content-type': 'multipart/form-data' } }
    const body = JSON.stringify({ name: freshName() })
    expect((await api.call('POST', '/v2/apps', body, options)).status).toBe(200)
  })

  for (const url of ['udp://h:514', 'tcp://h', 'unix:///s', 'unixgram:///s', 'tcp+tls://h', '']) {
    test(`syslog url "${url}"`, async () => {
      expect((await create({ syslog_url: url })).syslog_url).toBe(url === '' ? undefined : url)
    })
  }
})

describe('annotations (fn-api §1.6)', () => {
  const keyFault =
    'Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace'
  const valueFault =
    'Invalid annotation value, ' +
    'annotation values may only be non-empty strings, numbers, objects, or arrays'
  const refused: readonly [string, object, string][] = [
    ['an empty key', { '': 1 }, keyFault],
    ['a space in a key', { 'a b': 1 }, keyFault],
    ['a key that is not ASCII', { é: 1 }, keyFault],
    [
      'a key of 129 bytes',
      { ['k'.repeat(129)]: 1 },
      'Invalid annotation key length, annotation keys may not be larger than 128 bytes',
    ],
    ['null', { a: null }, valueFault],
    ['an empty string', { a: '' }, valueFault],
    [
      'a value of 513 bytes',
      { a: 'x'.repeat(511) },
      'Invalid annotation value length, ' +
        'annotation values may not be larger than 512 bytes when serialized as JSON',
    ],
    [
      '101 keys',
      Object.fromEntries(Array.from({ length: 101 }, (_, index) => [`k${index}`, index])),
      'Invalid annotation change, ' +
        'new key(s) exceed maximum permitted number of annotations keys (100)',
    ],
  ]
  for (const [what, annotations, message] of refused) {
    test(`create refuses ${what}`, async () => {
      const answer = await api.call('POST', '/v2/apps', { name: freshName(), annotations })
      expect([answer.status, answer.body.message]).toEqual([400, message])
    })
  }

  test('numbers come back digit for digit, at any depth', async () => {
    const values = '{"a":12345678901234567890,"b":{"c":[9007199254740993,1.10,-0,1E400]},"d":true}'
    const name = freshName()
    const made = await api.call('POST', '/v2/apps', `{"name":"${name}","annotations":${values}}`)
    expect(made.text).toContain(`"annotations":${values}`)
    const read = await api.call('GET', `/v2/apps/${made.body.id}`)
    expect(read.text).toContain(`"annotations":${values}`)
    // What a client that keeps the text writes back is what was there.
    const put = await api.call('PUT', `/v2/apps/${made.body.id}`, read.text)
    expect(put.text).toContain(`"annotations":${values}`)
    expect(put.body.updated_at).toBe(made.body.updated_at)
  })

  test('128 bytes of key and 512 of value are the most', async () => {
    const annotations = { ['k'.repeat(128)]: 'x'.repeat(510) }
    expect((await create({ annotations })).annotations).toEqual(annotations)
  })

  test('an update counts old and new keys together', async () => {
    const keys = (from: number, to: number) =>
      Object.fromEntries(Array.from({ length: to - from }, (_, at) => [`k${from + at}`, 1]))
    const { id } = await create({ annotations: keys(0, 60) })
    const answer = await api.call('PUT', `/v2/apps/${id}`, { annotations: keys(60, 101) })
    expect(answer.body.code).toBe('annotation-too-many')
    const swap = { ...keys(60, 101), k0: '' }
    expect((await api.call('PUT', `/v2/apps/${id}`, { annotations: swap })).status).toBe(200)
  })
})

describe('PUT /v2/apps/:id', () => {
  test('merges config and annotations; "" deletes; null deletes an annotation', async () => {
    const app = await create({
      config: { keep: '1', change: '1', drop: '1' },
      annotations: { keep: 1, change: 1, drop: 1, nulled: 1 },
      syslog_url: 'tcp://h',
    })
    const { status, body } = await api.call('PUT', `/v2/apps/${app.id}`, {
      id: app.id,
      name: app.name,
      config: { change: '2', drop: '', add: '3' },
      annotations: { change: [2], drop: '', nulled: null, absent: '' },
      syslog_url: '',
      shape: 'nonsense',
    })
    expect(status).toBe(200)
    expect(body.config).toEqual({ keep: '1', change: '2', add: '3' })
    expect(body.annotations).toEqual({ keep: 1, change: [2] })
    expect(body.syslog_url).toBeUndefined()
    expect(body.shape).toBeUndefined()
    expect(body.created_at).toBe(app.created_at)
  })

  test('moves updated_at only when something changed', async () => {
    const app = await create({ config: { a: '1' } })
    await Bun.sleep(2)
    const same = await api.call('PUT', `/v2/apps/${app.id}`, app)
    expect(same.body).toEqual(app)
    const changed = await api.call('PUT', `/v2/apps/${app.id}`, { config: { a: '2' } })
    expect(changed.body.updated_at > app.updated_at).toBe(true)
  })

  test('refuses another id, another name, an unknown id, and what create refuses', async () => {
    const app = await create()
    const put = async (id: string, body: object) => {
      const answer = await api.call('PUT', `/v2/apps/${id}`, body)
      return [answer.status, answer.body.message]
    }
    expect(await put(app.id, { id: 'other' })).toEqual([
      400,
      'App ID in path does not match ID in body',
    ])
    expect(await put(app.id, { name: 'other' })).toEqual([
      409,
      'Could not update - name is immutable',
    ])
    expect(await put('other', { syslog_url: 'x' })).toEqual([404, 'App not found'])
    expect((await put(app.id, { syslog_url: 'ftp://h' }))[0]).toBe(400)
    expect((await put(app.id, { annotations: { 'a b': 1 } }))[0]).toBe(400)
    expect((await api.call('GET', `/v2/apps/${app.id}`)).body).toEqual(app)
  })
})

describe('ids in paths', () => {
  const ids = [
    'unknown',
    '%C3%A9',
    '%ff',
    '%',
    'x'.repeat(300),
    '__proto__',

    '%00',
    "'--",
  ]
  for (const id of ids) {
    for (const method of ['GET', 'PUT', 'DELETE']) {
      test(`${method} ${id.slice(0, 20)}: 404`, async () => {
        const answer = await api.call(method, `/v2/apps/${id}`, method === 'PUT' ? {} : undefined)
        expect([answer.status, answer.body.message]).toEqual([404, 'App not found'])
      })
    }
  }

  test('DELETE answers 204 with no body, and takes functions and triggers along', async () => {
    const { id } = await create()
    const fn = await api.call('POST', '/v2/fns', { app_id: id, name: 'f', image: 'i' })
    const trigger = { app_id: id, fn_id: fn.body.id, name: 't', type: 'http', source: '/t' }
    const made = await api.call('POST', '/v2/triggers', trigger)
    const answer = await api.call('DELETE', `/v2/apps/${id}`)
    expect([answer.status, answer.text]).toEqual([204, ''])
    expect((await api.call('GET', `/v2/fns/${fn.body.id}`)).status).toBe(404)
    expect((await api.call('GET', `/v2/triggers/${made.body.id}`)).status).toBe(404)
  })
})

describe('GET /v2/apps', () => {
  test('pages by name; a full page has a cursor, so that the last may be empty', async () => {
    await using own = await openApi()
    for (const name of ['b', 'd', 'a', 'c']) await own.call('POST', '/v2/apps', { name })
    const names = (body: { items: { name: string }[] }) => body.items.map(item => item.name)
    const first = await own.call('GET', '/v2/apps?per_page=2')
    expect(names(first.body)).toEqual(['a', 'b'])
    expect(first.body.next_cursor).toBe(Buffer.from('b').toString('base64url'))
    const second = await own.call('GET', `/v2/apps?per_page=2&cursor=${first.body.next_cursor}`)
    expect(names(second.body)).toEqual(['c', 'd'])
    const third = await own.call('GET', `/v2/apps?per_page=2&cursor=${second.body.next_cursor}`)
    expect(third.body).toEqual({ items: [] })
    expect(names((await own.call('GET', '/v2/apps?name=c')).body)).toEqual(['c'])
    expect((await own.call('GET', '/v2/apps?name=C')).body).toEqual({ items: [] })
  })

  test('30 a page unless asked otherwise, 100 at most', async () => {
    await using own = await openApi()
    for (let index = 0; index < 101; index++) {
      await own.call('POST', '/v2/apps', { name: `n${index}` })
    }
    const counts: readonly [string, number][] = [
      ['', 30],
      ['per_page=100', 100],
      ['per_page=1000', 100],
      ['per_page=0', 30],
      ['per_page=-5', 30],
      ['per_page=7.5', 30],
      ['per_page=x', 30],
      ['per_page=%2B3', 3],
    ]
    for (const [query, length] of counts) {
      expect((await own.call('GET', `/v2/apps?${query}`)).body.items).toHaveLength(length)
    }
  })

  for (const cursor of ['%20', 'a', '%2B%2B%2B%2B', 'YQ==', '_w']) {
    test(`cursor ${cursor}: 400`, async () => {
      const answer = await api.call('GET', `/v2/apps?cursor=${cursor}`)
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid-cursor'])
    })
  }
})

describe('fnd.io settings of an app', () => {
  const key = 'fnd.io/invoke-key'

  test('an invoke key is never shown, and what is shown leaves it unchanged', async () => {
    const secret = 'correct horse battery'
    const app = await create({ annotations: { [key]: secret } })
    expect(app.annotations).toEqual({ [key]: '***' })
    const stored = api.store.state.app(app.id)?.annotations[key]
    expect(stored).toMatch(/^"sha256:[0-9a-f]{64}"$/)
    const put = await api.call('PUT', `/v2/apps/${app.id}`, app)
    expect([put.status, put.body.annotations[key]]).toEqual([200, '***'])
    expect(api.store.state.app(app.id)?.annotations[key]).toBe(stored)
    await api.call('PUT', `/v2/apps/${app.id}`, { annotations: { [key]: `${secret} 2` } })
    expect(api.store.state.app(app.id)?.annotations[key]).not.toBe(stored)
    const gone = await api.call('PUT', `/v2/apps/${app.id}`, { annotations: { [key]: '' } })
    expect(gone.body.annotations).toBeUndefined()
  })

  for (const value of ['fifteen letters', 1e17, ['x'.repeat(20)], true]) {
    test(`refuses the key ${JSON.stringify(value)}`, async () => {
      const annotations = { [key]: value }
      const answer = await api.call('POST', '/v2/apps', { name: freshName(), annotations })
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid-field'])
      expect(answer.body.field).toBe(`annotations.${key}`)
    })
  }

  test('refuses a setting that it does not know', async () => {
    const annotations = { 'fnd.io/concurrency': 2 }
    const answer = await api.call('POST', '/v2/apps', { name: freshName(), annotations })
    expect(answer.status).toBe(400)
  })
})
