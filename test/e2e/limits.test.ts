/** Every limit of docs/configuration.md that a caller can meet, and the answer at it. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Deployed, Fnd, parseReply, RawConnection, raw, until } from './fnd.ts'
import { upload } from './transfer.ts'

let fnd: Fnd
let fn: Deployed

beforeAll(async () => {
  fnd = await Fnd.start({
    FN_MAX_REQUEST_SIZE: '100000',
    FN_MAX_RESPONSE_SIZE: '200000',
    FN_MAX_HDR_RESPONSE_SIZE: '4096',
    FN_MAX_REQUEST_HEADER_SIZE: '65536',
    FND_WAIT_TIMEOUT: '300ms',
    FND_MAX_WAITING_PER_FN: '3',
  })
  const settings = { 'max-instances': 1 }
  fn = await fnd.deploy('contract', { fixture: 'contract.js', form: 'fdk' }, { settings })
})

afterAll(() => fnd[Symbol.asyncDispose]())

const head = (lines: string) => `POST /t/e2e/contract HTTP/1.1\r\nhost: f\r\n${lines}`

function call(lines: string, path = '/t/e2e/contract') {
  const request = `POST ${path} HTTP/1.1\r\nhost: f\r\nconnection: close\r\n${lines}\r\n`
  return raw(fnd.port, request)
}

function answered(bytes: string) {
  return call(`x-do: send\r\nx-send: ${Buffer.from(bytes).toString('base64')}\r\n`)
}

async function expectServed(): Promise<void> {
  const response = await fetch(fn.url, { method: 'POST', body: 'x'.repeat(100_000) })
  expect(response.status).toBe(200)
  await response.arrayBuffer()
}

describe('a request', () => {
  test('of a length over the limit is a 413 that says both', async () => {
    for (const path of ['/t/e2e/contract', `/invoke/${fn.id}`]) {
      const reply = await call('content-length: 100001\r\n', path)
      expect(reply.status).toBe(413)
      expect(JSON.parse(reply.body)).toMatchObject({
        message: 'Content-Length too large for this server, 100001 > max 100000',
      })
    }
    await expectServed()
  })

  test('in chunks that come to more is a 413', async () => {
    const lines = 'x-do: count\r\n'
    const reply = await upload(fnd.port, head(lines), 1 << 20, { isChunked: true })
    expect(reply.status).toBe(413)
    expect(reply.tail).toContain('Request content too large')
    await expectServed()
  })

  test('in chunks that come to less is served', async () => {
    const reply = await upload(fnd.port, head('x-do: count\r\n'), 64 * 1024, { isChunked: true })
    expect(reply.status).toBe(200)
    expect(reply.tail).toEndWith('65536')
  })

  test('with two lengths, or a length beside chunks, does not reach a function', async () => {
    const before = (await (await fetch(fn.url, { headers: { 'x-do': 'seen' } })).json()) as {
      calls: number
    }
    for (const framing of [
      'content-length: 5\r\ncontent-length: 6\r\n',
      'content-length: 5\r\ntransfer-encoding: chunked\r\n',
      'content-length: -5\r\n',
      'content-length: 5, 5\r\n',
      'content-length: 0x5\r\n',
      'transfer-encoding: gzip\r\n',
    ]) {
      using connection = new RawConnection(fnd.port)
      connection.send(head(`connection: close\r\n${framing}\r\nhello0\r\n\r\n`))
      const reply = parseReply(await connection.read(undefined))
      expect({ framing, isRefused: !(reply.status < 400) }).toEqual({ framing, isRefused: true })
      expect(reply.status === 502 || reply.status === 500).toBe(false)
    }
    const after = await (await fetch(fn.url, { headers: { 'x-do': 'seen' } })).json()
    expect(after).toMatchObject({ calls: before.calls + 1 })
  })

  test('with longer headers than the limit is refused with 431', async () => {
    expect((await call(`x-big: ${'x'.repeat(60_000)}\r\n`)).status).toBe(200)
    expect((await call(`x-big: ${'x'.repeat(66_000)}\r\n`)).status).toBe(431)
    expect((await call(`x-big: ${'x'.repeat(2_000_000)}\r\n`)).status).toBe(431)
    const many = Array.from({ length: 300 }, (_, i) => `x-${i}: 1\r\n`).join('')
    expect((await call(many)).status).toBe(431)
    await expectServed()
  })

  test('has 16 KiB for its head where nothing else is said', async () => {
    await using plain = await Fnd.start()
    const sized = (bytes: number) =>
      raw(
        plain.port,
        `GET / HTTP/1.1\r\nhost: f\r\nconnection: close\r\nx-big: ${'x'.repeat(bytes)}\r\n\r\n`,
      )
    expect((await sized(16_000)).status).toBe(200)
    expect((await sized(17_000)).status).toBe(431)
  })
})

describe('an answer', () => {
  test('of a length over the limit is a 502', async () => {
    const reply = await answered('HTTP/1.1 200 OK\r\ncontent-length: 200001\r\n\r\n')
    expect(reply.status).toBe(502)
    expect(JSON.parse(reply.body)).toMatchObject({ message: 'function response body too large' })
    await expectServed()
  })

  test('in chunks that come to more is a 502, or is cut where it has begun', async () => {
    const lines = 'x-do: download\r\nx-bytes: 1000000\r\nx-framing: chunked\r\n'
    const reply = await call(lines)
    if (reply.status === 200) expect(reply.body).not.toEndWith('0\r\n\r\n')
    else
      expect(JSON.parse(reply.body)).toMatchObject({ message: 'function response body too large' })
    await expectServed()
  })

  test('at the limit passes', async () => {
    const reply = await call('x-do: download\r\nx-bytes: 200000\r\n')
    expect(reply.status).toBe(200)
  })

  test('with headers over the limit is a 502', async () => {
    const big = `x-big: ${'x'.repeat(5000)}\r\n`
    for (const bytes of [
      `HTTP/1.1 200 OK\r\n${big}content-length: 0\r\n\r\n`,
      `HTTP/1.1 200 OK\r\n${big}`,
    ]) {
      const reply = await answered(bytes)
      expect(reply.status).toBe(502)
      expect(JSON.parse(reply.body)).toMatchObject({
        message: 'function response header too large',
      })
    }
    await expectServed()
  })
})

describe('a wait', () => {
  test('ends after FND_WAIT_TIMEOUT with 503, and only so many may', async () => {
    const running = fetch(fn.url, { headers: { 'x-do': 'late', 'x-ms': '1500' } })
    await until(async () => (await fnd.describe(fn.id)).busy === 1, 'the call runs')
    const startedMs = performance.now()
    const ends = await Promise.all(
      Array.from({ length: 6 }, async () => {
        const response = await fetch(fn.url)
        const ms = performance.now() - startedMs
        return { status: response.status, retry: response.headers.get('retry-after'), ms }
      }),
    )
    expect(ends.map(({ status }) => status)).toEqual(Array(6).fill(503))
    expect(ends.map(({ retry }) => retry)).toEqual(Array(6).fill('15'))
    expect(ends.filter(({ ms }) => ms >= 290)).toHaveLength(3)
    expect(await (await running).text()).toBe('late')
    await expectServed()
  })
})

describe('a silent connection', () => {
  test('is closed after FND_HTTP_IDLE_TIMEOUT, but not while its call runs', async () => {
    await using own = await Fnd.start({ FN_HTTP_IDLE_TIMEOUT: '1s' })
    await own.deploy('contract', { fixture: 'contract.js', form: 'fdk' })
    using connection = new RawConnection(own.port)
    connection.send(head('x-do: late\r\nx-ms: 6000\r\n\r\n'))
    expect(await connection.read(/late$/, 20_000)).toStartWith('HTTP/1.1 200')
    expect(connection.isEnded).toBe(false)
    // Nothing more comes, and the connection ends.
    await connection.read(undefined, 20_000)
    expect(connection.isEnded).toBe(true)
  }, 60_000)
})
