/** Receivers of syslog messages on real sockets, one for each of Fn's schemes. */
import { dlopen, FFIType } from 'bun:ffi'
import { closeSync, existsSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'

const fixtures = join(import.meta.dir, 'fixtures/tls')
/** Signed the certificate of `localhost` that `StreamReceiver` shows. */
export const authorityPath = join(fixtures, 'authority.pem')
export const authority = readFileSync(authorityPath, 'utf8')

export interface Receiver extends AsyncDisposable {
  readonly messages: string[]
}

/** Waits for what must come; a machine under load may take its time. */
export async function until(isSo: () => boolean, what: string): Promise<void> {
  const untilMs = performance.now() + 30_000
  while (!isSo()) {
    if (performance.now() > untilMs) throw new Error(`in vain: ${what}`)
    await Bun.sleep(5)
  }
}

/** TCP, TLS or a unix stream, with octet counting. */
export class StreamReceiver implements Receiver {
  readonly messages: string[] = []
  /** What no message came of. */
  readonly faults: string[] = []
  connections = 0
  readonly #sockets = new Set<Socket>()
  readonly #server: Server
  #isPaused: boolean

  private constructor(options: { readonly isTls: boolean; readonly isPaused: boolean }) {
    this.#isPaused = options.isPaused
    const onSocket = (socket: Socket) => this.#onSocket(socket)
    const localhost = (kind: string) => readFileSync(join(fixtures, `localhost.${kind}`), 'utf8')
    this.#server = options.isTls
      ? createTlsServer({ key: localhost('key'), cert: localhost('pem') }, onSocket)
      : createServer({ pauseOnConnect: options.isPaused }, onSocket)
  }

  static async listen(
    at: { readonly port: number } | { readonly path: string },
    { isTls = false, isPaused = false } = {},
  ): Promise<StreamReceiver> {
    const receiver = new StreamReceiver({ isTls, isPaused })
    const server = receiver.#server
    const listening = Promise.withResolvers<void>()
    server.once('listening', listening.resolve).once('error', listening.reject)
    server.listen('path' in at ? at : { port: at.port, host: isTls ? 'localhost' : '127.0.0.1' })
    await listening.promise
    return receiver
  }

  get port(): number {
    const address = this.#server.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    return address.port
  }

  /** Reads from here on. */
  resume(): void {
    this.#isPaused = false
    for (const socket of this.#sockets) socket.resume()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise(resolve => this.#server.close(resolve))
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }

  #onSocket(socket: Socket): void {
    this.connections += 1
    this.#sockets.add(socket)
    let held = Buffer.alloc(0)
    socket.on('error', error => this.faults.push(error.message))
    socket.on('close', () => this.#sockets.delete(socket))
    socket.on('data', (chunk: Buffer) => {
      held = this.#read(Buffer.concat([held, chunk]))
    })
    if (this.#isPaused) socket.pause()
  }

  #read(bytes: Buffer): Buffer<ArrayBuffer> {
    let rest = Buffer.from(bytes)
    for (;;) {
      const head = /^(\d{1,6}) /.exec(rest.subarray(0, 8).toString('latin1'))
      if (head === null) {
        if (rest.length >= 8) this.faults.push(`no length: ${rest.subarray(0, 40)}`)
        return rest
      }
      const start = head[0].length
      const end = start + Number(head[1])
      if (rest.length < end) return rest
      this.messages.push(rest.subarray(start, end).toString())
      rest = rest.subarray(end)
    }
  }
}

export class UdpReceiver implements Receiver {
  readonly messages: string[] = []
  readonly #socket: Bun.udp.Socket<'buffer'>

  private constructor(socket: Bun.udp.Socket<'buffer'>, messages: string[]) {
    this.#socket = socket
    this.messages = messages
  }

  static async listen(port: number): Promise<UdpReceiver> {
    const messages: string[] = []
    const socket = await Bun.udpSocket({
      hostname: '127.0.0.1',
      port,
      socket: { data: (_, bytes) => void messages.push(bytes.toString()) },
    })
    return new UdpReceiver(socket, messages)
  }

  get port(): number {
    return this.#socket.port
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close()
  }
}

/** A unix datagram socket, as `/dev/log` is one. */
export class UnixgramReceiver implements Receiver {
  readonly messages: string[] = []
  readonly #path: string
  readonly #fd: number
  #reading: ReturnType<typeof setInterval> | undefined

  constructor(path: string, { isPaused = false } = {}) {
    const address = Buffer.from(`\x01\0${path}\0`)
    this.#path = path
    this.#fd = libc.socket(1, 2, 0)
    if (libc.bind(this.#fd, address, address.length) !== 0) throw new Error(`no bind to ${path}`)
    if (!isPaused) this.resume()
  }

  resume(): void {
    this.#reading ??= setInterval(() => this.#read(), 1)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#reading)
    closeSync(this.#fd)
    rmSync(this.#path)
  }

  #read(): void {
    const buffer = Buffer.alloc(64 * 1024)
    for (;;) {
      const length = Number(libc.recv(this.#fd, buffer, buffer.length, 0x40))
      if (length < 0) return
      this.messages.push(buffer.subarray(0, length).toString())
    }
  }
}

const musl = `/lib/libc.musl-${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}.so.1`
const { i32, i64, ptr, u64 } = FFIType
const { symbols: libc } = dlopen(existsSync(musl) ? musl : 'libc.so.6', {
  socket: { args: [i32, i32, i32], returns: i32 },
  bind: { args: [i32, ptr, i32], returns: i32 },
  recv: { args: [i32, ptr, u64, i32], returns: i64 },
})
