/** POST /invoke/:fn_id: the raw http-stream contract, fn-api §1.8. */
import { Elysia, t } from 'elysia'
import { FndError } from '../errors.ts'
import { connectionOptions, isHopByHop } from '../http/headers.ts'
import type { FnRoute, Routes } from '../store/state.ts'
import {
  answered,
  type BodyLimits,
  callHeaders,
  failure,
  type HeaderPairs,
  headerLines,
  type Invoker,
  incomingBody,
  permittedBody,
  type RouteCounter,
} from './answer.ts'
import { checkInvokeKey } from './invoke-key.ts'

export interface InvokeParts {
  readonly routes: Routes
  readonly invoker: Invoker<FnRoute>
  readonly limits: BodyLimits
  readonly counterOf: (method: string, path: string) => RouteCounter
}

export function invokeApi(parts: InvokeParts) {
  const counter = parts.counterOf('POST', '/invoke/:fn_id')
  return new Elysia({ name: 'invoke' }).post(
    '/invoke/:fn_id',
    ({ request, params }) => answered(counter, request, () => invoke(parts, request, params.fn_id)),
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

async function invoke(parts: InvokeParts, request: Request, fnId: string): Promise<Response> {
  const route = parts.routes.fnById(fnId)
  if (route === undefined) throw new FndError('fn-not-found')
  checkInvokeKey(route.app, request.headers)
  if (request.headers.get('fn-invoke-type') === 'detached') {
    throw new FndError('detached-unsupported')
  }
  const body = incomingBody(request, parts.limits)
  const incoming = body instanceof Promise ? await body : body
  const result = await parts.invoker.call(route, {
    headers: headerLines(request.headers, ''),
    body: incoming.body,
    length: incoming.length,
    caller: request,
  })
  const headers = callHeaders(result.call)
  if (!result.ok) {
    const error = incoming.isTooLarge() ? new FndError('request-body-too-large') : result.error
    return failure(error, headers)
  }
  const { reply } = result
  copyHeaders(reply.headers, headers)
  return new Response(permittedBody(reply.body, 200, request.method), { headers })
}

/** Everything the function said, but what belongs to its connection or is set by fnd. */
function copyHeaders(from: readonly string[], to: HeaderPairs): void {
  const ofConnection = connectionOptions(headerOf(from, 'connection'))
  for (let i = 0; i < from.length; i += 2) {
    const name = from[i] ?? ''
    const lower = name.toLowerCase()
    if (isHopByHop(lower) || lower === 'content-length' || lower === 'date') continue
    if (lower === 'fn-call-id' || ofConnection.includes(lower)) continue
    to.push([name, from[i + 1] ?? ''])
  }
}

function headerOf(headers: readonly string[], lowerName: string): string | undefined {
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] ?? ''
    if (name.length === lowerName.length && name.toLowerCase() === lowerName) return headers[i + 1]
  }
  return undefined
}
