/**
 * The format `json`: one object on stdin per call, one object on stdout per answer. Pure. Neither
 * can be streamed, so both are bounded.
 */
import { type FormatCall, latin1From, utf8From } from './format-call.ts'
import type { FnAnswer } from './format-reply.ts'

/** Of a request's body. */
export const jsonBodyBytesMax = 16 * 1024 * 1024
/** Of the text of an answer, in which a byte of the body may take six. */
export const jsonAnswerBytesMax = 64 * 1024 * 1024

/** What goes to stdin, its line feed included. */
export function requestText(call: FormatCall, body: Uint8Array): string {
  const headers = new Map<string, string[]>()
  for (const [name, value] of call.headers) {
    const values = headers.get(name)
    if (values === undefined) headers.set(name, [utf8From(value)])
    else values.push(utf8From(value))
  }
  const object = {
    call_id: call.id,
    content_type: utf8From(call.contentType),
    deadline: call.deadline,
    body: new TextDecoder('utf-8', { ignoreBOM: true }).decode(body),
    protocol: {
      type: 'http',
      method: call.method,
      request_url: call.url,
      headers: Object.fromEntries(headers),
    },
  }
  return `${JSON.stringify(object)}\n`
}

const quote = 34
const backslash = 92

/**
 * Finds the end of one object in pieces of any size; white space before it is skipped. Whether it
 * is JSON is left to its parser.
 */
export class ObjectScanner {
  readonly #bytesMax: number
  /** Grows by doubling: a function may write byte by byte. */
  #held = Buffer.alloc(0)
  #bytes = 0
  #depth = 0
  #isInString = false
  #isEscaped = false

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  feed(
    piece: Uint8Array,
  ):
    | 'more'
    | 'too-large'
    | { readonly fault: string }
    | { readonly text: string; readonly rest: Uint8Array } {
    let from = 0
    if (this.#depth === 0) {
      while (from < piece.length && isSpace(piece[from])) from += 1
      if (from === piece.length) return 'more'
      if (piece[from] !== 123) return { fault: unexpected(piece.subarray(from)) }
    }
    const end = this.#scan(piece, from)
    const stop = end === -1 ? piece.length : end
    if (this.#bytes + stop - from > this.#bytesMax) return 'too-large'
    this.#hold(piece.subarray(from, stop))
    if (end === -1) return 'more'
    return { text: this.#held.toString('utf8', 0, this.#bytes), rest: piece.subarray(end) }
  }

  #hold(bytes: Uint8Array): void {
    const needed = this.#bytes + bytes.length
    if (needed > this.#held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#held.length))
      this.#held.copy(grown, 0, 0, this.#bytes)
      this.#held = grown
    }
    this.#held.set(bytes, this.#bytes)
    this.#bytes = needed
  }

  /** Position of the byte after the object, or -1. */
  #scan(piece: Uint8Array, from: number): number {
    for (let at = from; at < piece.length; at++) {
      const byte = piece[at]
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false
        else if (byte === backslash) this.#isEscaped = true
        else if (byte === quote) this.#isInString = false
      } else if (byte === quote) {
        this.#isInString = true
      } else if (byte === 123 || byte === 91) {
        this.#depth += 1
      } else if (byte === 125 || byte === 93) {
        this.#depth -= 1
        if (this.#depth === 0) return at + 1
      }
    }
    return -1
  }
}

export interface JsonAnswer extends FnAnswer {
  readonly body: Buffer
}

/** Reads the object that a function answered, or says what is wrong with it. */
export function answerFrom(text: string): JsonAnswer | { readonly fault: string } {
  let object: unknown
  try {
    object = JSON.parse(text)
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    return { fault: cause.message }
  }
  if (!isRecord(object)) return { fault: 'it must be an object' }
  const { body = '', content_type: type = '', protocol } = object
  if (typeof body !== 'string') return { fault: '"body" must be a string' }
  if (typeof type !== 'string' || !isHeaderValue(type)) {
    return { fault: '"content_type" must be a string without control characters' }
  }
  const told = protocol ?? {}
  if (!isRecord(told)) return { fault: '"protocol" must be an object' }
  const status = statusOf(told.status_code)
  if (status === undefined) {
    return { fault: '"protocol.status_code" must be a whole number from 100 to 999' }
  }
  const headers = headersOf(told.headers ?? {})
  if (headers === undefined) {
    return { fault: '"protocol.headers" must hold lists of strings, by the names of headers' }
  }
  const isOther = (_: string, i: number) =>
    type === '' || headers[i - (i % 2)]?.toLowerCase() !== 'content-type'
  const own = type === '' ? [] : ['Content-Type', latin1From(type)]
  return { status, headers: [...own, ...headers.filter(isOther)], body: Buffer.from(body) }
}

/** None and 0 mean that the function leaves it to the server. */
function statusOf(value: unknown): number | undefined {
  if (value === undefined || value === null || value === 0) return 200
  const isStatus = typeof value === 'number' && Number.isInteger(value)
  return isStatus && value >= 100 && value <= 999 ? value : undefined
}

function headersOf(value: unknown): string[] | undefined {
  if (!isRecord(value)) return undefined
  const headers: string[] = []
  for (const [name, entry] of Object.entries(value)) {
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) return undefined
    const values: unknown[] = Array.isArray(entry) ? entry : [entry]
    for (const one of values) {
      if (typeof one !== 'string' || !isHeaderValue(one)) return undefined
      headers.push(name, latin1From(one))
    }
  }
  return headers
}

function isHeaderValue(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it refuses.
  return !/[\u0000-\u0008\u000a-\u001f\u007f]/.test(text)
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSpace(byte: number | undefined): boolean {
  return byte === 32 || byte === 9 || byte === 10 || byte === 13
}

/** In the words of Go's decoder, which functions' authors know. */
function unexpected(bytes: Uint8Array): string {
  const [character = ''] = new TextDecoder().decode(bytes.subarray(0, 4))
  return `invalid character '${character}' looking for beginning of value`
}
