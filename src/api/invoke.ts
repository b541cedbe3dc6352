/** POST /invoke/:fn_id: the raw http-stream contract, fn-api §1.8. */
import { Elysia, t } from 'elysia'
import { FndError } from '../errors.ts'
import type { ActiveCall } from '../exec/active-call.ts'
import type { Reply } from '../http/client.ts'
import { connectionOptions, isHopByHop } from '../http/headers.ts'
import type { FnRoute, Routes } from '../store/state.ts'
import {
  answerCall,
  type CallPlan,
  type CallRoute,
  type CallRouteParts,
  incomingHead,
  permittedBody,
  type RouteCounter,
} from './answer.ts'
import { AnswerHeaders, type HeaderPairs } from './answer-headers.ts'
import { type Direct, pathStart } from './direct.ts'
import { checkInvokeKey } from './invoke-key.ts'

export interface InvokeParts extends CallRouteParts<FnRoute> {
  readonly routes: Routes
  readonly counterOf: (method: string, path: string) => RouteCounter
}

export function invokeApi(parts: InvokeParts) {
  const counter = parts.counterOf('POST', '/invoke/:fn_id')
  return new Elysia({ name: 'invoke' }).post(
    '/invoke/:fn_id',
    ({ request, params }) => answerCall(callRoute, parts, counter, request, params.fn_id),
    {
      parse: 'none',
      params: t.Object({ fn_id: t.String() }),
      detail: {
        tags: ['Invocation'],
        summary: 'Call a function by its id',
        description: 'The body and headers go to the function; its answer streams back.',
      },
    },
  )
}

const prefix = '/invoke/'

export function directInvoke(parts: InvokeParts): Direct {
  const counter = parts.counterOf('POST', '/invoke/:fn_id')
  return request => {
    const { url } = request
    const at = pathStart(url)
    if (!url.startsWith(prefix, at) || request.method !== 'POST') return undefined
    // With a query, an escape or a further slash it is no function's id.
    const fnId = url.slice(at + prefix.length)
    if (parts.routes.fnById(fnId) === undefined) return undefined
    return answerCall(callRoute, parts, counter, request, fnId)
  }
}

function plan(parts: InvokeParts, request: Request, fnId: string): CallPlan<FnRoute> {
  const route = parts.routes.fnById(fnId)
  if (route === undefined) throw new FndError('fn-not-found')
  checkInvokeKey(route.app, request.headers)
  const head = incomingHead(request.headers, '')
  if (head.isDetached) throw new FndError('detached-unsupported')
  return { route, prelude: '', head }
}

function answer(call: ActiveCall, reply: Reply, method: string): Response {
  let own = passedOn.get(reply.headers)
  if (own === undefined) {
    own = new AnswerHeaders(passedHeaders(reply.headers))
    passedOn.set(reply.headers, own)
  }
  return new Response(permittedBody(reply.body, 200, method), { headers: own.of(call) })
}

/** Replies of a function mostly share their head (`LastHead`), and so what becomes of it. */
const passedOn = new WeakMap<readonly string[], AnswerHeaders>()

/** Everything the function said, but what belongs to its connection or is set by fnd. */
function passedHeaders(from: readonly string[]): HeaderPairs {
  const to: HeaderPairs = []
  const ofConnection = connectionOptions(headerOf(from, 'connection'))
  for (let i = 0; i < from.length; i += 2) {
    const name = from[i] ?? ''
    const lower = name.toLowerCase()
    if (isHopByHop(lower) || lower === 'content-length' || lower === 'date') continue
    if (lower === 'fn-call-id' || ofConnection.includes(lower)) continue
    to.push([name, from[i + 1] ?? ''])
  }
  return to
}

function headerOf(headers: readonly string[], lowerName: string): string | undefined {
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] ?? ''
    if (name.length === lowerName.length && name.toLowerCase() === lowerName) return headers[i + 1]
  }
  return undefined
}

const callRoute: CallRoute<FnRoute, InvokeParts> = { plan, answer }
