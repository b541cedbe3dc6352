/** ANY /t/:app/*source: http triggers, fn-api §1.9. */
import { Elysia, t } from 'elysia'
import { FndError } from '../errors.ts'
import type { ActiveCall } from '../exec/active-call.ts'
import type { Reply } from '../http/client.ts'
import { isHopByHop } from '../http/headers.ts'
import type { FnRoute } from '../store/state.ts'
import {
  answerCall,
  type CallPlan,
  type CallRoute,
  failure,
  incomingHead,
  permittedBody,
} from './answer.ts'
import { AnswerHeaders, callHeaders, type HeaderPairs } from './answer-headers.ts'
import { type Direct, pathStart } from './direct.ts'
import type { InvokeParts } from './invoke.ts'
import { checkInvokeKey } from './invoke-key.ts'
import { parseableUrl } from './url.ts'

const detail = {
  tags: ['Invocation'],
  summary: 'Call a function through its HTTP trigger',
  description: 'Method, URL and headers reach the function as Fn-Http-*; it sets the status.',
}

export function gatewayApi(parts: InvokeParts) {
  // Callers choose the method, so the template counts for all of them.
  const counter = parts.counterOf('any', '/t/:app/*source')
  return new Elysia({ name: 'gateway' })
    .all(
      '/t/:app',
      ({ request, params }) => answerCall(callRoute, parts, counter, request, params.app),
      {
        parse: 'none',
        params: t.Object({ app: t.String() }),
        detail,
      },
    )
    .all(
      '/t/:app/*',
      ({ request, params }) => answerCall(callRoute, parts, counter, request, params.app),
      {
        parse: 'none',
        params: t.Object({ app: t.String(), '*': t.String() }),
        detail,
      },
    )
}

const prefix = '/t/'

export function directGateway(parts: InvokeParts): Direct {
  const counter = parts.counterOf('any', '/t/:app/*source')
  return request => {
    const { url } = request
    const at = pathStart(url)
    if (!url.startsWith(prefix, at)) return undefined
    const from = at + prefix.length
    const end = url.indexOf('/', from)
    // With an escape or a query it is no app's name; an empty source is the router's to judge.
    const app = url.slice(from, end)
    if (end === -1 || end + 1 === url.length || url[end + 1] === '?') return undefined
    if (parts.routes.appByName(app) === undefined) return undefined
    return answerCall(callRoute, parts, counter, request, app)
  }
}

function plan(parts: InvokeParts, request: Request, appParam: string): CallPlan<FnRoute> {
  const url = parseableUrl(request.url)
  const route = routeOf(parts, url, appParam)
  checkInvokeKey(route.app, request.headers)
  const prelude =
    `fn-intent: httprequest\r\nfn-http-method: ${request.method}\r\n` +
    `fn-http-request-url: ${url}\r\n`
  return { route, prelude, head: incomingHead(request.headers, 'fn-http-h-') }
}

/** The match is exact and on the decoded path, without the query. */
function routeOf(parts: InvokeParts, url: string, appParam: string): FnRoute {
  const app = parts.routes.appByName(decoded(appParam))
  if (app === undefined) throw new FndError('app-not-found')
  const route = parts.routes.fnBySource(app, decoded(sourceOf(url)))
  if (route === undefined) throw new FndError('trigger-not-found')
  return route
}

/** The path behind `/t/<app>`, at least `/`. */
function sourceOf(url: string): string {
  const pathStart = url.indexOf('/', url.indexOf('://') + 3)
  const sourceStart = url.indexOf('/', pathStart + 3)
  let end = url.indexOf('?', pathStart)
  if (end === -1) end = url.length
  if (sourceStart === -1 || sourceStart >= end) return '/'
  return url.slice(sourceStart, end)
}

function decoded(text: string): string {
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch (cause) {
    throw new FndError('trigger-not-found', { cause })
  }
}

/** Set by fnd or by its server for each answer; a second value would contradict the first. */
const notFromFunction: ReadonlySet<string> = new Set([
  'content-length',
  'content-type',
  'date',
  'fn-call-id',
])

/** What a reply comes to for the caller of a trigger. */
interface Passed {
  readonly status: number
  readonly headers: AnswerHeaders
}

/** Replies of a function mostly share their head (`LastHead`), and so what becomes of it. */
const passedOn = new WeakMap<readonly string[], Passed>()

/**
 * Only what the function meant for the caller passes: its type, and its Fn-Http-H- headers. fnd's
 * own worker cannot write one header twice except Set-Cookie by its own name, so several cookies
 * come that way, from it alone.
 */
function passedFrom(reply: readonly string[]): Passed {
  const headers: HeaderPairs = []
  const cookies: HeaderPairs = []
  let isOwnWorker = false
  let status = 200
  for (let i = 0; i < reply.length; i += 2) {
    const name = reply[i] ?? ''
    const value = reply[i + 1] ?? ''
    const lower = name.toLowerCase()
    if (lower === 'content-type' && value !== '') headers.push([name, value])
    else if (lower === 'fn-http-status') status = Number(value)
    else if (lower.length > 10 && lower.startsWith('fn-http-h-')) {
      const own = lower.slice(10)
      if (!notFromFunction.has(own) && !isHopByHop(own)) headers.push([name.slice(10), value])
    } else if (lower === 'set-cookie') cookies.push([name, value])
    else if (lower === 'fn-fdk-version') isOwnWorker = value.startsWith('fnd/')
  }
  if (isOwnWorker) headers.push(...cookies)
  return { status: status > 0 ? status : 200, headers: new AnswerHeaders(headers) }
}

function answer(call: ActiveCall, reply: Reply, method: string): Response {
  let passed = passedOn.get(reply.headers)
  if (passed === undefined) {
    passed = passedFrom(reply.headers)
    passedOn.set(reply.headers, passed)
  }
  const { status } = passed
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    if (reply.body instanceof ReadableStream) void reply.body.cancel()
    return failure(new FndError('function-response-invalid'), callHeaders(call))
  }
  const headers = passed.headers.of(call)
  return new Response(permittedBody(reply.body, status, method), { status, headers })
}

const callRoute: CallRoute<FnRoute, InvokeParts> = { plan, answer }
