/** From a request to what a function is given, and from its reply to what the caller gets. */
import { FndError } from '../errors.ts'
import type { ActiveCall, CallAsker } from '../exec/active-call.ts'
import type { Reply } from '../http/client.ts'
import { connectionOptions, hopByHopNames } from '../http/headers.ts'
import { relay, skim } from '../http/relay.ts'
import { callHeaders, type HeaderPairs, uncalledHeaders } from './answer-headers.ts'

/** The part of `exec` that the invoke routes see. */
export interface Invoker<Route> {
  call(route: Route, asker: CallAsker): void
}

/** Counts requests of one route; see `RouteMetrics`. */
export interface RouteCounter {
  request(): void
  response(status: number, latencyMs: number, blame?: 'user' | 'service'): void
}

export interface BodyLimits {
  /** 0 = no limit. */
  readonly requestBytesMax: number
}

/**
 * Bodies up to this size are read before the call takes a slot, so that a slow sender holds none;
 * longer ones stream.
 */
const shortBodyBytesMax = 64 * 1024

/** A request body under a limit; `isTooLarge` turns true when a stream runs over it. */
export interface IncomingBody {
  readonly body: CallAsker['body']
  readonly length: number | undefined
  readonly isTooLarge: () => boolean
}

const noBody: IncomingBody = { body: null, length: undefined, isTooLarge: () => false }

/**
 * Throws, or rejects with, `FndError` when the declared length is over the limit, or the sender
 * left. Settled at once where there is nothing to wait for.
 */
export function incomingBody(
  request: Request,
  { length, isChunked }: IncomingHead,
  limits: BodyLimits,
): IncomingBody | Promise<IncomingBody> {
  const bytesMax = limits.requestBytesMax
  if (length === undefined) {
    if (!isChunked || request.body === null) return noBody
    return bytesMax === 0 ? { ...noBody, body: request.body } : bounded(request.body, bytesMax)
  }
  if (bytesMax > 0 && length > bytesMax) {
    throw new FndError('request-too-large', {
      message: `Content-Length too large for this server, ${length} > max ${bytesMax}`,
    })
  }
  if (length === 0) return noBody
  if (length > shortBodyBytesMax) return { ...noBody, body: request.body, length }
  return shortBody(request)
}

async function shortBody(request: Request): Promise<IncomingBody> {
  try {
    return { ...noBody, body: await request.bytes() }
  } catch (cause) {
    throw new FndError('client-gone', { cause })
  }
}

/**
 * What comes beyond the limit is read up to here, and dropped: closing a connection on which unread
 * bytes lie resets it, and the caller might never see why (RFC 9112 §9.6).
 */
const excessBytesMax = 1024 * 1024

function bounded(body: ReadableStream<Uint8Array>, bytesMax: number): IncomingBody {
  const tooLarge = () => new FndError('request-body-too-large')
  let bytes = 0
  const counted = body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        bytes += chunk.length
        if (bytes <= bytesMax) controller.enqueue(chunk)
        else if (bytes > bytesMax + excessBytesMax) controller.error(tooLarge())
      },
      flush(controller) {
        if (bytes > bytesMax) controller.error(tooLarge())
      },
    }),
  )
  return { body: counted, length: undefined, isTooLarge: () => bytes > bytesMax }
}

/** What a request's headers say to fnd, and what is left of them for the function. */
export interface IncomingHead {
  /** Lines for the function, each ended by `\r\n`. */
  readonly lines: string
  /** Declared length of the body, or undefined. */
  readonly length: number | undefined
  readonly isChunked: boolean
  /** `Fn-Invoke-Type: detached` was asked for. */
  readonly isDetached: boolean
}

type Special = 'type' | 'te' | 'length' | 'coding' | 'connection' | 'kind' | 'hop' | 'own'

/**
 * Headers that are not simply passed on: those of the connection, those that frame the message,
 * and those that fnd sets itself.
 */
const special: ReadonlyMap<string, Special> = new Map([
  ...hopByHopNames.map(name => [name, 'hop'] as const),
  ['connection', 'connection'],
  ['te', 'te'],
  ['fn-invoke-type', 'kind'],
  ['content-type', 'type'],
  ['content-length', 'length'],
  ['transfer-encoding', 'coding'],
  ['host', 'own'],
  ['expect', 'own'],
  ['fn-call-id', 'own'],
  ['fn-deadline', 'own'],
])

/**
 * Reads all headers in one pass. `prefix` is put before each name but Content-Type's; with it even
 * those that fnd sets itself pass, because they cannot be mistaken for its own.
 */
export function incomingHead(headers: Headers, prefix: '' | 'fn-http-h-'): IncomingHead {
  return readHead(headers, prefix, [])
}

function readHead(
  headers: Headers,
  prefix: '' | 'fn-http-h-',
  dropped: readonly string[],
): IncomingHead {
  let lines = ''
  let length: number | undefined
  let isChunked = false
  let isDetached = false
  let named: readonly string[] = dropped
  headers.forEach((value, name) => {
    if (dropped.includes(name)) return
    const kind = special.get(name)
    switch (kind) {
      case 'length':
        length = Number(value)
        break
      case 'coding':
        isChunked = true
        return
      case 'connection':
        named = connectionOptions(value)
        return
      case 'kind':
        isDetached = value === 'detached'
        break
      case 'te':
        if (value !== 'trailers') return
        break
      case 'hop':
        return
    }
    if (kind === 'type') lines += `content-type: ${value}\r\n`
    else if (prefix !== '') lines += `${prefix}${name}: ${value}\r\n`
    else if (kind !== 'own' && kind !== 'length') lines += `${name}: ${value}\r\n`
  })
  // Rarely does Connection name headers that the request has; then they are left out.
  const isNaming = named.some(name => name !== 'keep-alive' && name !== 'close')
  if (isNaming && dropped.length === 0) return readHead(headers, prefix, named)
  return { lines, length, isChunked, isDetached }
}

/** A body that is allowed to be there: replies to HEAD, 204 and 304 have none. */
export function permittedBody(
  body: Uint8Array | ReadableStream<Uint8Array>,
  status: number,
  method: string,
): Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | null {
  if (method !== 'HEAD' && status !== 204 && status !== 304 && status !== 205) {
    return body instanceof ReadableStream ? relay(body) : (body as Uint8Array<ArrayBuffer>)
  }
  if (body instanceof ReadableStream) void skim(body)
  return null
}

/** The failure of a call, as an HTTP answer in Fn's form. */
export function failure(error: FndError, headers: HeaderPairs = []): Response {
  // Fn answers nobody when the caller is gone; 499 is nginx's word for it in logs.
  const status = error.code === 'client-gone' ? 499 : error.status
  const pairs: HeaderPairs = [...headers, ['Content-Type', 'application/json; charset=utf-8']]
  if (error.retryAfterS !== undefined) pairs.push(['Retry-After', String(error.retryAfterS)])
  const body = JSON.stringify({ message: error.message, code: error.code })
  return new Response(`${body}\n`, { status, headers: pairs })
}

/** A request that may become a call: where it goes, and what the function is to know of it. */
export interface CallPlan<Route> {
  readonly route: Route
  /** Header lines for the function that come before the caller's own. */
  readonly prelude: string
  readonly head: IncomingHead
}

/** Given where silent connections are closed: one that waits for a function is not idle. */
export interface IdleTimer {
  hold(request: Request): void
  release(request: Request): void
}

export interface CallRouteParts<Route> {
  readonly invoker: Invoker<Route>
  readonly limits: BodyLimits
  /** For requests that end before they become a call: they too can be asked about by an id. */
  readonly newCallId: () => string
  /** What a fault of fnd's own is answered with; it is logged there. */
  readonly unexpected: (error: unknown, request: Request) => Response
  readonly idleTimer?: IdleTimer
}

/** The two ways to call differ in what becomes of a request, and of a function's answer. */
export interface CallRoute<Route, Parts> {
  /** Throws `FndError` for what cannot become a call. `param` is the path's first parameter. */
  plan(parts: Parts, request: Request, param: string): CallPlan<Route>
  answer(call: ActiveCall, reply: Reply, method: string): Response
}

/** Answers one request of a call route, and counts it. */
export function answerCall<Route, Parts extends CallRouteParts<Route>>(
  callRoute: CallRoute<Route, Parts>,
  parts: Parts,
  counter: RouteCounter,
  request: Request,
  param: string,
): Promise<Response> {
  const answering = new Answering(callRoute, parts, counter, request)
  answering.start(param)
  return answering.response
}

/** One object instead of the closures that its steps would be: this runs for every call. */
class Answering<Route, Parts extends CallRouteParts<Route>> implements CallAsker {
  readonly response: Promise<Response>
  readonly #resolve: (response: Response) => void
  readonly #callRoute: CallRoute<Route, Parts>
  readonly #parts: Parts
  readonly #counter: RouteCounter
  readonly caller: Request
  readonly #startedMs = performance.now()
  headers = ''
  #incoming: IncomingBody = noBody

  constructor(
    callRoute: CallRoute<Route, Parts>,
    parts: Parts,
    counter: RouteCounter,
    request: Request,
  ) {
    const { promise, resolve } = Promise.withResolvers<Response>()
    this.response = promise
    this.#resolve = resolve
    this.#callRoute = callRoute
    this.#parts = parts
    this.#counter = counter
    this.caller = request
  }

  get body(): IncomingBody['body'] {
    return this.#incoming.body
  }

  get length(): number | undefined {
    return this.#incoming.length
  }

  start(param: string): void {
    this.#counter.request()
    try {
      const plan = this.#callRoute.plan(this.#parts, this.caller, param)
      const incoming = incomingBody(this.caller, plan.head, this.#parts.limits)
      if (incoming instanceof Promise) void this.#sendLater(plan, incoming)
      else this.#send(plan, incoming)
    } catch (error) {
      this.#fail(error)
    }
  }

  async #sendLater(plan: CallPlan<Route>, incoming: Promise<IncomingBody>): Promise<void> {
    try {
      this.#send(plan, await incoming)
    } catch (error) {
      this.#fail(error)
    }
  }

  #send({ route, prelude, head }: CallPlan<Route>, incoming: IncomingBody): void {
    this.#incoming = incoming
    this.headers = prelude + head.lines
    this.#parts.idleTimer?.hold(this.caller)
    this.#parts.invoker.call(route, this)
  }

  answered(call: ActiveCall, reply: Reply): void {
    try {
      this.#finish(this.#callRoute.answer(call, reply, this.caller.method))
    } catch (error) {
      this.#fail(error)
    }
  }

  failed(call: ActiveCall, error: FndError): void {
    const isTooLarge = this.#incoming.isTooLarge()
    const own = isTooLarge ? new FndError('request-body-too-large') : error
    this.#finish(failure(own, callHeaders(call)))
  }

  #finish(response: Response): void {
    const { status } = response
    // What a function does wrong is the fault of who wrote it.
    const blame = status === 502 || status === 504 ? 'user' : undefined
    this.#counter.response(status, performance.now() - this.#startedMs, blame)
    this.#parts.idleTimer?.release(this.caller)
    this.#resolve(response)
  }

  #fail(error: unknown): void {
    if (!(error instanceof FndError)) {
      return this.#finish(this.#parts.unexpected(error, this.caller))
    }
    this.#finish(failure(error, uncalledHeaders(this.#parts.newCallId())))
  }
}
