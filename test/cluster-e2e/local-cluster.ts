/** Several fnds of one machine as one cluster: processes on loopback, each on its own data. */
import { createServer } from 'node:net'
import { Fnd, until } from '../e2e/fnd.ts'

/** Long: three nodes and the build of a fourth may share two cores with other tests. */
export const patienceMs = 60_000

/** Ports that were free just now. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise<ReturnType<typeof createServer>>(resolve => {
          const server = createServer().listen(0, '127.0.0.1', () => resolve(server))
        }),
    ),
  )
  const ports = servers.map(server => (server.address() as { port: number }).port)
  await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
  return ports
}

export class LocalCluster implements AsyncDisposable {
  readonly nodes: readonly Fnd[]

  private constructor(nodes: readonly Fnd[]) {
    this.nodes = nodes
  }

  /** Resolves when all are voters. `count` is odd. */
  static async start(count: number, env: Record<string, string> = {}): Promise<LocalCluster> {
    const ports = await freePorts(count)
    const addresses = ports.map(port => `127.0.0.1:${port}`)
    const nodes = addresses.map((address, at) => {
      const join = addresses.filter((_, other) => other !== at).join(',')
      const own = at === 0 ? {} : { FND_JOIN: join }
      return new Fnd({ FND_PEER_LISTEN: address, FND_ADVERTISE: address, ...own, ...env })
    })
    const cluster = new LocalCluster(nodes)
    // One after the other: nodes that join begin with what the first has.
    for (const node of nodes) await node.start()
    await cluster.isWhole()
    return cluster
  }

  node(at: number): Fnd {
    const node = this.nodes[at]
    if (node === undefined) throw new Error(`there is no node ${at}`)
    return node
  }

  /** Every node is a voter and knows a leader. */
  async isWhole(): Promise<void> {
    for (const node of this.nodes) {
      const sees = async () =>
        (await node.metric('fnd_raft_is_voter')) + (await node.metric('fnd_raft_has_leader')) === 2
      await until(sees, 'a node is a voter and knows a leader', patienceMs)
    }
  }

  async restart(at: number, program?: string): Promise<void> {
    const node = this.node(at)
    await node.stop()
    await node.start(program)
    await this.isWhole()
  }

  /** Each node has applied what the others have, to the same state. */
  async agrees(): Promise<void> {
    const isSame = async () => {
      const seen = await Promise.all(this.nodes.map(node => node.api('GET', '/fnd/v1/status')))
      return new Set(seen.map(one => `${one.applied_index} ${one.state_hash}`)).size === 1
    }
    await until(isSame, 'all nodes have the same state', patienceMs)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.nodes) await node[Symbol.asyncDispose]()
  }
}
