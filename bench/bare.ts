/**
 * The floor of `bench:hot`: the least front that this runtime and our client to functions can be,
 * beside nginx. What fnd takes longer than this is its own. No fnd runs.
 *
 * npm run bench:bare -- [--rounds N] [--seconds S] [--connections N,N]
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Client } from '../src/http/client.ts'
import { freePort } from './fnd.ts'
import { compare, directSide, requestTo, type Side, startNginx } from './front.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    connections: { type: 'string', default: '32,64' },
  },
})

/** The function: what the worker of a TypeScript hello comes to. */
function serveHello(socket: string): void {
  const headers = { 'content-type': 'text/plain' }
  Bun.serve({ unix: socket, fetch: () => new Response('hello world', { headers }) })
}

function serveFront(port: number, socket: string): void {
  const client = new Client(socket, { headBytesMax: 65_536, bodyBytesMax: 0 })
  const head =
    'POST /call HTTP/1.1\r\nhost: localhost\r\nfn-call-id: 01BENCH00000000000000000000\r\n'
  const headers = { 'content-type': 'text/plain' }
  const call = (): Promise<Response> =>
    new Promise((resolve, reject) => {
      client.exchange(
        head,
        { body: null },
        {
          replied: ({ body }) =>
            resolve(new Response(body as Uint8Array<ArrayBuffer>, { headers })),
          // Without effect where there was a reply.
          exchangeEnded: (_, fault) => reject(new Error(`the hello broke: ${fault}`)),
        },
      )
    })
  Bun.serve({ hostname: '127.0.0.1', port, fetch: call })
}

async function measure(): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'fnd-bare-'))
  const socket = join(dir, 'hello.sock')
  const port = await freePort()
  const role = (...args: string[]) =>
    Bun.spawn([process.execPath, import.meta.path, ...args], {
      stdout: 'inherit',
      stderr: 'inherit',
    })
  const hello = role('hello', socket)
  const front = role('front', String(port), socket)
  try {
    const answers = () =>
      fetch(`http://127.0.0.1:${port}`).then(
        reply => reply.ok,
        () => false,
      )
    while (!(await answers())) await Bun.sleep(10)
    await using nginx = await startNginx(dir, socket)
    const subject: Side = {
      name: 'bare',
      target: { hostname: '127.0.0.1', port },
      request: requestTo('/'),
      pids: () => [front.pid],
    }
    const turns = { rounds: Number(values.rounds), durationMs: Number(values.seconds) * 1000 }
    for (const connections of values.connections.split(',').map(Number)) {
      await compare([subject, nginx.side, directSide(socket)], turns, connections)
    }
  } finally {
    for (const child of [front, hello]) child.kill()
    rmSync(dir, { recursive: true, force: true })
  }
}

const [role, first = '', second = ''] = positionals
if (role === 'hello') serveHello(first)
else if (role === 'front') serveFront(Number(first), second)
else await measure()
