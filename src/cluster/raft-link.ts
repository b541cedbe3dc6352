/**
 * The way of Raft's messages to one peer: a connection of their own, so that they never wait
 * behind a bulk. All messages of a turn leave in one write. What cannot leave soon is dropped,
 * since Raft repeats what matters and a stale message helps nobody.
 */
import type { Message, NodeId } from '../raft/types.ts'
import { batchEnd, encodeMessages, messageBytes } from '../raft/wire.ts'
import { type Dialed, dial, type Self } from './connection.ts'
import { frameHeadBytes, frameKinds, makeFrame, sealFrame } from './frames.ts'
import type { Hello, Refusal } from './hello.ts'
import type { Link } from './transport.ts'

/** Of messages that wait because the peer or the network is slow. */
const queueBytesMax = 64 * 1024 * 1024

/** Batches are not made much larger than that, and none while that much is on its way. */
const batchBytesAim = 1024 * 1024

const pingMs = 1000
/** Pings without an answer until the connection counts as dead. */
const unansweredMax = 3

const retryMsMin = 50
const retryMsMax = 1000

/** A message has some bytes of its own even when it is empty. */
export interface RaftLinkOptions {
  readonly self: Self
  readonly nodeId: NodeId
  readonly address: string
  /** Never called within `send`. */
  readonly onUnreachable: () => void
  readonly onUp: (hello: Hello, link: Link) => void
  readonly onSkew: (skewMs: number) => void
  /** Told when it differs from the last one. */
  readonly onProblem: (reason: string, refusal: Refusal | undefined) => void
  /** Uniform in [0, 1). */
  readonly random: () => number
}

export class RaftLink {
  readonly #options: RaftLinkOptions
  #address: string
  #link: Link | undefined
  #isDialing = false
  #isStopped = false
  #queue: Message[] = []
  #queuedBytes = 0
  #isFlushDue = false
  #isUnreachableDue = false
  #failures = 0
  #retryTimer: Timer | undefined
  #pingTimer: Timer | undefined
  #unanswered = 0
  rttMs: number | undefined
  /** Messages that were not sent, since the start. */
  dropped = 0
  /** Why there is no connection. */
  problem: string | undefined

  constructor(options: RaftLinkOptions) {
    this.#options = options
    this.#address = options.address
    this.#dial()
  }

  get isConnected(): boolean {
    return this.#link !== undefined
  }

  get lastHeardMs(): number {
    return this.#link?.lastHeardMs ?? 0
  }

  get address(): string {
    return this.#address
  }

  setAddress(address: string): void {
    if (address === this.#address) return
    this.#address = address
    this.#failures = 0
    // An open connection leads to the right node, whatever its address; the next takes the new one.
    this.wake()
  }

  /** The peer was heard of: try again now instead of when the backoff ends. */
  wake(): void {
    if (this.#retryTimer === undefined) return
    clearTimeout(this.#retryTimer)
    this.#retryTimer = undefined
    this.#dial()
  }

  send(message: Message): void {
    const bytes = messageBytes(message)
    if (this.#link === undefined || this.#queuedBytes + bytes > queueBytesMax) {
      this.dropped++
      if (this.#link !== undefined) this.#tellUnreachable()
      return
    }
    this.#queue.push(message)
    this.#queuedBytes += bytes
    if (this.#isFlushDue) return
    this.#isFlushDue = true
    queueMicrotask(this.#flush)
  }

  stop(): void {
    this.#isStopped = true
    clearTimeout(this.#retryTimer)
    clearInterval(this.#pingTimer)
    this.#link?.destroy()
  }

  #flush = (): void => {
    this.#isFlushDue = false
    const link = this.#link
    const queue = this.#queue
    let at = 0
    while (link !== undefined && at < queue.length && link.pendingBytes < batchBytesAim) {
      const end = batchEnd(queue, at, batchBytesAim)
      const batch = at === 0 && end === queue.length ? queue : queue.slice(at, end)
      link.write(sealFrame(encodeMessages(batch, frameHeadBytes), frameKinds.messages))
      for (const message of batch) this.#queuedBytes -= messageBytes(message)
      at = end
    }
    this.#queue = at === queue.length ? [] : queue.slice(at)
  }

  #dial(): void {
    if (this.#isDialing || this.#isStopped || this.#link !== undefined) return
    this.#isDialing = true
    const { self, nodeId } = this.#options
    const options = {
      ...{ address: this.#address, nodeId, purpose: 'raft' as const },
      onReady: this.#up,
    }
    void dial(self, options).then(dialed => {
      this.#isDialing = false
      if (!dialed.ok) this.#failed(dialed)
    })
  }

  #failed(dialed: Dialed & { readonly ok: false }): void {
    if (this.#isStopped) return
    if (this.problem !== dialed.reason) this.#options.onProblem(dialed.reason, dialed.refusal)
    this.problem = dialed.reason
    this.#tellUnreachable()
    this.#retryLater()
  }

  #retryLater(): void {
    const fullMs = Math.min(retryMsMin * 2 ** this.#failures, retryMsMax)
    this.#failures = Math.min(this.#failures + 1, 10)
    const delayMs = fullMs * (0.5 + this.#options.random() / 2)
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined
      this.#dial()
    }, delayMs)
  }

  #up = (link: Link, hello: Hello): void => {
    if (this.#isStopped) return link.destroy()
    this.#link = link
    this.#failures = 0
    this.#unanswered = 0
    this.problem = undefined
    link.end = {
      frame: (kind, payload) => {
        if (kind === frameKinds.pong && payload.length === 16) return this.#pong(payload)
        link.destroy('it sent what nobody asked for')
      },
      closed: reason => this.#down(reason),
      drained: this.#flush,
    }
    this.#pingTimer = setInterval(() => this.#ping(link), pingMs)
    this.#ping(link)
    this.#options.onUp(hello, link)
  }

  #down(reason: string | undefined): void {
    this.#link = undefined
    clearInterval(this.#pingTimer)
    this.dropped += this.#queue.length
    this.#queue = []
    this.#queuedBytes = 0
    if (this.#isStopped) return
    this.problem = reason ?? 'it closed the connection'
    this.#options.onProblem(this.problem, undefined)
    this.#tellUnreachable()
    this.#retryLater()
  }

  /** Not before the caller's turn is over: it may be in the middle of handing out messages. */
  #tellUnreachable(): void {
    if (this.#isUnreachableDue) return
    this.#isUnreachableDue = true
    queueMicrotask(() => {
      this.#isUnreachableDue = false
      if (!this.#isStopped) this.#options.onUnreachable()
    })
  }

  #ping(link: Link): void {
    // Counted in pings and not in time, so that a pause of this process is not blamed on the peer.
    if (this.#unanswered >= unansweredMax) return link.destroy('it has gone silent')
    this.#unanswered++
    const payload = new Float64Array([performance.now()])
    link.write(makeFrame(frameKinds.ping, new Uint8Array(payload.buffer)))
  }

  #pong(payload: Uint8Array): void {
    const [sentMs = 0, wallMs = 0] = new Float64Array(new Uint8Array(payload).buffer)
    const rttMs = performance.now() - sentMs
    if (!(rttMs >= 0 && Number.isFinite(wallMs))) return
    this.#unanswered = 0
    this.rttMs = rttMs
    this.#options.onSkew(wallMs - (this.#options.self.wallMs() - rttMs / 2))
  }
}

/** The answer to a ping: what it held, and the clock of this node. */
export function pongFrame(ping: Uint8Array, wallMs: number): Uint8Array {
  const wall = new Uint8Array(new Float64Array([wallMs]).buffer)
  return makeFrame(frameKinds.pong, ping.subarray(0, 8), wall)
}
