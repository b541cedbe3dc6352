import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Harness, openApi } from '../harness.ts'

let api: Harness
let appId: string

beforeAll(async () => {
  api = await openApi()
  appId = (await api.call('POST', '/v2/apps', { name: 'shop' })).body.id
})

afterAll(async () => {
  await api[Symbol.asyncDispose]()
})

const pathOf = (host: string, app = appId) => `/fnd/v1/apps/${app}/registries/${host}`
const login = { username: 'ada', password: 'secret-text' }

describe('credentials of a registry', () => {
  test('are set, replaced, listed without secrets, and removed', async () => {
    const put = await api.call('PUT', pathOf('r.example:5000'), login)
    expect(put).toMatchObject({ status: 200, body: { host: 'r.example:5000', username: 'ada' } })
    const token = { identity_token: 'secret-token' }
    expect((await api.call('PUT', pathOf('registry-1.docker.io'), token)).body).toMatchObject({
      host: 'docker.io',
      username: '',
    })
    await api.call('PUT', pathOf('r.example:5000'), { ...login, username: 'bob' })
    const list = await api.call('GET', `/fnd/v1/apps/${appId}/registries`)
    expect(list.body.items).toMatchObject([
      { host: 'docker.io', username: '' },
      { host: 'r.example:5000', username: 'bob' },
    ])
    const one = await api.call('GET', pathOf('docker.io'))
    expect(one).toMatchObject({ status: 200, body: { host: 'docker.io' } })
    for (const { text } of [put, list, one]) expect(text).not.toContain('secret')
    expect((await api.call('DELETE', pathOf('docker.io'))).status).toBe(204)
    expect((await api.call('DELETE', pathOf('docker.io'))).body.code).toBe('registry-not-found')
    expect((await api.call('GET', pathOf('docker.io'))).status).toBe(404)
  })

  test.each([
    ['username', {}],
    ['password', { username: 'ada' }],
    ['username', { password: 'secret-text' }],
    ['username', { username: 'a:b', password: 'secret-text' }],
    ['identity_token', { ...login, identity_token: 'secret-text' }],
    ['password', { username: 'ada', password: 1 }],
    ['username', { username: { x: 'secret-text' }, password: 'secret-text' }],
    ['password', { username: 'ada', password: 'secret-text'.repeat(2000) }],
  ])('a wrong %s is named, and no secret is repeated: %#', async (field, body) => {
    const answer = await api.call('PUT', pathOf('r.example'), body)
    expect(answer).toMatchObject({ status: 400, body: { field } })
    expect(answer.text + api.logLines.join('')).not.toContain('secret-text')
    expect((await api.call('GET', pathOf('r.example'))).status).toBe(404)
  })

  test.each(['a%20b', '%2Fb', 'r.example:port', '-', `${'a'.repeat(256)}`])(
    'for %s are refused',
    async host => {
      const answer = await api.call('PUT', pathOf(host), login)
      expect(answer).toMatchObject({ status: 400, body: { code: 'registry-invalid' } })
    },
  )

  test('need an app, and the admin token', async () => {
    expect((await api.call('PUT', pathOf('r.example', 'none'), login)).status).toBe(404)
    expect((await api.call('GET', '/fnd/v1/apps/none/registries')).status).toBe(404)
    const stranger = { isAnonymous: true }
    expect((await api.call('PUT', pathOf('r.example'), login, stranger)).status).toBe(401)
    expect((await api.call('GET', pathOf('r.example'), undefined, stranger)).status).toBe(401)
  })
})

describe('images', () => {
  test('are counted, and prepared for an app that there is', async () => {
    expect((await api.call('GET', '/fnd/v1/images')).body).toEqual({
      images: 0,
      bytes: 0,
      removed: 0,
      pulls: [],
    })
    const prepare = (body: object, options = {}) =>
      api.call('POST', '/fnd/v1/images/prepare', body, options)
    const image = 'hello:1'
    expect(await prepare({ app_id: 'none', image })).toMatchObject({ status: 404 })
    expect((await prepare({ app_id: appId, image: 'Bad' })).body).toMatchObject({ field: 'image' })
    expect((await prepare({ app_id: appId, image, pull: 'now' })).body).toMatchObject({
      field: 'pull',
    })
    expect(await prepare({ app_id: appId })).toMatchObject({ status: 400 })
    expect(await prepare({ app_id: appId, image }, { isAnonymous: true })).toMatchObject({
      status: 401,
    })
    const { status, text } = await prepare({ app_id: appId, image })
    expect(status).toBe(200)
    expect(JSON.parse(text)).toMatchObject({ status: 'failed', code: 'docker-unavailable' })
  })
})

describe('fnd.io/digest', () => {
  const digest = `sha256:${'a'.repeat(64)}`
  const other = `sha256:${'b'.repeat(64)}`
  const newFn = async (name: string) =>
    (
      await api.call('POST', '/v2/fns', {
        app_id: appId,
        name,
        image: 'hello:1',
        annotations: { 'fnd.io/digest': digest },
      })
    ).body

  test('is dropped when the image changes and it does not', async () => {
    const fn = await newFn('one')
    const put = (body: object) => api.call('PUT', `/v2/fns/${fn.id}`, body)
    expect((await put({ memory: 256 })).body.annotations['fnd.io/digest']).toBe(digest)
    expect((await put({ image: 'hello:1' })).body.annotations['fnd.io/digest']).toBe(digest)
    // Fn's tools send back all that they got.
    const moved = (await put({ ...fn, image: 'hello:2' })).body
    expect([moved.image, moved.annotations]).toEqual(['hello:2', undefined])
  })

  test('changes together with the image', async () => {
    const { id } = await newFn('two')
    const body = { image: 'hello:2', annotations: { 'fnd.io/digest': other } }
    const changed = (await api.call('PUT', `/v2/fns/${id}`, body)).body
    expect(changed.annotations['fnd.io/digest']).toBe(other)
    const plain = (await api.call('PUT', `/v2/fns/${id}`, { image: 'hello:3' })).body
    expect(plain.annotations).toBeUndefined()
  })

  test.each([['sha256:abc'], [1], [digest.toUpperCase()]])('%p is refused', async value => {
    const body = {
      app_id: appId,
      name: 'bad',
      image: 'x',
      annotations: { 'fnd.io/digest': value },
    }
    expect(await api.call('POST', '/v2/fns', body)).toMatchObject({
      status: 400,
      body: { field: 'annotations.fnd.io/digest' },
    })
  })
})
