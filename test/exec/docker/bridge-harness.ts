/** Puts a bridge between fnd's own client and real processes that speak the older formats. */
import { afterEach, beforeEach } from 'bun:test'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FndError } from '../../../src/errors.ts'
import {
  type Bridge,
  type OneShot,
  openBridge,
  type Stdio,
} from '../../../src/exec/docker/bridge.ts'
import { refusalFrom } from '../../../src/exec/docker/refusal.ts'
import type { Exit, FnSpec } from '../../../src/exec/driver.ts'
import { Client, type OutgoingBody, type Reply } from '../../../src/http/client.ts'
import type { ExchangeFault } from '../../../src/http/exchange-error.ts'
import { specOf } from '../../contract/driver.ts'

let dir = ''
export const bridgeDir = () => dir
const closers: (() => void | Promise<void>)[] = []
/** To be called by each file of tests. */
export function useBridges(): void {
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'fnd-br-'))
  })
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close()
    rmSync(dir, { recursive: true })
  })
}

export const limits = { headBytesMax: 64 * 1024, bodyBytesMax: 0 }
export const mib = 1024 * 1024

type Child = Bun.Subprocess<'pipe', 'pipe', 'inherit'>

export function spawn(
  command: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Child {
  const child = Bun.spawn([...command], {
    stdin: 'pipe',
    stdout: 'pipe',
    stderr: 'inherit',
    env: { PATH: '/usr/bin:/bin', ...env },
  })
  closers.push(async () => {
    child.kill('SIGKILL')
    await child.exited
  })
  return child
}

export async function exitOf(child: Child): Promise<Exit> {
  await child.exited
  const { exitCode: code, signalCode } = child
  return { code, signal: signalCode === null ? null : String(signalCode), outOfMemory: false }
}

export function stdioOf(child: Child): Stdio {
  return {
    stdin: {
      write: async bytes => {
        await child.stdin.write(bytes)
        await child.stdin.flush()
      },
      end: () => void child.stdin.end(),
    },
    stdout: child.stdout,
  }
}

export function clientOf(bridge: Bridge, own: Partial<typeof limits> = {}): Client {
  const client = new Client(bridge.socketPath, { ...limits, ...own })
  closers.push(() => client.close())
  return client
}

export interface Hot {
  readonly bridge: Bridge
  readonly client: Client
  readonly child: Child
}

export function openHot(format: 'http' | 'json', overrides: Partial<FnSpec> = {}): Hot {
  const child = spawn(['node', join(import.meta.dir, 'fixtures', `${format}-fn.mjs`)])
  return { child, ...openOver(stdioOf(child), { format, ...overrides }) }
}

export function openOver(stdio: Stdio, overrides: Partial<FnSpec>): Pick<Hot, 'bridge' | 'client'> {
  const bridge = openBridge({
    socketPath: join(dir, 's.sock'),
    spec: specOf('img', overrides),
    limits,
    talk: { kind: 'hot', stdio },
  })
  closers.push(() => bridge.close())
  return { bridge, client: clientOf(bridge) }
}

interface Outcome {
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: Buffer
  readonly refusal: FndError | undefined
  readonly fault: ExchangeFault | null
}

/** Makes a call and waits for its end, whatever it is. */
export async function call(
  client: Client,
  request: Partial<OutgoingBody> & { readonly head?: string } = {},
): Promise<Outcome> {
  let reply: Reply | undefined
  let body: Promise<Buffer> = Promise.resolve(Buffer.alloc(0))
  const fault = await new Promise<ExchangeFault | null>(resolve => {
    client.exchange(
      request.head ?? headOf('/t/demo/about'),
      { body: null, length: undefined, ...request },
      {
        replied: got => {
          reply = got
          body = collected(got.body)
        },
        exchangeEnded: (_, why) => resolve(why),
      },
    )
  })
  const bytes = await body
  const headers: Record<string, string> = {}
  for (let i = 0; i < (reply?.headers.length ?? 0); i += 2) {
    headers[reply?.headers[i] ?? ''] = reply?.headers[i + 1] ?? ''
  }
  const refusal = reply === undefined ? undefined : refusalFrom(reply.headers)
  return { status: reply?.status ?? 0, headers, body: bytes, refusal, fault }
}

async function collected(body: Reply['body']): Promise<Buffer> {
  if (body instanceof Uint8Array) return Buffer.from(body)
  const pieces: Buffer[] = []
  try {
    for await (const piece of body) pieces.push(Buffer.from(piece))
  } catch {
    // The fault of the exchange says why.
  }
  return Buffer.concat(pieces)
}

export function headOf(path: string, headers: readonly string[] = [], method = 'POST'): string {
  const url = `http://fnd.test${path}`
  const lines = ['fn-intent: httprequest', `fn-http-method: ${method}`, ...headers]
  return `${fndLines}${lines.join('\r\n')}\r\nfn-http-request-url: ${url}\r\n`
}

export const fndLines =
  'POST /call HTTP/1.1\r\nhost: localhost\r\nfn-call-id: 01CALL\r\n' +
  'fn-deadline: 2026-01-30T16:52:39Z\r\n'

export function streamOf(pieces: readonly Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start: controller => {
      // The client frees what it has sent.
      for (const piece of pieces) controller.enqueue(new Uint8Array(piece))
      controller.close()
    },
  })
}

export const bytesOf = (length: number) => Buffer.alloc(length, 'abcdefghij')

export interface Cold {
  readonly client: Client
  readonly bridge: Bridge
  /** Of the processes so far. */
  readonly runs: { readonly child: Child; readonly signal: AbortSignal }[]
}

/** A process per call that runs a shell script. */
export function openCold(
  script: string,
  overrides: Partial<FnSpec> = {},
  exit: Partial<Exit> = {},
): Cold {
  const runs: Cold['runs'] = []
  const oneShot: OneShot = {
    run: async (env, signal) => {
      const child = spawn(['busybox', 'sh', '-c', script], env)
      runs.push({ child, signal })
      signal.addEventListener('abort', () => child.kill('SIGKILL'))
      const exited = exitOf(child).then(own => ({ ...own, ...exit }))
      return { ...stdioOf(child), exited }
    },
  }
  return { runs, ...openWith(oneShot, overrides) }
}

export function openWith(oneShot: OneShot, overrides: Partial<FnSpec> = {}) {
  const bridge = openBridge({
    socketPath: join(dir, 's.sock'),
    spec: specOf('img', { format: 'default', ...overrides }),
    limits,
    talk: { kind: 'cold', oneShot },
  })
  closers.push(() => bridge.close())
  return { bridge, client: clientOf(bridge) }
}
