/** Real peers of one cluster in this process, each with sockets and certificates of its own. */
import {
  type AuthorityPair,
  issueNode,
  makeAuthority,
  makeKeyPair,
} from '../../src/cluster/certificates.ts'
import type { Hello, Refusal } from '../../src/cluster/hello.ts'
import { ClusterPeers, type PeerEvents, type PeersOptions } from '../../src/cluster/peers.ts'
import type { Credentials } from '../../src/cluster/transport.ts'
import type { PeerHandlers } from '../../src/cluster/types.ts'
import type { Message, NodeId } from '../../src/raft/types.ts'

export const hourMs = 60 * 60 * 1000

export async function credentialsOf(
  authority: AuthorityPair,
  clusterId: string,
  nodeId: NodeId,
  lifeMs = hourMs,
): Promise<Credentials> {
  const { publicKey, privateKey } = makeKeyPair()
  const request = { clusterId, nodeId, publicKey, nowMs: Date.now(), lifeMs }
  const certificate = await issueNode(authority, request)
  return { authority: authority.certificate, certificate, key: privateKey }
}

export interface TestPeer {
  readonly peers: ClusterPeers
  readonly received: { readonly from: NodeId; readonly message: Message }[]
  readonly unreachable: NodeId[]
  readonly problems: { readonly nodeId: NodeId; readonly reason: string; code?: string }[]
  readonly refused: Refusal[]
  readonly skews: number[]
  readonly hellos: Hello[]
  readonly bugs: unknown[]
}

export interface PeerSettings extends Partial<Omit<PeersOptions, 'handlers' | 'events'>> {
  readonly authority: AuthorityPair
  readonly nodeId: NodeId
  readonly handlers?: Partial<PeerHandlers>
  readonly events?: Partial<PeerEvents>
}

export async function startPeer(settings: PeerSettings): Promise<TestPeer> {
  const { authority, nodeId, handlers, events, ...rest } = settings
  const clusterId = rest.clusterId ?? 'test'
  const credentials = rest.credentials ?? (await credentialsOf(authority, clusterId, nodeId))
  const seen: Omit<TestPeer, 'peers'> = {
    ...{ received: [], unreachable: [], problems: [], refused: [], skews: [], hellos: [] },
    bugs: [],
  }
  const peers = new ClusterPeers({
    ...{ groupId: 1, incarnation: `i${nodeId}`, commandVersion: 2, version: '0.1.0' },
    ...{ host: '127.0.0.1', port: 0, advertise: port => `127.0.0.1:${port}` },
    ...{ wallMs: () => Date.now(), random: Math.random },
    ...rest,
    ...{ clusterId, nodeId, credentials },
    handlers: { calls: {}, uploads: {}, downloads: {}, ...handlers },
    events: {
      messages: (from, messages) => {
        for (const message of messages) seen.received.push({ from, message })
      },
      unreachable: id => seen.unreachable.push(id),
      admit: () => undefined,
      hello: (_id, hello) => seen.hellos.push(hello),
      problem: (id, reason, refusal) =>
        seen.problems.push({ nodeId: id, reason, ...(refusal && { code: refusal.code }) }),
      refused: refusal => seen.refused.push(refusal),
      skew: (_id, skewMs) => seen.skews.push(skewMs),
      joiner: link => link.destroy(),
      bug: error => seen.bugs.push(error),
      ...events,
    },
  })
  return { peers, ...seen }
}

/** Peers that know each other, connected. Ids from 1. */
export async function startCluster(
  count: number,
  settings: Omit<PeerSettings, 'authority' | 'nodeId'> = {},
): Promise<{ readonly authority: AuthorityPair; readonly all: TestPeer[] }> {
  const authority = await makeAuthority('test', Date.now())
  const all = await Promise.all(
    Array.from({ length: count }, (_, at) => startPeer({ ...settings, authority, nodeId: at + 1 })),
  )
  introduce(all)
  await until(() => all.every(isConnectedToAll))
  return { authority, all }
}

export function introduce(all: readonly TestPeer[]): void {
  const members = all.map(({ peers }, at) => ({ id: at + 1, address: peers.address }))
  for (const { peers } of all) peers.setMembers(members)
}

export function isConnectedToAll({ peers }: TestPeer): boolean {
  return peers.states().every(({ isConnected }) => isConnected)
}

export function stopAll(all: readonly TestPeer[]): void {
  for (const { peers } of all) peers.stop()
}

/** Waits long: the machine may be busy. */
export async function until(condition: () => boolean, what = 'the condition'): Promise<void> {
  const deadlineMs = performance.now() + 20_000
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`in vain waited for ${what}`)
    await Bun.sleep(5)
  }
}

export function messageTo(to: NodeId, index: number, bytes = 256): Message {
  return {
    ...{ type: 'MsgApp', from: 1, to, term: 1, logTerm: 1, index, commit: index },
    ...{ reject: false, rejectHint: 0, snapshot: undefined, context: 0, isTransfer: false },
    entries: [{ index, term: 1, kind: 'normal', bytes: new Uint8Array(bytes).fill(index & 255) }],
  }
}
