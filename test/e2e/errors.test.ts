/** The error table of fn-api §2.6 for processes, on the real executable. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Deployed, Fnd, header, type RawReply, raw, until } from './fnd.ts'

let fnd: Fnd
let fn: Deployed

beforeAll(async () => {
  fnd = await Fnd.start({ FND_HOT_START_TIMEOUT_MSECS: '2000' })
  fn = await fnd.deploy('contract', { fixture: 'contract.js', form: 'fdk' }, { timeout: 1 })
})

afterAll(() => fnd[Symbol.asyncDispose]())

function call(action: string, lines = '', path = '/t/e2e/contract'): Promise<RawReply> {
  const head = `POST ${path} HTTP/1.1\r\nhost: f\r\nconnection: close\r\nx-do: ${action}\r\n`
  return raw(fnd.port, `${head}${lines}\r\n`)
}

/** A call whose function answers exactly these bytes, and then does `then`. */
function answered(bytes: string, then: string, path?: string): Promise<RawReply> {
  const send = Buffer.from(bytes, 'latin1').toString('base64')
  return call('send', `x-send: ${send}\r\nx-then: ${then}\r\n`, path)
}

function expectFailure(reply: RawReply, status: number, message: string): void {
  expect({ status: reply.status, body: reply.body }).toMatchObject({ status })
  expect(JSON.parse(reply.body)).toMatchObject({ message })
  expect(header(reply, 'fn-call-id')).toMatch(/^[0-9A-Z]{26}$/)
  expect(header(reply, 'server-timing')).toContain('run;dur=')
  expect(header(reply, 'content-type')).toBe('application/json; charset=utf-8')
}

async function instance(): Promise<string> {
  const reply = await call('instance')
  expect(reply.status).toBe(200)
  return reply.body
}

const died = 'error receiving function response'
const invalid = 'invalid function response'

describe('a function that answers wrongly', () => {
  test('502 is its failure; its body is not shown and the instance stays', async () => {
    const before = await instance()
    const bytes = 'HTTP/1.1 502 X\r\ncontent-length: 6\r\n\r\nsecret'
    const reply = await answered(bytes, '')
    expectFailure(reply, 502, 'function failed')
    expect(reply.body).not.toContain('secret')
    expect(await instance()).toBe(before)
  })

  test('504 is its own timeout and the instance stays', async () => {
    const before = await instance()
    expectFailure(
      await answered('HTTP/1.1 504 X\r\ncontent-length: 0\r\n\r\n', ''),
      504,
      'Timed out',
    )
    expect(await instance()).toBe(before)
  })

  const broken: [string, string, string, string][] = [
    ['another status', 'HTTP/1.1 201 X\r\ncontent-length: 0\r\n\r\n', '', invalid],
    ['status 500', 'HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n', '', invalid],
    ['an upgrade', 'HTTP/1.1 101 X\r\n\r\n', '', invalid],
    ['garbage', 'I am no server\r\n\r\n', '', invalid],
    ['bare line feeds', 'HTTP/1.1 200 OK\ncontent-length: 0\n\n\r\n\r\n', '', invalid],
    ['a folded header', 'HTTP/1.1 200 OK\r\nx: 1\r\n y: 2\r\n\r\n', '', invalid],
    [
      'two lengths',
      'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx',
      '',
      invalid,
    ],
    ['a length that is none', 'HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n', '', invalid],
    [
      'a length beside chunks',
      'HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
      '',
      invalid,
    ],
    ['half a head, then closing', 'HTTP/1.1 200 OK\r\nx: ', 'close', died],
    ['half a head, then half-closing', 'HTTP/1.1 200 OK\r\nx: ', 'end', died],
    ['nothing, then closing', '', 'close', died],
    ['half a head, then exiting', 'HTTP/1.1 200 OK\r\nx: ', 'exit', died],
  ]
  for (const [name, bytes, then, message] of broken) {
    test(`${name} is a 502, and the next call is served by another`, async () => {
      const before = await instance()
      expectFailure(await answered(bytes, then), 502, message)
      expect(await instance()).not.toBe(before)
    })
  }

  test('by id as by trigger', async () => {
    const path = `/invoke/${fn.id}`
    expectFailure(await answered('garbage\r\n\r\n', '', path), 502, invalid)
    expectFailure(await answered('', 'close', path), 502, died)
    expectFailure(await call('exit', '', path), 502, died)
    expectFailure(await call('silent', '', path), 504, 'Timed out')
  })

  test('a bad non-ASCII Fn-Fdk-Version does no harm', async () => {
    const bytes = 'HTTP/1.1 200 OK\r\nfn-fdk-version: \xe4\xff\r\ncontent-length: 0\r\n\r\n'
    expect((await answered(bytes, '')).status).toBe(200)
  })

  test('exiting or being killed in a call is a 502', async () => {
    for (const action of ['exit', 'close']) {
      expectFailure(await call(action), 502, died)
      await instance()
    }
    const running = call('silent')
    await until(async () => (await fnd.describe(fn.id)).busy === 1, 'the call runs')
    for (const { pid } of (await fnd.describe(fn.id)).instances) process.kill(pid, 'SIGKILL')
    expectFailure(await running, 502, died)
    await instance()
  })

  const torn = [
    ['half a body', 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf', 'close'],
    ['a body, then exiting', 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf', 'exit'],
    [
      'chunks without their end',
      'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n',
      'close',
    ],
    ['bad chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n', ''],
    ['half a body, then silence', 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf', ''],
  ] as const
  for (const [name, bytes, then] of torn) {
    test(`${name} never looks whole to the caller`, async () => {
      for (const path of ['/t/e2e/contract', `/invoke/${fn.id}`]) {
        const reply = await answered(bytes, then, path)
        if (reply.status === 200) {
          const length = header(reply, 'content-length')
          const isWhole =
            length === undefined
              ? /(^|\r\n)0\r\n\r\n$/.test(reply.body)
              : reply.body.length === Number(length)
          expect({ text: reply.text, isWhole }).toMatchObject({ isWhole: false })
        } else expectFailure(reply, 502, then === '' ? invalid : died)
      }
      expect((await call('instance')).status).toBe(200)
      // Answers and metrics say whose fault it is; the log is not a function's to fill.
      expect(
        fnd
          .logText()
          .split('\n')
          .filter(line => !line.startsWith('{')),
      ).toEqual([''])
    })
  }

  test('an answer that ends with the connection is whole', async () => {
    const reply = await answered('HTTP/1.1 200 OK\r\n\r\nall of it', 'end')
    expect(reply.status).toBe(200)
    expect(reply.body).toContain('all of it')
    expect(reply.body).toEndWith('0\r\n\r\n')
  })

  test('too late is a 504, the instance goes, and the next call is served', async () => {
    const before = await instance()
    const startedMs = performance.now()
    expectFailure(await call('silent'), 504, 'Timed out')
    expect(performance.now() - startedMs).toBeGreaterThan(950)
    expect(await instance()).not.toBe(before)
  })

  test('more memory than it has is said', async () => {
    const greedy = { memory: 64, timeout: 30 }
    await fnd.deploy('greedy', { fixture: 'contract.js', form: 'fdk' }, greedy)
    const reply = await call('allocate', '', '/t/e2e/greedy')
    expect(reply.status).toBe(502)
    expect(JSON.parse(reply.body).message).toContain('out of memory, you may want to raise')
    expect((await call('instance', '', '/t/e2e/greedy')).status).toBe(200)
  }, 30_000)
})

describe('a function that throws', () => {
  test('is a 502 and stays', async () => {
    const source = `export default { fetch(request) {
      if (request.headers.has('x-throw')) throw new Error('secret')
      return new Response(String(process.pid))
    } }`
    const thrower = await fnd.deploy('thrower', { source })
    const before = await (await fetch(thrower.url)).text()
    const failed = await fetch(thrower.url, { headers: { 'x-throw': '1' } })
    expect(failed.status).toBe(502)
    const text = await failed.text()
    expect(JSON.parse(text)).toMatchObject({ message: 'function failed' })
    expect(text).not.toContain('secret')
    expect(await (await fetch(thrower.url)).text()).toBe(before)
  })
})

describe('a function that does not start', () => {
  test('is a 502 with the last line of its stderr', async () => {
    const source = 'console.error("no database here"); process.exit(3)'
    await fnd.deploy('exits', { source })
    const reply = await call('instance', '', '/t/e2e/exits')
    expect(reply.status).toBe(502)
    const { message } = JSON.parse(reply.body)
    expect(message).toStartWith(
      'Container failed to initialize, please ensure you are using the latest fdk',
    )
    expect(message).toContain('exit code 3')
    expect(message).toContain('no database here')
  })

  test('or throws at import, is a 502 that names the error', async () => {
    await fnd.deploy('throws', { source: 'throw new Error("bad import")' })
    const reply = await call('instance', '', '/t/e2e/throws')
    expect(reply.status).toBe(502)
    expect(JSON.parse(reply.body).message).toContain('Container failed to initialize')
  })

  test('in time is a 504', async () => {
    await fnd.deploy('never', { source: 'await new Promise(() => setInterval(() => {}, 1000))' })
    const reply = await call('instance', '', '/t/e2e/never')
    expect(reply.status).toBe(504)
    expect(JSON.parse(reply.body).message).toBe(
      'Container initialization timed out, ' +
        'please ensure you are using the latest fdk / format and check the logs',
    )
  })

  test('for want of a Docker daemon is a 503 that says so', async () => {
    await fnd.create('docker', 'example/hello:0.0.1')
    const reply = await call('instance', '', '/t/e2e/docker')
    expect(reply.status).toBe(503)
    expect(JSON.parse(reply.body)).toMatchObject({ code: 'docker-unavailable' })
    expect(JSON.parse(reply.body).message).toContain('DOCKER_HOST is none')
  })

  test('and a program that is none is a 502', async () => {
    await fnd.deploy('noprogram', { program: '\x7fELFnot really' })
    const reply = await call('instance', '', '/t/e2e/noprogram')
    expect(reply.status).toBe(502)
    expect(JSON.parse(reply.body).message).toContain('Container failed to initialize')
  })
})

describe('a full node', () => {
  test('says 400 for what never fits, 503 with Retry-After for what does not fit now', async () => {
    await using small = await Fnd.start({
      FND_MAX_TOTAL_MEMORY_BYTES: String(300 * 1024 * 1024),
      FND_WAIT_TIMEOUT: '400ms',
      FND_MAX_WAITING_PER_FN: '2',
    })
    const code = { fixture: 'contract.js', form: 'fdk' } as const
    const huge = await small.deploy('huge', code, { memory: 2048 })
    const tooLarge = await fetch(huge.url)
    expect(tooLarge.status).toBe(400)
    expect(await tooLarge.json()).toMatchObject({
      message: 'Requested CPU/Memory cannot be allocated',
    })
    const busy = await small.deploy('busy', code, { memory: 256 })
    const late = { headers: { 'x-do': 'late', 'x-ms': '2500' } }
    const running = fetch(busy.url, late)
    await until(async () => (await small.describe(busy.id)).busy === 1, 'the call runs')
    const other = await small.deploy('other', code, { memory: 128 })
    const refused = await fetch(other.url)
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).toBe('15')
    expect(await refused.json()).toMatchObject({ message: 'Timed out - server too busy' })
    // Two wait in vain, the third may not even wait.
    const answers = await Promise.all([1, 2, 3].map(() => fetch(busy.url)))
    expect(answers.map(one => one.status)).toEqual([503, 503, 503])
    for (const answer of answers) expect(answer.headers.get('retry-after')).toBe('15')
    expect(answers.every(one => one.headers.has('fn-call-id'))).toBe(true)
    expect(await (await running).text()).toBe('late')
    expect((await fetch(other.url)).status).toBe(200)
  })
})
