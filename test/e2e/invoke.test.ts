/** Calls by id and by trigger on the real executable: what passes in, and what comes out. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Deployed, Fnd, header, parseReply, RawConnection, raw } from './fnd.ts'

let fnd: Fnd
let fn: Deployed
let worker: Deployed

beforeAll(async () => {
  fnd = await Fnd.start()
  fn = await fnd.deploy('contract', { fixture: 'contract.js', form: 'fdk' })
  worker = await fnd.deploy('worker', {
    source: `export default {
      async fetch(request) {
        const status = Number(request.headers.get('x-status') ?? 200)
        const headers = new Headers({ 'x-method': request.method, 'x-url': request.url })
        for (const cookie of (request.headers.get('x-cookies') ?? '').split('|').filter(Boolean)) {
          headers.append('set-cookie', cookie)
        }
        const text = request.method === 'HEAD' || status === 204 || status === 304
          ? null : await request.text()
        return new Response(text, { status, headers })
      },
    }`,
  })
})

afterAll(() => fnd[Symbol.asyncDispose]())

const close = 'connection: close\r\n'

/** The head that the function got, when `lines` went to its trigger or its id. */
async function headFor(path: string, lines: string, method = 'POST'): Promise<string> {
  const request = `${method} ${path} HTTP/1.1\r\nhost: fnd.test\r\n${close}${lines}\r\n`
  const reply = await raw(fnd.port, request)
  expect(reply.status).toBe(200)
  return reply.body
}

/** A call whose function answers exactly these bytes. */
function answered(bytes: string, path = '/t/e2e/contract', then = '', method = 'POST') {
  const send = Buffer.from(bytes, 'latin1').toString('base64')
  const lines = `x-do: send\r\nx-send: ${send}\r\nx-then: ${then}\r\n${close}`
  return raw(fnd.port, `${method} ${path} HTTP/1.1\r\nhost: fnd.test\r\n${lines}\r\n`)
}

const ok = (headers: string, body = '') =>
  `HTTP/1.1 200 OK\r\n${headers}content-length: ${body.length}\r\n\r\n${body}`

describe('headers to the function', () => {
  test('pass untouched by id, less those of the connection', async () => {
    const lines =
      'X-One: 1\r\nConnection: x-mine, close\r\nx-mine: secret\r\nKeep-Alive: 5\r\n' +
      'TE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nProxy-Connection: x\r\n' +
      'Proxy-Authorization: x\r\nProxy-Authenticate: x\r\nContent-Type: a/b\r\n' +
      'fn-call-id: forged\r\nfn-deadline: forged\r\nFn-Intent: mine\r\n'
    const path = `/invoke/${fn.id}`
    const request = `POST ${path} HTTP/1.1\r\nhost: fnd.test\r\n${lines}\r\n`
    const head = (await raw(fnd.port, request)).body.toLowerCase()
    for (const gone of ['x-mine', 'keep-alive', 'trailer:', 'upgrade', 'proxy-', 'forged']) {
      expect(head).not.toContain(gone)
    }
    expect(head).toStartWith('post /call http/1.1\r\n')
    for (const kept of ['x-one: 1', 'te: trailers', 'content-type: a/b', 'fn-intent: mine']) {
      expect(head).toContain(`\r\n${kept}`)
    }
    expect(head.match(/\r\nfn-call-id: /g)).toHaveLength(1)
    expect(head).toMatch(/\r\nfn-deadline: \d{4}-\d\d-\d\dt\d\d:\d\d:\d\dz/)
    expect(head).toContain('\r\nhost: localhost')
    expect(head).not.toContain('fnd.test')
  })

  test('are renamed by trigger, with method and URL beside them', async () => {
    const path = '/t/e2e/contract?a=1&b=%20%0d%0a'
    const head = await headFor(path, 'X-One: 1\r\nContent-Type: a/b\r\nFn-Http-H-X: y\r\n', 'PUT')
    const lower = head.toLowerCase()
    expect(lower).toContain('\r\nfn-http-h-x-one: 1')
    expect(lower).toContain('\r\nfn-http-h-fn-http-h-x: y')
    expect(lower).toContain('\r\ncontent-type: a/b')
    expect(lower).not.toContain('fn-http-h-content-type')
    expect(lower).toContain('\r\nfn-http-method: put')
    expect(lower).toContain('\r\nfn-intent: httprequest')
    expect(head).toContain(`fn-http-request-url: http://fnd.test${path}`)
    expect(lower).toContain('\r\nfn-http-h-host: fnd.test')
  })

  test('keep bytes that are not ASCII', async () => {
    const value = '\xe4\xff caf\xc3\xa9'
    const head = await headFor(`/invoke/${fn.id}`, `x-bytes: ${value}\r\n`)
    expect(head).toContain(`x-bytes: ${value}`)
    const renamed = await headFor('/t/e2e/contract', `x-bytes: ${value}\r\n`)
    expect(renamed).toContain(`fn-http-h-x-bytes: ${value}`)
  })

  test('cannot smuggle a line into its request', async () => {
    const evils = [
      'x-a: 1\rsmuggled: 1\r\n',
      'x-a: 1\nsmuggled: 1\r\n',
      'x-a: 1\r\n smuggled: 1\r\n',
      'x-a: \x001\r\n',
      'x-a\r\n',
      'x a: 1\r\n',
    ]
    for (const evil of evils) {
      for (const path of [`/invoke/${fn.id}`, '/t/e2e/contract']) {
        const request = `POST ${path} HTTP/1.1\r\nhost: f\r\n${evil}${close}\r\n`
        const reply = await raw(fnd.port, request)
        expect(reply.status === 400 || !/\r\n(fn-http-h-)?smuggled/i.test(reply.body)).toBe(true)
        expect(reply.body).not.toMatch(/[^\r]\n|\r[^\n]/)
      }
    }
    for (const target of [
      '/t/e2e/contract?x=\rsmuggled:1',
      '/t/e2e/contract?\x0bx',
      '/t/e2e/con tract',
    ]) {
      const reply = await raw(fnd.port, `GET ${target} HTTP/1.1\r\nhost: f\r\n${close}\r\n`)
      expect(reply.body).not.toMatch(/\r\nsmuggled/)
    }
    for (const host of ['', 'a b', 'x\ty', 'a/b?c', '[', '\xff', 'a\rsmuggled: 1']) {
      const reply = await raw(
        fnd.port,
        `GET /t/e2e/contract HTTP/1.1\r\nhost: ${host}\r\n${close}\r\n`,
      )
      expect(reply.status).toBeLessThan(500)
      expect(reply.body).not.toMatch(/[^\r]\n|\r[^\n]/)
      if (reply.status === 200) expect(reply.body).toContain('fn-http-request-url: http://')
    }
  })
})

describe('targets and methods', () => {
  test('no Host makes a function fail', async () => {
    for (const host of ['', '.1', '[', 'x:99999', '999.1.1.1', 'xn--a', '\xff', 'A-b.C_d:80']) {
      const request = `GET /t/e2e/worker?q HTTP/1.1\r\nhost: ${host}\r\n${close}\r\n`
      const reply = await raw(fnd.port, request)
      if (reply.status === 400) continue
      expect({ host, status: reply.status }).toEqual({ host, status: 200 })
      expect(header(reply, 'x-url')).toMatch(/^http:\/\/[^/]+\/t\/e2e\/worker\?q$/)
    }
  })

  test('a trigger is found by its decoded path, whatever the query', async () => {
    for (const target of ['/t/e2e/contract?x=/y', '/t/e2e/%63ontract', '/t/%652e/contract']) {
      const reply = await raw(fnd.port, `GET ${target} HTTP/1.1\r\nhost: f\r\n${close}\r\n`)
      expect({ target, status: reply.status }).toEqual({ target, status: 200 })
    }
  })

  test('what is not there is a 404 in Fn’s words', async () => {
    const cases = [
      ['POST', '/invoke/nope', 'Fn not found'],
      ['POST', `/invoke/${'x'.repeat(300)}`, 'Fn not found'],
      ['GET', '/t/nope/contract', 'App not found'],
      ['GET', '/t/e2e/nope', 'Trigger not found'],
      ['GET', '/t/e2e', 'Trigger not found'],
      ['GET', '/t/e2e/', 'Trigger not found'],
      ['GET', '/t/e2e/contract/', 'Trigger not found'],
      ['GET', '/t/e2e/%ff', 'Trigger not found'],
    ] as const
    for (const [method, target, message] of cases) {
      const request = `${method} ${target} HTTP/1.1\r\nhost: f\r\n${close}\r\n`
      const reply = await raw(fnd.port, request)
      expect({ target, status: reply.status }).toEqual({ target, status: 404 })
      expect(JSON.parse(reply.body)).toMatchObject({ message })
    }
    for (const target of ['/invoke/%ff', '/t/%ff/x']) {
      const odd = `POST ${target} HTTP/1.1\r\nhost: f\r\n${close}\r\n`
      expect((await raw(fnd.port, odd)).status).toBe(404)
    }
  })

  test('every method reaches a trigger; /invoke takes POST alone', async () => {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'HEAD']) {
      const response = await fetch(worker.url, { method })
      expect({ method, status: response.status }).toEqual({ method, status: 200 })
      expect(response.headers.get('x-method')).toBe(method)
      await response.arrayBuffer()
    }
    for (const method of ['GET', 'PUT', 'PATCH', 'DELETE']) {
      const response = await fetch(worker.invokeUrl, { method })
      expect({ method, status: response.status }).toEqual({ method, status: 405 })
      expect(response.headers.get('allow')).toContain('POST')
    }
  })

  test('detached calls are refused by id and unknown to triggers', async () => {
    const headers = { 'fn-invoke-type': 'detached' }
    const refused = await fetch(fn.invokeUrl, { method: 'POST', headers })
    expect(refused.status).toBe(501)
    expect(await refused.json()).toMatchObject({
      message: 'Detach call functions are not supported on this server',
    })
    const taken = await fetch(fn.url, { method: 'POST', headers })
    expect(taken.status).toBe(200)
    await taken.arrayBuffer()
  })

  test('an app with a key refuses calls without it', async () => {
    const locked = await fnd.deploy(
      'locked',
      { source: 'export default () => "in"' },
      { app: 'safe' },
    )
    const key = 'a-key-of-many-letters'
    await fnd.api('PUT', `/v2/apps/${locked.appId}`, { annotations: { 'fnd.io/invoke-key': key } })
    for (const url of [locked.url, locked.invokeUrl]) {
      for (const headers of [{}, { 'fnd-invoke-key': 'wrong' }] as Record<string, string>[]) {
        const refused = await fetch(url, { method: 'POST', headers })
        expect(refused.status).toBe(401)
        await refused.arrayBuffer()
      }
      const taken = await fetch(url, { method: 'POST', headers: { 'fnd-invoke-key': key } })
      expect({ status: taken.status, body: await taken.text() }).toEqual({
        status: 200,
        body: 'in',
      })
      const bearer = { authorization: `Bearer ${key}` }
      expect((await fetch(url, { method: 'POST', headers: bearer })).status).toBe(200)
    }
  })
})

describe('answers', () => {
  test('carry the call id and where the time went, failures too', async () => {
    const answers = [
      await answered(ok('')),
      await answered(ok(''), `/invoke/${fn.id}`),
      await answered('HTTP/1.1 502 X\r\ncontent-length: 0\r\n\r\n'),
      await answered('garbage\r\n\r\n'),
      await answered(ok(''), '/invoke/nobody'),
      await answered(ok(''), '/t/nobody/knows'),
    ]
    for (const reply of answers) {
      expect(header(reply, 'fn-call-id')).toMatch(/^[0-9A-Z]{26}$/)
      expect(header(reply, 'server-timing')).toMatch(
        /^queue;dur=[\d.]+, start;dur=[\d.]+, run;dur=[\d.]+$/,
      )
    }
    expect(new Set(answers.map(reply => header(reply, 'fn-call-id'))).size).toBe(6)
  })

  test('by id keep what the function said, and 200', async () => {
    const said =
      'Fn-Http-Status: 404\r\nFn-Http-H-X: 1\r\nX-Own: 2\r\nKeep-Alive: 9\r\n' +
      'Fn-Call-Id: forged\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-bytes: \xe4\xff\r\n' +
      'Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\n'
    const reply = await answered(ok(said, 'body'), `/invoke/${fn.id}`)
    expect(reply.status).toBe(200)
    expect(header(reply, 'fn-http-status')).toBe('404')
    expect(header(reply, 'fn-http-h-x')).toBe('1')
    expect(header(reply, 'x-own')).toBe('2')
    expect(header(reply, 'x-bytes')).toBe('\xe4\xff')
    expect(header(reply, 'keep-alive')).toBeUndefined()
    expect(header(reply, 'x-mine')).toBeUndefined()
    expect(reply.text).not.toContain('forged')
    const cookies = reply.headers.filter(([name]) => name === 'set-cookie')
    expect(cookies.map(([, value]) => value)).toEqual(['a=1', 'b=2'])
    expect(header(reply, 'content-length')).toBe('4')
    expect(reply.headers.filter(([name]) => name === 'date')).toHaveLength(1)
    expect(reply.body).toBe('body')
  })

  test('by trigger keep what was meant for the caller', async () => {
    const said =
      'Fn-Http-Status: 202\r\nFn-Http-H-X: 1\r\nX-Own: 2\r\nContent-Type: a/b\r\n' +
      'Fn-Http-H-: 3\r\nFn-Http-H-Set-Cookie: a=1\r\nFn-Http-H-Set-Cookie: b=2\r\n' +
      'Fn-Http-H-Bytes: \xe4\xff\r\n' +
      'Fn-Http-H-Connection: upgrade\r\nFn-Http-H-Content-Length: 99\r\n' +
      'Fn-Http-H-Transfer-Encoding: chunked\r\nFn-Http-H-Content-Type: evil/evil\r\n' +
      'Fn-Http-H-Fn-Call-Id: forged\r\nFn-Http-H-Keep-Alive: 1\r\n'
    const reply = await answered(ok(said, 'body'))
    expect(reply.status).toBe(202)
    expect(header(reply, 'x')).toBe('1')
    expect(header(reply, 'x-own')).toBeUndefined()
    expect(header(reply, 'bytes')).toBe('\xe4\xff')
    const valuesOf = (wanted: string) =>
      reply.headers.filter(([name]) => name === wanted).map(([, value]) => value)
    expect(valuesOf('set-cookie')).toEqual(['a=1', 'b=2'])
    expect(valuesOf('content-type')).toEqual(['a/b'])
    expect(valuesOf('content-length')).toEqual(['4'])
    expect(valuesOf('transfer-encoding')).toEqual([])
    expect(valuesOf('fn-call-id')).toHaveLength(1)
    expect(reply.text).not.toContain('forged')
    expect(valuesOf('keep-alive')).toEqual([])
    expect(valuesOf('connection').join()).not.toContain('upgrade')
    expect(reply.body).toBe('body')
  })

  test('by trigger take their status from the function, if it is one', async () => {
    for (const status of [200, 202, 301, 404, 418, 500, 599]) {
      const reply = await answered(ok(`Fn-Http-Status: ${status}\r\n`, 'x'))
      expect({ status: reply.status, body: reply.body }).toEqual({ status, body: 'x' })
    }
    for (const status of ['', '0', '-5', 'abc']) {
      expect((await answered(ok(`Fn-Http-Status: ${status}\r\n`))).status).toBe(200)
    }
    for (const status of ['99', '100', '101', '999', '200.5', '1e3']) {
      const reply = await answered(ok(`Fn-Http-Status: ${status}\r\n`))
      expect({ status, code: reply.status }).toEqual({ status, code: 502 })
      expect(JSON.parse(reply.body)).toMatchObject({ message: 'invalid function response' })
    }
  })

  test('have no body where none may be', async () => {
    for (const status of [204, 304]) {
      using connection = new RawConnection(fnd.port)
      const headers = `x-status: ${status}\r\nhost: f\r\ncontent-length: 0\r\n`
      connection.send(`POST /t/e2e/worker HTTP/1.1\r\n${headers}\r\n`)
      const reply = parseReply(await connection.read(/\r\n\r\n/))
      expect(reply.status).toBe(status)
      // The connection goes on: nothing of a body is in the way.
      connection.send(`GET /healthz HTTP/1.1\r\nhost: f\r\n${close}\r\n`)
      const rest = parseReply((await connection.read(undefined)).slice(reply.text.length))
      expect(rest.status).toBe(200)
    }
    using connection = new RawConnection(fnd.port)
    const send = Buffer.from(ok('Content-Type: a/b\r\n', 'body')).toString('base64')
    const lines = `x-do: send\r\nx-send: ${send}\r\nhost: f\r\n`
    connection.send(`HEAD /t/e2e/contract HTTP/1.1\r\n${lines}\r\n`)
    const reply = parseReply(await connection.read(/\r\n\r\n/))
    expect({ status: reply.status, body: reply.body }).toEqual({ status: 200, body: '' })
    connection.send(`GET /healthz HTTP/1.1\r\nhost: f\r\n${close}\r\n`)
    const rest = (await connection.read(undefined)).slice(reply.text.length)
    expect(rest).toStartWith('HTTP/1.1 200')
  })

  test('go to HTTP/1.0 clients too, as proxies often are, streams without chunks', async () => {
    const length = 300_000
    const calls = [
      ['POST /t/e2e/worker HTTP/1.0\r\nhost: f\r\ncontent-length: 2\r\n\r\nhi', 2],
      [`GET /t/e2e/contract HTTP/1.0\r\nx-do: download\r\nx-bytes: ${length}\r\n\r\n`, length],
    ] as const
    for (const [request, bytes] of calls) {
      const reply = await raw(fnd.port, request)
      expect({ status: reply.status, bytes: reply.body.length }).toEqual({ status: 200, bytes })
      expect(header(reply, 'transfer-encoding')).toBeUndefined()
    }
  })

  test('of forms: cookies, empty bodies, echoes', async () => {
    const cookies = await fetch(worker.url, { headers: { 'x-cookies': 'a=1|b=2; Path=/' } })
    expect(cookies.headers.getSetCookie()).toEqual(['a=1', 'b=2; Path=/'])
    const one = await fetch(worker.url, { headers: { 'x-cookies': 'a=1' } })
    expect(one.headers.getSetCookie()).toEqual(['a=1'])
    const empty = await fetch(worker.url, { method: 'POST', body: '' })
    expect(await empty.text()).toBe('')
    const echo = await fetch(`${worker.url}?q=1`, { method: 'POST', body: 'hi' })
    expect(await echo.text()).toBe('hi')
    expect(echo.headers.get('x-url')).toBe(`${worker.url}?q=1`)
    const byId = await fetch(worker.invokeUrl, { method: 'POST', body: 'hi' })
    expect(await byId.text()).toBe('hi')
    expect(byId.headers.get('fn-http-status')).toBe('200')
  })
})
