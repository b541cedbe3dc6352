/**
 * The format `http`: HTTP/1.1 over stdin and stdout, one call after the other. Pure: bytes of
 * requests come out, bytes of answers go in.
 */
import { ChunkedDecoder, parseHead, type ReplyHead } from '../../http/wire.ts'
import type { FnSpec } from '../driver.ts'
import { type FormatCall, goName, latin1From } from './format-call.ts'
import { callEnv } from './format-env.ts'

const tokenPattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/

/** The head of a request. `length` undefined stands for a chunked body, which Fn's dialect has. */
export function requestHead(call: FormatCall, spec: FnSpec, length: number | undefined): Buffer {
  const lines = spec.dialect === 'iron' ? ironLines(call, spec) : fnLines(call)
  const framing = length === undefined ? 'Transfer-Encoding: chunked' : `Content-Length: ${length}`
  return Buffer.from([...lines, framing, '', ''].join('\r\n'), 'latin1')
}

function fnLines(call: FormatCall): string[] {
  const url = new URL(call.url)
  // An answer to HEAD has no body, whatever its length says, and old kits send one all the same.
  // Asked for a GET, all of them agree on where an answer ends.
  const method = call.method === 'HEAD' ? 'GET' : call.method
  const headers = call.headers.filter(([name]) => name !== 'Content-Length')
  return [
    `${method} ${url.pathname}${url.search} HTTP/1.1`,
    `Host: ${url.host}`,
    ...headers.map(([name, value]) => `${name}: ${value}`),
    `Fn_deadline: ${call.deadline}`,
    `Fn_method: ${call.method}`,
    `Fn_request_url: ${call.url}`,
    `Fn_call_id: ${call.id}`,
  ]
}

/** IronFunctions gives what it has as environment, in headers, and the same request line always. */
function ironLines(call: FormatCall, spec: FnSpec): string[] {
  const entries = Object.entries(callEnv(spec, call)).filter(([name]) => tokenPattern.test(name))
  return [
    'GET / HTTP/1.1',
    ...entries.map(([name, value]) => `${goName(name)}: ${latin1From(oneLine(value))}`),
    `Task-Id: ${call.id}`,
  ]
}

function oneLine(value: string): string {
  return value.replace(/[\r\n\0]/g, ' ')
}

/**
 * Finds the head of an answer in pieces of any size. As the old runners did, it takes lines that
 * end with a bare line feed, and skips empty lines before the answer.
 */
export class AnswerHeadReader {
  readonly #bytesMax: number
  #held: Uint8Array = new Uint8Array(0)

  constructor(headBytesMax: number) {
    this.#bytesMax = headBytesMax
  }

  /** `fault` says what is wrong; `rest` is what follows the head. */
  feed(
    piece: Uint8Array,
  ):
    | 'more'
    | 'too-large'
    | { readonly fault: string }
    | { readonly head: ReplyHead; readonly rest: Uint8Array } {
    let bytes = this.#held.length === 0 ? piece : Buffer.concat([this.#held, piece])
    for (;;) {
      bytes = withoutLeadingSpace(bytes)
      const end = endOfHead(bytes)
      if (!isLikeHttp(bytes)) return { fault: malformed(bytes) }
      if ((end === -1 ? bytes.length : end) > this.#bytesMax) return 'too-large'
      if (end === -1) {
        this.#held = bytes
        return 'more'
      }
      const head = parseHead(linesOf(bytes.subarray(0, end)))
      if (head === 'too-many-headers') return 'too-large'
      if (typeof head === 'string') return { fault: `${malformed(bytes)}: ${faultWords[head]}` }
      if (head.status === 101) return { fault: `${malformed(bytes)}: nobody asked for it` }
      bytes = bytes.subarray(end)
      // 100 Continue and its kin are not the answer.
      if (head.status >= 200) return { head, rest: bytes }
    }
  }
}

/** Reads the body of an answer in pieces of any size. */
export class AnswerBodyReader {
  readonly #decoder: ChunkedDecoder | null
  readonly #isUntilEnd: boolean
  #left: number

  constructor(framing: ReplyHead['framing']) {
    this.#decoder = framing === 'chunked' ? new ChunkedDecoder() : null
    this.#isUntilEnd = framing === 'until-close'
    this.#left = typeof framing === 'number' ? framing : 0
  }

  /** Whether the end of the output is a proper end of the body. */
  get isEndedByClose(): boolean {
    return this.#isUntilEnd
  }

  /** `rest` follows the body and belongs to nothing. */
  feed(
    piece: Uint8Array,
  ): 'bad' | { readonly body: Uint8Array; readonly isEnd: boolean; readonly rest: Uint8Array } {
    if (this.#isUntilEnd) return { body: piece, isEnd: false, rest: nothing }
    if (this.#decoder === null) {
      const take = Math.min(this.#left, piece.length)
      this.#left -= take
      const isEnd = this.#left === 0
      return { body: piece.subarray(0, take), isEnd, rest: piece.subarray(take) }
    }
    const pieces: Uint8Array[] = []
    const step = this.#decoder.feed(piece, part => pieces.push(part))
    if (step === 'bad') return 'bad'
    const isEnd = step === 'end'
    const restLength = isEnd ? this.#decoder.rest : 0
    const body = pieces.length === 1 ? (pieces[0] ?? nothing) : Buffer.concat(pieces)
    return { body, isEnd, rest: piece.subarray(piece.length - restLength) }
  }
}

const nothing = new Uint8Array(0)

/** Whether bytes are but white space, which may stand between answers. */
export function isBlank(bytes: Uint8Array): boolean {
  return withoutLeadingSpace(bytes).length === 0
}

function withoutLeadingSpace(bytes: Uint8Array): Uint8Array {
  let at = 0
  while (at < bytes.length && isSpace(bytes[at])) at += 1
  return at === 0 ? bytes : bytes.subarray(at)
}

/** Space, tab, line feed, carriage return. */
function isSpace(byte: number | undefined): boolean {
  return byte === 32 || byte === 9 || byte === 10 || byte === 13
}

function endOfHead(bytes: Uint8Array): number {
  for (let at = bytes.indexOf(10); at !== -1; at = bytes.indexOf(10, at + 1)) {
    if (bytes[at + 1] === 10) return at + 2
    if (bytes[at + 1] === 13 && bytes[at + 2] === 10) return at + 3
  }
  return -1
}

/** The head as strict text without its final empty line. */
function linesOf(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
  return text.replace(/\r?\n/g, '\r\n').slice(0, -4)
}

function isLikeHttp(bytes: Uint8Array): boolean {
  const start = 'HTTP/'
  for (let at = 0; at < Math.min(bytes.length, start.length); at++) {
    if (bytes[at] !== start.charCodeAt(at)) return false
  }
  return true
}

const faultWords = {
  'bad-status-line': 'its status line is none',
  'bad-header': 'a header is none',
  'bad-length': 'its length is none',
  'bad-framing': 'it is framed in two ways',
} as const

/** With the beginning of what stands in place of an answer. */
function malformed(bytes: Uint8Array): string {
  const text = new TextDecoder().decode(bytes.subarray(0, 100))
  return `malformed HTTP response ${JSON.stringify(text.split(/\r?\n/, 1)[0])}`
}
