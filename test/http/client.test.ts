import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client, type OutgoingBody, type Reply } from '../../src/http/client.ts'
import { ExchangeError, type ExchangeFault } from '../../src/http/exchange-error.ts'

let dir = ''
let path = ''
const closers: (() => void)[] = []
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-client-'))
  path = join(dir, 's.sock')
})
afterEach(() => {
  for (const close of closers.splice(0)) close()
  rmSync(dir, { recursive: true })
})

const limits = { headBytesMax: 4096, bodyBytesMax: 0 }

function clientFor(own: Partial<typeof limits> = {}): Client {
  const client = new Client(path, { ...limits, ...own })
  closers.push(() => client.close())
  return client
}

/** A server at the level of bytes: answers each connection's first data with `parts`. */
function rawServer(parts: (string | 'close')[]): { connections: () => number } {
  let connections = 0
  const server = Bun.listen({
    unix: path,
    socket: {
      open: () => {
        connections += 1
      },
      data: async socket => {
        for (const part of parts) {
          if (part === 'close') socket.end()
          else socket.write(part)
          socket.flush()
          await Bun.sleep(5)
        }
      },
    },
  })
  closers.push(() => server.stop(true))
  return { connections: () => connections }
}

function httpServer(fetch: (request: Request) => Response | Promise<Response>): void {
  const server = Bun.serve({
    unix: path,
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    fetch,
  })
  closers.push(() => void server.stop(true))
}

const head = 'POST /call HTTP/1.1\r\nhost: localhost\r\n'
const get: OutgoingBody = { body: null }

function send(client: Client, request: OutgoingBody = get) {
  const ends: [number, ExchangeFault | null][] = []
  const { promise, resolve, reject } = Promise.withResolvers<Reply>()
  // Some tests look at the end alone.
  promise.catch(() => undefined)
  const exchange = client.exchange(head, request, {
    replied: resolve,
    exchangeEnded: (status, fault) => {
      ends.push([status, fault])
      // Without effect where there was a reply.
      reject(new ExchangeError(fault ?? 'closed'))
    },
  })
  return { reply: promise, abort: (fault: ExchangeFault) => exchange.abort(fault), ends }
}

async function textOf(reply: Reply): Promise<string> {
  if (reply.body instanceof Uint8Array) return Buffer.from(reply.body).toString()
  return new Response(reply.body).text()
}

async function faultOf(reply: Promise<Reply>): Promise<string> {
  return reply.then(
    () => 'none',
    (error: ExchangeError) => error.fault,
  )
}

describe('an exchange', () => {
  test('carries a short body there and back on one kept connection', async () => {
    const { connections } = rawServer(['HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi'])
    const client = clientFor()
    for (let i = 0; i < 3; i += 1) {
      const { reply, ends } = send(client, { ...get, body: Buffer.from('body') })
      const answer = await reply
      expect(answer).toMatchObject({ status: 200, headers: ['Content-Length', '2', 'X-A', 'b'] })
      expect(await textOf(answer)).toBe('hi')
      expect(ends).toEqual([[200, null]])
    }
    expect(connections()).toBe(1)
  })

  test('reads each head anew when it is not that of the reply before', async () => {
    httpServer(async request => {
      const text = await request.text()
      return new Response(text, { headers: { 'x-length': String(text.length) } })
    })
    const client = clientFor()
    // Sizes around those up to which requests and replies are copied.
    for (const size of [3, 3, 30, 3, 0, 4096, 4097, 4097, 16_200, 16_384, 40_000, 3]) {
      const body = Buffer.alloc(size, size % 251)
      const answer = await send(client, { ...get, body }).reply
      const at = answer.headers.indexOf('x-length')
      expect(answer.headers[at + 1]).toBe(String(body.toString().length))
      expect(await textOf(answer)).toBe(body.toString())
    }
  })

  test('reads a reply that comes in small pieces', async () => {
    rawServer(['HTTP/1.1 20', '0 OK\r\ncontent-length: 6\r', '\n\r\nab', 'cd', 'ef'])
    const { reply, ends } = send(clientFor())
    expect(await textOf(await reply)).toBe('abcdef')
    expect(ends).toEqual([[200, null]])
  })

  test('skips 100 Continue', async () => {
    rawServer(['HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na'])
    expect(await textOf(await send(clientFor()).reply)).toBe('a')
  })

  test('gives up a reply of 100 Continue without end', async () => {
    rawServer(['HTTP/1.1 100 Continue\r\n\r\n'.repeat(100_000)])
    const { reply, ends } = send(clientFor())
    await expect(reply).rejects.toThrow()
    expect(ends).toEqual([[0, 'head-too-large']])
  })

  test('reads a body that ends with the connection', async () => {
    rawServer(['HTTP/1.1 200 OK\r\n\r\nab', 'cd', 'close'])
    expect(await textOf(await send(clientFor()).reply)).toBe('abcd')
  })

  test('streams chunks as they come', async () => {
    httpServer(
      () =>
        new Response(
          new ReadableStream({
            async start(controller) {
              for (const word of ['one', 'two', 'three']) {
                controller.enqueue(Buffer.from(word))
                await Bun.sleep(20)
              }
              controller.close()
            },
          }),
        ),
    )
    const { reply, ends } = send(clientFor())
    const { body } = await reply
    const pieces: string[] = []
    for await (const piece of body as ReadableStream<Uint8Array>) {
      pieces.push(Buffer.from(piece).toString())
    }
    expect(pieces).toEqual(['one', 'two', 'three'])
    expect(ends).toEqual([[200, null]])
  })

  test('sends a stream of known and of unknown length', async () => {
    httpServer(async request => {
      let bytes = 0
      for await (const piece of request.body ?? []) bytes += piece.length
      return new Response(`${request.headers.get('content-length')} ${bytes}`)
    })
    const client = clientFor()
    const body = () => new Response(Buffer.alloc(3_000_000)).body
    const known = await send(client, { ...get, body: body(), length: 3_000_000 }).reply
    expect(await textOf(known)).toBe('3000000 3000000')
    const unknown = await send(client, { ...get, body: body() }).reply
    expect(await textOf(unknown)).toBe('null 3000000')
  })

  test('gives a slow reader every byte of a server that closes early', async () => {
    httpServer(
      () => new Response(Buffer.alloc(20_000_000, 'x'), { headers: { connection: 'close' } }),
    )
    const { body } = await send(clientFor()).reply
    let bytes = 0
    for await (const piece of body as ReadableStream<Uint8Array>) {
      bytes += piece.length
      await Bun.sleep(1)
    }
    expect(bytes).toBe(20_000_000)
  })
})

describe('a broken reply', () => {
  const cases: [string, (string | 'close')[], string][] = [
    ['is not HTTP', ['garbage\r\n\r\n'], 'bad-reply'],
    ['has no end of headers', [`HTTP/1.1 200 OK\r\n${'a: b\r\n'.repeat(2000)}`], 'head-too-large'],
    ['switches protocols', ['HTTP/1.1 101 Switching\r\n\r\n'], 'bad-reply'],
    ['ends before its head', ['HTTP/1.1 200 OK\r\nconte', 'close'], 'closed'],
    ['never comes', ['close'], 'closed'],
    [
      'has a body over the limit',
      ['HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n'],
      'body-too-large',
    ],
  ]
  for (const [name, parts, fault] of cases) {
    test(name, async () => {
      rawServer(parts)
      const { reply, ends } = send(clientFor({ bodyBytesMax: 1000 }))
      expect(await faultOf(reply)).toBe(fault)
      expect(ends.map(([, end]) => end)).toEqual([fault as ExchangeFault])
    })
  }

  test('that ends in its body errors the stream', async () => {
    rawServer(['HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc', 'close'])
    const { reply, ends } = send(clientFor())
    expect(await textOf(await reply).catch((error: ExchangeError) => error.fault)).toBe('closed')
    expect(ends).toEqual([[200, 'closed']])
  })

  test('with too many bytes costs the connection, not the answer', async () => {
    const { connections } = rawServer(['HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200'])
    const client = clientFor()
    expect(await textOf(await send(client).reply)).toBe('a')
    expect(await textOf(await send(client).reply)).toBe('a')
    expect(connections()).toBe(2)
  })

  test('from a socket that nobody listens on is refused', async () => {
    expect(await faultOf(send(clientFor()).reply)).toBe('refused')
  })
})

describe('an abort', () => {
  test('reaches the server, and rejects the caller once', async () => {
    const gone = Promise.withResolvers<void>()
    httpServer(async request => {
      request.signal.addEventListener('abort', () => gone.resolve())
      await Bun.sleep(5000)
      return new Response('late')
    })
    const { reply, abort, ends } = send(clientFor())
    await Bun.sleep(30)
    abort('timed-out')
    expect(await faultOf(reply)).toBe('timed-out')
    await gone.promise
    expect(ends).toEqual([[0, 'timed-out']])
  })

  test('comes from a reader that cancels the stream', async () => {
    httpServer(
      () => new Response(new ReadableStream({ pull: c => c.enqueue(new Uint8Array(65_536)) })),
    )
    const { reply, ends } = send(clientFor())
    await ((await reply).body as ReadableStream<Uint8Array>).cancel()
    expect(ends).toEqual([[200, 'aborted']])
  })

  test('comes from a request stream that fails', async () => {
    httpServer(async request => new Response(await request.text()))
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(Buffer.from('abc'))
        setTimeout(() => controller.error(new Error('the sender left')), 10)
      },
    })
    const { reply } = send(clientFor(), { ...get, body })
    expect(await faultOf(reply)).toBe('aborted')
  })
})
