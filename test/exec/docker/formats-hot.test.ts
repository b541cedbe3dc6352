/** `http` and `json`: call after call over stdin and stdout of one process. */
import { describe, expect, test } from 'bun:test'
import { existsSync, statSync } from 'node:fs'
import type { ExchangeFault } from '../../../src/http/exchange-error.ts'
import { eventually } from '../../contract/driver.ts'
import {
  bytesOf,
  call,
  clientOf,
  fndLines,
  headOf,
  mib,
  openHot,
  openOver,
  streamOf,
  useBridges,
} from './bridge-harness.ts'

useBridges()

describe('http', () => {
  test('the socket is of this user alone, and goes with the bridge', async () => {
    const { bridge } = openHot('http')
    expect(statSync(bridge.socketPath).mode & 0o777).toBe(0o600)
    await bridge.close()
    expect(existsSync(bridge.socketPath)).toBe(false)
  })

  test('calls go one after the other over one process', async () => {
    const { client } = openHot('http')
    for (let i = 0; i < 3; i++) {
      const head = headOf('/t/demo/about?q=1', ['fn-http-h-x-own: a', 'content-type: a/b'], 'PUT')
      const { body, headers } = await call(client, { head, body: Buffer.from(`call ${i}`) })
      expect(headers).toMatchObject({ 'fn-http-status': '200', 'content-type': 'application/json' })
      const seen = JSON.parse(body.toString())
      expect(seen).toMatchObject({ method: 'PUT', url: '/t/demo/about?q=1', body: `call ${i}` })
      expect(seen.headers).toContainEqual(['X-Own', 'a'])
      expect(seen.headers).toContainEqual(['Content-Type', 'a/b'])
      expect(seen.headers).toContainEqual(['Fn_call_id', '01CALL'])
      expect(seen.headers).toContainEqual(['Content-Length', '6'])
    }
  })

  test('status and headers are the caller’s', async () => {
    const { client } = openHot('http')
    const triggered = await call(client, { head: headOf('/t/demo/status') })
    expect(triggered).toMatchObject({ status: 200, fault: null })
    expect(triggered.body.toString()).toBe('tea')
    expect(triggered.headers).toEqual({
      'content-type': 'text/plain; charset=utf-8',
      'fn-http-status': '418',
      'Fn-Http-H-X-Own': 'a',
      'content-length': '3',
    })
    const invoked = await call(client, { head: `${fndLines}act: status\r\n` })
    expect(invoked.headers).toMatchObject({ 'fn-http-status': '418', 'X-Own': 'a' })
  })

  test.each([
    ['untyped', '<html>hi</html>', 'text/html; charset=utf-8'],
    ['empty', '', undefined],
    ['chunked', 'abcdefg', 'text/plain; charset=utf-8'],
    ['bare', 'ok', 'text/plain; charset=utf-8'],
  ])('an answer that is %s', async (act, text, type) => {
    const { client } = openHot('http')
    const { body, headers, fault } = await call(client, { head: headOf(`/t/demo/${act}`) })
    expect({ text: body.toString(), type: headers['content-type'], fault }).toEqual({
      text,
      type,
      fault: null,
    } as never)
    const next = await call(client)
    expect(next.fault).toBeNull()
  })

  test('a body without a length', async () => {
    const { client } = openHot('http')
    const short = streamOf([Buffer.from('a'), Buffer.from('bc')])
    const one = await call(client, { head: headOf('/t/demo/about'), body: short })
    expect(JSON.parse(one.body.toString()).headers).toContainEqual(['Content-Length', '3'])
    const piece = bytesOf(100_000)
    const long = streamOf(Array.from({ length: 20 }, () => piece))
    const two = await call(client, { head: headOf('/t/demo/echo'), body: long })
    expect(two.body.length).toBe(2_000_000)
    expect(two.body.equals(Buffer.concat(Array.from({ length: 20 }, () => piece)))).toBe(true)
    const three = await call(client, { head: headOf('/t/demo/echo'), body: Buffer.from('x') })
    expect(three.body.toString()).toBe('x')
  })

  test('large bodies go both ways', async () => {
    const { client } = openHot('http')
    const body = bytesOf(5 * mib)
    for (let i = 0; i < 2; i++) {
      const head = headOf('/t/demo/echo')
      const answer = await call(client, { head, body: streamOf([body]), length: body.length })
      expect(answer.headers['content-length']).toBe(String(body.length))
      expect(answer.body.equals(body)).toBe(true)
    }
  })

  test('an answer may last until the container ends', async () => {
    const { client, bridge } = openHot('http')
    const { body, headers, fault } = await call(client, { head: headOf('/t/demo/close') })
    expect({ text: body.toString(), fault }).toEqual({ text: 'until the end', fault: null })
    expect(headers).toMatchObject({ 'content-type': 'a/b', 'transfer-encoding': 'chunked' })
    expect(await bridge.broken).toBe('its output ended')
  })

  test.each([
    ['garbage', 'function-response-invalid', /^invalid http response .*"hello, I am no HTTP"$/],
    ['head', 'function-headers-too-large', /too large$/],
  ])('%s is refused, and the container is unfit', async (act, code, words) => {
    const { client, bridge } = openHot('http')
    const { status, refusal } = await call(client, { head: headOf(`/t/demo/${act}`) })
    expect({ status, code: refusal?.code }).toEqual({ status: 500, code } as never)
    expect(refusal?.message).toMatch(words)
    await bridge.broken
    expect((await call(client)).fault).toBe('closed')
  })

  test('a chunk that is none', async () => {
    const { client, bridge } = openHot('http')
    const { refusal } = await call(client, { head: headOf('/t/demo/bad-chunk') })
    expect(refusal?.message).toContain('malformed chunked encoding')
    await bridge.broken
  })

  test.each([
    ['half', 200],
    ['exit', 0],
  ])('a container that ends mid-call (%s) breaks the connection', async (act, status) => {
    const { client, bridge } = openHot('http')
    const outcome = await call(client, { head: headOf(`/t/demo/${act}`) })
    expect(outcome).toMatchObject({ fault: 'closed', refusal: undefined })
    // Whether the head of half an answer comes before its end does, is up to the client.
    expect([0, status]).toContain(outcome.status)
    await bridge.broken
  })

  test('more than an answer makes the container unfit', async () => {
    const { client, bridge } = openHot('http')
    const { body } = await call(client, { head: headOf('/t/demo/more') })
    expect(body.toString()).toBe('ok')
    expect(await bridge.broken).toBe('it wrote more than its answer')
    expect((await call(client)).fault).toBe('closed')
  })

  test('output between calls makes the container unfit', async () => {
    const { client, bridge } = openHot('http')
    const head = headOf('/t/demo/late')
    expect((await call(client, { head, body: Buffer.from('a') })).body.toString()).toBe('a')
    expect(await bridge.broken).toBe('it wrote to stdout while there was no call')
  })

  test('the end of an idle container is noticed', async () => {
    const { client, bridge, child } = openHot('http')
    await call(client)
    child.kill('SIGKILL')
    expect(await bridge.broken).toBe('its output ended')
  })

  test('a caller that leaves makes the container unfit', async () => {
    const { client, bridge, child } = openHot('http')
    const request = { body: Buffer.from('x'), length: undefined }
    let fault: ExchangeFault | null = null
    const exchange = client.exchange(headOf('/t/demo/hang'), request, {
      replied: () => undefined,
      exchangeEnded: (_, why) => {
        fault = why
      },
    })
    const broken = bridge.broken
    let isBroken = false
    void broken.then(() => {
      isBroken = true
    })
    await Bun.sleep(50)
    expect(isBroken).toBe(false)
    exchange.abort('aborted')
    expect(await broken).toBe('the caller left in the middle of a call')
    expect(fault).toBe('aborted' as never)
    child.kill()
    expect((await call(client)).fault).toBe('closed')
  })

  test('closing breaks a call off', async () => {
    const { client, bridge } = openHot('http')
    const outcome = call(client, { head: headOf('/t/demo/hang') })
    await Bun.sleep(50)
    await bridge.close()
    expect((await outcome).fault).toBe('closed')
  })

  test('a limit on the answer’s body holds', async () => {
    const { bridge } = openHot('http')
    const client = clientOf(bridge, { bodyBytesMax: 1000 })
    const outcome = await call(client, { head: headOf('/t/demo/echo'), body: bytesOf(2000) })
    expect(outcome.fault).toBe('body-too-large')
  })

  test('a function that reads slowly holds the caller back', async () => {
    let taken = 0
    const gate = Promise.withResolvers<void>()
    const stdout = new TransformStream<Uint8Array, Uint8Array>()
    const write = async (bytes: Uint8Array) => {
      await gate.promise
      taken += bytes.length
    }
    const { client } = openOver(
      { stdin: { write, end: () => undefined }, stdout: stdout.readable },
      { format: 'http' },
    )
    let sent = 0
    const length = 64 * mib
    const body = new ReadableStream<Uint8Array>({
      pull: controller => {
        if (sent === length) return controller.close()
        sent += mib
        controller.enqueue(bytesOf(mib))
      },
    })
    const outcome = call(client, { head: headOf('/t/demo/echo'), body, length })
    await eventually(() => sent > 0, 'some of the body is sent')
    await Bun.sleep(300)
    expect(sent).toBeLessThan(16 * mib)
    gate.resolve()
    await eventually(() => taken > length, 'all of it arrives')
    const writer = stdout.writable.getWriter()
    await writer.write(Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'))
    expect((await outcome).body.toString()).toBe('ok')
  })
})

describe('the http of IronFunctions', () => {
  const spec = { dialect: 'iron', env: { 'my-key': 'v' } } as const

  test('has its environment in headers, and only the body counts', async () => {
    const { client } = openHot('http', spec)
    const request = { head: headOf('/t/demo/path', ['fn-http-h-act: status']), body: null }
    const { headers, body } = await call(client, request)
    const seen = JSON.parse(body.toString())
    expect(headers).toEqual({
      'content-type': 'text/plain; charset=utf-8',
      'content-length': String(body.length),
    })
    expect(seen).toMatchObject({ method: 'GET', url: '/' })
    expect(seen.headers).toContainEqual(['My_key', 'v'])
    expect(seen.headers).toContainEqual(['Method', 'POST'])
    expect(seen.headers).toContainEqual(['Route', '/path'])
    expect(seen.headers).toContainEqual(['Header_act', 'status'])
    expect(seen.headers).toContainEqual(['Task-Id', '01CALL'])
  })

  test('takes a payload from the query of a GET, and refuses endless bodies', async () => {
    const { client } = openHot('http', spec)
    const get = await call(client, { head: headOf('/t/demo/x?payload=hi%20you', [], 'GET') })
    expect(JSON.parse(get.body.toString()).body).toBe('hi you')
    const long = streamOf(Array.from({ length: 20 }, () => bytesOf(100_000)))
    const { status, refusal } = await call(client, { body: long })
    expect({ status, code: refusal?.code }).toEqual({ status: 502, code: 'request-body-too-large' })
    expect((await call(client)).status).toBe(200)
  })
})

describe('json', () => {
  const said = (act: string) => ({ body: Buffer.from(act) })

  test('calls go one after the other over one process', async () => {
    const { client } = openHot('json')
    for (let i = 0; i < 3; i++) {
      const { body } = await call(client, said('about'))
      expect(JSON.parse(body.toString())).toMatchObject({
        call_id: '01CALL',
        body: 'about',
        protocol: { type: 'http', method: 'POST', request_url: 'http://fnd.test/t/demo/about' },
      })
    }
  })

  test('status, headers and body', async () => {
    const { client } = openHot('json')
    const { headers, body } = await call(client, said('status'))
    expect(body.toString()).toBe('tea "}{" \\')
    expect(headers).toMatchObject({
      'content-type': 'x/y',
      'fn-http-status': '418',
      'Fn-Http-H-X-Own': 'b',
    })
    const untyped = await call(client, said('untyped'))
    expect(untyped.headers['content-type']).toBe('text/plain; charset=utf-8')
    expect((await call(client, said('pieces'))).body.toString()).toBe('slow ä')
  })

  test('bodies of a megabyte', async () => {
    const { client } = openHot('json')
    const body = Buffer.from('ä"\\\n'.repeat(200_000))
    for (const sent of [body, streamOf([body])]) {
      const answer = await call(client, { body: sent })
      expect(answer.body.equals(body)).toBe(true)
    }
  })

  test('a body over the bound is refused, and the container stays', async () => {
    const { client } = openHot('json')
    const pieces = Array.from({ length: 17 }, () => bytesOf(mib))
    for (const length of [undefined, 17 * mib]) {
      const outcome = await call(client, {
        body: streamOf(pieces),
        length,
      })
      expect(outcome).toMatchObject({ status: 502, fault: null })
      expect(outcome.refusal).toMatchObject({ code: 'request-body-too-large', status: 413 })
    }
    expect((await call(client, said('untyped'))).body.toString()).toBe('text')
  })

  test.each([
    ['garbage', /^invalid json response from function err: invalid character 'h' looking/],
    ['broken', /^invalid json response from function err: .+/],
    ['list', /^invalid json response from function err: "body" must be a string$/],
  ])('%s is refused, and the container is unfit', async (act, words) => {
    const { client, bridge } = openHot('json')
    const { status, refusal } = await call(client, said(act))
    expect(status).toBe(500)
    expect(refusal).toMatchObject({ code: 'function-response-invalid', status: 502 })
    expect(refusal?.message).toMatch(words)
    await bridge.broken
    expect((await call(client)).fault).toBe('closed')
  })

  test('an answer over the bound', async () => {
    const { client, bridge } = openHot('json')
    const { refusal } = await call(client, said('flood'))
    expect(refusal).toMatchObject({ code: 'function-body-too-large', status: 502 })
    await bridge.broken
  })

  test.each(['half', 'exit'])('a container that ends mid-call (%s)', async act => {
    const { client, bridge } = openHot('json')
    const outcome = await call(client, said(act))
    expect(outcome).toMatchObject({ status: 0, fault: 'closed' })
    await bridge.broken
  })

  test('more than an answer makes the container unfit', async () => {
    const { client, bridge } = openHot('json')
    expect((await call(client, said('more'))).body.toString()).toBe('one')
    expect(await bridge.broken).toBe('it wrote more than its answer')
  })
})
