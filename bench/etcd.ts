/** Members of etcd on loopback, with default settings, and the requests that it is measured by. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from './fnd.ts'
import type { GrpcRequest, HttpRequest } from './pump.ts'

interface Status {
  readonly header: { readonly member_id: string; readonly revision?: string }
  readonly leader?: string
  readonly raftAppliedIndex?: string
}

export class Etcd implements AsyncDisposable {
  readonly #dir = mkdtempSync(join(tmpdir(), 'etcd-bench-'))
  readonly #commands: string[][] = []
  readonly #processes: Bun.Subprocess[] = []
  readonly ports: number[] = []

  /** Resolves when there is a leader. `isPeerTls`: members speak TLS to each other, as fnd's do. */
  static async start(members: number, isPeerTls = false): Promise<Etcd> {
    const etcd = new Etcd()
    const peers: string[] = []
    for (let i = 0; i < members; i += 1) {
      etcd.ports.push(await freePort())
      peers.push(`http${isPeerTls ? 's' : ''}://127.0.0.1:${await freePort()}`)
    }
    const cluster = peers.map((url, i) => `m${i}=${url}`).join(',')
    for (const [i, peer] of peers.entries()) {
      const client = `http://127.0.0.1:${etcd.ports[i]}`
      const identity = ['--name', `m${i}`, '--data-dir', join(etcd.#dir, `m${i}`)]
      const clientUrls = ['--listen-client-urls', client, '--advertise-client-urls', client]
      const peerUrls = ['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer]
      const options = ['--initial-cluster', cluster, '--logger', 'zap', '--log-level', 'error']
      const tls = isPeerTls ? ['--peer-auto-tls'] : []
      etcd.#commands.push(['etcd', ...identity, ...clientUrls, ...peerUrls, ...options, ...tls])
      etcd.#spawn(i)
    }
    while ((await etcd.leaderPort()) === undefined) {
      if (etcd.#processes.some(process => process.exitCode !== null)) throw new Error('etcd ended')
      await Bun.sleep(50)
    }
    return etcd
  }

  #spawn(member: number): void {
    this.#processes[member] = Bun.spawn(this.#commands[member] ?? [], {
      stdin: 'ignore',
      stdout: 'ignore',
      stderr: 'inherit',
    })
  }

  async kill(member: number): Promise<void> {
    this.#processes[member]?.kill('SIGKILL')
    await this.#processes[member]?.exited
  }

  /** Resolves when all members have applied the same. */
  async revive(member: number): Promise<void> {
    this.#spawn(member)
    for (;;) {
      const all = await Promise.all(this.ports.map(port => this.#status(port)))
      const [first] = all
      const isSame = (status: Status | undefined) =>
        status !== undefined && status.raftAppliedIndex === first?.raftAppliedIndex
      if (first !== undefined && all.every(isSame)) return
      await Bun.sleep(20)
    }
  }

  /** Hands leadership to another member. */
  async transfer(): Promise<void> {
    const leader = await this.leaderPort()
    const other = this.ports.find(port => port !== leader) ?? 0
    const id = BigInt((await this.#status(other))?.header.member_id ?? 0).toString(16)
    const args = ['--endpoints', `http://127.0.0.1:${leader}`, 'move-leader', id]
    const env = { ...process.env, ETCDCTL_API: '3' }
    const child = Bun.spawn(['etcdctl', ...args], { env, stdout: 'ignore', stderr: 'inherit' })
    if ((await child.exited) !== 0) throw new Error('etcd did not move its leader')
  }

  get pids(): number[] {
    return this.#processes.map(process => process.pid)
  }

  async #status(port: number): Promise<Status | undefined> {
    const init = { method: 'POST', body: '{}' }
    return fetch(`http://127.0.0.1:${port}/v3/maintenance/status`, {
      ...init,
      signal: AbortSignal.timeout(1000),
    }).then(
      response => (response.ok ? (response.json() as Promise<Status>) : undefined),
      () => undefined,
    )
  }

  async leaderPort(): Promise<number | undefined> {
    for (const port of this.ports) {
      const status = await this.#status(port)
      if (status?.leader !== undefined && status.leader === status.header.member_id) return port
    }
    return undefined
  }

  /** Rises by one with each put. */
  async revision(): Promise<number> {
    const [port = 0] = this.ports
    return Number((await this.#status(port))?.header.revision ?? 0)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const process of this.#processes) process.kill('SIGKILL')
    await Promise.all(this.#processes.map(process => process.exited))
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

const field = (number: number, bytes: Uint8Array): number[] => {
  const length =
    bytes.length < 128 ? [bytes.length] : [(bytes.length & 127) | 128, bytes.length >> 7]
  return [(number << 3) | 2, ...length, ...bytes]
}

/** `KV.Put` of etcd's own protocol. `streams` clients share a connection, as its own clients do. */
export function putOverGrpc(key: string, valueBytes: number, streams: number): GrpcRequest {
  const fields = [...field(1, Buffer.from(key)), ...field(2, Buffer.alloc(valueBytes, 'v'))]
  const message = Buffer.from(fields).toString('base64')
  return { kind: 'grpc', path: '/etcdserverpb.KV/Put', message, streams }
}

/** The same over its gateway for HTTP and JSON; base64 comes in groups of four digits. */
export function putOverHttp(key: string, valueBytes: number): HttpRequest {
  const base64 = (bytes: Buffer) => bytes.toString('base64')
  const value = base64(Buffer.alloc(valueBytes, 'v'))
  const body = JSON.stringify({ key: base64(Buffer.from(key)), value })
  const tail = value.endsWith('=') ? 6 : 2
  return { kind: 'http', method: 'POST', path: '/v3/kv/put', headers: {}, body, tail }
}
