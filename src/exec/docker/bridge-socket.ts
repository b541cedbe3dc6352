/**
 * The server side of the http-stream contract for fnd's own client (`src/http/client.ts`): small
 * requests in, replies out, one at a time on a connection, with backpressure both ways.
 */
import { chmodSync, rmSync } from 'node:fs'
import type { Socket } from 'bun'
import { assert } from '../../errors.ts'
import { ChunkedDecoder, headEnd } from '../../http/wire.ts'

/** The caller closed the connection, or nobody reads its request any more. */
export class CallerGone extends Error {
  override readonly name = 'CallerGone'
}

/** Bytes of a request that wait for a slow function before its connection is paused. */
const windowBytes = 256 * 1024

/** One request, and the reply to it. */
export class ServedCall {
  /** Request line and headers as latin1 text, without the final empty line. */
  readonly head: string
  /** Declared length of the body; undefined when it is chunked. */
  readonly length: number | undefined
  /** Whether bytes of the reply were written. */
  isReplied = false
  readonly #connection: Connection
  readonly #gone = new AbortController()
  readonly #pieces: Uint8Array[] = []
  #bytes = 0
  #isWhole = false
  #isSkipped = false
  #reader: PromiseWithResolvers<Uint8Array | undefined> | null = null

  constructor(connection: Connection, head: string) {
    this.#connection = connection
    this.head = head
    const length = /\r\ncontent-length: (\d+)/i.exec(head)?.[1]
    this.length = length === undefined ? undefined : Number(length)
  }

  /** Fires when the caller closes the connection before the reply is whole. */
  get gone(): AbortSignal {
    return this.#gone.signal
  }

  /** A piece of the body; undefined at its end. Rejects with `CallerGone`. */
  read(): Promise<Uint8Array | undefined> {
    assert(this.#reader === null, 'one reader at a time')
    const piece = this.#pieces.shift()
    if (piece !== undefined) {
      this.#bytes -= piece.length
      if (this.#bytes < windowBytes) this.#connection.resume()
      return Promise.resolve(piece)
    }
    if (this.#isWhole) return Promise.resolve(undefined)
    if (this.#isSkipped || this.gone.aborted) return Promise.reject(new CallerGone())
    this.#reader = Promise.withResolvers()
    return this.#reader.promise
  }

  /** Resolves when the bytes are on their way. Rejects with `CallerGone`. One at a time. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.gone.aborted) throw new CallerGone()
    this.isReplied = true
    await this.#connection.write(bytes)
    if (this.gone.aborted) throw new CallerGone()
  }

  /** The reply is whole. What is left of the request is skipped, as nobody reads it. */
  finish(): void {
    if (this.gone.aborted) return
    this.#skip()
    this.#connection.finish(this)
  }

  /** Breaks the connection off: what was written is not a whole reply. */
  terminate(): void {
    this.#connection.terminate()
  }

  get isWhole(): boolean {
    return this.#isWhole
  }

  /** For the connection: a piece of the body came. */
  push(piece: Uint8Array): void {
    if (this.#isSkipped || piece.length === 0) return
    const reader = this.#reader
    if (reader !== null) {
      this.#reader = null
      return reader.resolve(piece)
    }
    this.#pieces.push(piece)
    this.#bytes += piece.length
    if (this.#bytes >= windowBytes) this.#connection.pause()
  }

  /** For the connection: the body ended. */
  end(): void {
    this.#isWhole = true
    this.#reader?.resolve(undefined)
    this.#reader = null
  }

  /** For the connection: it closed. */
  close(): void {
    this.#skip()
    this.#gone.abort()
  }

  #skip(): void {
    this.#isSkipped = true
    this.#pieces.length = 0
    this.#bytes = 0
    this.#connection.resume()
    this.#reader?.reject(new CallerGone())
    this.#reader = null
  }
}

class Connection {
  readonly #listener: BridgeListener
  readonly #socket: Socket<Connection | undefined>
  #head: Buffer | null = null
  #call: ServedCall | null = null
  /** The reply of the call is whole, while its request is not. */
  #isReplied = false
  #left = 0
  #decoder: ChunkedDecoder | null = null
  #unsent: Uint8Array | null = null
  #drained: (() => void) | null = null
  #isPaused = false
  #isClosed = false

  constructor(listener: BridgeListener, socket: Socket<Connection | undefined>) {
    this.#listener = listener
    this.#socket = socket
  }

  data(chunk: Buffer): void {
    if (this.#isClosed) return
    if (this.#call !== null) return this.#bodyData(this.#call, chunk)
    const bytes = this.#head === null ? chunk : Buffer.concat([this.#head, chunk])
    const end = headEnd(bytes, 0)
    if (end === -1) {
      this.#head = bytes
      return
    }
    this.#head = null
    const call = new ServedCall(this, bytes.toString('latin1', 0, end - 4))
    this.#call = call
    this.#isReplied = false
    this.#left = call.length ?? 0
    this.#decoder = call.length === undefined ? new ChunkedDecoder() : null
    this.#bodyData(call, bytes.subarray(end))
    this.#listener.onCall(call)
  }

  #bodyData(call: ServedCall, chunk: Uint8Array): void {
    // fnd sends no request before it has the reply to the last one.
    if (call.isWhole) return this.terminate()
    if (this.#decoder === null) {
      if (chunk.length > this.#left) return this.terminate()
      this.#left -= chunk.length
      call.push(chunk)
      if (this.#left === 0) this.#endBody(call)
      return
    }
    const step = this.#decoder.feed(chunk, piece => call.push(piece))
    if (step === 'bad' || (step === 'end' && this.#decoder.rest > 0)) return this.terminate()
    if (step === 'end') this.#endBody(call)
  }

  #endBody(call: ServedCall): void {
    call.end()
    if (this.#isReplied) this.#call = null
  }

  finish(call: ServedCall): void {
    assert(this.#call === call, 'a call is finished once')
    if (call.isWhole) this.#call = null
    else this.#isReplied = true
  }

  write(bytes: Uint8Array): Promise<void> {
    assert(this.#unsent === null, 'one write at a time')
    this.#send(bytes)
    if (this.#unsent === null) return Promise.resolve()
    return new Promise(resolve => {
      this.#drained = resolve
    })
  }

  #send(bytes: Uint8Array): void {
    const written = Math.max(this.#socket.write(bytes), 0)
    this.#unsent = written < bytes.length ? bytes.subarray(written) : null
  }

  drain(): void {
    if (this.#unsent === null) return
    this.#send(this.#unsent)
    if (this.#unsent === null) this.#settleDrain()
  }

  #settleDrain(): void {
    const resume = this.#drained
    this.#drained = null
    resume?.()
  }

  pause(): void {
    if (this.#isPaused || this.#isClosed) return
    this.#isPaused = true
    this.#socket.pause()
  }

  resume(): void {
    if (!this.#isPaused || this.#isClosed) return
    this.#isPaused = false
    this.#socket.resume()
  }

  terminate(): void {
    this.closed()
    this.#socket.terminate()
  }

  closed(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#listener.drop(this)
    const call = this.#call
    this.#call = null
    if (call !== null && !this.#isReplied) call.close()
    this.#unsent = null
    this.#settleDrain()
  }
}

/** Listens on a unix socket of which only this user may take hold. */
export class BridgeListener {
  readonly onCall: (call: ServedCall) => void
  readonly #path: string
  readonly #listener: Bun.UnixSocketListener<Connection | undefined>
  readonly #connections = new Set<Connection>()

  constructor(path: string, onCall: (call: ServedCall) => void) {
    this.#path = path
    this.onCall = onCall
    this.#listener = Bun.listen<Connection | undefined>({
      unix: path,
      data: undefined,
      socket: {
        open: socket => {
          const connection = new Connection(this, socket)
          socket.data = connection
          this.#connections.add(connection)
        },
        data: (socket, chunk) => socket.data?.data(chunk),
        drain: socket => socket.data?.drain(),
        close: socket => socket.data?.closed(),
        end: socket => socket.data?.terminate(),
        error: socket => socket.data?.terminate(),
      },
    })
    chmodSync(path, 0o600)
  }

  drop(connection: Connection): void {
    this.#connections.delete(connection)
  }

  /** Breaks every connection, and removes the socket. */
  close(): void {
    this.#listener.stop(true)
    for (const connection of [...this.#connections]) connection.terminate()
    rmSync(this.#path, { force: true })
  }
}
