/**
 * Splits a stream of bytes into lines, in whatever chunks they arrive. The lines depend on the
 * bytes alone, never on the chunks. A line longer than `lineBytesMax` is cut, never inside a
 * character of UTF-8, so that no stream without newlines can hold more memory than that.
 */
import { assert } from '../errors.ts'

export const lineBytesMax = 64 * 1024

/** `bytes` are valid only during the call. `isContinued`: the line began in an earlier piece. */
export type LineReceiver = (bytes: Uint8Array, isContinued: boolean) => void

const newline = 10
const none = new Uint8Array(0)
const pendingBytesMin = 256

/** Bytes 0x80 to 0xBF never begin a character. */
function isInsideCharacter(byte: number | undefined): boolean {
  return byte !== undefined && (byte & 0xc0) === 0x80
}

export class LineSplitter {
  readonly #receive: LineReceiver
  readonly #bytesMax: number
  #pending: Uint8Array = none
  #pendingBytes = 0
  /** A piece of the unfinished line was handed out already. */
  #isContinued = false

  constructor(receive: LineReceiver, bytesMax = lineBytesMax) {
    assert(bytesMax >= 8, 'a line has room for a character and what follows it')
    this.#receive = receive
    this.#bytesMax = bytesMax
  }

  /** The start of a line that has not ended yet, `undefined` when there is none. */
  get unfinished(): Uint8Array | undefined {
    if (this.#pendingBytes === 0) return undefined
    return this.#pending.subarray(0, this.#pendingBytes)
  }

  get isContinued(): boolean {
    return this.#isContinued
  }

  push(chunk: Uint8Array): void {
    let start = 0
    while (start < chunk.length) {
      const at = chunk.indexOf(newline, start)
      const end = at === -1 ? chunk.length : at
      const rest = this.#cut(chunk, start, end)
      if (at === -1) {
        this.#keep(chunk, rest, end)
        return
      }
      this.#finish(chunk, rest, end)
      start = end + 1
    }
  }

  /** Ends the unfinished line as if a newline had come, for instance when the process is gone. */
  flush(): void {
    if (this.#pendingBytes > 0) this.#finish(none, 0, 0)
    this.#isContinued = false
  }

  /** Forgets `chunk` and what is unfinished, but stays in step with the lines. */
  discard(chunk: Uint8Array): void {
    const last = chunk.lastIndexOf(newline)
    this.#release()
    if (last === -1) {
      this.#isContinued = true
      return
    }
    this.#isContinued = false
    this.push(chunk.subarray(last + 1))
  }

  /** Hands out pieces while more than `bytesMax` bytes are unfinished; returns the rest's start. */
  #cut(chunk: Uint8Array, start: number, end: number): number {
    let from = start
    while (this.#pendingBytes + end - from > this.#bytesMax) {
      if (this.#pendingBytes === 0) {
        const length = this.#pieceLength(chunk, from)
        this.#emit(chunk.subarray(from, from + length), true)
        from += length
        continue
      }
      // One byte more than a piece can have: it tells whether the cut would split a character.
      const take = this.#bytesMax + 1 - this.#pendingBytes
      this.#keep(chunk, from, from + take)
      from += take
      const pending = this.#pending
      const pendingBytes = this.#pendingBytes
      const length = this.#pieceLength(pending, 0)
      this.#emit(pending.subarray(0, length), true)
      pending.copyWithin(0, length, pendingBytes)
      this.#pendingBytes = pendingBytes - length
    }
    return from
  }

  /** At most three bytes less than `bytesMax`: up to where the last whole character ends. */
  #pieceLength(bytes: Uint8Array, from: number): number {
    const max = from + this.#bytesMax
    if (!isInsideCharacter(bytes[max])) return this.#bytesMax
    for (let at = max - 1; at >= max - 3; at -= 1) {
      const byte = bytes[at] ?? 0
      if (byte >= 0xc0) return at - from
      if (byte < 0x80) break
    }
    // Not UTF-8: there is no character to spare.
    return this.#bytesMax
  }

  #keep(chunk: Uint8Array, start: number, end: number): void {
    const needed = this.#pendingBytes + end - start
    if (needed === 0) return
    if (needed > this.#pending.length) {
      const size = Math.min(
        Math.max(needed, this.#pending.length * 2, pendingBytesMin),
        this.#bytesMax + 1,
      )
      const grown = new Uint8Array(size)
      grown.set(this.#pending.subarray(0, this.#pendingBytes))
      this.#pending = grown
    }
    this.#pending.set(chunk.subarray(start, end), this.#pendingBytes)
    this.#pendingBytes = needed
  }

  #finish(chunk: Uint8Array, start: number, end: number): void {
    if (this.#pendingBytes === 0) {
      this.#emit(chunk.subarray(start, end), false)
      return
    }
    this.#keep(chunk, start, end)
    const line = this.#pending.subarray(0, this.#pendingBytes)
    this.#release()
    this.#emit(line, false)
  }

  #emit(bytes: Uint8Array, continues: boolean): void {
    const isContinued = this.#isContinued
    this.#isContinued = continues
    this.#receive(bytes, isContinued)
  }

  #release(): void {
    this.#pending = none
    this.#pendingBytes = 0
  }
}
