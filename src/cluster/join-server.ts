/**
 * The member's side of joining. A good token, or a trusted process of this machine, is let in at
 * once; others wait until an operator approves their fingerprint at the leader, in a bounded list
 * that lives as long as their connections. Only the leader takes nodes in; others point to it.
 */
import { createPublicKey } from 'node:crypto'
import { assert, FndError } from '../errors.ts'
import type { NodeId } from '../raft/types.ts'
import type { Authority } from './authority.ts'
import { fndErrorOf } from './calls.ts'
import { decodeJson, frameKinds, jsonFrame, makeFrame } from './frames.ts'
import { type Hello, isSameMachine, type Refusal } from './hello.ts'
import { authorityHash, joinFingerprint } from './identity.ts'
import {
  faultOfRequest,
  type JoinGrant,
  type JoinProgress,
  type JoinRequest,
  joinFrameBytesMax,
} from './join-words.ts'
import { isTrustedNeighbour } from './neighbour.ts'
import { judgeToken, mintToken } from './token.ts'
import type { Link } from './transport.ts'

const pendingMax = 64
/** From one address, so that one machine cannot keep the others from being seen. */
const pendingPerAddressMax = 8
const pendingLifeMsDefault = 60 * 60 * 1000

/** How often a waiting node hears that it waits, and whether somebody else leads. */
const tickMs = 1000

/** What a node that was vouched for here proves to the leader with. */
const passLifeMs = 5 * 60 * 1000

/** Who leads, as far as this node knows. */
export type Leader =
  | { readonly kind: 'self' }
  | { readonly kind: 'other'; readonly address: string }
  | { readonly kind: 'none' }

export interface JoinServerOptions {
  readonly clusterId: string
  readonly authority: Authority
  readonly wallMs: () => number
  readonly leader: () => Leader
  /** Peer addresses of the members. */
  readonly addresses: () => readonly string[]
  /**
   * Commits `node.join`. The same uuid gets the same id again. An `FndError` refuses the node in
   * its words, or sends it to try again where it says that the same may succeed later.
   */
  readonly propose: (
    request: JoinRequest,
  ) => Promise<{ readonly nodeId: NodeId; readonly nodes: readonly unknown[] }>
  /** `secretsKey`: the bytes of `secrets.key`, undefined when there is none. */
  readonly secrets: () => Promise<{
    readonly adminToken: string
    readonly secretsKey: Uint8Array | undefined
  }>
  /** For the log: a node waits for approval. */
  readonly onPending: (pending: PendingJoin) => void
  readonly onBug: (error: unknown) => void
  readonly pendingLifeMs?: number
}

/** A node that waits for approval. Its texts come from anybody. */
export interface PendingJoin {
  readonly fingerprint: string
  readonly name: string
  /** Where it says that its peer port is. */
  readonly address: string
  /** Where it connects from. */
  readonly remoteAddress: string
  readonly apiUrl: string
  readonly version: string
  readonly sinceMs: number
}

interface Waiting extends PendingJoin {
  readonly link: Link
  readonly request: JoinRequest
  readonly startedMs: number
}

export class JoinServer {
  readonly #options: JoinServerOptions
  readonly #waiting = new Map<string, Waiting>()
  #timer: Timer | undefined

  constructor(options: JoinServerOptions) {
    this.#options = options
  }

  /** Oldest first. */
  pending(): readonly PendingJoin[] {
    return [...this.#waiting.values()].map(waiting => {
      const { fingerprint, name, address, remoteAddress, apiUrl, version, sinceMs } = waiting
      return { fingerprint, name, address, remoteAddress, apiUrl, version, sinceMs }
    })
  }

  /** Lets it in. Throws `join-not-found`. Resolves when it is a member, with its id. */
  async approve(fingerprint: string): Promise<NodeId> {
    const waiting = this.#mustWaiting(fingerprint)
    this.#forget(waiting)
    return await this.#grant(waiting.link, waiting.request)
  }

  /** Turns it away. Throws `join-not-found`. */
  refuse(fingerprint: string): void {
    const waiting = this.#mustWaiting(fingerprint)
    this.#forget(waiting)
    refuse(waiting.link, 'not-member', 'An operator of the cluster turned this node away.')
  }

  stop(): void {
    for (const waiting of [...this.#waiting.values()]) {
      this.#forget(waiting)
      waiting.link.destroy()
    }
  }

  /** Takes over a link whose hellos are done, for `PeerEvents.joiner`. Its time is short. */
  serve(link: Link, hello: Hello): void {
    const { authority } = this.#options
    link.reader.sizeMax = joinFrameBytesMax
    link.end = {
      closed: () => undefined,
      frame: (kind, payload) => {
        link.end = { frame: () => link.destroy('it spoke twice'), closed: () => undefined }
        const request = decodeJson(payload)?.value
        const fault = kind === frameKinds.join ? faultOfRequest(request) : 'no request to join'
        if (fault !== undefined) return refuse(link, 'malformed', `The request is wrong: ${fault}.`)
        // The address of the hello is the one that was judged.
        const asked = { ...(request as JoinRequest), address: hello.address }
        void this.#decide(link, asked).catch(this.#options.onBug)
      },
    }
    link.write(jsonFrame(frameKinds.join, { authority: authority.pair.certificate }))
  }

  async #decide(link: Link, request: JoinRequest): Promise<void> {
    const { authority, wallMs, leader, addresses } = this.#options
    if (!isKey(request.publicKey)) return refuse(link, 'malformed', 'The public key is none.')
    const hasToken = request.token !== ''
    const fault = hasToken ? judgeToken(authority.pair, request.token, wallMs()) : undefined
    if (fault !== undefined) return refuse(link, 'not-member', fault)
    const isVouched = hasToken || (isSameMachine(link) && (await isTrustedNeighbour(link)))
    if (!link.isOpen) return
    const lead = leader()
    if (lead.kind === 'other') {
      const token = isVouched ? mintToken(authority.pair, wallMs() + passLifeMs) : ''
      return tell(link, { state: 'redirect', address: lead.address, token }, true)
    }
    if (lead.kind === 'none') {
      return tell(link, { state: 'no-leader', addresses: addresses() }, true)
    }
    if (!isVouched) return this.#wait(link, request)
    await this.#grant(link, request).catch(error => {
      // The joiner has been told; whoever is to know on this side has thrown it.
      assert(error instanceof FndError, 'a refusal of a node is an operational error')
    })
  }

  #wait(link: Link, request: JoinRequest): void {
    const { authority, wallMs, onPending } = this.#options
    const key = createPublicKey(request.publicKey).export({ type: 'spki', format: 'der' })
    const fingerprint = joinFingerprint(key, authorityHash(authority.pair.certificate))
    // The same node again: its earlier connection is dead, or it would not have come.
    const earlier = this.#waiting.get(fingerprint)
    if (earlier !== undefined) this.#forget(earlier)
    earlier?.link.destroy()
    const { remoteAddress } = link
    const isFrom = (waiting: Waiting) => waiting.remoteAddress === remoteAddress
    const sameAddress = [...this.#waiting.values()].filter(isFrom).length
    if (this.#waiting.size >= pendingMax || sameAddress >= pendingPerAddressMax) {
      const error = new FndError('join-overload')
      return refuse(link, 'not-member', `${error.message}. Use a token, printed by: fnd token.`)
    }
    const { name, address, apiUrl, version } = request
    const waiting: Waiting = {
      ...{ fingerprint, name, address, remoteAddress, apiUrl, version, sinceMs: wallMs() },
      ...{ link, request, startedMs: performance.now() },
    }
    this.#waiting.set(fingerprint, waiting)
    link.settle()
    link.end = {
      frame: () => link.destroy('it spoke twice'),
      closed: () => this.#forget(waiting),
    }
    this.#timer ??= setInterval(() => this.#tick(), tickMs)
    tell(link, { state: 'waiting', fingerprint }, false)
    onPending(waiting)
  }

  /** Shows those who wait that we live, and sends them on when another node leads. */
  #tick(): void {
    const { leader, addresses, pendingLifeMs = pendingLifeMsDefault } = this.#options
    const lead = leader()
    for (const waiting of [...this.#waiting.values()]) {
      const { link } = waiting
      if (lead.kind === 'self' && performance.now() - waiting.startedMs < pendingLifeMs) {
        link.write(makeFrame(frameKinds.alive))
        continue
      }
      this.#forget(waiting)
      if (lead.kind === 'other') {
        tell(link, { state: 'redirect', address: lead.address, token: '' }, true)
      } else if (lead.kind === 'none') {
        tell(link, { state: 'no-leader', addresses: addresses() }, true)
      } else {
        refuse(link, 'not-member', 'Nobody approved this node in time. Start it again.')
      }
    }
  }

  /** Throws what the proposal failed with, after telling the joiner. */
  async #grant(link: Link, request: JoinRequest): Promise<NodeId> {
    const { authority, clusterId, propose, secrets, onBug } = this.#options
    link.settle()
    try {
      const { nodeId, nodes } = await propose(request)
      const certificate = await authority.issue(nodeId, request.publicKey)
      const { adminToken, secretsKey } = await secrets()
      const grant: JoinGrant = {
        ...{ clusterId, nodeId, certificate, adminToken, nodes, authority: authority.pair },
        secretsKey: secretsKey === undefined ? '' : Buffer.from(secretsKey).toString('base64'),
      }
      link.write(jsonFrame(frameKinds.joined, grant))
      link.close()
      return nodeId
    } catch (cause) {
      const error = fndErrorOf(cause, onBug)
      if (error.retryAfterS === undefined && error.status !== 503) {
        // The joiner says itself that it was refused.
        const isSaid = error.code === 'join-refused' && error.detail !== undefined
        refuse(link, 'not-member', `${isSaid ? error.detail : error.message}.`)
      } else {
        tell(link, { state: 'no-leader', addresses: this.#options.addresses() }, true)
      }
      throw error
    }
  }

  #mustWaiting(fingerprint: string): Waiting {
    const waiting = this.#waiting.get(fingerprint.trim().toLowerCase())
    if (waiting === undefined) throw new FndError('join-not-found', { detail: fingerprint })
    return waiting
  }

  #forget(waiting: Waiting): void {
    if (this.#waiting.get(waiting.fingerprint) === waiting) {
      this.#waiting.delete(waiting.fingerprint)
    }
    if (this.#waiting.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

function tell(link: Link, progress: JoinProgress, isLast: boolean): void {
  link.write(jsonFrame(frameKinds.progress, progress))
  if (isLast) link.close()
}

function refuse(link: Link, code: Refusal['code'], message: string): void {
  link.write(jsonFrame(frameKinds.refusal, { code, message }))
  link.close()
}

/** An ECDSA key on P-256, as all nodes have. */
function isKey(publicKey: string): boolean {
  try {
    return createPublicKey(publicKey).asymmetricKeyDetails?.namedCurve === 'prime256v1'
  } catch (cause) {
    // The text is the joiner's: whatever the parser dislikes, it is no key.
    if (cause instanceof Error) return false
    throw cause
  }
}
