/**
 * The only reader of the environment. Flags win over FND_ variables, those over FN_ variables;
 * `NAME_FILE` names a file that holds the value. Returns a frozen `Config`, or every fault at once.
 */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { type ClusterConfig, type ClusterFlags, readCluster } from './config-cluster.ts'
import { type DockerConfig, readDocker } from './config-docker.ts'
import { type Env, Reader, timerMsMax } from './config-reader.ts'

export interface Config {
  readonly host: string
  readonly port: number
  readonly dataDir: string
  /** Where servers of this user leave a record for the command line (`servers.ts`). */
  readonly stateDir: string
  /** `--no-auth`: the admin API needs no token. Allowed on loopback only. */
  readonly isAuthOff: boolean
  /** Base of derived annotations; `''` means scheme and Host of the request. */
  readonly publicUrl: string
  readonly log: { readonly level: string; readonly format: 'json' | 'pretty' | 'auto' }
  readonly cors: { readonly origins: readonly string[]; readonly headers: readonly string[] }
  readonly limits: Limits
  readonly exec: ExecConfig
  readonly docker: DockerConfig
  readonly cluster: ClusterConfig
}

/** Zero means "no limit" where the text says so. */
export interface Limits {
  /** FN_MAX_REQUEST_SIZE; 0 = no limit. Bodies stream through, so none is needed for safety. */
  readonly requestBytesMax: number
  readonly requestHeaderBytesMax: number
  /** Body of an admin request. */
  readonly adminBodyBytesMax: number
  readonly bundleBytesMax: number
  /** FN_MAX_RESPONSE_SIZE; 0 = no limit. */
  readonly responseBytesMax: number
  readonly responseHeaderBytesMax: number
  /** FN_MAX_LOG_SIZE_BYTES: output kept of one call. */
  readonly callLogBytesMax: number
  /** Output kept of all calls of this node. */
  readonly logBytesMax: number
  /** Calls that wait for a slot: of one function, and of the node. */
  readonly waitingPerFnMax: number
  readonly waitingMax: number
  /** A call waits this long for a slot, then gets 503. */
  readonly waitMs: number
  readonly connectionIdleS: number
  /** SIGTERM: running calls get this long. */
  readonly drainMs: number
}

export interface ExecConfig {
  /** FN_MAX_TOTAL_MEMORY_BYTES; 0 = the host's (or the cgroup's) memory less a headroom. */
  readonly memoryBytesMax: number
  /** FN_HOT_START_TIMEOUT_MSECS. */
  readonly startTimeoutMs: number
  /** Instances that start at the same time on this node; 0 = twice the number of cpus. */
  readonly startsMax: number
  /** Running, sandboxed workers that wait for a bundle. 0 turns them off. */
  readonly spareWorkers: number
  readonly tmpBytesMax: number
  readonly pidsMax: number
  readonly openFilesMax: number
  /** Refuse to run functions with less than `namespaces` isolation. */
  readonly isIsolationRequired: boolean
}

export interface ConfigFlags extends ClusterFlags {
  readonly listen?: string
  readonly data?: string
  readonly auth?: boolean
  readonly logLevel?: string
  readonly logFormat?: string
}

export type ConfigResult =
  | { readonly ok: true; readonly config: Config }
  | { readonly ok: false; readonly faults: readonly string[] }

const mib = 1024 * 1024

/** What Bun's server enforces unless it is told otherwise. */
export const requestHeaderBytesDefault = 16 * 1024

/** `host:port`, `:port`, `port` or `[v6]:port`. */
export function parseListen(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$|^(\d{1,5})$/.exec(text)
  if (match === null) return undefined
  const port = Number(match[3] ?? match[4])
  if (port > 65_535) return undefined
  const host = match[1] ?? match[2] ?? ''
  return { host: host === '' ? '0.0.0.0' : host, port }
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)
}

export function readConfig(flags: ConfigFlags, env: Env): ConfigResult {
  const read = new Reader(env)
  const port = read.text(['FN_PORT'], '')
  const fallbackListen = port === '' ? '0.0.0.0:8080' : `0.0.0.0:${port}`
  const listenText = flags.listen ?? read.text(['FND_LISTEN'], fallbackListen)
  const listen = parseListen(listenText)
  if (listen === undefined) {
    read.faults.push(`--listen: "${listenText}" is not host:port, for example 127.0.0.1:8080`)
  }
  const isAuthOff = flags.auth === false || read.flag(['FND_NO_AUTH'])
  if (isAuthOff && listen !== undefined && !isLoopback(listen.host)) {
    read.faults.push(
      `--no-auth is allowed on loopback only; listen on 127.0.0.1:${listen.port}, or drop it`,
    )
  }
  const format = flags.logFormat ?? read.text(['FND_LOG_FORMAT', 'FN_LOG_FORMAT'], 'auto')
  const formats = { json: 'json', text: 'pretty', pretty: 'pretty', auto: 'auto' } as const
  if (!(format in formats)) {
    read.faults.push(`--log-format: "${format}" is not one of json, pretty, auto`)
  }
  const named = flags.logLevel ?? read.text(['FND_LOG_LEVEL', 'FN_LOG_LEVEL'], 'info')
  // Fn's logger has two names of its own.
  const fnLevels: Record<string, string> = { warning: 'warn', panic: 'fatal' }
  const level = fnLevels[named.toLowerCase()] ?? named.toLowerCase()
  const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
  if (!levels.includes(level)) {
    read.faults.push(`--log-level: "${level}" is not one of ${levels.join(', ')}`)
  }
  const config: Config = {
    host: listen?.host ?? '0.0.0.0',
    port: listen?.port ?? 8080,
    dataDir: resolve(flags.data ?? read.text(['FND_DATA'], './fnd-data')),
    stateDir: stateDirFrom(env),
    isAuthOff,
    publicUrl: readPublicUrl(read),
    log: { level, format: formats[format as keyof typeof formats] ?? 'auto' },
    cors: {
      origins: read.list(['FND_CORS_ORIGINS', 'FN_API_CORS_ORIGINS']),
      headers: read.list(['FND_CORS_HEADERS', 'FN_API_CORS_HEADERS']),
    },
    limits: readLimits(read),
    exec: readExec(read),
    docker: readDocker(read, homeFrom(env)),
    cluster: readCluster(read, flags, listen, parseListen),
  }
  if (read.faults.length > 0) return { ok: false, faults: read.faults }
  return { ok: true, config: Object.freeze(config) }
}

function readPublicUrl(read: Reader): string {
  const text = read.text(['FND_PUBLIC_URL', 'FN_PUBLIC_LB_URL'], '')
  if (text !== '' && !(/^https?:\/\//i.test(text) && URL.canParse(text))) {
    read.faults.push(`FND_PUBLIC_URL: "${text}" is not a URL such as https://fn.example.com`)
  }
  return text.replace(/\/+$/, '')
}

/** A container may have neither HOME nor a passwd file; its root directory stands in then. */
function homeFrom(env: Env): string {
  if (env.HOME !== undefined && env.HOME !== '') return env.HOME
  try {
    return homedir()
  } catch {
    return '/'
  }
}

/** The XDG base directory specification's place for state that outlives a restart. */
function stateDirFrom(env: Env): string {
  const base = env.XDG_STATE_HOME
  const isGiven = base?.startsWith('/') === true
  return join(isGiven ? base : join(homeFrom(env), '.local', 'state'), 'fnd')
}

export interface ClientConfig {
  /** Without a slash at its end. */
  readonly url: string
  readonly token: string | undefined
  /** Directories whose `admin.token` may be that of the server, best first. */
  readonly dataDirs: readonly string[]
  readonly stateDir: string
}

export interface ClientFlags {
  readonly url?: string
  readonly token?: string
}

export type ClientConfigResult =
  | { readonly ok: true; readonly config: ClientConfig }
  | { readonly ok: false; readonly faults: readonly string[] }

/** The settings of commands that talk to a server. */
export function readClientConfig(flags: ClientFlags, env: Env): ClientConfigResult {
  const read = new Reader(env)
  const text = flags.url ?? read.text(['FND_URL', 'FN_API_URL'], 'http://127.0.0.1:8080')
  const full = /^[a-z]+:\/\//i.test(text) ? text : `http://${text}`
  const url = URL.canParse(full) ? new URL(full) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    read.faults.push(`--url: "${text}" is not a URL such as http://127.0.0.1:8080`)
  }
  const token = flags.token ?? read.text(['FND_TOKEN', 'FN_TOKEN'], '')
  const dataDir = read.text(['FND_DATA'], '')
  if (read.faults.length > 0 || url === undefined) return { ok: false, faults: read.faults }
  // Fn's client takes a base that ends in its API version; both work here.
  const path = url.pathname.replace(/\/+$/, '').replace(/\/v[12]$/, '')
  return {
    ok: true,
    config: {
      url: `${url.origin}${path}`,
      token: token === '' ? undefined : token,
      dataDirs: [...(dataDir === '' ? [] : [resolve(dataDir)]), resolve('./fnd-data')],
      stateDir: stateDirFrom(env),
    },
  }
}

function readLimits(read: Reader): Limits {
  return {
    requestBytesMax: read.count(['FND_MAX_REQUEST_SIZE', 'FN_MAX_REQUEST_SIZE'], 0),
    requestHeaderBytesMax: read.count(
      ['FND_MAX_REQUEST_HEADER_SIZE', 'FN_MAX_REQUEST_HEADER_SIZE'],
      requestHeaderBytesDefault,
      { min: 1024 },
    ),
    adminBodyBytesMax: read.count(['FND_MAX_ADMIN_BODY_SIZE'], 4 * mib, { min: 1 }),
    bundleBytesMax: read.count(['FND_MAX_BUNDLE_SIZE'], 256 * mib),
    responseBytesMax: read.count(['FND_MAX_RESPONSE_SIZE', 'FN_MAX_RESPONSE_SIZE'], 0),
    // Fn's 0 is no limit. Here there always is one, so that memory has one.
    responseHeaderBytesMax:
      read.count(['FND_MAX_HDR_RESPONSE_SIZE', 'FN_MAX_HDR_RESPONSE_SIZE'], 0) || mib,
    callLogBytesMax: read.count(['FND_MAX_LOG_SIZE_BYTES', 'FN_MAX_LOG_SIZE_BYTES'], mib),
    logBytesMax: read.count(['FND_LOG_MEMORY_BYTES'], 16 * mib),
    waitingPerFnMax: read.count(['FND_MAX_WAITING_PER_FN'], 5000, { min: 1 }),
    waitingMax: read.count(['FND_MAX_WAITING'], 20_000, { min: 1 }),
    waitMs: read.durationMs(['FND_WAIT_TIMEOUT'], 60_000),
    connectionIdleS: read.durationMs(['FND_HTTP_IDLE_TIMEOUT', 'FN_HTTP_IDLE_TIMEOUT'], 0) / 1000,
    drainMs: read.durationMs(['FND_DRAIN_TIMEOUT'], 30_000),
  }
}

function readExec(read: Reader): ExecConfig {
  return {
    memoryBytesMax: read.count(['FND_MAX_TOTAL_MEMORY_BYTES', 'FN_MAX_TOTAL_MEMORY_BYTES'], 0),
    startTimeoutMs: read.count(
      ['FND_HOT_START_TIMEOUT_MSECS', 'FN_HOT_START_TIMEOUT_MSECS'],
      5000,
      { min: 1, max: timerMsMax },
    ),
    startsMax: read.count(['FND_MAX_STARTS'], 0),
    spareWorkers: read.count(['FND_SPARE_WORKERS'], 2, { max: 64 }),
    // The kernel takes 0 for no limit, and rounds up to a page.
    tmpBytesMax: read.count(['FND_MAX_TMP_BYTES'], 64 * mib, { min: 4096 }),
    // A worker itself takes six threads on two cores, and eight files.
    pidsMax: read.count(['FND_MAX_PIDS', 'FN_MAX_PIDS'], 50, { min: 1 }),
    openFilesMax: read.count(['FND_MAX_OPEN_FILES', 'FN_MAX_OPEN_FILES'], 350, { min: 16 }),
    isIsolationRequired: read.flag(['FND_REQUIRE_ISOLATION']),
  }
}
