/** Bodies pass through as they are sent, in flat memory, and end when either side ends them. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Deployed, Fnd, header, openSockets, parseReply, RawConnection, until } from './fnd.ts'
import {
  type DownloadOptions,
  download,
  growthBytes,
  type UploadOptions,
  upload,
} from './transfer.ts'

const gib = 1 << 30
const mib = 1 << 20

let fnd: Fnd
let fn: Deployed
let worker: Deployed

beforeAll(async () => {
  fnd = await Fnd.start()
  fn = await fnd.deploy('contract', { fixture: 'contract.js', form: 'fdk' }, { timeout: 60 })
  worker = await fnd.deploy(
    'worker',
    {
      source: `
        const seen = { aborted: 0, cancelled: 0 }
        const text = piece => new TextEncoder().encode(piece)
        export default {
          async fetch(request) {
            request.signal.addEventListener('abort', () => { seen.aborted += 1 })
            switch (request.headers.get('x-do')) {
              case 'seen': return Response.json(seen)
              case 'echo': return new Response(request.body)
              case 'events': {
                let count = 0
                return new Response(new ReadableStream({
                  async pull(controller) {
                    if (count === 3) return controller.close()
                    controller.enqueue(text('data: ' + count + '\\n\\n'))
                    count += 1
                    await Bun.sleep(150)
                  },
                  cancel() { seen.cancelled += 1 },
                }), { headers: { 'content-type': 'text/event-stream' } })
              }
              case 'endless': return new Response(new ReadableStream({
                async pull(controller) {
                  controller.enqueue(text('x'.repeat(1000)))
                  await Bun.sleep(10)
                },
                cancel() { seen.cancelled += 1 },
              }))
              case 'sleep': await Bun.sleep(5000); return new Response('slept')
              default: return new Response(String((await request.bytes()).length))
            }
          },
        }`,
    },
    { timeout: 60, settings: { concurrency: 10 } },
  )
})

afterAll(() => fnd[Symbol.asyncDispose]())

const head = (lines: string, name = 'contract', method = 'POST') =>
  `${method} /t/e2e/${name} HTTP/1.1\r\nhost: f\r\n${lines}`

async function seen(): Promise<{ calls: number; open: number; closedEarly: number }> {
  return (await fetch(fn.url, { headers: { 'x-do': 'seen' } })).json() as never
}

describe('a gigabyte', () => {
  /** What the issue allows; the figures are printed. */
  const growthBytesMax = 32 * mib

  async function measured<T>(name: string, work: (port: number) => Promise<T>): Promise<T> {
    await using own = await Fnd.start()
    const code = { fixture: 'contract.js', form: 'fdk' } as const
    const target = await own.deploy('contract', code, { timeout: 60 })
    for (let i = 0; i < 20; i++) await (await fetch(target.url, { method: 'POST' })).text()
    const { growth, result } = await growthBytes(own.pid, () => work(own.port))
    console.log(`${name}: fnd grew by ${(growth / mib).toFixed(1)} MiB`)
    expect(growth).toBeLessThan(growthBytesMax * 1.5)
    return result
  }

  const uploads: [string, number, UploadOptions][] = [
    ['1 GiB up with its length', gib, { isChunked: false }],
    ['1 GiB up in chunks', gib, { isChunked: true }],
    ['128 MiB up from a slow client', 128 * mib, { isChunked: false, pauseMs: 10 }],
  ]
  for (const [name, bytes, options] of uploads) {
    test(`${name} leaves memory flat`, async () => {
      const { status, tail } = await measured(name, port =>
        upload(port, head('x-do: count\r\n'), bytes, options),
      )
      expect(status).toBe(200)
      expect(tail).toEndWith(`\r\n\r\n${bytes}`)
    })
  }

  const downloads: [string, number, string, DownloadOptions][] = [
    ['1 GiB down with its length', gib, '', {}],
    ['1 GiB down in chunks', gib, 'x-framing: chunked\r\n', {}],
    ['128 MiB down to a slow client', 128 * mib, '', { pauseMs: 10 }],
  ]
  for (const [name, bytes, lines, options] of downloads) {
    test(`${name} leaves memory flat`, async () => {
      const request = head(`x-do: download\r\nx-bytes: ${bytes}\r\n${lines}`)
      const result = await measured(name, port => download(port, request, options))
      expect(result.status).toBe(200)
      // Framing of chunks comes on top.
      expect(result.bytes).toBeGreaterThanOrEqual(bytes)
      expect(result.bytes).toBeLessThan(bytes * 1.01)
      expect(result.tail).toEndWith('0\r\n\r\n')
    })
  }

  test('up to a function that does not read is held back at the sender', async () => {
    // Of its own: while its sender is held back fnd cannot see it leave, and the call stays.
    await fnd.deploy('stall', { fixture: 'contract.js', form: 'fdk' }, { timeout: 2 })
    using connection = new RawConnection(fnd.port)
    const { growth } = await growthBytes(fnd.pid, async () => {
      connection.send(head(`x-do: stall\r\ncontent-length: ${gib}\r\n\r\n`, 'stall'))
      const piece = Buffer.alloc(mib)
      await until(() => connection.socket.writableLength === 0, 'the head is sent')
      for (let i = 0; i < 64 && connection.socket.writableLength === 0; i++) {
        connection.send(piece)
        await Bun.sleep(20)
      }
      await Bun.sleep(300)
    })
    expect(connection.socket.writableLength).toBeGreaterThan(0)
    expect(growth).toBeLessThan(growthBytesMax)
  })
})

describe('streams', () => {
  test('events come one by one, as they are sent', async () => {
    for (const url of [worker.url, worker.invokeUrl]) {
      const response = await fetch(url, { method: 'POST', headers: { 'x-do': 'events' } })
      expect(response.headers.get('content-type')).toBe('text/event-stream')
      const arrivals: [string, number][] = []
      const decoder = new TextDecoder()
      for await (const piece of response.body as ReadableStream<Uint8Array>) {
        arrivals.push([decoder.decode(piece), performance.now()])
      }
      expect(arrivals.map(([text]) => text)).toEqual(['data: 0\n\n', 'data: 1\n\n', 'data: 2\n\n'])
      const [first = 0, , last = 0] = arrivals.map(([, atMs]) => atMs)
      expect(last - first).toBeGreaterThan(150)
    }
  })

  test('what goes up comes back while it goes up', async () => {
    for (const name of ['contract', 'worker']) {
      using connection = new RawConnection(fnd.port)
      connection.send(head('x-do: echo\r\ntransfer-encoding: chunked\r\n\r\n', name))
      let expected = ''
      for (const piece of ['one', 'two', 'three']) {
        expected += piece
        connection.send(`${piece.length}\r\n${piece}\r\n`)
        await connection.read(new RegExp(piece))
      }
      connection.send('0\r\n\r\n')
      const text = await connection.read(/\r\n0\r\n\r\n$/)
      expect(parseReply(text).body.replaceAll(/\d+\r\n|\r\n/g, '')).toBe(expected)
    }
  })

  test('large echoes are the same bytes', async () => {
    const bytes = new Uint8Array(8 * mib)
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = (i * 31 + (i >> 11)) & 255
    for (const url of [fn.url, worker.url]) {
      const init = { method: 'POST', headers: { 'x-do': 'echo' } }
      const whole = await fetch(url, { ...init, body: bytes })
      expect(Buffer.compare(await whole.bytes(), bytes)).toBe(0)
      const stream = new ReadableStream({
        start(controller) {
          let at = 0
          for (let step = 1; at < bytes.length; step = (step * 7) % 70_001) {
            controller.enqueue(bytes.slice(at, at + step))
            at += step
          }
          controller.close()
        },
      })
      const chunked = await fetch(url, { ...init, body: stream })
      expect(Buffer.compare(await chunked.bytes(), bytes)).toBe(0)
    }
  })

  test('a function may answer before the body is read', async () => {
    using connection = new RawConnection(fnd.port)
    connection.send(head(`x-do: early\r\ncontent-length: ${100_000}\r\n\r\n`))
    const reply = parseReply(await connection.read(/early$/))
    expect({ status: reply.status, body: reply.body }).toEqual({ status: 200, body: 'early' })
    connection.send('x'.repeat(100_000))
    connection.send(head('connection: close\r\n\r\n', 'nope', 'GET'))
    const rest = (await connection.read(undefined)).slice(reply.text.length)
    expect(rest).toStartWith('HTTP/1.1 404')
  })

  test('a sender that waits for 100 Continue gets it', async () => {
    using connection = new RawConnection(fnd.port)
    connection.send(
      head('x-do: count\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n'),
    )
    await connection.read(/^HTTP\/1\.1 100 /)
    connection.send('hello')
    const text = await connection.read(undefined)
    const reply = parseReply(text.slice(text.indexOf('\r\n\r\n') + 4))
    expect({ status: reply.status, body: reply.body }).toEqual({ status: 200, body: '5' })
  })

  test('a body that its sender cuts short does not reach the function as whole', async () => {
    const before = await seen()
    for (const framing of [`content-length: ${mib}`, 'transfer-encoding: chunked']) {
      const connection = new RawConnection(fnd.port)
      connection.send(head(`x-do: count\r\n${framing}\r\n\r\n`))
      connection.send(framing.startsWith('c') ? 'x'.repeat(100_000) : `10\r\n${'x'.repeat(16)}\r\n`)
      await Bun.sleep(100)
      connection.socket.destroy()
    }
    await until(async () => (await fnd.describe(fn.id)).busy === 0, 'the slots are free')
    // Their instances went with them: nobody knows what they were at. The next call is served.
    expect((await seen()).open).toBe(1)
    expect(before.open).toBe(1)
  })
})

describe('a caller that leaves', () => {
  async function workerSeen(): Promise<{ aborted: number; cancelled: number }> {
    return (await fetch(worker.url, { headers: { 'x-do': 'seen' } })).json() as never
  }

  test('while its call waits takes it out of the queue', async () => {
    const settings = { 'max-instances': 1 }
    const code = { fixture: 'contract.js', form: 'fdk' } as const
    const one = await fnd.deploy('one', code, { settings, timeout: 60 })
    const running = fetch(one.url, { headers: { 'x-do': 'late', 'x-ms': '1500' } })
    await until(async () => (await fnd.describe(one.id)).busy === 1, 'the call runs')
    const waiting = new RawConnection(fnd.port)
    waiting.send(head('\r\n', 'one', 'GET'))
    await until(async () => (await fnd.describe(one.id)).waiting === 1, 'the call waits')
    waiting.socket.destroy()
    await until(async () => (await fnd.describe(one.id)).waiting === 0, 'the call is gone')
    expect((await fnd.describe(one.id)).busy).toBe(1)
    expect(await (await running).text()).toBe('late')
    const after = await fetch(one.url, { headers: { 'x-do': 'seen' } })
    expect(await after.json()).toMatchObject({ calls: 2 })
  })

  test('while it runs aborts it and frees its slot', async () => {
    const before = await workerSeen()
    const leaver = new RawConnection(fnd.port)
    leaver.send(head('x-do: sleep\r\n\r\n', 'worker', 'GET'))
    await until(async () => (await fnd.describe(worker.id)).busy === 1, 'the call runs')
    leaver.socket.destroy()
    await until(async () => (await fnd.describe(worker.id)).busy === 0, 'the slot is free', 4000)
    await until(
      async () => (await workerSeen()).aborted > before.aborted,
      'the function heard of it',
    )
  })

  test('while an answer streams ends the stream in the function', async () => {
    const settings = { concurrency: 10 }
    const streams = await fnd.deploy('streams', { source: streamSource }, { settings, timeout: 60 })
    const count = async () => Number(await (await fetch(`${streams.url}?count`)).text())
    expect(await count()).toBe(0)
    const leavers = Array.from({ length: 5 }, () => {
      const leaver = new RawConnection(fnd.port)
      return leaver.send(`GET /t/e2e/streams HTTP/1.1\r\nhost: f\r\n\r\n`)
    })
    for (const leaver of leavers) await leaver.read(/xxx/)
    for (const leaver of leavers) leaver.socket.destroy()
    await until(async () => (await count()) === 5, 'the function heard of it')
    await until(async () => (await fnd.describe(streams.id)).busy === 0, 'the slots are free')
  })

  test('with an answer to half an upload leaves nothing once the instance is gone', async () => {
    const code = { fixture: 'contract.js', form: 'fdk' } as const
    const own = await fnd.deploy('early', code, { idle_timeout: 1, timeout: 60 })
    await (await fetch(own.url)).text()
    const before = openSockets(fnd.pid)
    for (let i = 0; i < 5; i++) {
      const leaver = new RawConnection(fnd.port)
      leaver.send(head(`x-do: early-stall\r\ncontent-length: ${gib}\r\n\r\n`, 'early'))
      leaver.send(Buffer.alloc(8 * mib))
      await leaver.read(/early/)
      leaver.socket.destroy()
    }
    await until(async () => (await fnd.describe(own.id)).instances.length === 0, 'it is gone')
    await until(() => openSockets(fnd.pid) <= before, 'connections are closed')
  })

  test('at any moment leaves no connection open', async () => {
    const calls = [
      head('x-do: late\r\nx-ms: 3000\r\n\r\n'),
      head(`x-do: count\r\ncontent-length: ${mib}\r\n\r\nxxxx`),
      head('x-do: count\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n'),
      head(`x-do: download\r\nx-bytes: ${64 * mib}\r\n\r\n`),
      head('x-do: endless\r\n\r\n', 'worker'),
      head('x-do: sleep\r\n\r\n', 'worker'),
    ]
    const round = async () => {
      const leavers = calls.map(call => new RawConnection(fnd.port).send(call))
      await Bun.sleep(50)
      for (const leaver of leavers) leaver.socket.destroy()
    }
    const isQuiet = async () => {
      const both = await Promise.all([fnd.describe(fn.id), fnd.describe(worker.id)])
      return both.every(one => one.busy + one.waiting + one.starting === 0)
    }
    await round()
    await until(isQuiet, 'all slots are free')
    await Bun.sleep(300)
    const before = openSockets(fnd.pid)
    for (let i = 0; i < 10; i++) await round()
    await until(isQuiet, 'all slots are free')
    await until(() => openSockets(fnd.pid) <= before + 8, 'connections are closed')
    expect((await fetch(fn.url)).status).toBe(200)
    // Callers leave all the time; the log is not theirs to fill.
    expect(
      fnd
        .logText()
        .split('\n')
        .filter(line => !line.startsWith('{')),
    ).toEqual([''])
  })
})

const streamSource = `
  let ended = 0
  export default {
    fetch(request) {
      if (new URL(request.url).search === '?count') return new Response(String(ended))
      return new Response(new ReadableStream({
        async pull(controller) {
          controller.enqueue(new TextEncoder().encode('x'.repeat(100)))
          await Bun.sleep(20)
        },
        cancel() { ended += 1 },
      }))
    },
  }`

test('an answer that only its head is asked for leaves its instance in use', async () => {
  const instance = async () => (await fetch(fn.url, { headers: { 'x-do': 'instance' } })).text()
  const before = await instance()
  const lines = `x-do: download\r\nx-bytes: ${mib / 2}\r\n`
  for (let i = 0; i < 3; i++) {
    using connection = new RawConnection(fnd.port)
    connection.send(head(`${lines}connection: close\r\n\r\n`, 'contract', 'HEAD'))
    const reply = parseReply(await connection.read(undefined))
    expect({ status: reply.status, body: reply.body }).toEqual({ status: 200, body: '' })
    await until(async () => (await fnd.describe(fn.id)).busy === 0, 'the body is read')
  }
  expect(await instance()).toBe(before)
})

test('the answer of a streamed call carries its headers at once', async () => {
  using connection = new RawConnection(fnd.port)
  connection.send(head('x-do: endless\r\n\r\n', 'worker', 'GET'))
  const reply = parseReply(await connection.read(/\r\n\r\n/))
  expect(header(reply, 'fn-call-id')).toMatch(/^[0-9A-Z]{26}$/)
  expect(header(reply, 'transfer-encoding')).toBe('chunked')
})
