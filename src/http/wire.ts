/**
 * HTTP/1.1 as bytes (RFC 9112), pure: what a reply's head says, and how its body is framed. Strict
 * where leniency would let a hostile function smuggle a reply: bare line feeds, folded lines, two
 * lengths, or a length beside chunked framing are errors.
 */

export interface ReplyHead {
  readonly status: number
  /** Name and value alternate, in the order received; names as sent. */
  readonly headers: readonly string[]
  /** Bytes of body, or how its end is told. */
  readonly framing: number | 'chunked' | 'until-close'
  readonly isKeepAlive: boolean
}

export type HeadFault =
  | 'bad-status-line'
  | 'bad-header'
  | 'bad-length'
  | 'bad-framing'
  | 'too-many-headers'

/**
 * Each name of a reply is looked for among all others before it goes to the caller: 70,000 of them,
 * which fit a head of 1 MiB, would hold up everybody for five seconds.
 */
const headersMax = 1000

const tokenPattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
// A header value may hold tabs, visible characters and obs-text, but no control characters.
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it refuses.
const badValuePattern = /[\u0000-\u0008\u000a-\u001f\u007f]/

/**
 * Reads a head given as latin1 text without its final empty line. `isBodiless` is for replies whose
 * request or status forbids a body (HEAD).
 */
export function parseHead(text: string): ReplyHead | HeadFault {
  let lineEnd = text.indexOf('\r\n')
  if (lineEnd === -1) lineEnd = text.length
  if (!text.startsWith('HTTP/1.') || text.charCodeAt(8) !== 32) return 'bad-status-line'
  const minor = text.charCodeAt(7) - 48
  const status = Number(text.slice(9, 12))
  if ((minor !== 0 && minor !== 1) || !(status >= 100 && status <= 999)) return 'bad-status-line'
  if (lineEnd > 12 && text.charCodeAt(12) !== 32) return 'bad-status-line'
  const lineFeed = text.indexOf('\n')
  if (lineFeed !== -1 && lineFeed !== lineEnd + 1) return 'bad-status-line'

  const headers: string[] = []
  let length = -1
  let isChunked = false
  let isKeepAlive = minor === 1
  while (lineEnd < text.length) {
    const start = lineEnd + 2
    lineEnd = text.indexOf('\r\n', start)
    if (lineEnd === -1) lineEnd = text.length
    const colon = text.indexOf(':', start)
    if (colon === -1 || colon >= lineEnd) return 'bad-header'
    const name = text.slice(start, colon)
    const value = text.slice(colon + 1, lineEnd).trim()
    if (!tokenPattern.test(name) || badValuePattern.test(value)) return 'bad-header'
    if (headers.length === 2 * headersMax) return 'too-many-headers'
    headers.push(name, value)
    // Only three headers matter to the framing; their lengths rule the others out cheaply.
    if (name.length === 14 && name.toLowerCase() === 'content-length') {
      if (!/^\d{1,15}$/.test(value)) return 'bad-length'
      if (length !== -1 && length !== Number(value)) return 'bad-length'
      length = Number(value)
    } else if (name.length === 17 && name.toLowerCase() === 'transfer-encoding') {
      if (isChunked || value.toLowerCase() !== 'chunked') return 'bad-framing'
      isChunked = true
    } else if (name.length === 10 && name.toLowerCase() === 'connection') {
      const option = value.toLowerCase()
      if (option === 'close') isKeepAlive = false
      else if (option === 'keep-alive') isKeepAlive = true
    }
  }
  if (isChunked && length !== -1) return 'bad-framing'
  if (status < 200 || status === 204 || status === 304) {
    return { status, headers, framing: 0, isKeepAlive }
  }
  if (isChunked) return { status, headers, framing: 'chunked', isKeepAlive }
  if (length !== -1) return { status, headers, framing: length, isKeepAlive }
  return { status, headers, framing: 'until-close', isKeepAlive: false }
}

/** Position of the byte after `\r\n\r\n` at or after `from`, or -1. */
export function headEnd(bytes: Uint8Array, from: number): number {
  let at = from
  for (;;) {
    at = bytes.indexOf(13, at)
    if (at === -1 || at + 3 >= bytes.length) return -1
    if (bytes[at + 1] === 10 && bytes[at + 2] === 13 && bytes[at + 3] === 10) return at + 4
    at += 1
  }
}

/** A piece of body as one chunk. */
export function chunkFrom(piece: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`${piece.length.toString(16)}\r\n`), piece, lineEnd])
}

export const lineEnd = Buffer.from('\r\n')
const chunkLineBytesMax = 4096
/** Trailers are for nobody. */
const trailerBytesMax = 64 * 1024
const carriageReturn = 13
const newline = 10

/**
 * Decodes chunked framing in pieces of any size. `feed` hands each piece of body to `emit`, and
 * says whether the body goes on, is complete (`rest` bytes were left unread), or is malformed.
 */
export class ChunkedDecoder {
  /** Bytes after the end of the body in the last piece fed. */
  rest = 0
  #state: 'size' | 'data' | 'data-end' | 'trailer' = 'size'
  #line = ''
  #left = 0
  #trailerBytes = 0

  feed(bytes: Uint8Array, emit: (piece: Uint8Array) => void): 'more' | 'end' | 'bad' {
    let at = 0
    while (at < bytes.length) {
      if (this.#state === 'data') {
        const take = Math.min(this.#left, bytes.length - at)
        emit(bytes.subarray(at, at + take))
        at += take
        this.#left -= take
        if (this.#left === 0) this.#state = 'data-end'
        continue
      }
      const next = this.#line === '' ? this.#plainLine(bytes, at) : -1
      if (next !== -1) {
        at = next
        continue
      }
      const lineFeed = bytes.indexOf(newline, at)
      const stop = lineFeed === -1 ? bytes.length : lineFeed
      this.#line += latin1(bytes, at, stop)
      if (this.#line.length > chunkLineBytesMax) return 'bad'
      if (lineFeed === -1) return 'more'
      at = lineFeed + 1
      if (!this.#line.endsWith('\r')) return 'bad'
      const line = this.#line.slice(0, -1)
      this.#line = ''
      const step = this.#endLine(line)
      if (step === 'bad') return 'bad'
      if (step === 'end') {
        this.rest = bytes.length - at
        return 'end'
      }
    }
    return 'more'
  }

  /**
   * Reads the lines of almost all chunks, a bare size and the empty one after the data, without
   * making text of them: chunks may be of one byte. Returns what follows the line, or -1 when it is
   * another, or not whole.
   */
  #plainLine(bytes: Uint8Array, from: number): number {
    let at = from
    let size = 0
    if (this.#state === 'size') {
      for (let digit = hexDigit(bytes[at]); digit !== -1 && at < from + 8; ) {
        size = size * 16 + digit
        at += 1
        digit = hexDigit(bytes[at])
      }
      if (at === from) return -1
    } else if (this.#state === 'trailer') {
      return -1
    }
    if (bytes[at] !== carriageReturn || bytes[at + 1] !== newline) return -1
    this.#left = size
    if (this.#state === 'data-end') this.#state = 'size'
    else this.#state = size === 0 ? 'trailer' : 'data'
    return at + 2
  }

  #endLine(line: string): 'more' | 'end' | 'bad' {
    if (this.#state === 'data-end') {
      if (line !== '') return 'bad'
      this.#state = 'size'
      return 'more'
    }
    if (this.#state === 'trailer') {
      this.#trailerBytes += line.length
      if (this.#trailerBytes > trailerBytesMax) return 'bad'
      return line === '' ? 'end' : 'more'
    }
    const match = /^([0-9a-fA-F]{1,12})[ \t]*(;.*)?$/.exec(line)
    if (match === null) return 'bad'
    this.#left = Number.parseInt(match[1] ?? '', 16)
    this.#state = this.#left === 0 ? 'trailer' : 'data'
    return 'more'
  }
}

function hexDigit(byte: number | undefined): number {
  if (byte === undefined) return -1
  if (byte >= 48 && byte <= 57) return byte - 48
  const lower = byte | 32
  return lower >= 97 && lower <= 102 ? lower - 87 : -1
}

function latin1(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1')
}
