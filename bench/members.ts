/** Members of a cluster of compiled fnd on loopback, with default settings. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { binary, freePort } from './fnd.ts'
import type { HttpRequest } from './pump.ts'

export interface MemberStatus {
  readonly node_id: number
  readonly role: string
  readonly term: number
  readonly applied_index: number
  readonly state_hash: string
  readonly cluster: { readonly leader_id: number | null; readonly voters: readonly number[] }
}

export class BenchMember {
  readonly dir: string
  readonly port: number
  readonly peerPort: number
  readonly #env: Readonly<Record<string, string>>
  #process: Bun.Subprocess | undefined

  constructor(dir: string, port: number, peerPort: number, env: Readonly<Record<string, string>>) {
    this.dir = dir
    this.port = port
    this.peerPort = peerPort
    this.#env = env
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  get pid(): number {
    return this.#process?.pid ?? 0
  }

  get isRunning(): boolean {
    return this.#process !== undefined && this.#process.exitCode === null && !this.#process.killed
  }

  /** The same on all members. */
  get token(): string {
    return readFileSync(join(this.dir, 'data/admin.token'), 'utf8').trim()
  }

  /** Returns before it answers. `join` is the peer port of a member. */
  spawn(join?: number): void {
    this.#process = Bun.spawn([binary], {
      env: {
        PATH: process.env.PATH ?? '',
        HOME: this.dir,
        XDG_STATE_HOME: `${this.dir}/state`,
        FND_DATA: `${this.dir}/data`,
        FND_LISTEN: `127.0.0.1:${this.port}`,
        FND_PEER_LISTEN: `127.0.0.1:${this.peerPort}`,
        FND_LOG_LEVEL: 'error',
        FND_SPARE_WORKERS: '0',
        DOCKER_HOST: 'none',
        FND_JOIN: join === undefined ? '' : `127.0.0.1:${join}`,
        ...this.#env,
      },
      cwd: this.dir,
      stdin: 'ignore',
      stdout: 'inherit',
      stderr: 'inherit',
    })
  }

  /** Resolves at the first answer to /healthz. */
  async answers(): Promise<void> {
    while (!(await fetch(`${this.url}/healthz`).then(ok, no))) {
      if (this.#process?.exitCode !== null) throw new Error('fnd ended instead of starting')
      await Bun.sleep(5)
    }
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.#process?.kill(signal)
    await this.#process?.exited
  }

  async api(method: string, path: string, body?: unknown): Promise<Response> {
    return fetch(this.url + path, {
      method,
      headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' },
      body: body === undefined ? null : JSON.stringify(body),
    })
  }

  async status(): Promise<MemberStatus | undefined> {
    return this.api('GET', '/fnd/v1/status').then(
      response => (response.ok ? (response.json() as Promise<MemberStatus>) : undefined),
      () => undefined,
    )
  }

  async metrics(): Promise<string> {
    return (await fetch(`${this.url}/metrics`)).text()
  }
}

const ok = (response: Response) => response.ok
const no = () => false

export class BenchCluster implements AsyncDisposable {
  readonly members: BenchMember[] = []

  /** Resolves when all are voters. */
  static async start(
    count: number,
    env: Readonly<Record<string, string>> = {},
  ): Promise<BenchCluster> {
    const cluster = new BenchCluster()
    for (let i = 0; i < count; i += 1) {
      const dir = mkdtempSync(join(tmpdir(), 'fnd-bench-'))
      const member = new BenchMember(dir, await freePort(), await freePort(), env)
      cluster.members.push(member)
      member.spawn(cluster.members[i - 1]?.peerPort)
      await member.answers()
    }
    await cluster.whole()
    return cluster
  }

  get first(): BenchMember {
    const [first] = this.members
    if (first === undefined) throw new Error('a cluster has members')
    return first
  }

  get ports(): number[] {
    return this.members.map(member => member.port)
  }

  async leader(): Promise<BenchMember> {
    for (;;) {
      const running = this.members.filter(member => member.isRunning)
      for (const member of running) if ((await member.status())?.role === 'leader') return member
      await Bun.sleep(10)
    }
  }

  /** All are voters, know one leader, and have applied the same. */
  async whole(): Promise<void> {
    for (;;) {
      const all = await Promise.all(this.members.map(member => member.status()))
      const [first] = all
      const isWhole = all.every(
        status =>
          status !== undefined &&
          status.cluster.leader_id === first?.cluster.leader_id &&
          status.cluster.voters.length === this.members.length &&
          status.cluster.voters.includes(status.node_id) &&
          status.applied_index === first.applied_index,
      )
      if (isWhole && first !== undefined && first.cluster.leader_id !== null) return
      await Bun.sleep(20)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.members.map(member => member.kill()))
    for (const { dir } of this.members) rmSync(dir, { recursive: true, force: true })
  }
}

/** A PUT of an app whose configuration holds a value of that many bytes. Makes the app. */
export async function putOf(member: BenchMember, valueBytes: number): Promise<HttpRequest> {
  const made = await member.api('POST', '/v2/apps', { name: 'bench', config: { v: '' } })
  if (!made.ok) throw new Error(`cannot create an app: ${await made.text()}`)
  const { id } = (await made.json()) as { id: string }
  return {
    kind: 'http',
    method: 'PUT',
    path: `/v2/apps/${id}`,
    headers: { authorization: `Bearer ${member.token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ config: { v: 'v'.repeat(valueBytes) } }),
    tail: 3,
  }
}
