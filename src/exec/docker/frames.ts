/**
 * The stream of an attached container without a terminal: frames of one byte stream number (1 is
 * stdout, 2 stderr), three zero bytes, a length in four bytes, and the payload (Docker Engine API,
 * "Attach to a container", stream format). Pure.
 */

export type FrameReceiver = (stream: 'stdout' | 'stderr', chunk: Uint8Array) => void

const headBytes = 8

export class Frames {
  #head = Buffer.alloc(0)
  #stream: 'stdout' | 'stderr' = 'stdout'
  #left = 0

  /** Hands on what the bytes hold, in order; pieces of payloads are not joined. */
  push(bytes: Uint8Array, receive: FrameReceiver): void {
    let at = 0
    while (at < bytes.length) {
      if (this.#left === 0) {
        const wanted = headBytes - this.#head.length
        this.#head = Buffer.concat([this.#head, bytes.subarray(at, at + wanted)])
        at += wanted
        if (this.#head.length < headBytes) return
        this.#stream = this.#head[0] === 2 ? 'stderr' : 'stdout'
        this.#left = this.#head.readUInt32BE(4)
        this.#head = Buffer.alloc(0)
      }
      const piece = bytes.subarray(at, at + this.#left)
      at += piece.length
      this.#left -= piece.length
      if (piece.length > 0) receive(this.#stream, piece)
    }
  }
}
