/**
 * Frames over TLS. `Link` is one connection: it keeps what the kernel does not take yet, and tells
 * when that is gone. Certificates are asked for and checked against the authority by the TLS
 * library; what follows from the outcome is decided by whoever holds the link.
 */
import { X509Certificate } from 'node:crypto'
import type { Socket, TCPSocketListener, TLSOptions } from 'bun'
import type { NodeId } from '../raft/types.ts'
import { FrameReader, type OnFrame } from './frames.ts'
import { tlsName } from './identity.ts'

/** PEM texts of this node. Those without a `certificate` of their own may only ask to join. */
export interface Credentials {
  readonly authority: string | undefined
  readonly certificate: string | undefined
  readonly key: string | undefined
}

export interface LinkEnd {
  frame: OnFrame
  /** Once. `reason` is for people; undefined when one of the two sides ended it in good order. */
  closed(reason: string | undefined): void
  /** Everything that was written is with the kernel. */
  drained?(): void
}

type Raw = Socket<Link>

/** Of Bun's sockets, but missing from its types: replaces the certificate before a handshake. */
interface KeyCertSocket {
  setKeyCert(context: unknown): void
}

export class Link {
  /** Who reads. Replaced when the purpose of the connection is known. */
  end: LinkEnd
  readonly reader = new FrameReader()
  /** The member at the other end of a connection that came in, once it is known. */
  peerId: NodeId | undefined
  /** Of a connection that came in: to be called once the other side has said who it is. */
  settle: () => void = () => undefined
  readonly #socket: Raw
  #isClosed = false
  #isEnding = false
  #pending: Uint8Array[] = []
  #pendingBytes = 0
  #soon: Uint8Array[] = []
  #soonBytes = 0
  #reason: string | undefined
  /** On the monotonic clock; 0 before the first. */
  lastHeardMs = 0

  constructor(socket: Raw, end: LinkEnd) {
    this.#socket = socket
    this.end = end
  }

  get isOpen(): boolean {
    return !this.#isClosed
  }

  /** Written, and not taken by the kernel yet. */
  get pendingBytes(): number {
    return this.#pendingBytes + this.#soonBytes
  }

  /** Whether the other side showed a certificate of our authority, in force by our clock. */
  get isAuthorized(): boolean {
    return this.#socket.authorized
  }

  get peerCertificate(): X509Certificate | undefined {
    const socket = this.#socket as unknown as {
      getPeerX509Certificate(): { readonly raw: Buffer } | undefined
    }
    const found = socket.getPeerX509Certificate()
    return found === undefined ? undefined : new X509Certificate(found.raw)
  }

  get remoteAddress(): string {
    return plainAddress(this.#socket.remoteAddress)
  }

  get localAddress(): string {
    return plainAddress(this.#socket.localAddress)
  }

  get remotePort(): number {
    return this.#socket.remotePort
  }

  get localPort(): number {
    return this.#socket.localPort
  }

  /**
   * Takes all of it; it leaves at the end of this turn of the event loop, together with what else
   * was written so. A record of TLS and a system call for each of many small frames cost more than
   * all that the frames ask for.
   */
  writeSoon(bytes: Uint8Array): void {
    if (this.#isClosed || this.#isEnding) return
    this.#soon.push(bytes)
    this.#soonBytes += bytes.length
    if (this.#soon.length === 1) setImmediate(this.#flushSoon)
  }

  #flushSoon = (): void => {
    const soon = this.#soon
    if (soon.length === 0) return
    this.#soon = []
    this.#soonBytes = 0
    this.write(soon.length === 1 ? (soon[0] as Uint8Array) : Buffer.concat(soon))
  }

  /** Takes all of it. What it returns says whether the kernel did too. */
  write(bytes: Uint8Array): boolean {
    if (this.#soon.length > 0) this.#flushSoon()
    if (this.#isClosed || this.#isEnding) return false
    if (this.#pending.length > 0) {
      this.#pending.push(bytes)
      this.#pendingBytes += bytes.length
      return false
    }
    const taken = Math.max(this.#socket.write(bytes), 0)
    if (taken === bytes.length) return true
    this.#pending.push(bytes.subarray(taken))
    this.#pendingBytes += bytes.length - taken
    return false
  }

  pause(): void {
    if (!this.#isClosed) this.#socket.pause()
  }

  resume(): void {
    if (!this.#isClosed) this.#socket.resume()
  }

  /** Ends it once everything is written. */
  close(): void {
    if (this.#isClosed || this.#isEnding) return
    this.#flushSoon()
    this.#isEnding = true
    this.#socket.timeout(lingerS)
    if (this.#pending.length === 0) this.#socket.end()
  }

  /** Ends it at once. */
  destroy(reason?: string): void {
    if (this.#isClosed) return
    this.#reason ??= reason
    this.#socket.terminate()
    this.onClose(undefined)
  }

  // What follows is called by the socket alone.

  onDrain(): void {
    while (this.#pending.length > 0) {
      const first = this.#pending[0] as Uint8Array
      const taken = Math.max(this.#socket.write(first), 0)
      this.#pendingBytes -= taken
      if (taken < first.length) {
        this.#pending[0] = first.subarray(taken)
        return
      }
      this.#pending.shift()
    }
    if (this.#isEnding) this.#socket.end()
    this.end.drained?.()
  }

  onData(chunk: Uint8Array): void {
    this.lastHeardMs = performance.now()
    const fault = this.reader.push(chunk, this.#onFrame, this.#isLive)
    if (fault !== undefined) this.destroy(`it sent ${fault}`)
  }

  readonly #onFrame: OnFrame = (kind, payload) => this.end.frame(kind, payload)

  readonly #isLive = (): boolean => !this.#isClosed

  onClose(error: Error | undefined): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#pending = []
    this.#pendingBytes = 0
    this.#soon = []
    this.#soonBytes = 0
    this.end.closed(this.#reason ?? error?.message)
  }
}

/** Who was told that this is the end, and does not end it too, is cut off. In seconds. */
const lingerS = 30

const silentEnd: LinkEnd = { frame: () => undefined, closed: () => undefined }

/** A socket that listens for both families sees IPv4 in the clothes of IPv6. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/, '')
}

function tlsOf(credentials: Credentials): TLSOptions {
  const { authority, certificate, key } = credentials
  return {
    ...(authority === undefined ? {} : { ca: authority }),
    ...(certificate === undefined ? {} : { cert: certificate }),
    ...(key === undefined ? {} : { key }),
    requestCert: true,
    // A joining node has no certificate yet: who has none is refused anything else by its hello.
    rejectUnauthorized: false,
  }
}

export interface ListenOptions {
  readonly host: string
  /** 0: any. */
  readonly port: number
  readonly credentials: Credentials
  /** The handshake is done. Sets the end of the link. */
  readonly onLink: (link: Link) => void
}

/** More connections than that are closed as they come. */
const linksMax = 2048

/**
 * Of those who have not said who they are. The oldest has to go for a new one, since a member needs
 * a moment only: so whoever holds connections open keeps no member out.
 */
const strangersMax = 256
/** And so long they may take, for TLS and hello together. */
const strangerMsMax = 10_000

export class PeerListener {
  readonly #listener: TCPSocketListener<Link>
  readonly #links = new Set<Link>()
  readonly #strangers = new Set<Link>()
  #renewed: unknown

  constructor(options: ListenOptions) {
    const links = this.#links
    this.#listener = Bun.listen<Link>({
      hostname: options.host,
      port: options.port,
      tls: tlsOf(options.credentials),
      socket: {
        open: socket => {
          const link = new Link(socket, silentEnd)
          socket.data = link
          if (links.size >= linksMax) return link.destroy()
          links.add(link)
          this.#meet(link)
          socket.setNoDelay(true)
          if (this.#renewed !== undefined) {
            ;(socket as unknown as KeyCertSocket).setKeyCert(this.#renewed)
          }
        },
        handshake: (socket, isDone) => {
          if (!isDone) return socket.data.destroy()
          options.onLink(socket.data)
        },
        data: (socket, chunk) => socket.data.onData(chunk),
        drain: socket => socket.data.onDrain(),
        // Nothing is half open here: who has said everything has no use for an answer.
        end: socket => socket.data.close(),
        error: (socket, error) => socket.data.destroy(error.message),
        close: (socket, error) => {
          links.delete(socket.data)
          socket.data.settle()
          socket.data.onClose(error)
        },
      },
    })
  }

  #meet(link: Link): void {
    const strangers = this.#strangers
    const [oldest] = strangers
    if (strangers.size >= strangersMax) oldest?.destroy('others came')
    strangers.add(link)
    const timer = setTimeout(() => link.destroy('it did not say hello'), strangerMsMax)
    link.settle = () => {
      clearTimeout(timer)
      strangers.delete(link)
    }
  }

  get port(): number {
    return this.#listener.port
  }

  /** From the next connection on. Those that are open keep what they were opened with. */
  async renew(credentials: Credentials): Promise<void> {
    const { createSecureContext } = await import('node:tls')
    const { authority, certificate, key } = credentials
    const context = createSecureContext({ ca: authority, cert: certificate, key })
    this.#renewed = (context as unknown as { readonly context: unknown }).context
  }

  destroyLinksOf(nodeId: NodeId): void {
    for (const link of [...this.#links]) if (link.peerId === nodeId) link.destroy()
  }

  stop(): void {
    this.#listener.stop(true)
    for (const link of [...this.#links]) link.destroy()
  }
}

export type Connected =
  | { readonly ok: true; readonly link: Link }
  /** `isStranger`: something else than fnd answers, so that trying again is of no use. */
  | { readonly ok: false; readonly reason: string; readonly isStranger: boolean }

export interface ConnectOptions {
  readonly host: string
  readonly port: number
  readonly credentials: Credentials
  readonly timeoutMs: number
  /** Why the other side is not the one that is wanted. Our certificate is not sent before. */
  readonly check: (link: Link) => string | undefined
}

/** Resolves when the handshake is done and checked. Never rejects. */
export function connectTls(options: ConnectOptions): Promise<Connected> {
  return new Promise(resolve => {
    let link: Link | undefined
    let isOver = false
    const fail = (reason: string, isStranger = false) => {
      isOver = true
      clearTimeout(timer)
      // First, since the end of the link has a reason as well, which is not the cause.
      resolve({ ok: false, reason, isStranger })
      link?.destroy()
    }
    const timer = setTimeout(() => fail('no answer in time'), options.timeoutMs)
    const closed = (reason: string | undefined) => fail(reason ?? 'it closed the connection')
    const opening = Bun.connect<Link>({
      hostname: options.host,
      port: options.port,
      tls: { ...tlsOf(options.credentials), serverName: tlsName },
      socket: {
        open: socket => {
          link = new Link(socket, { frame: () => undefined, closed })
          socket.data = link
          // It cannot be called off while it connects.
          if (isOver) return link.destroy()
          socket.setNoDelay(true)
        },
        handshake: (socket, _isDone, error) => {
          const fault = faultOfHandshake(socket.data, error)
          if (fault !== undefined) return fail(fault, isNoTls(error))
          const reason = options.check(socket.data)
          if (reason !== undefined) return fail(reason)
          clearTimeout(timer)
          socket.data.end = silentEnd
          resolve({ ok: true, link: socket.data })
        },
        data: (socket, chunk) => socket.data.onData(chunk),
        drain: socket => socket.data.onDrain(),
        end: socket => socket.data.close(),
        error: (socket, error) => socket.data.destroy(error.message),
        close: (socket, error) => socket.data?.onClose(error),
        connectError: (_socket, error) => fail(connectFault(error)),
      },
    })
    // It tells by `connectError` as well; here are those that never became a socket.
    opening.catch((error: Error) => fail(connectFault(error)))
  })
}

/** Whether there is TLS at the other end at all; whose it is, `check` finds out. */
function faultOfHandshake(link: Link, error: Error | null): string | undefined {
  if (link.peerCertificate !== undefined) return undefined
  if (isNoTls(error)) {
    return (
      'something other than a peer port of fnd answers there, perhaps its HTTP port: the peer ' +
      'port is one higher unless --peer-listen says otherwise'
    )
  }
  return `the TLS handshake failed (${error?.message ?? 'no certificate'})`
}

/** What came back was no TLS. */
function isNoTls(error: Error | null): boolean {
  return error?.message.includes('WRONG_VERSION_NUMBER') === true
}

function connectFault(error: Error): string {
  const { code } = error as NodeJS.ErrnoException
  const words: Record<string, string> = {
    ECONNREFUSED: 'nothing listens there',
    ENOTFOUND: 'there is no host of that name',
    EHOSTUNREACH: 'there is no route to that host',
    ENETUNREACH: 'there is no route to that network',
    ETIMEDOUT: 'no answer in time',
  }
  return words[code ?? ''] ?? error.message
}
