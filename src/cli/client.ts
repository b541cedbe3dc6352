import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ClientConfig } from '../config.ts'
import { findServer, findServers, isThisHost } from '../servers.ts'
import { CliError, type ExitReason } from './failure.ts'

export interface Request {
  readonly method?: string
  readonly body?: Bun.BodyInit
  readonly headers?: Headers | Record<string, string>
  readonly signal?: AbortSignal
  /** Without it the token goes along. A function's caller must not show it the admin token. */
  readonly isPublic?: boolean
}

/** A connection to one server: sends the token, turns answers into values or a `CliError`. */
export class FndClient {
  readonly url: string
  readonly #config: ClientConfig
  readonly #onStale: (reason: string) => void
  #token: string | undefined

  /** `onStale`: a read is answered from what the server knows alone, for this reason. */
  constructor(config: ClientConfig, onStale: (reason: string) => void = () => undefined) {
    this.url = config.url
    this.#config = config
    this.#onStale = onStale
    this.#token = config.token ?? localToken(config)
  }

  /** The raw answer, whatever its status. `target` is a path, or a whole URL. */
  async send(target: string, request: Request = {}): Promise<Response> {
    const headers = new Headers(request.headers)
    if (request.isPublic !== true && this.#token !== undefined) {
      headers.set('authorization', `Bearer ${this.#token}`)
    }
    try {
      return await fetch(target.startsWith('/') ? `${this.url}${target}` : target, {
        method: request.method ?? 'GET',
        headers,
        // A call may take as long as its function's limit, and a followed log has no end.
        timeout: false,
        ...(request.body === undefined ? {} : { body: request.body }),
        ...(request.signal === undefined ? {} : { signal: request.signal }),
      } as RequestInit)
    } catch (cause) {
      if (request.signal?.aborted === true) throw cause
      throw this.#unreachable(cause)
    }
  }

  /** The body of a successful answer as JSON; `undefined` for 204. */
  async json(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await this.send(path, {
      method,
      headers: {
        accept: 'application/json',
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    if (response.status === 503 && method === 'GET' && !path.includes('consistency=')) {
      return this.#stale(path, await this.failure(response))
    }
    if (!response.ok) throw await this.failure(response)
    if (response.status === 204) return undefined
    try {
      return (await response.json()) as unknown
    } catch (cause) {
      throw new CliError('failed', `${this.url} did not answer with JSON`, {
        hint: 'is this an fnd server? check --url',
        cause,
      })
    }
  }

  /** Without a leader, what this one server knows is better than nothing, if that is said. */
  async #stale(path: string, failure: CliError): Promise<unknown> {
    if (!/^\/(v2\/|fnd\/v1\/(apps|fns)\/)/.test(path)) throw failure
    const joint = path.includes('?') ? '&' : '?'
    const found = await this.json('GET', `${path}${joint}consistency=local`)
    this.#onStale(failure.message)
    return found
  }

  /** All pages of a list, one after the other as they are read. */
  async *items(path: string): AsyncGenerator<unknown> {
    const joint = path.includes('?') ? '&' : '?'
    let cursor = ''
    do {
      const from = cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`
      const page = (await this.json('GET', `${path}${joint}per_page=100${from}`)) as {
        items?: unknown
        next_cursor?: unknown
      }
      if (!Array.isArray(page.items)) {
        throw new CliError('failed', `${this.url} answered a list without items`, {
          hint: 'is this an fnd server? check --url',
        })
      }
      yield* page.items as unknown[]
      cursor = typeof page.next_cursor === 'string' ? page.next_cursor : ''
    } while (cursor !== '')
  }

  /** What an answer of 400 or more means for the person who asked. */
  async failure(response: Response): Promise<CliError> {
    const text = await response.text()
    const message = messageOf(text) || `the server answered ${response.status}`
    const reasons: Record<number, ExitReason> = {
      401: 'unauthorized',
      403: 'unauthorized',
      404: 'not-found',
    }
    const reason = reasons[response.status] ?? 'failed'
    if (reason === 'unauthorized') {
      return new CliError('unauthorized', message, { hint: this.#tokenHint() })
    }
    const retryAfter = response.headers.get('retry-after')
    return new CliError(reason, message, {
      ...(retryAfter === null ? {} : { hint: `try again in ${retryAfter} s` }),
    })
  }

  #tokenHint(): string {
    const where = 'the server wrote it to <its data directory>/admin.token at its first start'
    return this.#token === undefined
      ? `give the token with --token or FND_TOKEN; ${where}`
      : `the token sent is not this server's; ${where}`
  }

  #unreachable(cause: unknown): CliError {
    const others = findServers(this.#config.stateDir).map(server => server.url)
    const start = isThisHost(new URL(this.url).hostname)
      ? 'start one with: fnd'
      : 'check --url (or FND_URL) and that the server runs'
    const hint =
      others.length === 0
        ? start
        : `${start}; a server of yours runs at ${others.join(', ')} (--url)`
    return new CliError('unreachable', `cannot reach a server at ${this.url}`, { hint, cause })
  }
}

/** `message` of the API's errors, whichever version answered; else the text, shortened. */
export function messageOf(text: string): string {
  try {
    const body: unknown = JSON.parse(text)
    if (typeof body === 'object' && body !== null) {
      if ('message' in body && typeof body.message === 'string') return body.message
      if ('error' in body) return messageOf(JSON.stringify(body.error))
    }
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
  }
  // A page of some proxy or other server says nothing to a terminal.
  return text.trimStart().startsWith('<') ? '' : text.trim().slice(0, 500)
}

/**
 * The token of a server on this machine. It is sent to addresses of this machine only: a file
 * that happens to lie here must not go to a stranger.
 */
function localToken(config: ClientConfig): string | undefined {
  if (!isThisHost(new URL(config.url).hostname)) return undefined
  const server = findServer(config.stateDir, config.url)
  const dirs = [...(server === undefined ? [] : [server.dataDir]), ...config.dataDirs]
  for (const dir of dirs) {
    try {
      const token = readFileSync(join(dir, 'admin.token'), 'utf8').trim()
      if (token !== '') return token
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code ?? ''
      if (!['ENOENT', 'EACCES', 'ENOTDIR'].includes(code)) throw cause
    }
  }
  return undefined
}
