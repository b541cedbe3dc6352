/**
 * Bodies of any size, a connection for each, in pieces that wait until the reader wants them: the
 * sender holds one piece, the reader at most `bufferBytesMax`, the rest waits in the kernels. Each
 * side says every few seconds that it lives, so that a slow one is told from a dead one.
 */
import { FndError } from '../errors.ts'
import type { NodeId } from '../raft/types.ts'
import { failureFrom, failureOf, fndErrorOf } from './calls.ts'
import { dial, type Self, unreachable } from './connection.ts'
import { decodeJson, type FrameKind, frameKinds, jsonFrame, makeFrame } from './frames.ts'
import type { Link } from './transport.ts'
import type { PeerHandlers } from './types.ts'

const chunkBytesMax = 256 * 1024
/** A head and an answer are JSON of at most that. */
const streamFrameBytesMax = 1024 * 1024
/** What a reader has received and not taken, until it stops receiving. */
const bufferBytesMax = 1024 * 1024

const aliveMs = 5000
/** Without any byte for so long, while we are reading, the other side is gone. */
const silentMsMax = 30_000

/** One end of a stream: both can send and receive a body, an answer and a failure. */
class StreamEnd {
  readonly #link: Link
  readonly #what: string
  readonly #aliveTimer: Timer
  #chunks: Uint8Array[] = []
  #bufferedBytes = 0
  #isPaused = false
  #isEnded = false
  #error: FndError | undefined
  #answer: { readonly value: unknown } | undefined
  /** Who waits for something to arrive, and who waits until a piece has left. */
  #wake: (() => void) | undefined
  #wakeSender: (() => void) | undefined
  #isDiscarding = false
  #quietTicks = 0

  constructor(link: Link, what: string) {
    this.#link = link
    this.#what = what
    link.reader.sizeMax = streamFrameBytesMax
    link.end = {
      frame: (kind, payload) => this.#receive(kind, payload),
      closed: reason => this.#fail(reason ?? 'it closed the connection'),
      drained: () => this.#wakeSender?.(),
    }
    this.#aliveTimer = setInterval(() => this.#tick(), aliveMs)
  }

  #receive(kind: FrameKind, payload: Uint8Array): void {
    this.#quietTicks = 0
    if (kind === frameKinds.alive) return
    if (kind === frameKinds.chunk && !this.#isEnded) {
      if (this.#isDiscarding) return
      this.#chunks.push(payload)
      this.#bufferedBytes += payload.length
      if (this.#bufferedBytes > bufferBytesMax) {
        this.#isPaused = true
        this.#link.pause()
      }
    } else if (kind === frameKinds.end) {
      this.#isEnded = true
    } else if (kind === frameKinds.answer) {
      this.#answer = { value: decodeJson(payload)?.value }
    } else if (kind === frameKinds.failure) {
      this.#error ??= failureFrom(payload)
    } else {
      this.#link.destroy('it sent what nobody asked for')
    }
    this.#wake?.()
    if (this.isBroken) this.#wakeSender?.()
  }

  #tick(): void {
    // A paused reader hears nothing, not even that the sender lives.
    this.#quietTicks = this.#isPaused ? 0 : this.#quietTicks + 1
    if (this.#quietTicks * aliveMs > silentMsMax) return this.#link.destroy('it has gone silent')
    if (this.#link.pendingBytes === 0) this.#link.write(makeFrame(frameKinds.alive))
  }

  #fail(reason: string): void {
    clearInterval(this.#aliveTimer)
    this.#error ??= new FndError('peer-outcome-unknown', { detail: `${this.#what}: ${reason}` })
    this.#wake?.()
    this.#wakeSender?.()
  }

  /** Until something arrived. */
  #news(): Promise<void> {
    return new Promise(resolve => {
      this.#wake = () => {
        this.#wake = undefined
        resolve()
      }
    })
  }

  /** What the other side answered. Rejects with its failure, or when it is gone. */
  async answer(): Promise<unknown> {
    while (this.#answer === undefined) {
      if (this.#error !== undefined) throw this.#error
      await this.#news()
    }
    return this.#answer.value
  }

  /** Whether the other side has failed or is gone, so that sending on is of no use. */
  get isBroken(): boolean {
    return this.#error !== undefined || this.#answer !== undefined || !this.#link.isOpen
  }

  /**
   * The body that comes in. Who leaves the iteration early does not want the rest, but may still
   * answer: so the rest is received and thrown away until the sender has read why.
   */
  async *body(): AsyncGenerator<Uint8Array> {
    try {
      while (true) {
        const chunk = this.#chunks.shift()
        if (chunk !== undefined) {
          this.#bufferedBytes -= chunk.length
          if (this.#isPaused && this.#bufferedBytes <= bufferBytesMax / 2) {
            this.#isPaused = false
            this.#link.resume()
          }
          yield chunk
        } else if (this.#isEnded) {
          // Before the error: who has sent everything closes the connection.
          return
        } else if (this.#error !== undefined) {
          throw this.#error
        } else {
          await this.#news()
        }
      }
    } finally {
      this.#isDiscarding = true
      this.#chunks = []
      this.#isPaused = false
      this.#link.resume()
    }
  }

  /** Sends a body to its end. Stops early when nobody reads it any more. */
  async send(body: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const piece of body) {
      for (let at = 0; at < piece.length; at += chunkBytesMax) {
        if (this.isBroken) return
        const chunk = piece.subarray(at, at + chunkBytesMax)
        if (!this.#link.write(makeFrame(frameKinds.chunk, chunk))) await this.#left()
      }
    }
    this.#link.write(makeFrame(frameKinds.end))
  }

  /** Until the kernel has taken everything, or nobody wants it any more. */
  #left(): Promise<void> {
    if (this.isBroken || this.#link.pendingBytes === 0) return Promise.resolve()
    return new Promise(resolve => {
      this.#wakeSender = () => {
        this.#wakeSender = undefined
        resolve()
      }
    })
  }

  sendAnswer(value: unknown): void {
    this.#link.write(jsonFrame(frameKinds.answer, value))
  }

  sendFailure(error: FndError): void {
    this.#link.write(makeFrame(frameKinds.failure, failureOf(error)))
  }

  /** In good order: what was written still leaves. */
  close(): void {
    clearInterval(this.#aliveTimer)
    this.#link.close()
  }

  destroy(): void {
    this.#link.destroy()
  }
}

export interface StreamTarget {
  readonly self: Self
  readonly nodeId: NodeId
  readonly address: string
}

async function open(
  target: StreamTarget,
  begin: { readonly kind: 'upload' | 'download'; readonly method: string; readonly head: unknown },
): Promise<StreamEnd> {
  const what = `node ${target.nodeId}`
  let end: StreamEnd | undefined
  const dialed = await dial(target.self, {
    ...{ address: target.address, nodeId: target.nodeId, purpose: 'stream' },
    onReady: link => {
      end = new StreamEnd(link, what)
      link.write(jsonFrame(frameKinds.begin, begin))
    },
  })
  if (!dialed.ok) throw unreachable(what, dialed.reason)
  if (end === undefined) throw unreachable(what, 'no connection')
  return end
}

export async function upload(
  target: StreamTarget,
  method: string,
  head: unknown,
  body: AsyncIterable<Uint8Array>,
): Promise<unknown> {
  const end = await open(target, { kind: 'upload', method, head })
  try {
    await end.send(body)
    return await end.answer()
  } finally {
    end.destroy()
  }
}

export async function download(
  target: StreamTarget,
  method: string,
  head: unknown,
): Promise<{ head: unknown; body: AsyncIterable<Uint8Array> }> {
  const end = await open(target, { kind: 'download', method, head })
  try {
    return { head: await end.answer(), body: closing(end) }
  } catch (error) {
    end.destroy()
    throw error
  }
}

async function* closing(end: StreamEnd): AsyncGenerator<Uint8Array> {
  try {
    yield* end.body()
  } finally {
    end.destroy()
  }
}

export interface StreamServing {
  readonly from: NodeId
  readonly handlers: PeerHandlers
  readonly onBug: (error: unknown) => void
}

/** The answering end: one upload or download, which the first frame names. */
export function serveStream(serving: StreamServing, link: Link): void {
  link.reader.sizeMax = streamFrameBytesMax
  link.end = {
    closed: () => undefined,
    frame: (kind, payload) => {
      const begin = (decodeJson(payload)?.value ?? {}) as Record<string, unknown>
      const { method, head } = begin
      if (kind !== frameKinds.begin || typeof method !== 'string') {
        return link.destroy('it did not say what it wants')
      }
      const end = new StreamEnd(link, `node ${serving.from}`)
      const isUpload = begin.kind === 'upload'
      void (isUpload ? serveUpload : serveDownload)(serving, end, { method, head })
        .catch(error => end.sendFailure(fndErrorOf(error, serving.onBug)))
        .finally(() => end.close())
    },
  }
}

interface Begin {
  readonly method: string
  readonly head: unknown
}

async function serveUpload(
  { handlers, from }: StreamServing,
  end: StreamEnd,
  { method, head }: Begin,
): Promise<void> {
  const { uploads } = handlers
  const handler = Object.hasOwn(uploads, method) ? uploads[method] : undefined
  if (handler === undefined) throw new FndError('peer-method-unknown', { detail: method })
  end.sendAnswer(await handler({ from, method, head }, end.body()))
}

async function serveDownload(
  { handlers, from }: StreamServing,
  end: StreamEnd,
  { method, head }: Begin,
): Promise<void> {
  const { downloads } = handlers
  const handler = Object.hasOwn(downloads, method) ? downloads[method] : undefined
  if (handler === undefined) throw new FndError('peer-method-unknown', { detail: method })
  const answer = await handler({ from, method, head })
  end.sendAnswer(answer.head)
  await end.send(answer.body)
}
