import { Elysia, t } from 'elysia'
import { FndError } from '../errors.ts'
import type { LogLine } from '../exec/call-log.ts'
import type { CallOutput } from '../exec/output.ts'

export interface LogsOptions {
  readonly output: Pick<CallOutput, 'ofCall' | 'ofFn' | 'follow'>
  readonly hasFn: (fnId: string) => boolean
  /** Between blank lines on a quiet stream, which keep proxies from closing it. */
  readonly heartbeatMs?: number
}

const heartbeatMsDefault = 15_000
const linesMax = 10_000
const linesDefault = 100
const contentType = 'application/x-ndjson'
const headers = { 'content-type': contentType, 'cache-control': 'no-store' }
const description =
  'One JSON object a line: call_id (empty before the first call of an instance), fn_id, time, ' +
  'stream (stdout or stderr), text. Blank lines mean nothing.'

/** Output of functions. The server puts it behind the admin token. */
export function logsApi(options: LogsOptions) {
  const { output, hasFn, heartbeatMs = heartbeatMsDefault } = options
  return new Elysia({ name: 'api/logs', prefix: '/fnd/v1' })
    .get(
      '/fns/:fn_id/logs',
      ({ params, query, request, server }) => {
        const fnId = params.fn_id
        if (!hasFn(fnId)) throw new FndError('fn-not-found')
        const lines = parseLines(query.lines)
        if (!parseFollow(query.follow))
          return new Response(textOf(output.ofFn(fnId, lines)), { headers })
        // Nobody reads what would follow, and nothing would end it.
        if (request.method === 'HEAD') return new Response(null, { headers })
        // A stream may be silent for as long as the function is.
        server?.timeout(request, 0)
        return new Response(followStream(output, { fnId, lines, heartbeatMs }), { headers })
      },
      {
        params: t.Object({ fn_id: t.String() }),
        query: t.Object({
          follow: t.Optional(
            t.String({ description: '1: go on with new lines until the client goes' }),
          ),
          lines: t.Optional(
            t.String({
              description: `Newest lines to begin with, 0 to ${linesMax}`,
              default: '100',
            }),
          ),
        }),
        detail: { tags: ['Logs'], summary: 'Output of a function', description },
      },
    )
    .get(
      '/calls/:call_id/log',
      ({ params }) => {
        const lines = output.ofCall(params.call_id)
        if (lines === undefined) {
          throw new FndError('call-not-found', { detail: 'no output of it is kept on this node' })
        }
        return new Response(textOf(lines), { headers })
      },
      {
        params: t.Object({ call_id: t.String() }),
        detail: { tags: ['Logs'], summary: 'Output of one call', description },
      },
    )
}

function parseLines(text: string | undefined): number {
  if (text === undefined || text === '') return linesDefault
  const lines = Number(text)
  if (/^\d+$/.test(text) && lines <= linesMax) return lines
  throw new FndError('invalid-field', {
    field: 'lines',
    detail: `lines is a whole number from 0 to ${linesMax}`,
  })
}

function parseFollow(text: string | undefined): boolean {
  if (text === undefined || text === '0' || text === 'false') return false
  if (text === '' || text === '1' || text === 'true') return true
  throw new FndError('invalid-field', { field: 'follow', detail: 'follow is 1 or 0' })
}

function textOf(lines: readonly LogLine[]): string {
  return lines.map(jsonOf).join('')
}

function jsonOf(line: LogLine): string {
  const { callId, fnId, timeMs, stream, text } = line
  const time = new Date(timeMs).toISOString()
  return `${JSON.stringify({ call_id: callId, fn_id: fnId, time, stream, text })}\n`
}

/**
 * The past, then what comes. The listener's promise waits until the client has read, so that a slow
 * client fills the follower's bounded buffer, not the socket's queue.
 */
function followStream(
  output: LogsOptions['output'],
  follow: { readonly fnId: string; readonly lines: number; readonly heartbeatMs: number },
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let wanted = Promise.withResolvers<void>()
  let end: (() => void) | undefined
  let heartbeat: ReturnType<typeof setInterval> | undefined
  return new ReadableStream<Uint8Array>({
    start(controller) {
      // Nothing can be written between the two, so no line is lost or doubled.
      const past = output.ofFn(follow.fnId, follow.lines)
      end = output.follow(follow.fnId, async lines => {
        controller.enqueue(encoder.encode(textOf(lines)))
        if ((controller.desiredSize ?? 0) <= 0) {
          wanted = Promise.withResolvers()
          await wanted.promise
        }
      })
      // The blank line makes the head of the answer go out even if there is no line yet.
      controller.enqueue(encoder.encode(past.length > 0 ? textOf(past) : '\n'))
      heartbeat = setInterval(() => {
        if ((controller.desiredSize ?? 0) > 0) controller.enqueue(encoder.encode('\n'))
      }, follow.heartbeatMs)
    },
    pull() {
      wanted.resolve()
    },
    cancel() {
      end?.()
      clearInterval(heartbeat)
      wanted.resolve()
    },
  })
}
