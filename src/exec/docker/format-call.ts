/**
 * A call of the http-stream contract, read for functions that know only the older formats: what
 * they are told of it does not depend on whether it came by a trigger or by `/invoke`.
 */

/** Values are as they came over the wire, bytes as latin1 characters; see `utf8From`. */
export type HeaderPair = readonly [name: string, value: string]

export interface FormatCall {
  readonly id: string
  /** RFC 3339. */
  readonly deadline: string
  /** The caller used a trigger: it gets the function's own status and headers. */
  readonly isTrigger: boolean
  readonly method: string
  /** Absolute. */
  readonly url: string
  /** The path that the function knows itself by: that of the trigger, without its app. */
  readonly path: string
  readonly contentType: string
  /**
   * The caller's headers in Go's spelling, Content-Length included where it is known. Those of the
   * connection and Host are left out.
   */
  readonly headers: readonly HeaderPair[]
}

/** Headers of the connection to the bridge, and those that are told otherwise. */
const notForwarded: ReadonlySet<string> = new Set([
  'connection',
  'expect',
  'host',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

const callerPrefix = 'fn-http-h-'
const methodPattern = /^[A-Z]+$/

/** Reads the head of a request that fnd itself wrote, given as latin1 text. */
export function readCall(head: string, fnId: string): FormatCall {
  const pairs = head.split('\r\n').slice(1).map(pairFrom)
  const own = new Map(pairs)
  const triggerUrl = own.get('fn-http-request-url')
  const isTrigger = own.get('fn-intent') === 'httprequest' && triggerUrl !== undefined
  const parsed = isTrigger ? URL.parse(triggerUrl) : null
  const url = parsed ?? new URL(`http://localhost/invoke/${encodeURIComponent(fnId)}`)
  const method = isTrigger ? (own.get('fn-http-method') ?? '') : 'POST'
  return {
    id: own.get('fn-call-id') ?? '',
    deadline: own.get('fn-deadline') ?? '',
    isTrigger,
    method: methodPattern.test(method) ? method : 'POST',
    url: url.href,
    path: routeOf(url.pathname),
    contentType: own.get('content-type') ?? '',
    headers: isTrigger ? callerHeaders(pairs) : ownHeaders(pairs),
  }
}

function pairFrom(line: string): [string, string] {
  const colon = line.indexOf(':')
  return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
}

function callerHeaders(pairs: readonly HeaderPair[]): HeaderPair[] {
  const found: HeaderPair[] = []
  for (const [name, value] of pairs) {
    const lower = name.startsWith(callerPrefix) ? name.slice(callerPrefix.length) : ''
    if (name === 'content-type') found.push(['Content-Type', value])
    else if (lower !== '' && !notForwarded.has(lower)) found.push([goName(lower), value])
  }
  return found
}

function ownHeaders(pairs: readonly HeaderPair[]): HeaderPair[] {
  const isOwn = (name: string) => name === 'fn-call-id' || name === 'fn-deadline' || name === ''
  return pairs
    .filter(([name]) => !isOwn(name) && !notForwarded.has(name))
    .map(([name, value]) => [goName(name), value])
}

/** `/t/app/a/b` and `/r/app/a/b` are `/a/b`. */
function routeOf(pathname: string): string {
  const match = /^\/[tr]\/[^/]*(\/.*)?$/.exec(pathname)
  return match === null ? pathname : (match[1] ?? '/')
}

/** A name as Go spells it: each word behind a dash begins with a capital. */
export function goName(name: string): string {
  return name.toLowerCase().replace(/(^|-)[a-z]/g, start => start.toUpperCase())
}

/** The text whose UTF-8 bytes `value` holds as latin1 characters. */
export function utf8From(value: string): string {
  return Buffer.from(value, 'latin1').toString('utf8')
}

/** The inverse of `utf8From`. */
export function latin1From(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1')
}

/**
 * What IronFunctions hands over: the body of a POST, the query's `payload` of a GET, else nothing.
 * Undefined stands for the body.
 */
export function ironPayload(call: FormatCall): Buffer | undefined {
  if (call.method === 'POST') return undefined
  const payload = call.method === 'GET' ? URL.parse(call.url)?.searchParams.get('payload') : null
  return Buffer.from(payload ?? '')
}
