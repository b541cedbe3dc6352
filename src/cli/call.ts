import { createReadStream, statSync } from 'node:fs'
import { Readable } from 'node:stream'
import { type Command, InvalidArgumentError } from 'commander'
import { messageOf } from './client.ts'
import { CliError, type ExitReason } from './failure.ts'
import { endpointOf, invokeEndpoint, mustFn } from './objects.ts'
import { examples } from './options.ts'
import { type Host, runs, type Session } from './session.ts'

export interface CallOptions {
  readonly data?: string
  readonly header?: Headers
  readonly contentType?: string
}

export function addCall(program: Command, host: Host): void {
  const command = program
    .command('call')
    .alias('invoke')
    .description('call a function and print its answer')
    .argument('<app/fn>', 'app and function')
    .option('-d, --data <text>', 'what to send: text, @file, or - for standard input')
    .option('-H, --header <header>', 'a header, "Name: value"; repeatable', headerLine)
    .option(
      '--content-type <type>',
      'of the data; default text/plain, for JSON typed here application/json',
    )
    .action(runs(host, call))
  examples(command, [
    ['fnd call default/hello -d \'{"name":"Ada"}\'', 'send text'],
    ['fnd call default/resize -d @photo.jpg > small.jpg', 'send a file'],
    ['cat big.csv | fnd call default/load', 'send standard input, as it comes'],
    ['fnd call default/hello --json', 'status, headers, call id and body'],
  ])
}

/** Parser of a repeatable `Name: value`. */
export function headerLine(text: string, before = new Headers()): Headers {
  const colon = text.indexOf(':')
  try {
    if (colon < 1) throw new TypeError('no colon')
    const headers = new Headers(before)
    headers.append(text.slice(0, colon), text.slice(colon + 1).trim())
    return headers
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause
    throw new InvalidArgumentError('write "Name: value".')
  }
}

async function call(session: Session, path: string, options: CallOptions): Promise<void> {
  // Looked at first: a missing file is told before the server is asked for anything.
  const body = bodyFrom(session, options.data)
  const { fn } = await mustFn(session.client, path)
  await invoke(session, endpointOf(fn, invokeEndpoint) ?? `/invoke/${fn.id}`, body, options)
}

/** Calls and prints the answer; an answer that is none ends the command. */
export async function invoke(
  session: Session,
  target: string,
  body: Bun.BodyInit | undefined,
  options: CallOptions,
): Promise<void> {
  const headers = new Headers(options.header)
  if (options.contentType !== undefined) headers.set('content-type', options.contentType)
  if (!headers.has('content-type')) headers.set('content-type', typeOf(options.data))
  const response = await session.client.send(target, {
    method: 'POST',
    headers,
    isPublic: true,
    ...(body === undefined ? {} : { body }),
  })
  const callId = response.headers.get('fn-call-id')
  const shown = session.isJson ? await answerJson(response, callId) : undefined
  if (shown !== undefined) {
    await session.print(shown, () => '')
  } else if (response.ok) {
    let lastByte: number | undefined
    for await (const chunk of response.body ?? []) {
      await session.terminal.write(chunk)
      lastByte = chunk.at(-1)
    }
    // The prompt of a shell begins on a line of its own; a pipe gets the answer as it is.
    if (session.terminal.isOutTty && lastByte !== 0x0a) await session.terminal.write('\n')
  }
  if (!response.ok) {
    const text = shown === undefined ? await response.text() : (shown.body ?? '')
    throw callFailure(response, callId, text)
  }
}

/** JSON typed on the command line is sent as such; else, as Fn's own client does, text. */
function typeOf(data: string | undefined): string {
  if (data === undefined || !/^\s*[{[]/.test(data)) return 'text/plain'
  try {
    JSON.parse(data)
    return 'application/json'
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    return 'text/plain'
  }
}

function callFailure(response: Response, callId: string | null, text: string): CliError {
  const reasons: Record<number, ExitReason> = { 401: 'unauthorized', 404: 'not-found' }
  const message = messageOf(text) || response.statusText
  const id = callId === null ? '' : ` (call ${callId})`
  const retryAfter = response.headers.get('retry-after')
  const hint =
    response.status === 401
      ? 'the app asks for a key; give it with: -H "Fnd-Invoke-Key: <key>"'
      : retryAfter !== null
        ? `try again in ${retryAfter} s`
        : `see what it printed: fnd logs ${callId ?? '<app>/<function>'}`
  return new CliError(reasons[response.status] ?? 'failed', `${response.status} ${message}${id}`, {
    hint,
  })
}

/** What `--json` prints. */
interface AnswerJson {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly call_id: string | null
  readonly body?: string
  /** Instead of `body` where it is not UTF-8. */
  readonly body_base64?: string
}

async function answerJson(response: Response, callId: string | null): Promise<AnswerJson> {
  const bytes = await response.bytes()
  const common = {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    call_id: callId,
  }
  try {
    return { ...common, body: new TextDecoder('utf-8', { fatal: true }).decode(bytes) }
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause
    return { ...common, body_base64: Buffer.from(bytes).toString('base64') }
  }
}

/** Streams where the source is a file or a pipe, so that size does not matter. */
export function bodyFrom(session: Session, data: string | undefined): Bun.BodyInit | undefined {
  if (data === undefined && session.terminal.isInTty) return undefined
  if (data === undefined ? hasPipedInput() : data === '-') {
    return Readable.toWeb(process.stdin) as unknown as ReadableStream
  }
  if (data === undefined) return undefined
  if (!data.startsWith('@')) return data
  const file = data.slice(1)
  if (!statSync(file, { throwIfNoEntry: false })?.isFile()) {
    throw new CliError('usage', `-d: there is no file ${file}`)
  }
  return Readable.toWeb(createReadStream(file)) as unknown as ReadableStream
}

/** Under cron or a service manager standard input is /dev/null, a device: nothing to send. */
function hasPipedInput(): boolean {
  const stat = statSync('/dev/stdin', { throwIfNoEntry: false })
  return stat !== undefined && (stat.isFIFO() || stat.isFile() || stat.isSocket())
}
