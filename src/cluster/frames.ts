/**
 * What travels between nodes is frames: length (4 bytes, little-endian, of kind and payload), kind,
 * payload. A frame longer than its reader allows ends the connection before it is received.
 */

export const frameHeadBytes = 5

/** By kind: the first three begin every connection, the others belong to one purpose of it. */
export const frameKinds = {
  hello: 1,
  welcome: 2,
  refusal: 3,
  messages: 10,
  ping: 11,
  pong: 12,
  request: 20,
  answer: 21,
  failure: 22,
  begin: 30,
  chunk: 31,
  end: 32,
  alive: 33,
  join: 40,
  progress: 41,
  joined: 42,
} as const

export type FrameKind = (typeof frameKinds)[keyof typeof frameKinds]

const knownKinds: ReadonlySet<number> = new Set(Object.values(frameKinds))

/** Of kind and payload, before the other side has said who it is. */
export const helloBytesMax = 64 * 1024

/** Fills the first `frameHeadBytes` of `frame`, whose rest is the payload. */
export function sealFrame(frame: Uint8Array, kind: FrameKind): Uint8Array {
  const size = frame.length - frameHeadBytes + 1
  frame[0] = size & 255
  frame[1] = (size >>> 8) & 255
  frame[2] = (size >>> 16) & 255
  frame[3] = size >>> 24
  frame[4] = kind
  return frame
}

export function makeFrame(kind: FrameKind, ...parts: readonly Uint8Array[]): Uint8Array {
  const size = parts.reduce((sum, part) => sum + part.length, frameHeadBytes)
  const frame = Buffer.allocUnsafeSlow(size)
  let at = frameHeadBytes
  for (const part of parts) {
    frame.set(part, at)
    at += part.length
  }
  return sealFrame(frame, kind)
}

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true })

export function encodeJson(value: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(value ?? null))
}

/** Undefined when the bytes are no JSON text, since the sender may be anyone. */
export function decodeJson(bytes: Uint8Array): { readonly value: unknown } | undefined {
  try {
    return { value: JSON.parse(decoder.decode(bytes)) }
  } catch (cause) {
    if (cause instanceof SyntaxError || cause instanceof TypeError) return undefined
    throw cause
  }
}

export function jsonFrame(kind: FrameKind, value: unknown): Uint8Array {
  return makeFrame(kind, encodeJson(value))
}

/**
 * A JSON text and bytes in one payload: a call's head and its body. `prefix` comes before both.
 */
export function headFrame(
  kind: FrameKind,
  prefix: Uint8Array,
  head: unknown,
  body: Uint8Array,
): Uint8Array {
  const json = encodeJson(head)
  const size = new Uint8Array(4)
  new DataView(size.buffer).setUint32(0, json.length, true)
  return makeFrame(kind, prefix, size, json, body)
}

export function splitHead(
  payload: Uint8Array,
): { readonly head: unknown; readonly body: Uint8Array } | undefined {
  if (payload.length < 4) return undefined
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length)
  const end = 4 + view.getUint32(0, true)
  if (end > payload.length) return undefined
  const head = decodeJson(payload.subarray(4, end))
  return head === undefined ? undefined : { head: head.value, body: payload.subarray(end) }
}

export type OnFrame = (kind: FrameKind, payload: Uint8Array) => void

/** Cuts a stream of bytes into frames. A payload is a view of what was pushed, or of a copy. */
export class FrameReader {
  /** Of kind and payload; may be raised between frames, once the sender is known. */
  sizeMax = helloBytesMax
  readonly #head = new Uint8Array(frameHeadBytes)
  #headFilled = 0
  #payload: Uint8Array | undefined
  #payloadFilled = 0

  /**
   * Calls `onFrame` for each whole frame, and stops when `isOpen` says that the frame before ended
   * the connection. Returns what is wrong with the bytes.
   */
  push(chunk: Uint8Array, onFrame: OnFrame, isOpen: () => boolean): string | undefined {
    let at = 0
    while (at < chunk.length && isOpen()) {
      if (this.#payload === undefined) {
        while (this.#headFilled < frameHeadBytes && at < chunk.length) {
          this.#head[this.#headFilled++] = chunk[at++] as number
        }
        if (this.#headFilled < frameHeadBytes) return undefined
        const fault = this.#faultOfHead()
        if (fault !== undefined) return fault
        const size = this.#payloadSize()
        if (chunk.length - at >= size) {
          this.#headFilled = 0
          onFrame(this.#head[4] as FrameKind, chunk.subarray(at, at + size))
          at += size
          continue
        }
        this.#payload = Buffer.allocUnsafeSlow(size)
        this.#payloadFilled = 0
      }
      at += this.#fill(this.#payload, chunk.subarray(at))
      if (this.#payloadFilled < this.#payload.length) return undefined
      const payload = this.#payload
      this.#payload = undefined
      this.#headFilled = 0
      onFrame(this.#head[4] as FrameKind, payload)
    }
    return undefined
  }

  #fill(payload: Uint8Array, rest: Uint8Array): number {
    const taken = rest.subarray(0, payload.length - this.#payloadFilled)
    payload.set(taken, this.#payloadFilled)
    this.#payloadFilled += taken.length
    return taken.length
  }

  #payloadSize(): number {
    let size = 0
    for (let at = 3; at >= 0; at--) size = size * 256 + (this.#head[at] as number)
    return size - 1
  }

  #faultOfHead(): string | undefined {
    const size = this.#payloadSize() + 1
    if (size < 1) return 'a frame without a kind'
    if (size > this.sizeMax) return `a frame of ${size} bytes where ${this.sizeMax} are allowed`
    const kind = this.#head[4] as number
    return knownKinds.has(kind) ? undefined : `an unknown kind of frame, ${kind}`
  }
}
