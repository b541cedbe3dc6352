/**
 * Sends what functions print to the syslog receivers of their apps. Functions with the same
 * `syslog_url` share one connection; each message names its app, function and call. Who prints
 * never waits: messages are held, up to a bound, and dropped beyond it.
 */
import { hostname } from 'node:os'
import { FndError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { FnSpec } from './driver.ts'
import type { LineCopy } from './output.ts'
import { SyslogEndpoint, type SyslogLimits, type SyslogShared } from './syslog-endpoint.ts'
import { syslogHead, syslogMessages } from './syslog-message.ts'
import { isDatagram } from './syslog-socket.ts'
import { parseSyslogUrl, type SyslogTarget } from './syslog-url.ts'

export interface SyslogOptions {
  readonly logger: Logger
  readonly limits?: Partial<SyslogLimits>
  /** Certificates of the authorities that TLS trusts; by default this machine's and Bun's. */
  readonly authorities?: readonly string[]
}

export interface SyslogStats {
  /** Messages that the kernel took. Whether the receiver has them nobody is told. */
  readonly sentTotal: number
  readonly droppedTotal: number
  /** Connections that failed or broke. */
  readonly failuresTotal: number
  readonly heldBytes: number
  readonly connections: number
}

const mib = 1024 * 1024
const limitsDefault: SyslogLimits = {
  heldBytesMax: 4 * mib,
  allHeldBytesMax: 16 * mib,
  connectMs: 10_000,
  checkMs: 2000,
  idleMs: 60_000,
  retryMsMin: 250,
  retryMsMax: 30_000,
  stallMs: 30_000,
  settleMs: 5000,
  datagramSocketMs: 60_000,
}
const sweepMs = 250
/** For what is held when the node ends. */
const flushMs = 1000
const flushPollMs = 10

export class SyslogSender implements AsyncDisposable {
  readonly #shared: SyslogShared
  readonly #endpoints = new Map<string, SyslogEndpoint>()
  readonly #hostname = hostname()
  #sweeping: ReturnType<typeof setInterval> | undefined
  #isClosed = false

  constructor(options: SyslogOptions) {
    const limits = { ...limitsDefault, ...options.limits }
    const { authorities } = options
    this.#shared = {
      limits,
      socket: {
        connectMs: limits.connectMs,
        ...(authorities === undefined ? {} : { authorities }),
      },
      logger: options.logger,
      nowMs: () => performance.now(),
      counts: { heldBytes: 0, sentTotal: 0, droppedTotal: 0, failuresTotal: 0 },
    }
  }

  get stats(): SyslogStats {
    const connected = [...this.#endpoints.values()].filter(endpoint => endpoint.isConnected)
    return { ...this.#shared.counts, connections: connected.length }
  }

  /**
   * Whether a receiver can be reached: connects to it, within two seconds, unless a connection is
   * there. A datagram socket only needs an address. Rejects with `FndError` `syslog-unavailable`.
   */
  async check(url: string): Promise<void> {
    const parsed = parseSyslogUrl(url)
    if (!parsed.ok) throw unavailable(url, parsed.reason)
    if (this.#isClosed) throw new FndError('shutting-down')
    const { checkMs } = this.#shared.limits
    const late = Promise.withResolvers<never>()
    const timer = setTimeout(() => {
      late.reject(new Error(`no connection in ${checkMs} ms`))
    }, checkMs)
    try {
      await Promise.race([this.#endpoint(parsed.target).connect(), late.promise])
    } catch (cause) {
      if (!(cause instanceof Error)) throw cause
      throw unavailable(url, cause.message, cause)
    } finally {
      clearTimeout(timer)
    }
  }

  /** What takes the lines of an instance; `undefined` where its app has no syslog receiver. */
  copyFor(spec: FnSpec, instanceId: string): LineCopy | undefined {
    if (spec.syslogUrl === '') return undefined
    const parsed = parseSyslogUrl(spec.syslogUrl)
    if (!parsed.ok) {
      const about = { app: spec.appName, syslog_url: spec.syslogUrl, reason: parsed.reason }
      this.#shared.logger.warn(about, 'output does not go to syslog')
      return undefined
    }
    const { target } = parsed
    const framing = isDatagram(target) ? 'datagram' : 'octets'
    const head = syslogHead({ ...spec, hostname: this.#hostname, instanceId })
    return line => this.#endpoint(target).add(syslogMessages(head, line, framing))
  }

  /** Sends what is held, within a second. What is printed after this is dropped. */
  async [Symbol.asyncDispose](): Promise<void> {
    const untilMs = this.#shared.nowMs() + flushMs
    const endpoints = [...this.#endpoints.values()]
    for (const endpoint of endpoints) endpoint.hurry()
    while (endpoints.some(one => one.hasMessages) && this.#shared.nowMs() < untilMs) {
      await Bun.sleep(flushPollMs)
    }
    this.#isClosed = true
    clearInterval(this.#sweeping)
    for (const endpoint of this.#endpoints.values()) endpoint.close()
  }

  #endpoint(target: SyslogTarget): SyslogEndpoint {
    const known = this.#endpoints.get(target.url)
    if (known !== undefined) return known
    const endpoint = new SyslogEndpoint(target, this.#shared)
    this.#endpoints.set(target.url, endpoint)
    if (this.#isClosed) endpoint.close()
    else this.#sweeping ??= setInterval(() => this.#sweep(), sweepMs)
    return endpoint
  }

  #sweep(): void {
    for (const [url, endpoint] of this.#endpoints) {
      if (endpoint.sweep()) continue
      endpoint.close()
      this.#endpoints.delete(url)
    }
    if (this.#endpoints.size > 0) return
    // A node whose functions use no syslog is not woken for it.
    clearInterval(this.#sweeping)
    this.#sweeping = undefined
  }
}

function unavailable(url: string, reason: string, cause?: Error): FndError {
  return new FndError('syslog-unavailable', { detail: `${url}: ${reason}`, cause })
}
