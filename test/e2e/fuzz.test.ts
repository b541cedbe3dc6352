/** Bytes that are no proper HTTP: never a 5xx, never a crash, and fnd goes on answering. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { seed } from '../watch/seed.ts'
import { type Deployed, Fnd, openSockets, RawConnection, randomFrom, until } from './fnd.ts'

let fnd: Fnd
let fn: Deployed

beforeAll(async () => {
  fnd = await Fnd.start()
  const source = `export default { async fetch(request) {
    const bytes = request.body === null ? 0 : (await request.bytes()).length
    return new Response('got ' + bytes)
  } }`
  fn = await fnd.deploy('hello', { source }, { settings: { concurrency: 50 }, timeout: 2 })
  await (await fetch(fn.url)).text()
})

afterAll(() => fnd[Symbol.asyncDispose]())

const random = randomFrom(seed)
const below = (max: number) => Math.floor(random() * max)
const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T

function randomBytes(count: number): string {
  return Array.from({ length: count }, () => String.fromCharCode(below(256))).join('')
}

const methods = ['GET', 'POST', 'PUT', 'HEAD', 'OPTIONS', 'PATCH', 'DELETE', 'TRACE', 'CONNECT']
const oddMethods = ['', ' ', 'get', 'FOO', 'G\xc4T', 'PRI', 'M-SEARCH', 'A'.repeat(300), '\0']
const versions = ['HTTP/1.1', 'HTTP/1.0', 'HTTP/0.9', 'HTTP/2.0', 'HTTP/1.', 'HTTP/11', '', 'ICY']

function target(): string {
  const known = ['/t/e2e/hello', `/invoke/${fn.id}`, '/v2/apps', '/v2/fns?app_id=', '/metrics', '/']
  const odd = [
    '*',
    '//',
    '/../../etc/passwd',
    '/t/e2e/%',
    '/t/e2e/%00',
    '/t/%2e%2e/x',
    '/invoke/',
    '/invoke/%ff%fe',
    '/v2/apps/%',
    '/v2/apps?per_page=-1&cursor=%00',
    'http://other.test/t/e2e/hello',
    'http://[::1/t/e2e/hello',
    '/t/e2e/hello#frag',
    '?',
    `/${'a/'.repeat(500)}`,
    `/t/e2e/hello?${'x='.repeat(2000)}`,
    `/${randomBytes(20)}`,
  ]
  return pick(random() < 0.5 ? known : odd)
}

const lengths = ['0', '5', '-1', '1e3', '0x5', '99999999999999999999', ' 5', '5 ', '+5', '5,5', '']
const codings = ['chunked', 'Chunked', 'gzip', 'chunked, chunked', 'identity', '', 'chunked\x0b']

function headerLine(): string {
  const lines = [
    `content-length: ${pick(lengths)}`,
    `transfer-encoding: ${pick(codings)}`,
    `host: ${pick(['f', '', '[', 'a b', '\xff', 'x:99999', 'a/b', randomBytes(5)])}`,
    `connection: ${pick(['close', 'keep-alive', 'upgrade', 'x, y', ', ,', ''])}`,
    'upgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13',
    'expect: 100-continue',
    `expect: ${randomBytes(4)}`,
    `content-type: ${pick(['application/json', 'multipart/form-data', 'text/plain', '\xff'])}`,
    `authorization: ${pick(['Bearer', 'Bearer x', 'Basic \xff', '', 'Bearer  '])}`,
    `fn-invoke-type: ${pick(['detached', '', 'x'])}`,
    `x-${randomBytes(3)}: ${randomBytes(10)}`,
    `${randomBytes(6)}`,
    ': empty',
    ' folded: 1',
    'x : 1',
    `accept-encoding: ${'gzip,'.repeat(below(50))}`,
    `cookie: ${'a=b; '.repeat(below(100))}`,
  ]
  return pick(lines)
}

function body(): string {
  const bodies = [
    '',
    'hello',
    '{"name":',
    '5\r\nhello\r\n0\r\n\r\n',
    '5\r\nhel',
    'zz\r\nhello\r\n0\r\n\r\n',
    'ffffffffffffffffffff\r\nx',
    '5;ext="\r\nhello\r\n0\r\n\r\n',
    '-1\r\n\r\n',
    '0\r\ntrailer: x\r\n\r\n',
    '0\r\n\r\n0\r\n\r\n',
    randomBytes(below(200)),
  ]
  return pick(bodies)
}

const mildLines = [
  'content-length: 5',
  'transfer-encoding: chunked',
  'content-type: \xff',
  'content-type: application/json',
  'x-bytes: \x80\xe4\xff',
  'fn-invoke-type: detached',
  'expect: 100-continue',
  'connection: x-a, x-b',
  'authorization: Bearer \xff',
  'host: \xff',
  'te: trailers',
  'range: bytes=0-1',
  'if-none-match: *',
  'upgrade: h2c',
  'content-encoding: gzip',
  'x-http-method-override: DELETE',
]

/** Odd, but well-formed: it gets past the parser, to routes and functions. */
function mildRequest(): string {
  const lines = [`${pick(methods)} ${target()} HTTP/1.1`, 'host: f']
  for (let i = below(4); i > 0; i--) lines.push(pick(mildLines))
  const isChunked = lines.includes('transfer-encoding: chunked')
  const end = isChunked ? '5\r\nhello\r\n0\r\n\r\n' : 'hello'
  const hasBody = isChunked || lines.includes('content-length: 5')
  return `${lines.join('\r\n')}\r\n\r\n${hasBody ? end : ''}`
}

function request(): string {
  const method = pick(random() < 0.8 ? methods : oddMethods)
  const version = random() < 0.8 ? 'HTTP/1.1' : pick(versions)
  const lines = [`${method} ${target()} ${version}`]
  if (random() < 0.8) lines.push('host: f')
  for (let i = below(6); i > 0; i--) lines.push(headerLine())
  const end = random() < 0.95 ? '\r\n' : '\n'
  return `${lines.join(end)}${end}${end}${body()}`
}

function mutated(text: string): string {
  const at = below(text.length + 1)
  switch (below(6)) {
    case 0:
      return text.slice(0, at)
    case 1:
      return text.slice(0, at) + randomBytes(1 + below(4)) + text.slice(at)
    case 2:
      return text.slice(0, at) + text.slice(at + 1 + below(8))
    case 3:
      return text + request()
    case 4:
      return text.slice(0, at) + text.slice(Math.max(0, at - 10))
    default:
      return text
  }
}

/** Sends in pieces; what came back until the other side closed or had nothing more to say. */
async function exchange(text: string, quietMs = 20): Promise<string> {
  using connection = new RawConnection(fnd.port)
  for (let at = 0; at < text.length; ) {
    const take = random() < 0.7 ? text.length : 1 + below(100)
    connection.send(text.slice(at, at + take))
    at += take
    if (at < text.length) await Bun.sleep(0)
  }
  for (let length = -1; !connection.isEnded && connection.text.length !== length; ) {
    length = connection.text.length
    await Bun.sleep(quietMs)
  }
  return connection.text
}

const statuses = (text: string) =>
  [...text.matchAll(/HTTP\/1\.[01] (\d{3}) /g)].map(([, status]) => Number(status))

test('fuzzed requests get no 5xx and do no harm', async () => {
  const before = openSockets(fnd.pid)
  const counts = new Map<number, number>()
  let silent = 0
  const lane = async () => {
    for (let i = 0; i < 250; i++) {
      const kind = random()
      const text =
        kind < 0.05
          ? randomBytes(1 + below(2000))
          : kind < 0.5
            ? mildRequest()
            : mutated(random() < 0.5 ? request() : mildRequest())
      const answer = await exchange(text)
      const found = statuses(answer)
      if (found.length === 0) silent += 1
      for (const status of found) counts.set(status, (counts.get(status) ?? 0) + 1)
      // 505 is the server's word for a version that it does not speak.
      const isFault = found.some(status => status >= 500 && status !== 501 && status !== 505)
      if (isFault) throw new Error(`${JSON.stringify(text)} got ${JSON.stringify(answer)}`)
    }
  }
  await Promise.all(Array.from({ length: 8 }, lane))
  const sorted = [...counts].sort(([a], [b]) => a - b)
  console.log(`statuses ${JSON.stringify(sorted)}, without any ${silent}`)
  expect(fnd.process.exitCode).toBeNull()
  const answer = await fetch(fn.url, { method: 'POST', body: 'hello' })
  expect(await answer.text()).toBe('got 5')
  await until(async () => (await fnd.describe(fn.id)).busy === 0, 'no call is left behind')
  await until(() => openSockets(fnd.pid) <= before + 60, 'connections are closed')
  expect(fnd.logText()).not.toMatch(/"level":(50|60)|"level":"(error|fatal)"/)
}, 60_000)

test('huge heads, endless heads and pipelines do no harm', async () => {
  const big = `GET / HTTP/1.1\r\nhost: f\r\nx: ${'y'.repeat(8 << 20)}\r\n\r\n`
  expect(statuses(await exchange(big, 500)).every(status => status === 431)).toBe(true)
  const endless = `GET / HTTP/1.1\r\n${'x: y\r\n'.repeat(200_000)}`
  expect(
    statuses(await exchange(endless, 500)).every(status => status >= 400 && status < 500),
  ).toBe(true)
  // Bun's server takes the next request of a connection once it has answered the one before, and
  // closes it on a client that does not wait; RFC 9112 §9.3.2 has such clients try again. What is
  // answered at once is answered in turn.
  const ready = 'GET /healthz HTTP/1.1\r\nhost: f\r\n\r\n'
  expect(statuses(await exchange(ready.repeat(200), 500))).toEqual(Array(200).fill(200))
  const called = 'POST /t/e2e/hello HTTP/1.1\r\nhost: f\r\ncontent-length: 2\r\n\r\nhi'
  const answers = statuses(await exchange(called.repeat(200), 500))
  expect(answers.every(status => status === 200)).toBe(true)
  const idle = Array.from({ length: 200 }, () => new RawConnection(fnd.port).send('GET / HT'))
  expect((await fetch(fn.url)).status).toBe(200)
  for (const connection of idle) connection.socket.destroy()
})
