/** The compiled fnd as a process of its own, functions deployed through its API, raw HTTP. */
import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmdirSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BundleContent } from '../../src/cli/bundle.ts'
import { packBundle } from '../../src/cli/pack.ts'
import { binary as builtBinary } from './bare-machine.ts'

/** `FND_BINARY` tests another build than that of `npm test`. */
export const binary = process.env.FND_BINARY ?? builtBinary

const fixtures = join(import.meta.dir, 'fixtures')

/** Runs a script as a program of its own, with the one JavaScript runtime that is there. */
export function programOf(script: string): Code {
  const shell = '#!/bin/sh\nexport BUN_BE_BUN=1\nexec /.fnd/fnd ./server.js\n'
  return { program: shell, files: { 'server.js': script } }
}

export interface Deployed {
  readonly id: string
  readonly appId: string
  readonly appName: string
  /** Of its trigger. */
  readonly url: string
  readonly invokeUrl: string
}

export interface FnFields {
  readonly app?: string
  readonly memory?: number
  readonly timeout?: number
  readonly idle_timeout?: number
  readonly config?: Readonly<Record<string, string>>
  /** fnd's settings without their prefix: `concurrency`, `min-instances`, `max-instances`. */
  readonly settings?: Readonly<Record<string, unknown>>
}

export interface Described {
  readonly id: string
  readonly waiting: number
  readonly starting: number
  readonly idle: number
  readonly busy: number
  readonly instances: readonly { readonly id: string; readonly pid: number }[]
}

/** A function as JavaScript text, a file of `fixtures/`, or a program. */
export type Code =
  | { readonly source: string }
  | { readonly fixture: string; readonly form?: 'fdk' }
  | { readonly program: string; readonly files?: Readonly<Record<string, string>> }

export function content(code: Code): BundleContent {
  if ('program' in code) {
    const files = Object.entries({ ...code.files, run: code.program })
    return {
      manifest: { version: 1, kind: 'program', entry: 'run' },
      files: files.map(([path, text]) => ({
        path,
        content: new TextEncoder().encode(text),
        isExecutable: path === 'run',
      })),
      inputs: [],
    }
  }
  const text = 'source' in code ? code.source : readFileSync(join(fixtures, code.fixture), 'utf8')
  const form = 'form' in code && code.form !== undefined ? { form: code.form } : {}
  return {
    manifest: { version: 1, kind: 'module', entry: 'index.js', ...form },
    files: [{ path: 'index.js', content: new TextEncoder().encode(text), isExecutable: false }],
    inputs: [],
  }
}

export class Fnd implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'fnd-e2e-'))
  readonly dataDir = join(this.dir, 'data')
  readonly #env: Readonly<Record<string, string>>
  #process: Bun.Subprocess | undefined
  #starts = 0
  url = ''

  constructor(env: Readonly<Record<string, string>> = {}) {
    this.#env = env
  }

  static async start(env: Readonly<Record<string, string>> = {}): Promise<Fnd> {
    const fnd = new Fnd(env)
    await fnd.start()
    return fnd
  }

  get pid(): number {
    return this.process.pid
  }

  get process(): Bun.Subprocess {
    if (this.#process === undefined) throw new Error('fnd was not started')
    return this.#process
  }

  get port(): number {
    return Number(new URL(this.url).port)
  }

  get token(): string {
    return readFileSync(join(this.dataDir, 'admin.token'), 'utf8').trim()
  }

  get environment(): Record<string, string> {
    return {
      PATH: process.env.PATH ?? '',
      HOME: this.dir,
      FND_DATA: this.dataDir,
      FND_LISTEN: '127.0.0.1:0',
      FND_LOG_FORMAT: 'json',
      // Whether this machine has a daemon must not matter to tests that need none.
      DOCKER_HOST: 'none',
      XDG_STATE_HOME: join(this.dir, 'state'),
      ...this.#env,
    }
  }

  get logPath(): string {
    return join(this.dir, `fnd-${this.#starts}.log`)
  }

  logText(): string {
    return readFileSync(this.logPath, 'utf8')
  }

  /**
   * Resolves when it listens; rejects with its output when it ends instead. `program` is one that
   * becomes the binary.
   */
  async start(program = binary, flags: readonly string[] = []): Promise<void> {
    this.#starts += 1
    const started = Bun.spawn([program, ...flags], {
      env: this.environment,
      cwd: this.dir,
      stdin: 'ignore',
      stdout: Bun.file(this.logPath),
      stderr: Bun.file(this.logPath),
    })
    this.#process = started
    for (;;) {
      const isOver = started.exitCode !== null || started.signalCode !== null
      const url = /"url":"(http[^"]+)"/.exec(this.logText())?.[1]
      if (url !== undefined) {
        this.url = url
        return
      }
      if (isOver) throw new Error(`fnd ended instead of starting:\n${this.logText()}`)
      await Bun.sleep(5)
    }
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.process.kill(signal)
    await this.process.exited
    return this.process.exitCode
  }

  request(method: string, path: string, body?: unknown): Promise<Response> {
    return fetch(this.url + path, {
      method,
      headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  }

  // biome-ignore lint/suspicious/noExplicitAny: objects of many shapes, read by each test
  async api(method: string, path: string, body?: unknown): Promise<any> {
    const response = await this.request(method, path, body)
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return text === '' ? undefined : JSON.parse(text)
  }

  /** Uploads a bundle; its image. */
  async upload(code: Code): Promise<string> {
    await using packed = await packBundle(content(code))
    const response = await fetch(`${this.url}/fnd/v1/bundles/${packed.id}`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/x-tar' },
      body: readFileSync(packed.path),
    })
    if (!response.ok) throw new Error(`upload: ${response.status} ${await response.text()}`)
    return `bundle:${packed.id}`
  }

  async appId(name: string): Promise<string> {
    const { items } = await this.api('GET', `/v2/apps?name=${name}`)
    return items[0]?.id ?? (await this.api('POST', '/v2/apps', { name })).id
  }

  async deploy(name: string, code: Code, fields: FnFields = {}): Promise<Deployed> {
    return this.create(name, await this.upload(code), fields)
  }

  async create(name: string, image: string, fields: FnFields = {}): Promise<Deployed> {
    const { app: appName = 'e2e', settings = {}, ...rest } = fields
    const appId = await this.appId(appName)
    const annotations = annotationsFrom(settings)
    const body = { app_id: appId, name, image, annotations, ...rest }
    const fn = await this.api('POST', '/v2/fns', body)
    const trigger = { app_id: appId, fn_id: fn.id, name, type: 'http', source: `/${name}` }
    await this.api('POST', '/v2/triggers', trigger)
    return {
      id: fn.id,
      appId,
      appName,
      url: `${this.url}/t/${appName}/${name}`,
      invokeUrl: `${this.url}/invoke/${fn.id}`,
    }
  }

  describe(fnId: string): Promise<Described> {
    return this.api('GET', `/fnd/v1/fns/${fnId}`)
  }

  /** One sample of /metrics, the sum over its labels. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`)).text()
    let sum = 0
    for (const line of text.split('\n')) {
      if (line.startsWith(`${name} `) || line.startsWith(`${name}{`)) {
        sum += Number(line.slice(line.lastIndexOf(' ') + 1))
      }
    }
    return sum
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process?.kill('SIGKILL')
    await this.#process?.exited
    // Functions end with fnd, and hold mounts below the directory until they have.
    await until(() => processesOf(this.dataDir).length === 0)
    // The next start would remove them, but there is none.
    for (const group of cgroupsOf(this.dataDir)) removeCgroup(group)
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** The control groups that a fnd on this data directory makes, in every hierarchy. */
export function cgroupsOf(dataDir: string): string[] {
  const name = `fnd-${createHash('sha256').update(dataDir).digest('hex').slice(0, 12)}`
  const found: string[] = []
  const visit = (dir: string, depth: number): void => {
    for (const entry of foldersOf(dir)) {
      if (entry === name) found.push(join(dir, entry))
      else if (depth > 0) visit(join(dir, entry), depth - 1)
    }
  }
  visit('/sys/fs/cgroup', 4)
  return found
}

/** Other groups come and go meanwhile. */
function foldersOf(dir: string): string[] {
  try {
    const entries = readdirSync(dir, { withFileTypes: true })
    return entries.filter(entry => entry.isDirectory()).map(entry => entry.name)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw cause
  }
}

/** A process that was just killed may take a moment to leave its group. */
function removeCgroup(path: string): void {
  for (const child of foldersOf(path)) removeCgroup(join(path, child))
  for (let tries = 0; ; tries++) {
    try {
      return rmdirSync(path)
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      if (code === 'ENOENT') return
      if (code !== 'EBUSY' || tries === 100) throw cause
      Bun.sleepSync(20)
    }
  }
}

export function annotationsFrom(settings: Readonly<Record<string, unknown>>) {
  return Object.fromEntries(
    Object.entries(settings).map(([key, value]) => [`fnd.io/${key}`, value]),
  )
}

/** Polls until it holds; fails after ten seconds. */
export async function until(
  holds: () => boolean | Promise<boolean>,
  what = 'the condition',
  timeoutMs = 10_000,
): Promise<void> {
  const endMs = performance.now() + timeoutMs
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`${what} does not come to hold`)
    await Bun.sleep(20)
  }
}

export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2)[0] !== 'Z'
  } catch {
    return false
  }
}

/** Every living process below `pid`, from the outside of all namespaces. */
export function descendants(pid: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || !isAlive(Number(name))) continue
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8')
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
      children.set(parent, [...(children.get(parent) ?? []), Number(name)])
    } catch {
      // It ended while the list was read.
    }
  }
  const found: number[] = []
  const visit = (parent: number): void => {
    for (const child of children.get(parent) ?? []) {
      found.push(child)
      visit(child)
    }
  }
  visit(pid)
  return found
}

/** Living processes that have a mount or an environment of this data directory. */
export function processesOf(dataDir: string): number[] {
  const found: number[] = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid || !isAlive(Number(name))) continue
    try {
      const mounts = readFileSync(`/proc/${name}/mountinfo`, 'utf8')
      const environment = readFileSync(`/proc/${name}/environ`, 'utf8')
      if (mounts.includes(dataDir) || environment.includes(dataDir)) found.push(Number(name))
    } catch {
      // It ended while the list was read.
    }
  }
  return found
}

export function openFiles(pid: number): string[] {
  const names: string[] = []
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      names.push(readlinkSync(`/proc/${pid}/fd/${fd}`))
    } catch {
      // Closed while the list was read.
    }
  }
  return names
}

export function openSockets(pid: number): number {
  return openFiles(pid).filter(name => name.startsWith('socket:')).length
}

export function rssBytes(pid: number): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(text)?.[1]) * 1024
}

export interface RawReply {
  readonly status: number
  /** Lower-case names, in order. */
  readonly headers: readonly (readonly [string, string])[]
  readonly body: string
  /** As it came, latin1. */
  readonly text: string
}

/** One connection over which bytes go as they are given; strings are latin1. */
export class RawConnection implements Disposable {
  readonly socket: Socket
  #bytes = Buffer.alloc(0)
  #isEnded = false
  #wake: (() => void) | undefined
  readonly closed: Promise<void>

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    this.socket.on('data', (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk])
      this.#wake?.()
    })
    const end = (): void => {
      this.#isEnded = true
      this.#wake?.()
    }
    this.socket.on('end', end)
    this.socket.on('error', end)
    this.closed = new Promise(resolve => {
      this.socket.on('close', () => {
        end()
        resolve()
      })
    })
  }

  get text(): string {
    return this.#bytes.toString('latin1')
  }

  get isEnded(): boolean {
    return this.#isEnded
  }

  send(text: string | Uint8Array): this {
    this.socket.write(typeof text === 'string' ? Buffer.from(text, 'latin1') : text)
    return this
  }

  /** Everything up to `pattern` or the end of the connection; at most `timeoutMs`. */
  async read(pattern: RegExp | undefined, timeoutMs = 10_000): Promise<string> {
    const timer = setTimeout(() => this.#wake?.(), timeoutMs)
    const endMs = performance.now() + timeoutMs
    while (!this.#isEnded && !(pattern?.test(this.text) ?? false)) {
      if (performance.now() >= endMs) throw new Error(`no end after ${this.text.slice(0, 500)}`)
      await new Promise<void>(resolve => {
        this.#wake = resolve
      })
    }
    clearTimeout(timer)
    return this.text
  }

  [Symbol.dispose](): void {
    this.socket.destroy()
  }
}

/** Sends a request that says `Connection: close`, and reads all. */
export async function raw(port: number, request: string): Promise<RawReply> {
  using connection = new RawConnection(port)
  return parseReply(await connection.send(request).read(undefined))
}

export function parseReply(text: string): RawReply {
  const end = text.indexOf('\r\n\r\n')
  const [first = '', ...lines] = text.slice(0, end).split('\r\n')
  const headers = lines.map(line => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const
  })
  return { status: Number(first.split(' ')[1]), headers, body: text.slice(end + 4), text }
}

export function header(reply: RawReply, name: string): string | undefined {
  return reply.headers.find(([own]) => own === name)?.[1]
}

/** Numbers below 1 that `FND_SEED` replays (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
