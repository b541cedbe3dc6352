/**
 * Bytes on their way through, without a copy kept. A gigabyte passes in less than a second, faster
 * than the garbage collector comes by, so each piece is freed as soon as it was handed on.
 */

import { assert } from '../errors.ts'
import { ExchangeError } from './exchange-error.ts'

/** Buffers below this may be slices of one that others use too (Node's pool has 8 KiB). */
const ownBytesMin = 16 * 1024

const readsAhead = 4

/** Frees the memory of a piece that nobody reads again. */
export function free(piece: Uint8Array): void {
  if (piece.length < ownBytesMin || !(piece.buffer instanceof ArrayBuffer)) return
  piece.buffer.transfer(0)
}

/**
 * The same bytes for a server to send: written where they go, with its backpressure, and freed.
 * Every piece must own its memory if it is of 16 KiB or more.
 */
export function relay(body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  const reader = body.getReader() as ReadableStreamDefaultReader<Uint8Array>
  return new ReadableStream<Uint8Array>({
    type: 'direct',
    async pull(sink: ReadableStreamDirectController) {
      try {
        for (;;) {
          const { done, value } = await reader.read()
          if (done) break
          await sink.write(value)
          free(value)
          await sink.flush()
        }
      } catch (error) {
        if (!(error instanceof ExchangeError)) throw error
        // Rejecting is how to cut the answer short; for any reason given, Bun would print a trace.
        return Promise.reject()
      }
      sink.close()
    },
    cancel: () => reader.cancel(),
  } as Bun.DirectUnderlyingSource<Uint8Array>)
}

const skimmedBytesMax = 1024 * 1024

/**
 * Takes a body that nobody wants. One that ends soon leaves its connection and its instance usable,
 * and to break off would cost them; a long one is broken off.
 */
export async function skim(body: ReadableStream<Uint8Array>): Promise<void> {
  const reader = body.getReader() as ReadableStreamDefaultReader<Uint8Array>
  let bytes = 0
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      bytes += value.length
      free(value)
      if (bytes > skimmedBytesMax) return await reader.cancel()
    }
  } catch (error) {
    // It broke, which who runs the call has heard.
    if (!(error instanceof ExchangeError)) throw error
  }
}

type ReadResult = Awaited<ReturnType<ReadableStreamDefaultReader<Uint8Array>['read']>>

/**
 * Reads a body with several reads asked for at a time. While none is asked for, Bun joins what
 * arrives into one growing piece, and its memory, of ever new sizes, is slow to be used again: of a
 * gigabyte in chunks, 100 MiB stayed with the process, with this 25.
 */
export class ReadAhead {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #asked: Promise<ReadResult>[] = []

  constructor(body: ReadableStream<Uint8Array>) {
    this.#reader = body.getReader() as ReadableStreamDefaultReader<Uint8Array>
  }

  async read(): Promise<ReadResult> {
    while (this.#asked.length < readsAhead) {
      const piece = this.#reader.read()
      // Whoever comes to await this one hears of its failure; until then nobody has to.
      piece.catch(() => undefined)
      this.#asked.push(piece)
    }
    const next = this.#asked.shift()
    assert(next !== undefined, 'more than one read is asked for')
    return next
  }

  cancel(): Promise<void> {
    return this.#reader.cancel()
  }
}
