/**
 * Pulls: one at a time for each image and credential, however many calls wait for it, each under a
 * deadline of its own. A registry that hangs holds up nobody who waits for another image, and says
 * nothing about the daemon.
 */
import type { Readable } from 'node:stream'
import type Docker from 'dockerode'
import { type ErrorCode, FndError } from '../../errors.ts'
import type { AuthConfig } from './auth.ts'
import { DockerRefusal, type Engine } from './engine.ts'
import { plainText } from './inspect.ts'
import {
  faultOf,
  MessageLines,
  type Progress,
  PullProgress,
  progressText,
} from './pull-progress.ts'

export interface PullRequest {
  /** Full name. */
  readonly name: string
  /** As the function names it, for messages. */
  readonly shown: string
  readonly auth: AuthConfig | undefined
}

export interface PullStatus extends Progress {
  readonly image: string
  readonly startedMs: number
}

interface Running {
  readonly promise: Promise<void>
  readonly status: () => PullStatus
}

export interface PullsOptions {
  readonly engine: Engine
  readonly timeoutMs: number
  readonly nowMs: () => number
}

/** The daemon's answer to an abort is awaited no longer. */
const abortSlackMs = 5000

export class Pulls {
  readonly #options: PullsOptions
  readonly #running = new Map<string, Running>()
  readonly #closing = new AbortController()
  total = 0
  failed = 0

  constructor(options: PullsOptions) {
    this.#options = options
  }

  get running(): readonly PullStatus[] {
    return [...this.#running.values()].map(one => one.status())
  }

  /**
   * Joins the pull of `key`, or begins it. `act` gets the pull itself, and may do more before and
   * after it for all who wait.
   */
  async join(
    key: string,
    request: PullRequest,
    act: (pull: () => Promise<void>) => Promise<void>,
  ): Promise<void> {
    let running = this.#running.get(key)
    if (running === undefined) {
      const progress = new PullProgress()
      const startedMs = this.#options.nowMs()
      this.total += 1
      const promise = act(() => this.#pull(request, progress))
        .catch(cause => {
          this.failed += 1
          throw cause
        })
        .finally(() => this.#running.delete(key))
      const status = () => ({ image: request.shown, startedMs, ...progress.now })
      running = { promise, status }
      this.#running.set(key, running)
    }
    return running.promise
  }

  /** Ends all pulls; who waits for one gets `shutting-down`. */
  async close(): Promise<void> {
    this.#closing.abort()
    await Promise.allSettled([...this.#running.values()].map(one => one.promise))
  }

  async #pull(request: PullRequest, progress: PullProgress): Promise<void> {
    const { engine, timeoutMs } = this.#options
    const deadline = new AbortController()
    const timer = setTimeout(() => deadline.abort(), timeoutMs)
    const signal = AbortSignal.any([deadline.signal, this.#closing.signal])
    const ended = () =>
      this.#closing.signal.aborted
        ? new FndError('shutting-down')
        : new FndError('pull-timeout', { detail: progressText(progress.now) })
    const options = { abortSignal: signal, ...(request.auth ? { authconfig: request.auth } : {}) }
    try {
      if (signal.aborted) throw ended()
      const ask = <T>(act: (docker: Docker) => Promise<T>): Promise<T> =>
        engine.ask(
          // Sorted out here: that we gave up must not look like a daemon that cannot be reached.
          docker =>
            act(docker).catch(cause => {
              throw signal.aborted ? ended() : cause
            }),
          timeoutMs + abortSlackMs,
        )
      // Of a digest that it has in its store the daemon asks no registry, so a pull proves nothing.
      if (request.name.includes('@'))
        await ask(docker => askRegistry(docker, request.name, options))
      const stream = await ask(docker => docker.pull(request.name, options))
      await follow(stream as Readable, progress, signal, ended)
    } catch (cause) {
      throw cause instanceof DockerRefusal ? refusal(request.shown, cause) : cause
    } finally {
      clearTimeout(timer)
    }
  }
}

/** Has the daemon ask the registry for the manifest, which it does with these credentials. */
function askRegistry(docker: Docker, name: string, options: object): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = {
      ...options,
      path: `/distribution/${name}/json`,
      method: 'GET',
      statusCodes: { 200: true },
    }
    // The library's own method for this cannot be aborted.
    docker.modem.dial(request, (cause: Error | null) => (cause ? reject(cause) : resolve()))
  })
}

/** Reads the daemon's messages to their end. */
function follow(
  stream: Readable,
  progress: PullProgress,
  signal: AbortSignal,
  ended: () => FndError,
): Promise<void> {
  const done = Promise.withResolvers<void>()
  const onAbort = () => {
    done.reject(ended())
    stream.destroy()
  }
  const lines = new MessageLines()
  let refused: DockerRefusal | undefined
  stream.on('data', (chunk: Uint8Array) => {
    for (const message of lines.push(chunk)) {
      progress.see(message)
      const fault = faultOf(message)
      if (fault !== undefined) refused = new DockerRefusal(statusOf(fault), fault)
    }
  })
  stream.on('end', () => (refused === undefined ? done.resolve() : done.reject(refused)))
  stream.on('error', (cause: Error) => {
    const detail = `it went away during a pull: ${cause.message}`
    done.reject(signal.aborted ? ended() : new FndError('docker-unavailable', { detail }))
  })
  stream.on('close', () => {
    done.reject(new FndError('docker-unavailable', { detail: 'it went away during a pull' }))
  })
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort)
  return done.promise.finally(() => signal.removeEventListener('abort', onAbort))
}

/** Refusals that come after the head of the answer have no status of their own. */
function statusOf(text: string): number {
  if (/toomanyrequests|too many requests/i.test(text)) return 429
  return /not found|manifest unknown|does not exist/i.test(text) ? 404 : 500
}

const codeByStatus: Readonly<Record<number, ErrorCode>> = {
  400: 'image-invalid',
  401: 'image-denied',
  403: 'image-denied',
  404: 'image-not-found',
  429: 'pulls-limited',
}

function refusal(shown: string, { statusCode, message }: DockerRefusal): FndError {
  return new FndError(codeByStatus[statusCode] ?? 'pull-failed', {
    detail: `'${shown}': ${plainText(message)}`,
  })
}
