/**
 * A connection from its first byte to the point where both sides know each other: TLS, then one
 * hello each way. The one that connects judges as strictly as the one that is called, and sends
 * its certificate only to a node of its own cluster.
 */
import { FndError } from '../errors.ts'
import type { NodeId } from '../raft/types.ts'
import { decodeJson, frameKinds, jsonFrame } from './frames.ts'
import {
  type Hello,
  judgeHello,
  type Purpose,
  parseEndpoint,
  parseHello,
  type Refusal,
  type Sight,
  wrongAuthority,
  wrongCluster,
} from './hello.ts'
import { peerNameOf } from './identity.ts'
import { type Credentials, connectTls, type Link } from './transport.ts'

/** For the whole of connecting, TLS and hello: two retries of a lost first packet fit in. */
const dialTimeoutMs = 4000

export interface Self {
  /** What this node tells of itself. `wallMs` and `purpose` are filled in for each hello. */
  readonly hello: () => Omit<Hello, 'wallMs' | 'purpose'>
  readonly credentials: () => Credentials
  readonly wallMs: () => number
}

export interface Dial {
  readonly address: string
  readonly nodeId: NodeId
  readonly purpose: Exclude<Purpose, 'join'>
  /** Reads what follows the welcome, from its first byte on. */
  readonly onReady: (link: Link, hello: Hello) => void
}

export type Dialed =
  | { readonly ok: true; readonly link: Link; readonly hello: Hello }
  | { readonly ok: false; readonly reason: string; readonly refusal?: Refusal }

/** What the two certificates and addresses of a link say. */
export function sightOf(link: Link): Sight {
  const certificate = link.peerCertificate
  const name = certificate === undefined ? undefined : peerNameOf(certificate)
  const { remoteAddress, localAddress, isAuthorized } = link
  return {
    remoteAddress,
    localAddress,
    name: isAuthorized ? name : undefined,
    strangeName: isAuthorized ? undefined : name,
  }
}

/** Why the certificate of a node that we called is not that of `nodeId`. */
function faultOfServer(self: Self, nodeId: NodeId, link: Link): string | undefined {
  const { clusterId } = self.hello()
  const { name, strangeName } = sightOf(link)
  if (name?.clusterId === clusterId && name.nodeId === nodeId) return undefined
  if (name?.clusterId === clusterId) {
    return `node ${name.nodeId} answers there, not node ${nodeId}; it will be known when it connects`
  }
  const other = name ?? strangeName
  if (other === undefined) return 'its certificate is not that of a node of fnd'
  if (other.clusterId === clusterId) return wrongAuthority({ clusterId }).message
  return wrongCluster({ clusterId }, other.clusterId).message
}

/** Never rejects: what can go wrong here is expected. */
export async function dial(self: Self, options: Dial): Promise<Dialed> {
  const endpoint = parseEndpoint(options.address, 0)
  if (endpoint === undefined) return { ok: false, reason: `"${options.address}" is no host:port` }
  const startedMs = performance.now()
  const connected = await connectTls({
    ...endpoint,
    credentials: self.credentials(),
    timeoutMs: dialTimeoutMs,
    check: link => faultOfServer(self, options.nodeId, link),
  })
  if (!connected.ok) return connected
  const timeoutMs = Math.max(dialTimeoutMs - (performance.now() - startedMs), 500)
  return greet(self, connected.link, { ...options, timeoutMs })
}

function helloOf(self: Self, purpose: Purpose): Hello {
  return { ...self.hello(), purpose, wallMs: Math.round(self.wallMs()) }
}

interface Greeting extends Dial {
  readonly timeoutMs: number
}

function greet(self: Self, link: Link, options: Greeting): Promise<Dialed> {
  const { purpose } = options
  return new Promise(resolve => {
    const finish = (outcome: Dialed) => {
      clearTimeout(timer)
      // First, since the end of the link has a reason as well, which is not the cause.
      resolve(outcome)
      if (!outcome.ok) link.destroy()
    }
    const timer = setTimeout(
      () => finish({ ok: false, reason: 'no welcome in time' }),
      options.timeoutMs,
    )
    link.end = {
      closed: reason => finish({ ok: false, reason: reason ?? 'it closed the connection' }),
      frame: (kind, payload) => {
        if (kind === frameKinds.refusal) return finish(refusalFrom(payload))
        const hello = parseHello(decodeJson(payload)?.value)
        if (kind !== frameKinds.welcome || hello === undefined) {
          return finish({ ok: false, reason: 'it does not speak as a node of fnd does' })
        }
        const ours = helloOf(self, purpose)
        const refusal = judgeHello(ours, { ...hello, purpose }, sightOf(link))
        if (refusal !== undefined) return finish({ ok: false, reason: refusal.message, refusal })
        options.onReady(link, hello)
        finish({ ok: true, link, hello })
      },
    }
    link.write(jsonFrame(frameKinds.hello, helloOf(self, purpose)))
  })
}

function refusalFrom(payload: Uint8Array): Dialed {
  const refusal = parseRefusal(decodeJson(payload)?.value)
  if (refusal === undefined) return { ok: false, reason: 'it refused without a reason' }
  return { ok: false, reason: refusal.message, refusal }
}

export function parseRefusal(value: unknown): Refusal | undefined {
  const { code, message } = (value ?? {}) as Record<string, unknown>
  if (typeof code !== 'string' || typeof message !== 'string') return undefined
  // The code may be one of a later version; only our own are compared with.
  return { code: code as Refusal['code'], message: message.slice(0, 2000) }
}

export interface Reception {
  readonly self: Self
  /** Whether the node is a member, by its id; also told of refused ones, in the log of the node. */
  readonly admit: (nodeId: NodeId, hello: Hello) => Refusal | undefined
  readonly onRefused: (refusal: Refusal, hello: Hello, remoteAddress: string) => void
  /** Both sides know each other. Sets the end of the link. */
  readonly onMember: (link: Link, hello: Hello) => void
  /**
   * A node that wants to join, and may do nothing else. Sets the end of the link, and settles it
   * when it is worth waiting for.
   */
  readonly onJoiner: (link: Link, hello: Hello) => void
}

/** Waits for the hello on a link that came in, and answers it. */
export function receive(reception: Reception, link: Link): void {
  const refuse = (refusal: Refusal, hello: Hello | undefined) => {
    if (hello !== undefined) reception.onRefused(refusal, hello, link.remoteAddress)
    link.write(jsonFrame(frameKinds.refusal, refusal))
    link.close()
  }
  link.end = {
    closed: () => undefined,
    frame: (kind, payload) => {
      // Whatever comes while a refusal leaves is not read.
      link.end = { frame: () => undefined, closed: () => undefined }
      const hello = parseHello(decodeJson(payload)?.value)
      if (kind !== frameKinds.hello || hello === undefined) {
        const message = 'The first frame is not a hello that this node understands.'
        return refuse({ code: 'malformed', message }, undefined)
      }
      const ours = helloOf(reception.self, hello.purpose)
      const refusal =
        judgeHello(ours, hello, sightOf(link)) ??
        (hello.purpose === 'join' ? undefined : reception.admit(hello.nodeId, hello))
      if (refusal !== undefined) return refuse(refusal, hello)
      link.write(jsonFrame(frameKinds.welcome, ours))
      if (hello.purpose === 'join') return reception.onJoiner(link, hello)
      link.settle()
      reception.onMember(link, hello)
    },
  }
}

export function unreachable(what: string, reason: string): FndError {
  return new FndError('peer-unreachable', { detail: `${what}: ${reason}` })
}
