/**
 * The ways to a syslog receiver, behind one face: TCP, TLS, unix streams, UDP, unix datagrams.
 * Nothing here buffers: what the kernel does not take stays with the caller.
 */
import { rootCertificates } from './certificates.ts'
import type { SyslogTarget } from './syslog-url.ts'
import { UnixDatagrams } from './unix-datagrams.ts'

export interface SyslogSocket {
  /**
   * How many bytes were taken; for datagrams all or none. Less than all: `writable` is called when
   * it is worth trying again. -1: the connection is gone, and `lost` has been or will be called.
   */
  write(bytes: Uint8Array): number
  /** What was taken is still sent. Nothing is called after this. Idempotent. */
  close(): void
}

export interface SyslogSocketEvents {
  writable(): void
  /** Called once at most, and only after the socket was handed out. */
  lost(reason: string): void
}

export interface SyslogSocketOptions {
  /** The connection, and with TLS the handshake, must be there by then. */
  readonly connectMs: number
  /** Certificates of the authorities that TLS trusts; by default this machine's and Bun's. */
  readonly authorities?: readonly string[]
}

/** Rejects with an `Error` that says why in one line. */
export function openSyslogSocket(
  target: SyslogTarget,
  events: SyslogSocketEvents,
  options: SyslogSocketOptions,
): Promise<SyslogSocket> {
  switch (target.transport) {
    case 'udp':
      return openUdp(target.host, target.port, events)
    case 'unixgram':
      return UnixDatagrams.open(target.path, events)
    case 'tls':
      return openTls(target, events, options)
    case 'unix':
      return new Stream(events, false).open({ unix: target.path }, options)
    case 'tcp':
      return new Stream(events, false).open({ hostname: target.host, port: target.port }, options)
  }
}

export function isDatagram(target: SyslogTarget): boolean {
  return target.transport === 'udp' || target.transport === 'unixgram'
}

type Address =
  | { readonly unix: string }
  | { readonly hostname: string; readonly port: number; readonly tls?: Bun.TLSOptions }

async function openTls(
  target: { readonly host: string; readonly port: number },
  events: SyslogSocketEvents,
  options: SyslogSocketOptions,
): Promise<SyslogSocket> {
  const ca = [...(options.authorities ?? (await rootCertificates()))]
  const tls = { ca, rejectUnauthorized: true, serverName: target.host }
  const address = { hostname: target.host, port: target.port, tls }
  return new Stream(events, true).open(address, options)
}

/** Bun's socket is used, not that of `node:net`: it tells how many bytes the kernel took. */
class Stream implements SyslogSocket {
  readonly #events: SyslogSocketEvents
  readonly #hasHandshake: boolean
  readonly #opened = Promise.withResolvers<void>()
  #socket: Bun.Socket<unknown> | undefined
  #state: 'opening' | 'open' | 'closed' = 'opening'
  #reason = 'the connection was closed by the receiver'

  constructor(events: SyslogSocketEvents, hasHandshake: boolean) {
    this.#events = events
    this.#hasHandshake = hasHandshake
  }

  async open(address: Address, { connectMs }: SyslogSocketOptions): Promise<SyslogSocket> {
    const late = setTimeout(() => {
      this.#refuse(new Error(`no connection in ${connectMs} ms`))
    }, connectMs)
    try {
      // Its promise is of no use: that of TLS settles before the handshake has.
      this.#connect(address).catch(this.#refuse)
      await this.#opened.promise
    } finally {
      clearTimeout(late)
    }
    return this
  }

  write(bytes: Uint8Array): number {
    if (this.#state !== 'open' || this.#socket === undefined) return -1
    return this.#socket.write(bytes)
  }

  close(): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#socket?.end()
  }

  #connect(address: Address): Promise<unknown> {
    const socket = this.#handlers()
    return 'unix' in address
      ? Bun.connect({ ...address, socket })
      : Bun.connect({ ...address, socket })
  }

  #handlers(): Bun.SocketHandler<unknown> {
    return {
      open: socket => {
        this.#socket = socket
        if (this.#state === 'closed') socket.end()
        else if (!this.#hasHandshake) this.#accept()
      },
      handshake: (_, isAuthorized, error) => {
        if (isAuthorized) this.#accept()
        else this.#refuse(error ?? new Error('the certificate is not trusted'))
      },
      drain: () => {
        if (this.#state === 'open') this.#events.writable()
      },
      // A receiver has nothing to say; reading is how its end is noticed.
      data: () => undefined,
      error: (_, error) => {
        this.#reason = reasonOf(error)
      },
      connectError: (_, error) => this.#refuse(error),
      end: () => this.#onGone(),
      close: (_, error) => {
        if (error !== undefined) this.#reason = reasonOf(error)
        this.#onGone()
      },
    }
  }

  #accept(): void {
    if (this.#state !== 'opening') return
    this.#state = 'open'
    this.#opened.resolve()
  }

  readonly #refuse = (error: Error): void => {
    if (this.#state !== 'opening') return
    this.close()
    this.#opened.reject(new Error(reasonOf(error), { cause: error }))
  }

  #onGone(): void {
    if (this.#state === 'opening') return this.#refuse(new Error(this.#reason))
    if (this.#state === 'closed') return
    this.close()
    this.#events.lost(this.#reason)
  }
}

/** Bun's messages leave out the one word that tells why. */
function reasonOf(error: Error): string {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  return error.message.includes(code) ? error.message : `${error.message}: ${code}`
}

/** Connected, so that the kernel tells when nobody listens there. */
async function openUdp(
  hostname: string,
  port: number,
  events: SyslogSocketEvents,
): Promise<SyslogSocket> {
  let isClosed = false
  const close = (): void => {
    if (isClosed) return
    isClosed = true
    socket.close()
  }
  const lose = (reason: string): void => {
    if (isClosed) return
    close()
    events.lost(reason)
  }
  const socket = await Bun.udpSocket({
    connect: { hostname, port },
    socket: {
      drain: () => {
        if (!isClosed) events.writable()
      },
      // Bun 1.4 gives the error alone, where its types promise the socket before it.
      error: (...given: readonly unknown[]) => {
        const error = given.find(one => one instanceof Error)
        lose(error === undefined ? 'a datagram was refused' : reasonOf(error))
      },
    },
  })
  return {
    write: bytes => {
      if (isClosed) return -1
      try {
        return socket.send(bytes) ? bytes.length : 0
      } catch (cause) {
        if (!(cause instanceof Error && 'code' in cause)) throw cause
        // Not from within `write`: its caller is in the middle of counting what was sent.
        queueMicrotask(() => lose(reasonOf(cause)))
        return -1
      }
    },
    close,
  }
}
