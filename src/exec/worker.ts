/**
 * The program that runs a JavaScript function: an HTTP server on the instance's socket, and the
 * bundle behind it. It starts before it knows its function (a spare), reads one line of JSON from
 * stdin, imports the bundle, and shows its socket. It trusts nothing it imports, and fnd trusts
 * nothing it says: whatever isolates the function was done before this program began.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { chmodSync, closeSync, openSync, readSync, symlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import {
  answerError,
  answerResponse,
  answerValue,
  callerRequest,
  inputFrom,
} from './worker-answer.ts'
import { Context } from './worker-context.ts'
import { CallOutput } from './worker-output.ts'

/** The line that turns a spare into an instance. */
export interface WorkerJob {
  /** Replaces the environment. FN_LISTENER names the socket. */
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  /** Path of the module below `cwd`. */
  readonly entry: string
  readonly version: string
}

type Answer = Response | Promise<Response>
type Handle = (request: Request) => Answer

const calls = new AsyncLocalStorage<string>()
const output = new CallOutput(calls)
const stamp = { version: 'fnd', runtime: `bun/${Bun.version}` }

let handle: Handle = () => refuse('This instance is not ready')

function refuse(detail: string): Response {
  return answerError(400, 'Invalid method', detail, stamp)
}

function failure(error: unknown): Response {
  console.error('Error in function:', error)
  const message = 'Exception in function, consult logs for details'
  return answerError(502, message, String(error), stamp)
}

function serveCall(request: Request): Answer {
  const url = request.url
  const path = url.indexOf('/', 8)
  if (request.method !== 'POST' || url.slice(path) !== '/call') return refuse('Bad request')
  const callId = request.headers.get('fn-call-id') ?? ''
  return calls.run(callId, runCall, request, callId)
}

function runCall(request: Request, callId: string): Answer {
  try {
    const answer = handle(request)
    if (answer instanceof Response) {
      output.end(callId)
      return answer
    }
    return answer.then(
      response => {
        output.end(callId)
        return response
      },
      error => {
        const response = failure(error)
        output.end(callId)
        return response
      },
    )
  } catch (error) {
    const response = failure(error)
    output.end(callId)
    return response
  }
}

/** One line from stdin, read without an event loop; undefined when fnd is gone. */
function readJob(): WorkerJob | undefined {
  const chunks: Buffer[] = []
  for (;;) {
    const chunk = Buffer.allocUnsafe(64 * 1024)
    const count = readSync(0, chunk)
    if (count === 0) return undefined
    chunks.push(chunk.subarray(0, count))
    if (chunk[count - 1] === 10) return JSON.parse(Buffer.concat(chunks).toString())
  }
}

function handleFrom(module: Record<string, unknown>, job: WorkerJob): Handle | undefined {
  const exported = module.default
  const invokeUrl = `http://localhost/invoke/${job.env.FN_FN_ID ?? ''}`
  if (typeof exported === 'function') {
    return async request => {
      const ctx = new Context(request, job.env)
      const value = await exported(await inputFrom(request), ctx)
      const { status, headers } = Context.answerOf(ctx)
      return answerValue(value, status, headers, stamp)
    }
  }
  const fetch = (exported as { fetch?: unknown } | undefined)?.fetch
  if (typeof fetch !== 'function') return undefined
  const answerOf = (value: unknown): Response => {
    if (value instanceof Response) return answerResponse(value, stamp)
    throw new TypeError('fetch must return a Response')
  }
  return request => {
    const value = fetch.call(exported, callerRequest(request, invokeUrl))
    return value instanceof Promise ? value.then(answerOf) : answerOf(value)
  }
}

function listenerOf(env: Readonly<Record<string, string | undefined>>): string {
  return (env.FN_LISTENER ?? '').replace(/^unix:/, '')
}

/** Bound at once, shown (by the symlink) when the function is there. */
function listen(listener: string) {
  const path = join(dirname(listener), 'fnd.sock')
  const options = {
    unix: path,
    // Honoured on unix sockets too, whatever the types say.
    idleTimeout: 0,
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    fetch: serveCall,
    error: failure,
  }
  const server = Bun.serve(options as unknown as Bun.Serve.Options<undefined>)
  chmodSync(path, 0o666)
  return server
}

function installHandlers(): void {
  process.on('unhandledRejection', error => {
    console.error('Unhandled rejection:', error)
  })
  process.on('uncaughtException', error => {
    console.error('Uncaught exception:', error)
    output.endAll()
    process.exit(1)
  })
  // Pid 1 of a namespace ignores a signal it has no handler for.
  process.on('SIGTERM', () => {
    if (process.listenerCount('SIGTERM') === 1) process.exit(0)
  })
  process.on('exit', () => output.endAll())
}

async function main(): Promise<void> {
  const server = listen(listenerOf(process.env))
  output.install()
  const job = readJob()
  if (job === undefined) process.exit(0)
  closeSync(0)
  // The lowest free descriptor, 0, becomes /dev/null.
  openSync('/dev/null', 'r')
  for (const name of Object.keys(process.env)) delete process.env[name]
  Object.assign(process.env, job.env)
  stamp.version = `fnd/${job.version}`
  installHandlers()
  process.chdir(job.cwd)
  const module = await import(join(job.cwd, job.entry))
  const made = handleFrom(module, job)
  if (made === undefined) {
    // The program listens by itself, as one that uses Fn's own FDK does. If it does not, it ends.
    await server.stop(true)
    process.on('beforeExit', () => {
      console.error('The module has no default export, and does not listen by itself.')
      output.endAll()
      process.exit(1)
    })
    return
  }
  handle = made
  const listener = listenerOf(job.env)
  symlinkSync('fnd.sock', join(dirname(listener), basename(listener)))
}

main().catch(error => {
  console.error(error)
  output.endAll()
  process.exit(1)
})
