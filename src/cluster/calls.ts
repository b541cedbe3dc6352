/**
 * Requests to a peer and their answers, many at a time over one connection. The difference that
 * matters to a caller is whether a request may have been received: only if it was not is it safe
 * to ask again.
 */
import { FndError, type FndErrorOptions, isErrorCode } from '../errors.ts'
import type { NodeId } from '../raft/types.ts'
import { dial, type Self, unreachable } from './connection.ts'
import { decodeJson, encodeJson, frameKinds, headFrame, makeFrame, splitHead } from './frames.ts'
import type { Link } from './transport.ts'
import { callBytesMax, type PeerHandlers } from './types.ts'

export const callTimeoutMsDefault = 10_000

/** Head and body, and what frames them. */
export const callFrameBytesMax = callBytesMax + 64 * 1024

/** Of requests that wait because the peer or the network is slow. */
const queueBytesMax = 64 * 1024 * 1024

/** Of one peer, being carried out here; beyond these bytes no more is read from it. */
const runningMax = 1024
const runningBytesMax = 32 * 1024 * 1024

export interface CallAnswer {
  readonly head: unknown
  readonly body: Uint8Array
}

interface Waiting {
  readonly resolve: (answer: CallAnswer) => void
  readonly reject: (error: FndError) => void
  readonly timer: Timer
}

export interface CallLinkOptions {
  readonly self: Self
  readonly nodeId: NodeId
  readonly address: () => string
}

/** The calling end. Connects at the first call, and again at the first after a failure. */
export class CallLink {
  readonly #options: CallLinkOptions
  readonly #what: string
  readonly #waiting = new Map<number, Waiting>()
  #link: Link | undefined
  #opening: Promise<Link> | undefined
  #lastId = 0
  #isStopped = false

  constructor(options: CallLinkOptions) {
    this.#options = options
    this.#what = `node ${options.nodeId}`
  }

  async call(
    method: string,
    head: unknown,
    options: { readonly body?: Uint8Array; readonly timeoutMs?: number },
  ): Promise<CallAnswer> {
    const { body = new Uint8Array(0), timeoutMs = callTimeoutMsDefault } = options
    const deadlineMs = performance.now() + timeoutMs
    const id = this.#lastId < 0xffff_ffff ? this.#lastId + 1 : 1
    this.#lastId = id
    const frame = headFrame(frameKinds.request, idBytes(id), { method, head }, body)
    if (frame.length > callFrameBytesMax) throw new FndError('request-too-large')
    const link = this.#link ?? (await this.#openBefore(deadlineMs))
    if (link.pendingBytes + frame.length > queueBytesMax) {
      throw unreachable(this.#what, 'too many requests wait for it')
    }
    return this.#send(link, id, frame, deadlineMs)
  }

  /** Those that wait for an answer learn that none will come. */
  drop(reason: string): void {
    this.#link?.destroy(reason)
  }

  stop(): void {
    this.#isStopped = true
    this.drop('this node is stopping')
  }

  #send(link: Link, id: number, frame: Uint8Array, deadlineMs: number): Promise<CallAnswer> {
    const sentMs = performance.now()
    return new Promise((resolve, reject) => {
      if (!link.isOpen) return reject(unreachable(this.#what, 'the connection was lost'))
      const timer = setTimeout(() => {
        this.#waiting.delete(id)
        reject(outcomeUnknown(this.#what, 'no answer in time'))
        // Without a sign of life since then the connection may lead nowhere: do not use it again.
        if (link.lastHeardMs < sentMs) link.destroy('it has gone silent')
      }, deadlineMs - sentMs)
      this.#waiting.set(id, { resolve, reject, timer })
      link.writeSoon(frame)
    })
  }

  #openBefore(deadlineMs: number): Promise<Link> {
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined
    })
    const opening = this.#opening
    return new Promise((resolve, reject) => {
      const late = () => reject(unreachable(this.#what, 'no connection in time'))
      const timer = setTimeout(late, deadlineMs - performance.now())
      opening.then(resolve, reject).finally(() => clearTimeout(timer))
    })
  }

  async #open(): Promise<Link> {
    if (this.#isStopped) throw unreachable(this.#what, 'this node is stopping')
    const { self, nodeId, address } = this.#options
    const onReady = (link: Link) => this.#attach(link)
    const dialed = await dial(self, { address: address(), nodeId, purpose: 'calls', onReady })
    if (!dialed.ok) throw unreachable(this.#what, dialed.reason)
    return dialed.link
  }

  #attach(link: Link): void {
    if (this.#isStopped) return link.destroy()
    this.#link = link
    link.reader.sizeMax = callFrameBytesMax
    link.end = {
      frame: (kind, payload) => {
        const isOk = kind === frameKinds.answer || kind === frameKinds.failure
        if (!isOk || payload.length < 4) return link.destroy('it sent what nobody asked for')
        this.#settle(idOf(payload), kind === frameKinds.failure, payload.subarray(4))
      },
      closed: reason => {
        this.#link = undefined
        const waiting = [...this.#waiting.values()]
        this.#waiting.clear()
        for (const { reject, timer } of waiting) {
          clearTimeout(timer)
          reject(outcomeUnknown(this.#what, reason ?? 'it closed the connection'))
        }
      },
    }
  }

  /** An answer that nobody waits for came too late. */
  #settle(id: number, isFailure: boolean, rest: Uint8Array): void {
    const waiting = this.#waiting.get(id)
    if (waiting === undefined) return
    this.#waiting.delete(id)
    clearTimeout(waiting.timer)
    const answer = splitHead(rest)
    if (isFailure) return waiting.reject(failureFrom(rest))
    if (answer === undefined) return waiting.reject(outcomeUnknown(this.#what, 'a bad answer'))
    waiting.resolve(answer)
  }
}

function outcomeUnknown(what: string, reason: string): FndError {
  return new FndError('peer-outcome-unknown', { detail: `${what}: ${reason}` })
}

function idBytes(id: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, id, true)
  return bytes
}

function idOf(payload: Uint8Array): number {
  return new DataView(payload.buffer, payload.byteOffset, payload.length).getUint32(0, true)
}

/** What crosses the wire of an error. */
export function failureOf(error: FndError): Uint8Array {
  const { code, detail, field, message } = error
  return encodeJson({ code, detail, field, message: message.slice(0, 4000) })
}

export function failureFrom(bytes: Uint8Array): FndError {
  const given = (decodeJson(bytes)?.value ?? {}) as Record<string, unknown>
  const text = (name: string) => (typeof given[name] === 'string' ? given[name] : undefined)
  const [detail, field, message] = [text('detail'), text('field'), text('message')]
  const code = isErrorCode(given.code) ? given.code : 'internal'
  const options: FndErrorOptions = {
    ...(detail === undefined ? {} : { detail }),
    ...(field === undefined ? {} : { field }),
  }
  const plain = new FndError(code, options)
  if (message === undefined || plain.message === message) return plain
  // Its message was not the table's, and already ends with the detail.
  return new FndError(code, { message, ...(field === undefined ? {} : { field }) })
}

export interface CallServing {
  readonly from: NodeId
  readonly calls: PeerHandlers['calls']
  /** A handler failed with something other than an `FndError`. */
  readonly onBug: (error: unknown) => void
}

/** The answering end. */
export function serveCalls(serving: CallServing, link: Link): void {
  let running = 0
  let runningBytes = 0
  const adjust = () => {
    if (runningBytes + link.pendingBytes > runningBytesMax) link.pause()
    else link.resume()
  }
  link.reader.sizeMax = callFrameBytesMax
  link.end = {
    closed: () => undefined,
    drained: adjust,
    frame: (kind, payload) => {
      const request = splitHead(payload.subarray(4))
      const { method, head } = (request?.head ?? {}) as { method?: unknown; head?: unknown }
      if (kind !== frameKinds.request || request === undefined || typeof method !== 'string') {
        return link.destroy('it sent a bad request')
      }
      const id = payload.slice(0, 4)
      const fail = (error: FndError) =>
        link.writeSoon(makeFrame(frameKinds.failure, id, failureOf(error)))
      if (running >= runningMax) {
        fail(new FndError('write-overload'))
        return
      }
      running++
      runningBytes += payload.length
      if (runningBytes > runningBytesMax) adjust()
      void runCall(serving, { method, head, body: request.body })
        .then(answer => {
          const frame = headFrame(frameKinds.answer, id, answer.head, answer.body)
          if (frame.length > callFrameBytesMax) throw new FndError('request-too-large')
          link.writeSoon(frame)
        })
        .catch(error => fail(fndErrorOf(error, serving.onBug)))
        .finally(() => {
          running--
          runningBytes -= payload.length
          adjust()
        })
    },
  }
}

async function runCall(
  { calls, from }: CallServing,
  { method, head, body }: { method: string; head: unknown; body: Uint8Array },
): Promise<CallAnswer> {
  const handler = Object.hasOwn(calls, method) ? calls[method] : undefined
  if (handler === undefined) throw new FndError('peer-method-unknown', { detail: method })
  const answer = await handler({ from, method, head }, body)
  return { head: answer.head, body: answer.body ?? new Uint8Array(0) }
}

/** What the other side gets to know of an error. */
export function fndErrorOf(error: unknown, onBug: (error: unknown) => void): FndError {
  if (error instanceof FndError) return error
  onBug(error)
  return new FndError('internal')
}
