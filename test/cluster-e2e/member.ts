/** fnd as a process on each machine, and a cluster of them. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { binary, isAlive } from '../e2e/fnd.ts'
import { type Machine, Machines, run } from './hosts.ts'

/** What `/fnd/v1/status` says, as far as it is looked at here. */
export interface Status {
  readonly node_id: number
  readonly cluster_id: string
  readonly role: string
  readonly term: number
  readonly applied_index: number
  readonly state_hash: string
  readonly cluster: {
    readonly leader_id: number | null
    readonly voters: readonly number[]
    readonly learners: readonly number[]
    readonly is_joint: boolean
  }
}

export interface Answer {
  readonly status: number
  /** fnd's code of an error, `''` for none. */
  readonly code: string
  readonly headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: objects of many shapes, read by each test
  readonly body: any
}

export interface Ask {
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
  readonly timeoutMs?: number
}

export interface CliResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

const httpPort = 8080
export const peerPort = 8081

export class Member {
  readonly machine: Machine
  readonly name: string
  readonly #env: Readonly<Record<string, string>>
  #process: Bun.Subprocess | undefined
  #starts = 0
  isPaused = false

  constructor(machine: Machine, env: Readonly<Record<string, string>>) {
    this.machine = machine
    this.name = `m${machine.index}`
    this.#env = env
  }

  get url(): string {
    return `http://${this.machine.address}:${httpPort}`
  }

  get peerAddress(): string {
    return `${this.machine.address}:${peerPort}`
  }

  get dataDir(): string {
    return join(this.machine.dir, 'data')
  }

  /** Read once: it is the same on all nodes, and stays. */
  get token(): string {
    return readFileSync(this.machine.outside(join(this.dataDir, 'admin.token')), 'utf8').trim()
  }

  get isRunning(): boolean {
    return this.#process !== undefined && isAlive(this.#process.pid)
  }

  get pid(): number {
    if (this.#process === undefined) throw new Error(`${this.name} was not started`)
    return this.#process.pid
  }

  get exited(): Promise<number> {
    return this.#process?.exited ?? Promise.resolve(0)
  }

  get logPath(): string {
    return `${this.machine.dir}-${this.#starts}.log`
  }

  get #variables(): Record<string, string> {
    return {
      HOME: this.machine.dir,
      XDG_STATE_HOME: join(this.machine.dir, 'state'),
      FND_DATA: this.dataDir,
      FND_LISTEN: `0.0.0.0:${httpPort}`,
      FND_ADVERTISE: this.machine.address,
      FND_NAME: this.name,
      FND_LOG_FORMAT: 'json',
      FND_SPARE_WORKERS: '0',
      DOCKER_HOST: 'none',
      ...this.#env,
    }
  }

  /** Returns before it listens. */
  spawn(flags: readonly string[] = []): void {
    this.#starts += 1
    this.#process = this.machine.spawn([binary, ...flags], this.#variables, this.logPath)
    this.isPaused = false
  }

  /** Resolves when it answers; rejects with its output if it ends instead. */
  async start(flags: readonly string[] = []): Promise<void> {
    this.spawn(flags)
    while ((await this.ask('GET', '/healthz', { timeoutMs: 500 })) === undefined) {
      if (!this.isRunning) throw new Error(`${this.name} ended:\n${this.logText()}`)
      await Bun.sleep(10)
    }
  }

  logText(): string {
    return existsSync(this.logPath) ? readFileSync(this.logPath, 'utf8') : ''
  }

  signal(signal: NodeJS.Signals): void {
    if (this.isRunning) this.#process?.kill(signal)
    if (signal === 'SIGSTOP') this.isPaused = true
    if (signal === 'SIGCONT') this.isPaused = false
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL')
    await this.exited
    this.isPaused = false
  }

  async stop(): Promise<number> {
    this.signal('SIGTERM')
    return this.exited
  }

  wipe(): void {
    run(this.machine.inside(['rm', '-rf', this.dataDir]))
  }

  /** Undefined when there was no answer, for whatever reason. */
  async ask(method: string, path: string, ask: Ask = {}): Promise<Answer | undefined> {
    const json: Record<string, string> =
      ask.body === undefined ? {} : { 'content-type': 'application/json' }
    try {
      const response = await fetch(this.url + path, {
        method,
        headers: { authorization: `Bearer ${tokens.get(this) ?? ''}`, ...json, ...ask.headers },
        body: ask.body === undefined ? null : JSON.stringify(ask.body),
        signal: AbortSignal.timeout(ask.timeoutMs ?? 10_000),
      })
      const text = await response.text()
      const isJson = response.headers.get('content-type')?.includes('json') === true
      const body = isJson && text !== '' ? JSON.parse(text) : text
      const code = typeof body.code === 'string' ? body.code : ''
      return { status: response.status, code, headers: response.headers, body }
    } catch (cause) {
      // Refused, reset, cut short or too late: to a client they are the same.
      if (cause instanceof SyntaxError) throw cause
      return undefined
    }
  }

  /** As `ask`, and it must succeed. */
  // biome-ignore lint/suspicious/noExplicitAny: objects of many shapes, read by each test
  async api(method: string, path: string, body?: unknown): Promise<any> {
    const answer = await this.ask(method, path, body === undefined ? {} : { body })
    if (answer !== undefined && answer.status < 300) return answer.body
    const said = answer === undefined ? 'no answer' : JSON.stringify(answer.body)
    throw new Error(`${this.name}: ${method} ${path}: ${said}`)
  }

  async status(timeoutMs = 1000): Promise<Status | undefined> {
    const answer = await this.ask('GET', '/fnd/v1/status', { timeoutMs })
    return answer?.status === 200 ? (answer.body as Status) : undefined
  }

  /** A command of fnd, run on this machine. */
  async cli(...args: string[]): Promise<CliResult> {
    const global = ['--url', `http://127.0.0.1:${httpPort}`, '--token', tokens.get(this) ?? '']
    return this.run([...args, ...global])
  }

  /** A command that needs no server. */
  async run(args: readonly string[]): Promise<CliResult> {
    const child = Bun.spawn(this.machine.inside([binary, ...args]), {
      env: { PATH: process.env.PATH ?? '', ...this.#variables },
      cwd: this.machine.dir,
      stdin: 'ignore',
      stdout: 'pipe',
      stderr: 'pipe',
      timeout: 60_000,
    })
    const [code, stdout, stderr] = await Promise.all([
      child.exited,
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ])
    return { code, stdout, stderr }
  }

  /** Remembers the admin token, which is read from the disk. */
  login(): void {
    tokens.set(this, this.token)
  }
}

const tokens = new WeakMap<Member, string>()

/** Polls until it is neither undefined nor false. */
export async function until<T>(
  look: () => T | undefined | false | Promise<T | undefined | false>,
  what: string,
  timeoutMs = 60_000,
): Promise<T> {
  const endMs = performance.now() + timeoutMs
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== false) return found
    if (performance.now() > endMs) throw new Error(`within ${timeoutMs} ms not: ${what}`)
    await Bun.sleep(20)
  }
}

export class Cluster implements AsyncDisposable {
  readonly machines: Machines
  readonly members: Member[] = []
  readonly #env: Readonly<Record<string, string>>
  #joinToken = ''

  private constructor(machines: Machines, env: Readonly<Record<string, string>>) {
    this.machines = machines
    this.#env = env
  }

  /** Machines with nothing on them. */
  static async bare(
    count: number,
    seed: number,
    env: Readonly<Record<string, string>> = {},
  ): Promise<Cluster> {
    const cluster = new Cluster(await Machines.start(count, 8, seed), env)
    for (const machine of cluster.machines.all) cluster.members.push(new Member(machine, env))
    return cluster
  }

  /** `count` members, all of them voters. */
  static async start(
    count: number,
    seed: number,
    env: Readonly<Record<string, string>> = {},
  ): Promise<Cluster> {
    const cluster = await Cluster.bare(count, seed, env)
    try {
      await cluster.first.start()
      cluster.first.login()
      for (const member of cluster.members.slice(1)) await cluster.join(member)
      await cluster.whole()
      return cluster
    } catch (cause) {
      cluster.saveLogs()
      await cluster[Symbol.asyncDispose]()
      throw cause
    }
  }

  get first(): Member {
    const [first] = this.members
    if (first === undefined) throw new Error('a cluster has a first member')
    return first
  }

  get living(): Member[] {
    return this.members.filter(member => member.isRunning && !member.isPaused)
  }

  async add(): Promise<Member> {
    const member = new Member(await this.machines.add(), this.#env)
    this.members.push(member)
    return member
  }

  /** Of the first member; asked for once. */
  async joinToken(): Promise<string> {
    if (this.#joinToken === '') {
      const { code, stdout, stderr } = await this.first.cli('token')
      const token = /fnd-[\w-]+\.\w+\.[\w-]+/.exec(stdout)?.[0]
      if (code !== 0 || token === undefined) throw new Error(`fnd token: ${stdout}${stderr}`)
      this.#joinToken = token
    }
    return this.#joinToken
  }

  /** On an empty data directory. Resolves when it answers. */
  async join(member: Member, by = this.members): Promise<void> {
    const addresses = by.filter(one => one !== member && one.isRunning).map(one => one.peerAddress)
    const token = await this.joinToken()
    await member.start(['--join', addresses.join(','), '--join-token', token])
    member.login()
    await this.led(member)
  }

  /** It knows a leader, so that changes through it are taken. */
  async led(member: Member): Promise<void> {
    const isLed = async () => typeof (await member.status())?.cluster.leader_id === 'number'
    await until(isLed, `${member.name} knows a leader`)
  }

  /** The one that leads in the highest term that anybody tells. */
  async leader(): Promise<Member | undefined> {
    const seen = await Promise.all(
      this.living.map(async member => ({ member, status: await member.status() })),
    )
    const leaders = seen.filter(({ status }) => status?.role === 'leader')
    leaders.sort((a, b) => (b.status?.term ?? 0) - (a.status?.term ?? 0))
    return leaders[0]?.member
  }

  waitForLeader(): Promise<Member> {
    return until(() => this.leader(), 'there is a leader')
  }

  /** All are running voters of one configuration, and know the same leader. */
  async whole(count = this.members.length, timeoutMs = 60_000): Promise<void> {
    await until(
      async () => {
        const all = await Promise.all(this.members.map(member => member.status()))
        const [first] = all
        const isSame = all.every(
          status =>
            status !== undefined &&
            status.cluster.leader_id === first?.cluster.leader_id &&
            status.cluster.voters.length === count &&
            !status.cluster.is_joint &&
            status.cluster.voters.includes(status.node_id),
        )
        return isSame && first !== undefined && first.cluster.leader_id !== null
      },
      `all of ${count} are voters under one leader`,
      timeoutMs,
    )
  }

  /** All have applied the same, and it gave the same state. */
  async agree(members = this.members): Promise<Status> {
    let last: (Status | undefined)[] = []
    return until(async () => {
      last = await Promise.all(members.map(member => member.status()))
      const [first] = last
      const isEqual = (status: Status | undefined) =>
        status !== undefined && status.applied_index === first?.applied_index
      if (first === undefined || !last.every(isEqual)) return undefined
      const hashes = new Set(last.map(status => status?.state_hash))
      if (hashes.size > 1) throw new Error(`states diverge: ${JSON.stringify(last)}`)
      return first
    }, 'all have applied the same').catch(cause => {
      throw new Error(`${cause.message}: ${JSON.stringify(last)}`)
    })
  }

  /** Where to look after a failure; survives this object. */
  saveLogs(): string {
    const folder = `${this.machines.dir}-logs`
    mkdirSync(folder, { recursive: true })
    for (const name of new Bun.Glob('*.log').scanSync({ cwd: this.machines.dir })) {
      copyFileSync(join(this.machines.dir, name), join(folder, name))
    }
    return folder
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const member of this.members) {
      member.signal('SIGCONT')
      await member.kill()
    }
    await this.machines[Symbol.asyncDispose]()
    rmSync(this.machines.dir, { recursive: true, force: true })
  }
}
