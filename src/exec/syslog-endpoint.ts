/**
 * One syslog receiver: a bounded queue of messages and the connection that empties it. While the
 * receiver is away the newest messages are held and the oldest dropped and counted; what the
 * kernel had taken when a connection broke is lost without a trace, as RFC 5424 receivers
 * acknowledge nothing.
 */
import { assert } from '../errors.ts'
import type { Logger } from '../log.ts'
import { joined } from './syslog-message.ts'
import {
  isDatagram,
  openSyslogSocket,
  type SyslogSocket,
  type SyslogSocketOptions,
} from './syslog-socket.ts'
import type { SyslogTarget } from './syslog-url.ts'

export interface SyslogLimits {
  /** What one receiver's messages may take while they wait, and those of all together. */
  readonly heldBytesMax: number
  readonly allHeldBytesMax: number
  readonly connectMs: number
  /** How long a start waits for the first connection. */
  readonly checkMs: number
  /** A connection without messages is closed after this time. */
  readonly idleMs: number
  /** Between attempts; it doubles from the first to the second. */
  readonly retryMsMin: number
  readonly retryMsMax: number
  /** A connection that takes nothing for so long is given up. */
  readonly stallMs: number
  /** A connection that holds for so long ends an outage. */
  readonly settleMs: number
  /** A name may come to mean another address, which only a new datagram socket notices. */
  readonly datagramSocketMs: number
}

/** What all receivers of a node share. */
export interface SyslogShared {
  readonly limits: SyslogLimits
  readonly socket: SyslogSocketOptions
  readonly logger: Logger
  readonly nowMs: () => number
  readonly counts: SyslogCounts
}

export interface SyslogCounts {
  heldBytes: number
  sentTotal: number
  droppedTotal: number
  failuresTotal: number
}

interface Outage {
  readonly sinceMs: number
  dropped: number
}

/** What is being written: whole messages, one after the other. */
interface Batch {
  readonly messages: readonly Uint8Array[]
  readonly bytes: Uint8Array
  written: number
}

const batchBytesMax = 64 * 1024
/** By then a host on this planet has said that nobody listens there. */
const probeMs = 500
/** What an array and a place in the queue weigh besides the bytes of a message. */
const overheadBytes = 128
const none = new Uint8Array(0)

export class SyslogEndpoint {
  readonly #target: SyslogTarget
  readonly #shared: SyslogShared
  readonly #isDatagram: boolean
  #queue: Uint8Array[] = []
  /** Where the queue begins; what lies before was taken. */
  #first = 0
  #heldBytes = 0
  #batch: Batch | undefined
  #socket: SyslogSocket | undefined
  #opening: Promise<void> | undefined
  #openedMs = 0
  #usedMs: number
  #progressMs = 0
  #retryAtMs = 0
  #failures = 0
  #outage: Outage | undefined
  #isPumpDue = false
  /** After a datagram was refused the next one goes alone, to find out whether it is as well. */
  #isProbing = false
  #hasProbed = false
  #isClosed = false

  constructor(target: SyslogTarget, shared: SyslogShared) {
    this.#target = target
    this.#shared = shared
    this.#isDatagram = isDatagram(target)
    this.#usedMs = shared.nowMs()
  }

  get isConnected(): boolean {
    return this.#socket !== undefined
  }

  get hasMessages(): boolean {
    return this.#batch !== undefined || this.#first < this.#queue.length
  }

  add(messages: readonly Uint8Array[]): void {
    if (this.#isClosed) return this.#countDropped(messages.length)
    this.#usedMs = this.#shared.nowMs()
    for (const message of messages) {
      this.#queue.push(message)
      this.#hold(message.length + overheadBytes)
    }
    this.#makeRoom()
    if (this.#isPumpDue) return
    this.#isPumpDue = true
    // The lines of one chunk go out together, and never in the turn of who wrote them.
    setImmediate(() => {
      this.#isPumpDue = false
      this.#pump()
    })
  }

  /** One attempt for however many callers. Rejects with an `Error` that says why. */
  connect(): Promise<void> {
    this.#usedMs = this.#shared.nowMs()
    if (this.#socket !== undefined) return Promise.resolve()
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined
    })
    return this.#opening
  }

  /** To be called a few times a second. False when it may be forgotten. */
  sweep(): boolean {
    const nowMs = this.#shared.nowMs()
    const { limits } = this.#shared
    const isIdle = !this.hasMessages && nowMs - this.#usedMs > limits.idleMs
    if (this.#socket === undefined) {
      if (isIdle && this.#opening === undefined) return false
      this.#pump()
      return true
    }
    if (!this.hasMessages && nowMs - this.#openedMs > limits.settleMs) this.#recover(nowMs)
    if (this.#isProbing && nowMs - this.#openedMs > probeMs) {
      this.#isProbing = false
      this.#pump()
    }
    if (this.#batch !== undefined && nowMs - this.#progressMs > limits.stallMs) {
      this.#lose(`it takes nothing for ${limits.stallMs} ms`)
    } else if (isIdle) {
      this.#disconnect()
    } else if (this.#isDatagram && nowMs - this.#openedMs > limits.datagramSocketMs) {
      this.#disconnect()
      this.#pump()
    }
    return true
  }

  /** Tries at once, whatever went before: the node is about to end. */
  hurry(): void {
    this.#retryAtMs = 0
    this.#pump()
  }

  /** What was not sent is dropped and counted. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#requeue()
    this.#drop(this.#queue.length - this.#first)
    this.#disconnect()
    const dropped = this.#outage?.dropped ?? 0
    if (dropped > 0) this.#log().warn({ dropped }, 'syslog messages were dropped')
  }

  #log(): Logger {
    return this.#shared.logger.child({ syslog_url: this.#target.url })
  }

  async #open(): Promise<void> {
    let lostEarly: string | undefined
    const events = {
      writable: () => this.#pump(),
      lost: (reason: string) => {
        if (this.#socket === undefined) lostEarly = reason
        else this.#onLost(reason)
      },
    }
    try {
      const socket = await openSyslogSocket(this.#target, events, this.#shared.socket)
      if (this.#isClosed) return socket.close()
      if (lostEarly !== undefined) throw new Error(lostEarly)
      this.#socket = socket
      this.#openedMs = this.#shared.nowMs()
      this.#progressMs = this.#openedMs
      this.#hasProbed = false
      this.#isProbing = this.#target.transport === 'udp' && this.#failures > 0
    } catch (cause) {
      if (!(cause instanceof Error)) throw cause
      if (!this.#isClosed) this.#fail(cause.message)
      throw cause
    }
    this.#pump()
  }

  #pump(): void {
    if (this.#isClosed) return
    const socket = this.#socket
    if (socket === undefined) {
      const isTime = this.#shared.nowMs() >= this.#retryAtMs
      // `#open` has told of the failure, and the sweep tries again.
      if (this.hasMessages && isTime) this.connect().catch(() => undefined)
      return
    }
    if (this.#isProbing && this.#hasProbed) return
    for (;;) {
      this.#batch ??= this.#takeBatch()
      const batch = this.#batch
      if (batch === undefined) return
      const left = batch.bytes.length - batch.written
      const taken = socket.write(batch.bytes.subarray(batch.written))
      if (taken < 0) return
      if (taken > 0) this.#progressMs = this.#shared.nowMs()
      batch.written += taken
      if (taken < left) return
      this.#batch = undefined
      this.#shared.counts.sentTotal += batch.messages.length
      this.#release(batch.messages)
      this.#hasProbed = true
      if (this.#isProbing) return
    }
  }

  /** A datagram is one message; a stream takes many at once, which saves system calls. */
  #takeBatch(): Batch | undefined {
    const messages: Uint8Array[] = []
    let length = 0
    while (this.#first < this.#queue.length) {
      const next = this.#queue[this.#first]?.length ?? 0
      if (messages.length > 0 && (this.#isDatagram || length + next > batchBytesMax)) break
      messages.push(this.#takeFirst())
      length += next
    }
    this.#compact()
    const [only] = messages
    if (only === undefined) return undefined
    this.#progressMs = this.#shared.nowMs()
    return { messages, bytes: messages.length === 1 ? only : joined(messages), written: 0 }
  }

  /** The receiver drops what it has of a message that was broken off, so it is sent again whole. */
  #requeue(): void {
    const batch = this.#batch
    if (batch === undefined) return
    this.#batch = undefined
    let end = 0
    const sent = batch.messages.filter(message => {
      end += message.length
      return end <= batch.written
    })
    this.#shared.counts.sentTotal += sent.length
    this.#release(sent)
    const rest = batch.messages.slice(sent.length)
    this.#queue = [...rest, ...this.#queue.slice(this.#first)]
    this.#first = 0
  }

  #onLost(reason: string): void {
    const hasSettled = this.#shared.nowMs() - this.#openedMs > this.#shared.limits.settleMs
    // A receiver may close a connection that has nothing to say, as it does when it restarts.
    if (hasSettled && !this.hasMessages && !this.#isDatagram) return this.#disconnect()
    const isRefusal = this.#target.transport === 'udp' && this.#batch === undefined
    this.#lose(reason)
    if (isRefusal) this.#countDropped(1)
  }

  #lose(reason: string): void {
    this.#disconnect()
    this.#fail(reason)
  }

  #disconnect(): void {
    this.#socket?.close()
    this.#socket = undefined
    this.#requeue()
  }

  #fail(reason: string): void {
    const { retryMsMin, retryMsMax } = this.#shared.limits
    const nowMs = this.#shared.nowMs()
    this.#retryAtMs = nowMs + Math.min(retryMsMin * 2 ** this.#failures, retryMsMax)
    this.#failures += 1
    this.#shared.counts.failuresTotal += 1
    this.#beginOutage(reason)
  }

  /** Said once, however often it fails until it works again. */
  #beginOutage(reason: string): void {
    if (this.#outage !== undefined) return
    const held = this.#shared.limits.heldBytesMax
    this.#outage = { sinceMs: this.#shared.nowMs(), dropped: 0 }
    this.#log().warn(
      { reason },
      `syslog receiver unavailable: up to ${held} bytes wait for it, then the oldest are dropped`,
    )
  }

  #recover(nowMs: number): void {
    this.#failures = 0
    const outage = this.#outage
    if (outage === undefined) return
    this.#outage = undefined
    const seconds = Math.round((nowMs - outage.sinceMs) / 1000)
    this.#log().info({ seconds, dropped: outage.dropped }, 'syslog receiver available again')
  }

  #makeRoom(): void {
    const { limits, counts } = this.#shared
    const isOver = (): boolean =>
      this.#heldBytes > limits.heldBytesMax || counts.heldBytes > limits.allHeldBytesMax
    if (!isOver()) return
    this.#beginOutage('it takes messages slower than they come')
    while (isOver() && this.#first < this.#queue.length) this.#drop(1)
    this.#compact()
  }

  /** The oldest ones. */
  #drop(count: number): void {
    for (let left = count; left > 0; left -= 1) this.#release([this.#takeFirst()])
    this.#countDropped(count)
  }

  #takeFirst(): Uint8Array {
    const message = this.#queue[this.#first]
    assert(message !== undefined, 'a message is taken only where there is one')
    // Its place stays for a while, its bytes need not.
    this.#queue[this.#first] = none
    this.#first += 1
    return message
  }

  #countDropped(count: number): void {
    this.#shared.counts.droppedTotal += count
    if (this.#outage !== undefined) this.#outage.dropped += count
  }

  #compact(): void {
    const hasRest = this.#first < this.#queue.length
    if (hasRest && (this.#first < 1024 || this.#first * 2 < this.#queue.length)) return
    this.#queue = this.#queue.slice(this.#first)
    this.#first = 0
  }

  #release(messages: readonly Uint8Array[]): void {
    for (const message of messages) this.#hold(-(message.length + overheadBytes))
  }

  #hold(bytes: number): void {
    this.#heldBytes += bytes
    this.#shared.counts.heldBytes += bytes
  }
}
