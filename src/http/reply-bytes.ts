/** Bytes of replies, taken apart with as little for the collector as can be. */
import type { ReplyHead } from './wire.ts'

/** The head of a reply, to be recognised by its bytes when the next reply has the same. */
export class LastHead {
  #head: ReplyHead | null = null
  #bytes: Buffer = Buffer.alloc(0)

  /** Of the head with its final empty line. */
  get length(): number {
    return this.#bytes.length
  }

  /** The head when `bytes` start with it. */
  startOf(bytes: Buffer): ReplyHead | null {
    const { length } = this.#bytes
    if (this.#head === null || bytes.length < length) return null
    return bytes.compare(this.#bytes, 0, length, 0, length) === 0 ? this.#head : null
  }

  note(head: ReplyHead, bytes: Uint8Array): void {
    this.#head = head
    this.#bytes = Buffer.from(bytes)
  }
}

/** Bodies up to this size are copied out of what came with them. */
const copiedBytesMax = 4096

/**
 * Part of what was received. Short ones are copied, which costs less than a view: a view makes the
 * runtime add an object for the memory of the whole.
 */
export function piece(bytes: Buffer, from: number, to: number): Uint8Array {
  const isShort = to - from <= copiedBytesMax
  return isShort ? Uint8Array.prototype.slice.call(bytes, from, to) : bytes.subarray(from, to)
}
