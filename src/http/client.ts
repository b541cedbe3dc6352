/**
 * A raw HTTP/1.1 client over unix sockets, kept small because each call to a function goes through
 * it: one write for a request with a short body, one parse for a short reply. Longer bodies stream
 * both ways at once, with backpressure in both directions, and nothing is buffered beyond
 * `streamWindowBytes`.
 *
 * One exchange per connection at a time, no pipelining. A connection is used again only after both
 * bodies ended cleanly.
 */
import type { Socket } from 'bun'
import { assert } from '../errors.ts'
import { ExchangeError, type ExchangeFault } from './exchange-error.ts'
import { free, ReadAhead } from './relay.ts'
import { LastHead, piece } from './reply-bytes.ts'
import { ChunkedDecoder, chunkFrom, headEnd, lineEnd, parseHead, type ReplyHead } from './wire.ts'

export interface Reply {
  readonly status: number
  /** Name and value alternate, as sent. */
  readonly headers: readonly string[]
  /** Known length of the body, or undefined when it is framed otherwise. */
  readonly length: number | undefined
  /** The whole body when it came with the head, else a stream. */
  readonly body: Uint8Array | ReadableStream<Uint8Array>
}

export interface ExchangeLimits {
  readonly headBytesMax: number
  /** 0 = no limit. */
  readonly bodyBytesMax: number
}

export interface OutgoingBody {
  /** A whole short body, a stream, or null for no body (sent as length 0). */
  readonly body: Uint8Array | ReadableStream<Uint8Array> | null
  /** Of a stream: its declared length, or undefined for chunked. */
  readonly length?: number | undefined
}

/** Hears of an exchange: of its reply at most once, of its end exactly once. */
export interface ExchangeSink {
  /** The head of the reply is here, and with it a short body, or the stream of a longer one. */
  replied(reply: Reply): void
  /**
   * `status` is that of the reply, or 0 when it broke before the head; `fault` is null when the
   * last byte of the body came. With a fault and no reply before it, there will be none. Runs
   * before the reader of a streamed body sees the end.
   */
  exchangeEnded(status: number, fault: ExchangeFault | null): void
}

/** Bytes of a streamed reply that wait in memory for a slow reader before the socket is paused. */
const streamWindowBytes = 256 * 1024
/** Chunks of a request below this are copied into one piece with their framing. */
const smallChunkBytesMax = 16 * 1024
const noBytes = new Uint8Array(0)
/** Short requests are put together here: each would otherwise leave a buffer to the collector. */
const scratch = Buffer.alloc(16 * 1024)

class Connection {
  readonly #client: Client
  socket: Socket<Connection> | null = null
  /** Set while an exchange is under way. */
  #sink: ExchangeSink | null = null
  #head: Buffer | null = null
  #reply: ReadableStreamDefaultController<Uint8Array> | null = null
  /** A streamed reply that nobody was given yet. */
  #held: Reply | null = null
  #status = 0
  #left = 0
  #decoder: ChunkedDecoder | null = null
  #isUntilClose = false
  #bodyBytes = 0
  #interimBytes = 0
  #isKeepAlive = false
  #isPaused = false
  /** Unsent tail of what was written, and who waits for it to drain. */
  #unsent: Uint8Array | null = null
  #drained: (() => void) | null = null
  #upload: ReadAhead | null = null
  /** When the last exchange ended, on the monotonic clock. */
  idleSinceMs = 0

  constructor(client: Client) {
    this.#client = client
  }

  exchange(head: string, request: OutgoingBody, sink: ExchangeSink): void {
    assert(this.#sink === null, 'a connection carries one exchange at a time')
    this.#sink = sink
    this.#bodyBytes = 0
    this.#interimBytes = 0
    this.#status = 0
    const { body } = request
    if (body === null) {
      this.#writeWhole(`${head}content-length: 0\r\n\r\n`, noBytes)
    } else if (body instanceof Uint8Array) {
      this.#writeWhole(`${head}content-length: ${body.length}\r\n\r\n`, body)
    } else {
      const framing =
        request.length === undefined
          ? 'transfer-encoding: chunked\r\n\r\n'
          : `content-length: ${request.length}\r\n\r\n`
      this.#write(Buffer.from(head + framing, 'latin1'))
      void this.#sendStream(body, request.length)
    }
  }

  /** Pumps a request body; a body that ends short or runs over its length breaks the exchange. */
  async #sendStream(body: ReadableStream<Uint8Array>, length: number | undefined): Promise<void> {
    const reader = new ReadAhead(body)
    this.#upload = reader
    let sent = 0
    try {
      for (;;) {
        const { done, value } = await reader.read()
        if (this.#upload !== reader) return
        if (done) break
        if (value.length === 0) continue
        sent += value.length
        if (length !== undefined && sent > length) return this.abort('aborted')
        const isApart = length === undefined && value.length >= smallChunkBytesMax
        if (isApart) this.#write(Buffer.from(`${value.length.toString(16)}\r\n`))
        this.#write(length === undefined && !isApart ? chunkFrom(value) : value)
        if (this.#unsent !== null) {
          await new Promise<void>(resolve => {
            this.#drained = resolve
          })
        }
        if (this.#upload !== reader) return
        // Only now: while the chunk waited, joining its end to it would have copied it.
        if (isApart) this.#write(lineEnd)
        free(value)
      }
    } catch {
      // The sender of the request went away: the only thing to do is to end the exchange.
      if (this.#upload === reader) this.abort('aborted')
      return
    }
    if (length !== undefined && sent !== length) return this.abort('aborted')
    if (length === undefined) this.#write(Buffer.from('0\r\n\r\n'))
    this.#upload = null
    // The reply may have ended before the request did; then the connection is free only now.
    if (this.#sink === null) this.#settleConnection()
  }

  /** A head and its whole body, by one write: the kernel copies what it takes at once. */
  #writeWhole(text: string, body: Uint8Array): void {
    const length = text.length + body.length
    const { socket } = this
    const isShort = socket !== null && this.#unsent === null && length <= scratch.length
    const bytes = isShort ? scratch : Buffer.allocUnsafe(length)
    bytes.write(text, 0, 'latin1')
    if (body.length > 0) bytes.set(body, text.length)
    if (!isShort) return this.#write(bytes)
    const written = Math.max(0, socket.write(scratch, 0, length))
    if (written < length) this.#unsent = Uint8Array.prototype.slice.call(scratch, written, length)
  }

  #write(bytes: Uint8Array): void {
    if (this.#unsent !== null) {
      this.#unsent = Buffer.concat([this.#unsent, bytes])
      return
    }
    const socket = this.socket
    if (socket === null) {
      this.#unsent = bytes
      return
    }
    const written = socket.write(bytes)
    if (written < bytes.length) this.#unsent = bytes.subarray(Math.max(written, 0))
  }

  opened(socket: Socket<Connection>): void {
    this.socket = socket
    this.drain()
  }

  drain(): void {
    const bytes = this.#unsent
    if (bytes !== null && this.socket !== null) {
      this.#unsent = null
      this.#write(bytes)
    }
    if (this.#unsent === null && this.#drained !== null) {
      const resume = this.#drained
      this.#drained = null
      resume()
    }
  }

  data(chunk: Buffer): void {
    // Bytes nobody asked for: the function does not speak HTTP, so the connection is worthless.
    if (this.#sink === null) return this.#close()
    if (this.#reply !== null) return this.#bodyData(chunk)
    const bytes = this.#head === null ? chunk : Buffer.concat([this.#head, chunk])
    const { lastHead } = this.#client
    const known = lastHead.startOf(bytes)
    if (known !== null) {
      this.#head = null
      return this.#startReply(known, bytes, lastHead.length)
    }
    const end = headEnd(bytes, this.#head === null ? 0 : Math.max(0, this.#head.length - 3))
    if (end === -1) {
      if (bytes.length > this.#client.limits.headBytesMax) return this.abort('head-too-large')
      this.#head = bytes
      return
    }
    this.#head = null
    if (end > this.#client.limits.headBytesMax) return this.abort('head-too-large')
    const head = parseHead(bytes.toString('latin1', 0, end - 4))
    if (head === 'too-many-headers') return this.abort('head-too-large')
    if (typeof head === 'string') return this.abort('bad-reply')
    if (head.status < 200) {
      // 100 Continue and its kin are not the reply; 101 was never asked for.
      if (head.status === 101) return this.abort('bad-reply')
      this.#interimBytes += end
      if (this.#interimBytes > this.#client.limits.headBytesMax) return this.abort('head-too-large')
      if (bytes.length > end) this.data(bytes.subarray(end))
      return
    }
    lastHead.note(head, bytes.subarray(0, end))
    this.#startReply(head, bytes, end)
  }

  /** `end` is where the head ends in `bytes`. */
  #startReply(head: ReplyHead, bytes: Buffer, end: number): void {
    const { framing, status, headers } = head
    this.#isKeepAlive = head.isKeepAlive
    this.#status = status
    const sink = this.#sink
    assert(sink !== null, 'a reply has somebody who waits for it')
    const bodyBytesMax = this.#client.limits.bodyBytesMax
    if (typeof framing === 'number') {
      if (bodyBytesMax > 0 && framing > bodyBytesMax) return this.abort('body-too-large')
      if (bytes.length - end >= framing) {
        const body = piece(bytes, end, end + framing)
        sink.replied({ status, headers, length: framing, body })
        return this.#finish(bytes.length - end === framing)
      }
    }
    const rest = bytes.subarray(end)
    if (framing === 'chunked') {
      const whole = this.#wholeChunked(rest, bodyBytesMax)
      if (whole === 'bad') return this.abort('bad-reply')
      if (whole === 'large') return this.abort('body-too-large')
      if (whole !== 'more') {
        sink.replied({ status, headers, length: undefined, body: whole.body })
        return this.#finish(whole.isExact)
      }
    }
    this.#streamReply(head, rest, sink)
  }

  /** A chunked body that came whole with its head needs no stream. */
  #wholeChunked(
    rest: Buffer,
    bytesMax: number,
  ): { body: Uint8Array; isExact: boolean } | 'more' | 'bad' | 'large' {
    if (rest.length < 5 || rest[rest.length - 1] !== 10 || rest[rest.length - 3] !== 10)
      return 'more'
    const decoder = new ChunkedDecoder()
    const pieces: Uint8Array[] = []
    const step = decoder.feed(rest, piece => pieces.push(piece))
    if (step !== 'end') return step
    const first = pieces[0]
    const body = pieces.length === 1 && first !== undefined ? first : Buffer.concat(pieces)
    if (bytesMax > 0 && body.length > bytesMax) return 'large'
    return { body, isExact: decoder.rest === 0 }
  }

  #streamReply(head: ReplyHead, rest: Buffer, sink: ExchangeSink): void {
    const { framing, status, headers } = head
    this.#left = typeof framing === 'number' ? framing : 0
    this.#decoder = framing === 'chunked' ? new ChunkedDecoder() : null
    this.#isUntilClose = framing === 'until-close'
    const stream = new ReadableStream<Uint8Array>(
      {
        start: controller => {
          this.#reply = controller
        },
        pull: () => this.#resume(),
        // The reader went away: the function's remaining answer is of no use to anybody.
        cancel: () => this.abort('aborted'),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: streamWindowBytes }),
    )
    // What came with the head is read first: if it breaks the reply, there is none.
    this.#held = {
      status,
      headers,
      length: typeof framing === 'number' ? framing : undefined,
      body: stream,
    }
    if (rest.length > 0) this.#bodyData(rest)
    this.#handOver(sink)
  }

  /** Hands over the reply that is held back, unless that was done or it broke. */
  #handOver(sink: ExchangeSink): void {
    const reply = this.#held
    this.#held = null
    if (reply !== null) sink.replied(reply)
  }

  #bodyData(chunk: Uint8Array): void {
    const controller = this.#reply
    assert(controller !== null, 'body bytes belong to a reply that streams')
    if (this.#decoder !== null) {
      // The pieces are moved together, so that they go on as one that owns its memory.
      let bytes = 0
      const step = this.#decoder.feed(chunk, piece => {
        if (piece.byteOffset !== chunk.byteOffset + bytes) chunk.set(piece, bytes)
        bytes += piece.length
      })
      if (bytes > 0) this.#enqueue(chunk.subarray(0, bytes))
      if (this.#sink === null) return
      if (step === 'bad') return this.abort('bad-reply')
      if (step === 'end') this.#endStream(this.#decoder.rest === 0)
    } else if (this.#isUntilClose) {
      this.#enqueue(chunk)
    } else {
      const take = Math.min(this.#left, chunk.length)
      this.#enqueue(take === chunk.length ? chunk : chunk.subarray(0, take))
      this.#left -= take
      if (this.#sink !== null && this.#left === 0) this.#endStream(take === chunk.length)
    }
    if (this.#reply !== null && (controller.desiredSize ?? 0) <= 0) this.#pause()
  }

  #enqueue(piece: Uint8Array): void {
    if (this.#reply === null) return
    this.#bodyBytes += piece.length
    const bytesMax = this.#client.limits.bodyBytesMax
    if (bytesMax > 0 && this.#bodyBytes > bytesMax) return this.abort('body-too-large')
    this.#reply.enqueue(piece)
  }

  #endStream(isExact: boolean): void {
    const controller = this.#reply
    this.#reply = null
    this.#decoder = null
    this.#finish(isExact)
    controller?.close()
  }

  #pause(): void {
    if (this.#isPaused || this.socket === null) return
    this.#isPaused = true
    this.socket.pause()
  }

  #resume(): void {
    if (!this.#isPaused || this.socket === null) return
    this.#isPaused = false
    this.socket.resume()
  }

  /** The reply came whole. `isExact`: no byte followed it. */
  #finish(isExact: boolean): void {
    const sink = this.#sink
    assert(sink !== null, 'an exchange ends once')
    this.#handOver(sink)
    this.#sink = null
    if (!isExact) this.#isKeepAlive = false
    if (this.#upload === null) this.#settleConnection()
    sink.exchangeEnded(this.#status, null)
  }

  #settleConnection(): void {
    if (!this.#isKeepAlive || this.#unsent !== null) return this.#close()
    this.#resume()
    this.#client.keep(this)
  }

  /** Breaks the exchange in progress, if any, and closes the connection. */
  abort(fault: ExchangeFault): void {
    const sink = this.#sink
    const controller = this.#reply
    this.#sink = null
    this.#held = null
    this.#reply = null
    this.#decoder = null
    this.#close()
    sink?.exchangeEnded(this.#status, fault)
    if (fault !== 'aborted') controller?.error(new ExchangeError(fault))
  }

  #close(): void {
    const upload = this.#upload
    this.#upload = null
    this.#unsent = null
    this.#drained?.()
    this.#drained = null
    // Cancelling tells the sender to stop; it has nothing more to say to us, not even an error.
    upload?.cancel().catch(() => undefined)
    this.#client.drop(this)
    const socket = this.socket
    this.socket = null
    socket?.terminate()
  }

  /** The peer closed, or the socket failed. */
  closed(): void {
    if (this.socket === null && this.#sink === null) return
    this.socket = null
    if (this.#sink !== null && this.#isUntilClose && this.#reply !== null) {
      this.#isKeepAlive = false
      return this.#endStream(true)
    }
    this.abort('closed')
  }
}

/** An exchange under way. */
export interface Exchange {
  /** Breaks it off. Not to be called once it has ended: the connection may carry another. */
  abort(fault: ExchangeFault): void
}

/**
 * Idle connections are not used again after this time: a function's own server may drop them (Node
 * after 5 s), and a request that crosses such a close in flight would fail (fnproject/fn#1470).
 */
const keptAliveMsMax = 1000

/** Connections to one socket path. Idle ones are used last in, first out. */
export class Client {
  readonly limits: ExchangeLimits
  /** A function repeats its head from reply to reply, so the last one is not read again. */
  readonly lastHead = new LastHead()
  readonly #path: string
  readonly #idle: Connection[] = []
  readonly #all = new Set<Connection>()
  #isClosed = false

  get isClosed(): boolean {
    return this.#isClosed
  }

  constructor(path: string, limits: ExchangeLimits) {
    this.#path = path
    this.limits = limits
  }

  /**
   * Sends a request; `sink` hears what comes of it, never within this call. `head` is the request
   * line and headers, each line ended by `\r\n`, without the framing of the body.
   */
  exchange(head: string, request: OutgoingBody, sink: ExchangeSink): Exchange {
    assert(!this.#isClosed, 'no exchange starts on a closed client')
    const connection = this.#idleConnection() ?? this.#open()
    connection.exchange(head, request, sink)
    return connection
  }

  #idleConnection(): Connection | undefined {
    for (;;) {
      const connection = this.#idle.pop()
      if (connection === undefined) return undefined
      if (performance.now() - connection.idleSinceMs < keptAliveMsMax) return connection
      connection.abort('closed')
    }
  }

  #open(): Connection {
    const connection = new Connection(this)
    this.#all.add(connection)
    Bun.connect<Connection>({ unix: this.#path, data: connection, socket: handlers }).catch(() =>
      // The reason is always the same, nobody listens, and `connectError` does not always come.
      connection.abort('refused'),
    )
    return connection
  }

  keep(connection: Connection): void {
    if (this.#isClosed) return connection.abort('closed')
    connection.idleSinceMs = performance.now()
    this.#idle.push(connection)
  }

  drop(connection: Connection): void {
    if (!this.#all.delete(connection)) return
    const at = this.#idle.indexOf(connection)
    if (at !== -1) this.#idle.splice(at, 1)
  }

  /** Breaks every exchange and closes every connection. */
  close(): void {
    this.#isClosed = true
    for (const connection of [...this.#all]) connection.abort('closed')
  }
}

const handlers = {
  open: (socket: Socket<Connection>) => socket.data.opened(socket),
  data: (socket: Socket<Connection>, chunk: Buffer) => socket.data.data(chunk),
  drain: (socket: Socket<Connection>) => socket.data.drain(),
  close: (socket: Socket<Connection>) => socket.data.closed(),
  end: (socket: Socket<Connection>) => socket.data.closed(),
  error: (socket: Socket<Connection>) => socket.data.closed(),
  connectError: (socket: Socket<Connection>) => socket.data.abort('refused'),
}
