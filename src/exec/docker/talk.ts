/** What all the older formats need: to refuse a call, and to stream a reply. */
import { FndError } from '../../errors.ts'
import { chunkFrom } from '../../http/wire.ts'
import { CallerGone, type ServedCall } from './bridge-socket.ts'
import { refusalReply } from './refusal.ts'

/** The container ended, or closed one of its streams, in the middle of a call. */
export class ContainerGone extends Error {
  override readonly name = 'ContainerGone'
}

/**
 * Ends a call that failed: with the error, or by breaking off where the reply has begun or there
 * is nothing to say. What is no failure of a call is thrown on.
 */
export async function fail(call: ServedCall, cause: unknown, isFit: boolean): Promise<void> {
  if (cause instanceof CallerGone || cause instanceof ContainerGone) return call.terminate()
  if (!(cause instanceof FndError)) throw cause
  if (call.isReplied || call.gone.aborted) return call.terminate()
  try {
    await call.write(refusalReply(cause, isFit))
  } catch (gone) {
    if (!(gone instanceof CallerGone)) throw gone
    return
  }
  call.finish()
}

/** A reply that is written piece by piece under the framing that its head declares. */
export class ReplyWriter {
  readonly #call: ServedCall
  readonly #isChunked: boolean

  constructor(call: ServedCall, length: number | 'chunked') {
    this.#call = call
    this.#isChunked = length === 'chunked'
  }

  /** `head` is the head of the reply with its first piece, null with later ones. */
  async write(head: Uint8Array | null, piece: Uint8Array, isEnd: boolean): Promise<void> {
    const parts: Uint8Array[] = head === null ? [] : [head]
    if (piece.length > 0) parts.push(this.#isChunked ? chunkFrom(piece) : piece)
    if (isEnd && this.#isChunked) parts.push(Buffer.from('0\r\n\r\n'))
    const [first] = parts
    if (first === undefined) return
    await this.#call.write(parts.length === 1 ? first : Buffer.concat(parts))
  }
}
