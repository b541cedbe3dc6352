/**
 * The connection to a Docker daemon. Every request goes through `ask`, which bounds it in time and
 * sorts what went wrong: a daemon that cannot be reached, or does not answer, is
 * `docker-unavailable`, and known as down until it answers again; what the daemon itself refuses is
 * a `DockerRefusal`.
 *
 * While the daemon is down `ask` refuses at once, so that calls do not wait for a timeout each; a
 * ping every second finds out when it is back.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type Docker from 'dockerode'
import type { DockerConfig, DockerHost } from '../../config-docker.ts'
import { AssertionError, FndError } from '../../errors.ts'

/** The daemon answered, and said no. `statusCode` is that of its HTTP answer. */
export class DockerRefusal extends Error {
  override readonly name = 'DockerRefusal'
  readonly statusCode: number

  constructor(statusCode: number, message: string) {
    super(message)
    this.statusCode = statusCode
  }
}

export type EngineState =
  /** There is no daemon on this host, and nobody said that there is one. */
  | { readonly kind: 'absent' }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'up' }
  | { readonly kind: 'down'; readonly reason: string }

export interface EngineFacts {
  readonly version: string
  readonly apiVersion: string
  readonly cgroupVersion: 1 | 2
  /** Rootless, or podman's daemon of a user: uids of containers are not those of the host. */
  readonly isRootless: boolean
  readonly isPodman: boolean
  readonly storageDriver: string
}

export interface EngineOptions {
  readonly config: DockerConfig
  /** Told when the daemon goes and comes; on `up` the driver looks after what was left. */
  readonly onState: (state: EngineState) => void
}

/** Long enough for a daemon on a busy host, short enough for a caller. */
export const askTimeoutMs = 30_000
/** A daemon that does not even answer a ping in this time hangs. */
const pingTimeoutMs = 3000
const probeDownMs = 1000
const probeUpMs = 5000

export class Engine {
  readonly #options: EngineOptions
  readonly #host: DockerHost | undefined
  #state: EngineState = { kind: 'unknown' }
  #client: Promise<Docker> | undefined
  #facts: Promise<EngineFacts> | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  #dueMs = 0
  #isProbing = false
  #isClosed = false
  #isRootless = false
  /** Requests under way that end when the daemon is found to be down; pulls are not among them. */
  readonly #pending = new Set<(reason: string) => void>()

  constructor(options: EngineOptions) {
    this.#options = options
    this.#host = options.config.host
    if (this.#isAbsent()) this.#state = { kind: 'absent' }
    this.#probeIn(0)
  }

  get state(): EngineState {
    return this.#state
  }

  /** As far as it is known; false before the daemon was first reached. */
  get isRootless(): boolean {
    return this.#isRootless
  }

  /** The operator named a daemon, so that its absence is a fault even while nothing needs it. */
  get isNamed(): boolean {
    return this.#options.config.isHostGiven
  }

  /** Where the daemon is, for messages. */
  get where(): string {
    if (this.#host === undefined) return 'none'
    if (this.#host.kind === 'unix') return `unix://${this.#host.path}`
    return `tcp://${this.#host.host}:${this.#host.port}`
  }

  /**
   * One request of the daemon. Rejects with `FndError` `docker-unavailable`, or `DockerRefusal`.
   * `timeoutMs` bounds the time until the promise of `act` settles, not streams that it opens.
   */
  async ask<T>(
    act: (docker: Docker, signal: AbortSignal) => Promise<T>,
    timeoutMs = askTimeoutMs,
  ): Promise<T> {
    if (this.#state.kind === 'down') throw this.#unavailable(this.#state.reason)
    if (this.#isAbsent()) throw new FndError('docker-unavailable', { detail: this.#absence })
    return this.#ask(act, timeoutMs)
  }

  async #ask<T>(
    act: (docker: Docker, signal: AbortSignal) => Promise<T>,
    timeoutMs: number,
  ): Promise<T> {
    const deadline = new AbortController()
    const expired = Promise.withResolvers<never>()
    // It may come to pass while nobody waits for it; an unhandled rejection would end the process.
    expired.promise.catch(() => undefined)
    const giveUp = (reason: string): void => {
      expired.reject(this.#unavailable(reason))
      deadline.abort()
    }
    const timer = setTimeout(() => {
      giveUp(`no answer in ${timeoutMs / 1000} s`)
      this.#probeIn(0)
    }, timeoutMs)
    if (timeoutMs <= askTimeoutMs) this.#pending.add(giveUp)
    try {
      const docker = within(await this.#docker(), deadline.signal)
      const result = await Promise.race([act(docker, deadline.signal), expired.promise])
      this.#note({ kind: 'up' })
      return result
    } catch (cause) {
      throw this.#sorted(cause)
    } finally {
      clearTimeout(timer)
      this.#pending.delete(giveUp)
    }
  }

  /** What the daemon is; asked once for as long as it is up. */
  facts(): Promise<EngineFacts> {
    this.#facts ??= this.#learn()
    return this.#facts
  }

  async #learn(): Promise<EngineFacts> {
    try {
      const facts = await this.ask(docker => factsOf(docker))
      this.#isRootless = facts.isRootless
      return facts
    } catch (cause) {
      this.#facts = undefined
      throw cause
    }
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
  }

  get #absence(): string {
    return this.#host === undefined ? 'DOCKER_HOST is none' : `there is none at ${this.where}`
  }

  #isAbsent(): boolean {
    if (this.#host === undefined) return true
    const { isHostGiven } = this.#options.config
    return !isHostGiven && this.#host.kind === 'unix' && !existsSync(this.#host.path)
  }

  /** The library takes time and memory to load, and many nodes never need it. */
  #docker(): Promise<Docker> {
    this.#client ??= connect(this.#host)
      .then(withoutRedirects)
      .catch(cause => {
        // Its certificates cannot be read; perhaps they can the next time.
        this.#client = undefined
        throw cause
      })
    return this.#client
  }

  #sorted(cause: unknown): unknown {
    if (cause instanceof FndError) return cause
    const { statusCode, code, message } = cause as {
      statusCode?: number
      code?: string
      message?: string
    }
    // What answers with a redirection, say, is another server.
    if (typeof statusCode === 'number' && statusCode >= 400) {
      this.#note({ kind: 'up' })
      return new DockerRefusal(statusCode, dockerText(cause))
    }
    if (isBug(cause)) return cause
    // It cannot be reached, has a certificate that is not trusted, or what listens there is none.
    // One request that broke off proves nothing, and a ping does.
    this.#probeIn(0)
    return this.#unavailable(`${code ?? 'error'}: ${message ?? ''}`)
  }

  #unavailable(reason: string): FndError {
    return new FndError('docker-unavailable', { detail: `${this.where}: ${reason}` })
  }

  #probeIn(delayMs: number): void {
    if (this.#isClosed || this.#host === undefined || this.#isProbing) return
    const dueMs = performance.now() + delayMs
    if (this.#timer !== undefined && this.#dueMs <= dueMs) return
    clearTimeout(this.#timer)
    this.#dueMs = dueMs
    this.#timer = setTimeout(() => void this.#probe(), delayMs)
    this.#timer.unref()
  }

  async #probe(): Promise<void> {
    this.#timer = undefined
    this.#isProbing = true
    await this.#ping()
    this.#isProbing = false
    this.#probeIn(this.#state.kind === 'down' ? probeDownMs : probeUpMs)
  }

  async #ping(): Promise<void> {
    if (this.#isAbsent()) {
      this.#note({ kind: 'absent' })
      return
    }
    try {
      await this.#ask(docker => docker.ping(), pingTimeoutMs)
    } catch (cause) {
      if (cause instanceof DockerRefusal) return
      if (!(cause instanceof FndError)) throw cause
      const reason = cause.detail?.slice(`${this.where}: `.length) ?? ''
      this.#note({ kind: 'down', reason })
    }
  }

  #note(state: EngineState): void {
    if (this.#isClosed || state.kind === this.#state.kind) return
    this.#state = state
    if (state.kind !== 'up') this.#facts = undefined
    if (state.kind === 'down') {
      this.#probeIn(probeDownMs)
      // Its certificates may have been renewed by the time it is back.
      this.#client = undefined
      // Who waits for a daemon that hangs need not wait for the whole of its own time.
      for (const giveUp of [...this.#pending]) giveUp(state.reason)
    }
    this.#options.onState(state)
  }
}

/**
 * The same client, whose requests are broken off with the signal: else those to a daemon that hangs
 * would keep their connections for as long as it does. Streams that are open by then stay.
 */
function within(docker: Docker, signal: AbortSignal): Docker {
  const { modem } = docker
  const dial = (...[options, callback]: Parameters<typeof modem.dial>) =>
    modem.dial({ ...options, abortSignal: options.abortSignal ?? signal }, callback)
  const bounded = Object.create(modem, { dial: { value: dial } })
  return Object.create(docker, { modem: { value: bounded } })
}

/** The library follows redirections by requests whose errors nobody hears: they would end fnd. */
function withoutRedirects(docker: Docker): Docker {
  type Build = (options: object, ...rest: readonly unknown[]) => void
  const modem = docker.modem as unknown as { buildRequest: Build }
  const build = modem.buildRequest
  modem.buildRequest = (options, ...rest) =>
    build.call(modem, { ...options, maxRedirects: 0 }, ...rest)
  return docker
}

/** Of this program; what the world does wrong has a code of the system or of a library. */
function isBug(cause: unknown): boolean {
  if (cause instanceof AssertionError) return true
  const isProgrammer = cause instanceof TypeError || cause instanceof ReferenceError
  return isProgrammer && !('code' in cause)
}

async function connect(host: DockerHost | undefined): Promise<Docker> {
  const { default: Client } = await import('dockerode')
  if (host === undefined) throw new FndError('docker-unavailable')
  // An undefined host keeps the library from taking one from the environment.
  if (host.kind === 'unix') return new Client({ socketPath: host.path, host: undefined } as never)
  const base = { host: host.host, port: host.port }
  if (host.certDir === undefined) return new Client({ ...base, protocol: 'http' })
  const pem = (name: string) => readFileSync(join(host.certDir ?? '', name))
  const tls = { ca: pem('ca.pem'), cert: pem('cert.pem'), key: pem('key.pem') }
  return new Client({ ...base, protocol: 'https', ...tls })
}

async function factsOf(docker: Docker): Promise<EngineFacts> {
  const [info, version] = await Promise.all([docker.info(), docker.version()])
  const security: readonly string[] = info.SecurityOptions ?? []
  const components: readonly { readonly Name?: string }[] = version.Components ?? []
  return {
    version: version.Version,
    apiVersion: version.ApiVersion,
    cgroupVersion: String(info.CgroupVersion ?? '1') === '2' ? 2 : 1,
    isRootless: security.some(option => option.includes('rootless')),
    isPodman: components.some(({ Name = '' }) => /podman/i.test(Name)),
    storageDriver: info.Driver ?? '',
  }
}

/** The daemon's own sentence, without what the library puts around it. */
export function dockerText(cause: unknown): string {
  const { json, reason, message } = cause as {
    json?: { message?: string } | null
    reason?: string
    message?: string
  }
  return json?.message ?? message ?? reason ?? String(cause)
}
