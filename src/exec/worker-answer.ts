/** Fn's http-stream contract seen from the function: requests in, answers out (fn-api.md §2.3). */

/** What every answer of this worker carries. */
export interface Stamp {
  readonly version: string
  readonly runtime: string
}

const prefix = 'fn-http-h-'
const textType = 'text/plain;charset=utf-8'

type Body = string | ArrayBuffer | Blob | ReadableStream | null

/** Of the connection between fnd and the worker, not of the answer. */
const connectionHeaders = new Set([
  'connection',
  'content-length',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

export function isTrigger(headers: Headers): boolean {
  return headers.get('fn-intent') === 'httprequest' && headers.has('fn-http-request-url')
}

/** The headers that the caller of a trigger sent, and fnd's own two. */
export function callerHeaders(headers: Headers): Headers {
  const result = new Headers()
  headers.forEach((value, name) => {
    if (name.startsWith(prefix) && name.length > prefix.length) {
      result.append(name.slice(prefix.length), value)
    }
  })
  for (const name of ['content-type', 'fn-call-id', 'fn-deadline']) {
    const value = headers.get(name)
    if (value !== null) result.set(name, value)
  }
  return result
}

/** The request as the caller made it. */
export function callerRequest(request: Request, invokeUrl: string): Request {
  const headers = request.headers
  if (!isTrigger(headers)) return new Request(invokeUrl, request)
  const method = headers.get('fn-http-method') ?? 'GET'
  const init: RequestInit = { method, headers: callerHeaders(headers), signal: request.signal }
  if (method !== 'GET' && method !== 'HEAD') init.body = request.body
  return new Request(headers.get('fn-http-request-url') ?? invokeUrl, init)
}

/** A function's own `Response` in the words of the contract. */
export function answerResponse(response: Response, stamp: Stamp): Response {
  // Headers are renamed in place where that works: a body that is not touched stays as cheap as
  // the function made it, while a new Response would turn it into a stream.
  if (response.status === 200 && renameInPlace(response.headers)) {
    return stamped(response, 200, stamp)
  }
  const headers = new Headers(response.headers)
  renameInPlace(headers)
  const body = response.body
  // Bun gives a text its type only when it sends it, and by then this one would be a stream.
  if (body !== null && !headers.has('content-type')) headers.set('content-type', textType)
  return stamped(new Response(body, { status: 200, headers }), response.status, stamp)
}

function stamped(response: Response, status: number, stamp: Stamp): Response {
  const headers = response.headers
  headers.set('fn-http-status', String(status))
  headers.set('fn-fdk-version', stamp.version)
  headers.set('fn-fdk-runtime', stamp.runtime)
  return response
}

/** False when these headers cannot be changed. */
function renameInPlace(headers: Headers): boolean {
  const names: string[] = []
  headers.forEach((_, name) => {
    if (name !== 'content-type' && name !== 'set-cookie') names.push(name)
  })
  const cookies = headers.getSetCookie()
  try {
    for (const name of names) {
      const value = headers.get(name) ?? ''
      headers.delete(name)
      if (!connectionHeaders.has(name)) headers.set(prefix + name, value)
    }
    // A `Headers` joins equal names with a comma, which would spoil cookies; only Set-Cookie itself
    // is kept apart. So one cookie goes by the contract's name, several by their own.
    const [only] = cookies
    if (cookies.length === 1 && only !== undefined) {
      headers.delete('set-cookie')
      headers.set(`${prefix}set-cookie`, only)
    }
  } catch (cause) {
    if (cause instanceof TypeError) return false
    throw cause
  }
  return true
}

/** Answers that are not a `Response`: what a handler returned. */
export function answerValue(value: unknown, status: number, headers: Headers, stamp: Stamp) {
  if (value instanceof Response) {
    headers.forEach((text, name) => {
      value.headers.set(name, text)
    })
    return answerResponse(value, stamp)
  }
  const { body, type } = bodyFrom(value)
  if (type !== '' && !headers.has('content-type')) headers.set('content-type', type)
  renameInPlace(headers)
  return stamped(new Response(body, { status: 200, headers }), status, stamp)
}

function bodyFrom(value: unknown): { body: Body; type: string } {
  if (value === undefined || value === null) return { body: null, type: '' }
  if (typeof value === 'string') return { body: value, type: textType }
  const bytes = 'application/octet-stream'
  if (value instanceof ArrayBuffer) return { body: value, type: bytes }
  // `Response` takes a view of bytes; the type of `body` need not say so twice.
  if (value instanceof Uint8Array) return { body: value as unknown as ArrayBuffer, type: bytes }
  if (value instanceof Blob) return { body: value, type: value.type || bytes }
  if (value instanceof ReadableStream) return { body: value, type: bytes }
  if (typeof value === 'object' && Symbol.asyncIterator in value) {
    return { body: streamFrom(value as AsyncIterable<unknown>), type: bytes }
  }
  return { body: JSON.stringify(value), type: 'application/json' }
}

function streamFrom(chunks: AsyncIterable<unknown>): ReadableStream {
  const iterator = chunks[Symbol.asyncIterator]()
  return new ReadableStream({
    async pull(controller) {
      const next = await iterator.next()
      if (next.done === true) return controller.close()
      const chunk = next.value
      const isBytes = chunk instanceof Uint8Array || typeof chunk === 'string'
      const piece = isBytes ? chunk : `${JSON.stringify(chunk)}\n`
      controller.enqueue(typeof piece === 'string' ? Buffer.from(piece) : piece)
    },
    async cancel() {
      await iterator.return?.()
    },
  })
}

/** What the FDK answers when a function threw. */
export function answerError(status: 400 | 502, message: string, detail: string, stamp: Stamp) {
  return new Response(JSON.stringify({ message, detail }), {
    status,
    headers: {
      'content-type': 'application/json',
      'fn-fdk-version': stamp.version,
      'fn-fdk-runtime': stamp.runtime,
    },
  })
}

/** JSON as a value, text as a string, all else as bytes; no type means "JSON if it is". */
export async function inputFrom(request: Request): Promise<unknown> {
  const type = (request.headers.get('content-type') ?? '').toLowerCase()
  const isJson = type === '' || type.startsWith('application/json') || type.includes('+json')
  if (isJson) {
    const text = await request.text()
    if (text === '') return undefined
    try {
      return JSON.parse(text)
    } catch (cause) {
      // Fn's FDK hands over the text as it is.
      if (cause instanceof SyntaxError) return text
      throw cause
    }
  }
  const isText = type.startsWith('text/') || type.startsWith('application/x-www-form-urlencoded')
  return isText ? request.text() : new Uint8Array(await request.arrayBuffer())
}
