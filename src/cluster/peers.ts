/**
 * The peers of this node: who they are, what connects to them, and what comes in. One listener for
 * members and for nodes that want to join; per peer one connection for Raft's messages, one for
 * calls when there are any, and one for each stream.
 */
import { assert } from '../errors.ts'
import type { Message, NodeId } from '../raft/types.ts'
import { decodeMessages } from '../raft/wire.ts'
import { CallLink, serveCalls } from './calls.ts'
import { receive, type Self, unreachable } from './connection.ts'
import { frameKinds } from './frames.ts'
import { type Hello, protocolMax, protocolMin, type Refusal } from './hello.ts'
import { pongFrame, RaftLink } from './raft-link.ts'
import { download, type StreamTarget, serveStream, upload } from './streams.ts'
import { type Credentials, type Link, PeerListener } from './transport.ts'
import type { PeerHandlers, PeerState, Peers } from './types.ts'

/** Of a frame of messages: a batch and its kind. */
const messagesFrameBytesMax = 17 * 1024 * 1024

/** Clocks of members that differ by more are reported: certificates and tokens depend on them. */
const skewMsWarned = 5000

export interface PeersOptions {
  readonly clusterId: string
  readonly nodeId: NodeId
  readonly groupId: number
  /** Drawn at each start of the process. */
  readonly incarnation: string
  readonly commandVersion: number
  readonly version: string
  readonly credentials: Credentials
  /** Where the peer port listens. Port 0: any. */
  readonly host: string
  readonly port: number
  /** `host:port` where others reach it, from the port that it got. */
  readonly advertise: (port: number) => string
  readonly wallMs: () => number
  /** Uniform in [0, 1). */
  readonly random: () => number
  readonly handlers: PeerHandlers
  readonly events: PeerEvents
}

/** What the peers tell the rest of the node. Never called within a call of `Peers`. */
export interface PeerEvents {
  /** From `from`, which may pass on what others sent. Their own array, to keep. */
  messages(from: NodeId, messages: Message[]): void
  /** Something to this peer was lost, or it cannot be connected to. */
  unreachable(nodeId: NodeId): void
  /**
   * Whether the node may be a member. A node that this one has not heard of yet may be, since
   * whoever is behind must listen to a newer leader to learn of it; one that was removed may not.
   */
  admit(nodeId: NodeId, hello: Hello): Refusal | undefined
  /** A member said hello: perhaps one that `setMembers` is to name, or from a new address. */
  hello(nodeId: NodeId, hello: Hello): void
  /** For the log: why there is no connection to a peer. Told when the reason changes. */
  problem(nodeId: NodeId, reason: string, refusal: Refusal | undefined): void
  /** For the log: a node was turned away. */
  refused(refusal: Refusal, hello: Hello, remoteAddress: string): void
  /** For the log: clocks differ. Told once until they agree again. */
  skew(nodeId: NodeId, skewMs: number): void
  /** A node that wants to join. Sets the end of the link, and settles it when it may stay. */
  joiner(link: Link, hello: Hello): void
  /** A handler failed with something other than an `FndError`. */
  bug(error: unknown): void
}

export interface Member {
  readonly id: NodeId
  readonly address: string
}

export interface PeerStatus extends PeerState {
  /** Why there is no connection. */
  readonly problem: string | undefined
  /** Messages to it that were not sent, since the start. */
  readonly dropped: number
  /** As of its last hello in either direction. */
  readonly version: string | undefined
  readonly commandVersion: number | undefined
}

interface Peer {
  readonly id: NodeId
  /** As `setMembers` said it last; a hello may have taught a newer one. */
  configuredAddress: string
  readonly raft: RaftLink
  readonly calls: CallLink
  /** What it sends to us. */
  inbound: Link | undefined
  skewMs: number | undefined
  isSkewTold: boolean
  hello: Hello | undefined
}

export class ClusterPeers implements Peers {
  readonly #options: PeersOptions
  readonly #self: Self
  readonly #peers = new Map<NodeId, Peer>()
  readonly #listener: PeerListener
  #credentials: Credentials
  #isStopped = false
  /** Where others reach this node. */
  readonly address: string

  /** Listens at once. Throws what listening throws, for example when the port is taken. */
  constructor(options: PeersOptions) {
    this.#options = options
    this.#credentials = options.credentials
    const { clusterId, nodeId, groupId, incarnation, commandVersion, version } = options
    this.#self = {
      hello: () => ({
        ...{ protocolMin, protocolMax, clusterId, nodeId, groupId, incarnation },
        ...{ commandVersion, version, address: this.address },
      }),
      credentials: () => this.#credentials,
      wallMs: options.wallMs,
    }
    const { host, port, credentials } = options
    const onLink = (link: Link) => this.#received(link)
    this.#listener = new PeerListener({ host, port, credentials, onLink })
    this.address = options.advertise(this.#listener.port)
  }

  get port(): number {
    return this.#listener.port
  }

  /** For connections from here on; those that are open stay. */
  async renew(credentials: Credentials): Promise<void> {
    this.#credentials = credentials
    await this.#listener.renew(credentials)
  }

  /** All members; this node may be among them. */
  setMembers(members: readonly Member[]): void {
    if (this.#isStopped) return
    const wanted = new Map(members.map(({ id, address }) => [id, address]))
    wanted.delete(this.#options.nodeId)
    for (const peer of [...this.#peers.values()]) if (!wanted.has(peer.id)) this.#remove(peer)
    for (const [id, address] of wanted) {
      const peer = this.#peers.get(id)
      if (peer === undefined) {
        this.#peers.set(id, this.#add(id, address))
      } else if (peer.configuredAddress !== address) {
        peer.configuredAddress = address
        peer.raft.setAddress(address)
      }
    }
  }

  /** This member answers there, as somebody found out. */
  found(id: NodeId, address: string): void {
    const peer = this.#peers.get(id)
    if (peer?.raft.isConnected === false) peer.raft.setAddress(address)
  }

  /** Sends what it can and drops the rest. One write for each peer and turn. */
  send(messages: readonly Message[]): void {
    for (const message of messages) {
      assert(message.type !== 'MsgSnap', 'snapshots travel as streams')
      this.#peers.get(message.to)?.raft.send(message)
    }
  }

  async call(
    to: NodeId,
    method: string,
    head: unknown,
    options: { readonly body?: Uint8Array; readonly timeoutMs?: number } = {},
  ) {
    return await this.#mustPeer(to).calls.call(method, head, options)
  }

  async upload(to: NodeId, method: string, head: unknown, body: AsyncIterable<Uint8Array>) {
    return await upload(this.#target(to), method, head, body)
  }

  async download(to: NodeId, method: string, head: unknown) {
    return await download(this.#target(to), method, head)
  }

  states(): readonly PeerStatus[] {
    return [...this.#peers.values()].map(({ id, raft, inbound, skewMs, hello }) => {
      const heardMs = Math.max(raft.lastHeardMs, inbound?.lastHeardMs ?? 0)
      return {
        ...{ id, address: raft.address, isConnected: raft.isConnected, rttMs: raft.rttMs, skewMs },
        lastHeardMs: heardMs === 0 ? undefined : heardMs,
        problem: raft.problem,
        dropped: raft.dropped,
        version: hello?.version,
        commandVersion: hello?.commandVersion,
      }
    })
  }

  stop(): void {
    this.#isStopped = true
    this.#listener.stop()
    for (const peer of [...this.#peers.values()]) this.#remove(peer)
  }

  #mustPeer(id: NodeId): Peer {
    const peer = this.#peers.get(id)
    if (peer === undefined) throw unreachable(`node ${id}`, 'it is not a member')
    return peer
  }

  #target(id: NodeId): StreamTarget {
    return { self: this.#self, nodeId: id, address: this.#mustPeer(id).raft.address }
  }

  #add(id: NodeId, address: string): Peer {
    const { events, random } = this.#options
    const self = this.#self
    const peer: Peer = {
      ...{ id, configuredAddress: address, inbound: undefined, skewMs: undefined },
      ...{ isSkewTold: false, hello: undefined },
      raft: new RaftLink({
        ...{ self, nodeId: id, address, random },
        onUnreachable: () => events.unreachable(id),
        onUp: (hello, link) => {
          peer.hello = hello
          this.#skewSeen(peer, hello.wallMs - this.#options.wallMs())
          link.lastHeardMs = performance.now()
        },
        onSkew: skewMs => this.#skewSeen(peer, skewMs),
        onProblem: (reason, refusal) => {
          // What silences one connection silences them all.
          peer.calls.drop(reason)
          events.problem(id, reason, refusal)
        },
      }),
      calls: new CallLink({ self, nodeId: id, address: () => peer.raft.address }),
    }
    return peer
  }

  #remove(peer: Peer): void {
    this.#peers.delete(peer.id)
    peer.raft.stop()
    peer.calls.stop()
    this.#listener.destroyLinksOf(peer.id)
  }

  #skewSeen(peer: Peer, skewMs: number): void {
    peer.skewMs = skewMs
    const isLarge = Math.abs(skewMs) > skewMsWarned
    if (isLarge && !peer.isSkewTold) this.#options.events.skew(peer.id, skewMs)
    peer.isSkewTold = isLarge
  }

  #received(link: Link): void {
    const { events } = this.#options
    receive(
      {
        self: this.#self,
        admit: (nodeId, hello) => events.admit(nodeId, hello),
        onRefused: (refusal, hello, address) => events.refused(refusal, hello, address),
        onMember: (member, hello) => this.#memberCame(member, hello),
        onJoiner: (joiner, hello) => events.joiner(joiner, hello),
      },
      link,
    )
  }

  #memberCame(link: Link, hello: Hello): void {
    const { events, handlers } = this.#options
    const from = hello.nodeId
    link.peerId = from
    const onBug = (error: unknown) => events.bug(error)
    // First: it may be the first that this node hears of that member, which then becomes a peer.
    events.hello(from, hello)
    const peer = this.#peers.get(from)
    if (peer !== undefined) {
      peer.hello = hello
      this.#skewSeen(peer, hello.wallMs - this.#options.wallMs())
      // It knows best where it is, and that it is there: the next try need not wait.
      peer.raft.setAddress(hello.address)
      peer.raft.wake()
    }
    if (hello.purpose === 'raft') this.#serveMessages(link, from)
    else if (hello.purpose === 'calls') serveCalls({ from, calls: handlers.calls, onBug }, link)
    else serveStream({ from, handlers, onBug }, link)
  }

  #serveMessages(link: Link, from: NodeId): void {
    const peer = this.#peers.get(from)
    if (peer !== undefined) {
      // A second connection means that the first is dead, or soon will be.
      peer.inbound?.destroy()
      peer.inbound = link
    }
    link.lastHeardMs = performance.now()
    link.reader.sizeMax = messagesFrameBytesMax
    const isOwn = ({ to }: Message) => to === this.#options.nodeId
    link.end = {
      closed: () => {
        if (peer?.inbound === link) peer.inbound = undefined
      },
      frame: (kind, payload) => {
        if (kind === frameKinds.ping && payload.length === 8) {
          link.write(pongFrame(payload, this.#options.wallMs()))
          return
        }
        const decoded = kind === frameKinds.messages ? decodeMessages(payload) : undefined
        if (decoded?.ok !== true) {
          return link.destroy(`it sent ${decoded?.fault ?? 'what nobody asked for'}`)
        }
        const own = decoded.messages.filter(isOwn)
        if (own.length > 0) this.#options.events.messages(from, own)
      },
    }
  }
}
