import { describe, expect, test } from 'bun:test'
import { openApi } from './harness.ts'

const page = 'https://page.example'
const anonymous = { isAnonymous: true } as const

describe('CORS (fn-api §1.7)', () => {
  test('an allowed origin is named on every answer, of errors and functions too', async () => {
    await using api = await openApi({ env: { FN_API_CORS_ORIGINS: `${page}, https://b.example` } })
    for (const path of ['/v2/apps', '/v2/nope', '/t/app/x', '/fnd/openapi.json', '/v2/apps/']) {
      const answer = await api.call('GET', path, undefined, { headers: { origin: page } })
      expect(answer.headers.get('access-control-allow-origin')).toBe(page)
      expect(answer.headers.get('vary')).toContain('Origin')
    }
    const refused = await api.call('GET', '/v2/apps', undefined, {
      headers: { origin: page },
      ...anonymous,
    })
    expect([refused.status, refused.headers.get('access-control-allow-origin')]).toEqual([
      401,
      page,
    ])
  })

  test('Vary keeps what a function put there, and needs no origin', async () => {
    await using api = await openApi({ env: { FN_API_CORS_ORIGINS: page } })
    const answer = await api.call('GET', '/t/app/x')
    expect(answer.headers.get('vary')).toBe('Accept, Origin')
    expect(answer.headers.get('access-control-allow-origin')).toBeNull()
  })

  test('any other origin: 403 and nothing else', async () => {
    await using api = await openApi({ env: { FN_API_CORS_ORIGINS: page } })
    for (const origin of ['https://evil.example', `${page}.evil.example`, 'null', '']) {
      const answer = await api.call('GET', '/t/app/x', undefined, { headers: { origin } })
      expect([answer.status, answer.text]).toEqual([403, ''])
    }
  })

  test('the own origin is no other', async () => {
    await using api = await openApi({ env: { FN_API_CORS_ORIGINS: page } })
    const headers = { origin: 'http://fnd.test:8080' }
    const answer = await api.call('GET', '/v2/apps', undefined, { headers })
    expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([200, null])
  })

  test('a preflight: 200 with methods, headers and age, without a token', async () => {
    await using api = await openApi({
      env: { FN_API_CORS_ORIGINS: '*', FN_API_CORS_HEADERS: 'Authorization,X-Mine' },
    })
    const headers = { origin: page, 'access-control-request-method': 'PUT' }
    const answer = await api.call('OPTIONS', '/v2/apps/x', undefined, { headers, ...anonymous })
    expect([answer.status, answer.text]).toEqual([200, ''])
    expect(answer.headers.get('access-control-allow-origin')).toBe('*')
    expect(answer.headers.get('access-control-allow-methods')).toBe('GET,POST,PUT,HEAD,DELETE')
    expect(answer.headers.get('access-control-allow-headers')).toContain('Authorization,X-Mine')
    expect(answer.headers.get('access-control-max-age')).toBe('43200')
  })

  test('an OPTIONS that is no preflight reaches the function', async () => {
    await using api = await openApi({ env: { FN_API_CORS_ORIGINS: '*' } })
    const answer = await api.call('OPTIONS', '/t/app/x', undefined, { headers: { origin: page } })
    expect([answer.text, answer.headers.get('access-control-allow-origin')]).toEqual([
      'called',
      '*',
    ])
  })

  test('off unless configured', async () => {
    await using api = await openApi()
    const answer = await api.call('GET', '/v2/apps', undefined, { headers: { origin: page } })
    expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([200, null])
  })
})
