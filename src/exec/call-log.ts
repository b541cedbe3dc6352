/**
 * The output of one call, packed into byte chunks: a line costs its bytes and a header of 12, not a
 * JavaScript object, so that the memory it holds is known exactly. The oldest chunk can be dropped.
 *
 * Record: u32 length × 2 + (1 for stderr) · u32 milliseconds since the first line · u32 number of
 * the line since the first · the bytes. A record never spans two chunks.
 */
export type Stream = 'stdout' | 'stderr'

export interface LogLine {
  /** `''` for output before the instance's first call. */
  readonly callId: string
  readonly fnId: string
  readonly timeMs: number
  readonly stream: Stream
  readonly text: string
}

/** Where a line lies; `number` orders the lines of all calls. */
export interface LineAt {
  readonly log: CallLog
  readonly chunk: Uint8Array
  readonly offset: number
  readonly number: number
}

const headerBytes = 12
const chunkBytesMin = 256
const chunkBytesMax = 64 * 1024
/** What the objects of a log, a chunk and their places in maps weigh, rounded up. */
const logOverheadBytes = 512
const chunkOverheadBytes = 128
const u32Max = 0xffff_ffff

const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

export class CallLog {
  readonly callId: string
  readonly fnId: string
  /** Output was cut at the limit of a call; nothing more is taken. */
  isFull = false
  /** Lines that made room for others. */
  droppedLines = 0
  /** Number of the newest line. */
  lastNumber = 0
  #chunks: { readonly bytes: Uint8Array; readonly view: DataView; used: number; lines: number }[] =
    []
  #firstMs = 0
  #firstNumber = 0
  #heldBytes = logOverheadBytes
  #takenBytes = 0

  constructor(callId: string, fnId: string) {
    this.callId = callId
    this.fnId = fnId
  }

  /** Memory it holds. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  /** What all lines it ever took weigh, those that it dropped since included. */
  get takenBytes(): number {
    return this.#takenBytes
  }

  get chunkCount(): number {
    return this.#chunks.length
  }

  static costOf(lineBytes: number): number {
    return headerBytes + lineBytes
  }

  /** Returns by how much `heldBytes` grew. */
  append(bytes: Uint8Array, stream: Stream, timeMs: number, number: number): number {
    const size = headerBytes + bytes.length
    let chunk = this.#chunks.at(-1)
    let grown = 0
    if (chunk === undefined || chunk.used + size > chunk.bytes.length) {
      if (chunk === undefined) {
        this.#firstMs = timeMs
        this.#firstNumber = number
      }
      const next = Math.min((chunk?.bytes.length ?? chunkBytesMin / 4) * 4, chunkBytesMax)
      const held = new Uint8Array(Math.max(next, size))
      chunk = { bytes: held, view: new DataView(held.buffer), used: 0, lines: 0 }
      this.#chunks.push(chunk)
      grown = held.length + chunkOverheadBytes
    }
    chunk.view.setUint32(chunk.used, bytes.length * 2 + (stream === 'stderr' ? 1 : 0))
    // The wall clock may step back, and a long silence may pass the field: both are clamped.
    chunk.view.setUint32(chunk.used + 4, clampU32(timeMs - this.#firstMs))
    chunk.view.setUint32(chunk.used + 8, clampU32(number - this.#firstNumber))
    chunk.bytes.set(bytes, chunk.used + headerBytes)
    chunk.used += size
    chunk.lines += 1
    this.lastNumber = number
    this.#takenBytes += size
    this.#heldBytes += grown
    return grown
  }

  /** Returns by how much `heldBytes` shrank; zero when no chunk is left. */
  dropOldestChunk(): number {
    const chunk = this.#chunks.shift()
    if (chunk === undefined) return 0
    const shrunk = chunk.bytes.length + chunkOverheadBytes
    this.droppedLines += chunk.lines
    this.#heldBytes -= shrunk
    return shrunk
  }

  /** All lines, oldest first, not yet decoded. */
  places(): LineAt[] {
    const places: LineAt[] = []
    for (const { bytes, view, used } of this.#chunks) {
      for (let offset = 0; offset < used; ) {
        const number = this.#firstNumber + view.getUint32(offset + 8)
        places.push({ log: this, chunk: bytes, offset, number })
        offset += headerBytes + (view.getUint32(offset) >>> 1)
      }
    }
    return places
  }

  read(at: LineAt): LogLine {
    const view = new DataView(at.chunk.buffer, at.offset, headerBytes)
    const head = view.getUint32(0)
    const start = at.offset + headerBytes
    return {
      callId: this.callId,
      fnId: this.fnId,
      timeMs: this.#firstMs + view.getUint32(4),
      stream: head % 2 === 1 ? 'stderr' : 'stdout',
      text: decoder.decode(at.chunk.subarray(start, start + (head >>> 1))),
    }
  }
}

function clampU32(value: number): number {
  return Math.min(Math.max(value, 0), u32Max)
}
