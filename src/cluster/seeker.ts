/**
 * What a node that is a member already does with `--join`: it looks there for members that are not
 * where they were, and notices when the addresses are those of another cluster.
 */
import { X509Certificate } from 'node:crypto'
import { type Place, placeText } from '../config-cluster.ts'
import { FndError, StartError } from '../errors.ts'
import type { Identity } from '../raft/ports.ts'
import type { NodeId } from '../raft/types.ts'
import { fieldOf } from './bundle-stream.ts'
import { sightOf } from './connection.ts'
import { type PeerName, peerNameOf } from './identity.ts'
import { connectTls } from './transport.ts'
import type { Peers } from './types.ts'

export interface Where {
  readonly id: NodeId
  readonly address: string
}

export interface SeekerParts {
  readonly targets: readonly Place[]
  readonly clusterId: string
  /** PEM. */
  readonly authority: string
  /** No leader is known here. */
  readonly isLost: () => boolean
  readonly peers: Pick<Peers, 'call' | 'states'> & {
    /** That member answers there. */
    found(id: NodeId, address: string): void
  }
}

const everyMs = 2000
const timeoutMs = 2000

/**
 * A member tells the others when its address changes. Where several change at once they may not
 * find each other; so who knows no leader asks those that it finds for the rest, and, as all may
 * have moved, looks where its `--join` says.
 */
export class Seeker implements Disposable {
  readonly #parts: SeekerParts
  readonly #timer: Timer
  #isSeeking = false

  constructor(parts: SeekerParts) {
    this.#parts = parts
    this.#timer = setInterval(() => void this.#seek(), everyMs)
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
  }

  async #seek(): Promise<void> {
    const { targets, isLost, peers } = this.#parts
    if (this.#isSeeking || !isLost()) return
    this.#isSeeking = true
    for (const target of targets) await this.#look(target)
    const near = peers.states().filter(({ isConnected }) => isConnected)
    await Promise.all(near.map(({ id }) => this.#ask(id)))
    this.#isSeeking = false
  }

  async #look(target: Place): Promise<void> {
    const { authority, clusterId, peers } = this.#parts
    const name = await nameAt(target, authority, link => sightOf(link).name)
    if (name?.clusterId === clusterId) peers.found(name.nodeId, placeText(target))
  }

  async #ask(id: NodeId): Promise<void> {
    const { peers } = this.#parts
    try {
      const { head } = await peers.call(id, 'cluster', { op: 'addresses' }, { timeoutMs })
      for (const each of Array.isArray(head) ? head : []) {
        const [other, address] = [fieldOf(each, 'id'), fieldOf(each, 'address')]
        if (typeof other === 'number' && typeof address === 'string') peers.found(other, address)
      }
    } catch (cause) {
      // It is asked again, like the others, as long as there is no leader.
      if (!(cause instanceof FndError)) throw cause
    }
  }
}

type Link = Parameters<typeof sightOf>[0]

/** Who answers there, by its certificate; undefined when it is nobody that can be named. */
async function nameAt(
  target: Place,
  authority: string | undefined,
  nameOf: (link: Link) => PeerName | undefined,
): Promise<PeerName | undefined> {
  let name: PeerName | undefined
  const connected = await connectTls({
    ...target,
    credentials: { authority, certificate: undefined, key: undefined },
    timeoutMs,
    check: link => {
      name = nameOf(link)
      return undefined
    },
  })
  if (connected.ok) connected.link.destroy()
  return name
}

/**
 * Whoever gives `--join` to a directory that is a cluster of its own means another one. Asked only
 * while this node knows no other; a member that cannot be reached says nothing either way.
 */
export async function mustBeOfThisCluster(
  config: { readonly dataDir: string; readonly cluster: { readonly join: readonly Place[] } },
  { clusterId, nodeId }: Identity,
  nodes: readonly { readonly id: NodeId }[],
): Promise<void> {
  const [target] = config.cluster.join
  if (target === undefined || nodes.length === 0 || nodes.some(({ id }) => id !== nodeId)) return
  const name = await nameAt(target, undefined, link => {
    const certificate = link.peerCertificate
    return certificate && peerNameOf(new X509Certificate(certificate.raw))
  })
  if (name === undefined || name.clusterId === clusterId) return
  throw new StartError(
    `${config.dataDir} holds a cluster of its own (${clusterId}), and ${placeText(target)} is of ` +
      `another (${name.clusterId}): joining would lose what is in it. Give an empty directory ` +
      'with --data, or drop --join; `fnd backup` keeps what is here.',
  )
}
