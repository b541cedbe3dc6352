/**
 * What two nodes tell each other first, and who is turned away. Pure. A refusal is a sentence that
 * says what to do; it is read at both ends, so it names nodes instead of speaking of "this" one.
 */
import type { NodeId } from '../raft/types.ts'
import { clusterIdPattern, type PeerName } from './identity.ts'

/** Of frames and their contents. A range, so that neighbouring versions work together. */
export const protocolMin = 1
export const protocolMax = 1

/** A joiner's clock may differ by this much. Certificates and tokens depend on clocks. */
export const skewMsMax = 30_000

export const purposes = ['raft', 'calls', 'stream', 'join'] as const
export type Purpose = (typeof purposes)[number]

export interface Hello {
  readonly purpose: Purpose
  readonly protocolMin: number
  readonly protocolMax: number
  /** `''` and 0 from a node that joins. */
  readonly clusterId: string
  readonly nodeId: NodeId
  /** Which Raft group of the cluster; there is one. */
  readonly groupId: number
  /** Drawn at each start of the process. */
  readonly incarnation: string
  /** The newest version of commands that it understands. */
  readonly commandVersion: number
  /** fnd's. */
  readonly version: string
  /** Where its peer port is reached, `host:port`. */
  readonly address: string
  /** Its clock. */
  readonly wallMs: number
}

export type Refusal = {
  readonly code:
    | 'wrong-cluster'
    | 'wrong-group'
    | 'wrong-node'
    | 'wrong-protocol'
    | 'no-certificate'
    | 'not-member'
    | 'loopback-address'
    | 'clock-skew'
    | 'malformed'
  /** Sentences for the operators of both nodes. */
  readonly message: string
}

function refusal(code: Refusal['code'], message: string): Refusal {
  return { code, message }
}

/** How the two ends of a connection see each other. */
export interface Sight {
  readonly remoteAddress: string
  readonly localAddress: string
  /** What the other's certificate says, if it is of our authority. */
  readonly name: PeerName | undefined
  /** What it says if it is of another, for the sentence. */
  readonly strangeName: PeerName | undefined
}

/** Undefined when they are not a hello. */
export function parseHello(value: unknown): Hello | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const hello = value as Record<string, unknown>
  const isCount = (name: string) =>
    Number.isSafeInteger(hello[name]) && (hello[name] as number) >= 0
  const isText = (name: string) =>
    typeof hello[name] === 'string' && (hello[name] as string).length <= 300
  const counts = ['protocolMin', 'protocolMax', 'nodeId', 'groupId', 'commandVersion', 'wallMs']
  const texts = ['clusterId', 'incarnation', 'version', 'address']
  if (!counts.every(isCount) || !texts.every(isText)) return undefined
  if (!(purposes as readonly unknown[]).includes(hello.purpose)) return undefined
  if (hello.clusterId !== '' && !clusterIdPattern.test(hello.clusterId as string)) return undefined
  return value as Hello
}

/** Why `ours` does not speak with `theirs`. Whether they are a member is asked elsewhere. */
export function judgeHello(ours: Hello, theirs: Hello, sight: Sight): Refusal | undefined {
  return (
    judgeProtocol(ours, theirs) ??
    (theirs.purpose === 'join' ? judgeJoin(ours, theirs) : judgeMember(ours, theirs, sight)) ??
    judgeAddresses(ours, theirs, sight)
  )
}

function nameOf(hello: Hello): string {
  return hello.nodeId === 0 ? 'the joining node' : `node ${hello.nodeId}`
}

function judgeProtocol(ours: Hello, theirs: Hello): Refusal | undefined {
  if (theirs.protocolMax >= ours.protocolMin && theirs.protocolMin <= ours.protocolMax) {
    return undefined
  }
  const isOlder = theirs.protocolMax < ours.protocolMin
  const [old, young] = isOlder ? [theirs, ours] : [ours, theirs]
  return refusal(
    'wrong-protocol',
    `fnd ${old.version} of ${nameOf(old)} is too old to speak with fnd ${young.version} of ` +
      `${nameOf(young)}: upgrade ${nameOf(old)}.`,
  )
}

function judgeMember(ours: Hello, theirs: Hello, sight: Sight): Refusal | undefined {
  const { name, strangeName } = sight
  if (theirs.clusterId !== ours.clusterId || (name === undefined && strangeName !== undefined)) {
    const other = strangeName?.clusterId ?? theirs.clusterId
    return other === ours.clusterId ? wrongAuthority(ours) : wrongCluster(ours, other)
  }
  if (name === undefined) {
    return refusal(
      'no-certificate',
      'Members show a certificate of the cluster. A node that has none joins first: start it ' +
        'with --join on an empty data directory.',
    )
  }
  if (name.clusterId !== ours.clusterId) return wrongCluster(ours, name.clusterId)
  if (name.nodeId !== theirs.nodeId) {
    return refusal(
      'wrong-node',
      `The certificate is that of node ${name.nodeId}, the node says that it is ` +
        `${theirs.nodeId}. Restore its data directory as a whole, or empty it and join again.`,
    )
  }
  if (name.nodeId === ours.nodeId) {
    return refusal(
      'wrong-node',
      `Both ends are node ${ours.nodeId}. Either a node advertises the address of another, or ` +
        'a data directory was copied: each node needs a directory of its own.',
    )
  }
  if (theirs.groupId !== ours.groupId) {
    return refusal('wrong-group', `Node ${ours.nodeId} knows group ${ours.groupId} only.`)
  }
  return undefined
}

/** Two clusters meet. */
export function wrongCluster(ours: Pick<Hello, 'clusterId'>, theirClusterId: string): Refusal {
  return refusal(
    'wrong-cluster',
    `Two clusters meet here, ${ours.clusterId} and ${theirClusterId}. ` +
      'Clusters do not merge: to move a node, stop it, empty its data directory, and start it ' +
      'with --join and a token of the cluster that it shall belong to.',
  )
}

/** The same name, but another key: a cluster that was restored or recovered beside this one. */
export function wrongAuthority(ours: Pick<Hello, 'clusterId'>): Refusal {
  return refusal(
    'wrong-cluster',
    `The certificate names cluster ${ours.clusterId}, but its authority did not sign it, or it ` +
      'is out of date. Check the clocks of both machines; if they agree, empty the data ' +
      'directory of the node that does not belong and join again.',
  )
}

function judgeJoin(ours: Hello, theirs: Hello): Refusal | undefined {
  const skewMs = theirs.wallMs - ours.wallMs
  if (Math.abs(skewMs) <= skewMsMax) return undefined
  const seconds = Math.round(Math.abs(skewMs) / 1000)
  return refusal(
    'clock-skew',
    `The joining node's clock is ${seconds} s ${skewMs > 0 ? 'ahead of' : 'behind'} that of ` +
      `node ${ours.nodeId}, at most ${skewMsMax / 1000} s are allowed. Synchronize both, for ` +
      'example with chrony or systemd-timesyncd, and try again.',
  )
}

/**
 * A loopback address leads another machine to itself. Either side may be wrong; both directions
 * fail alike, so that it shows at the first contact.
 */
function judgeAddresses(ours: Hello, theirs: Hello, sight: Sight): Refusal | undefined {
  if (isSameMachine(sight)) return undefined
  const wrong = [theirs, ours].find(({ address }) => isLoopbackHost(hostOf(address)))
  if (wrong === undefined) return undefined
  return refusal(
    'loopback-address',
    `To other machines ${nameOf(wrong)} advertises ${wrong.address}, where they do not reach it. ` +
      'Start it with an address of its network, for example --advertise ' +
      `${wrong === theirs ? sight.remoteAddress : sight.localAddress}.`,
  )
}

export function isSameMachine(sight: Pick<Sight, 'remoteAddress' | 'localAddress'>): boolean {
  return isLoopbackHost(sight.remoteAddress) || sight.remoteAddress === sight.localAddress
}

export function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^(::ffff:)?127\.\d+\.\d+\.\d+$/.test(host)
}

/** Of `host:port` or `[v6]:port`. */
export function hostOf(address: string): string {
  const match = /^(?:\[([^\]]*)\]|(.*)):\d+$/.exec(address)
  return match?.[1] ?? match?.[2] ?? address
}

export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** `host`, `host:port` or `[v6]:port`. Undefined when it is none of them. */
export function parseEndpoint(text: string, portDefault: number): Endpoint | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:[\]/]+))(?::(\d{1,5}))?$/.exec(text)
  if (match === null) return undefined
  const port = match[3] === undefined ? portDefault : Number(match[3])
  if (port < 1 || port > 65_535) return undefined
  return { host: match[1] ?? match[2] ?? '', port }
}

export function formatEndpoint({ host, port }: Endpoint): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}
