/** What other nodes ask of this one: whether it has a bundle, to take one, to give one. */
import { AssertionError, FndError } from '../errors.ts'
import type { Bundle, Bundles } from '../store/bundles.ts'
import { filesMax } from './bundle-fetch.ts'
import { bytesOf, hashOf, watched } from './bundle-stream.ts'
import type { PeerHandlers } from './types.ts'

const stallMsDefault = 10_000

export class BundleServer implements AsyncDisposable {
  readonly handlers: PeerHandlers
  readonly #closing = new AbortController()
  readonly #receiving = new Set<Promise<Bundle>>()

  /** `stallMs`: an upload without a byte for so long is given up. */
  constructor(bundles: Bundles, stallMs = stallMsDefault) {
    this.handlers = {
      calls: {
        // Whoever asks counts on it, so it must not be collected just then.
        'bundle.has': async call => ({ head: { isHeld: bundles.keep(hashOf(call.head)) } }),
      },
      uploads: {
        'bundle.put': async ({ head }, body) => {
          const [hash, bytesMax] = [hashOf(head), bytesOf(head)]
          const chunks = watched(body, stallMs, this.#closing.signal)
          await this.#receive(bundles.put(hash, chunks, { bytesMax, filesMax }))
          return {}
        },
      },
      downloads: {
        'bundle.get': async call => {
          const tar = bundles.tar(hashOf(call.head))
          if (tar === undefined) throw new FndError('bundle-not-found')
          return { head: { bytes: tar.bytes }, body: readable(tar.chunks) }
        },
      },
    }
  }

  /** Uploads under way end with `shutting-down`; resolves when nothing is written any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    await Promise.allSettled(this.#receiving)
  }

  async #receive(put: Promise<Bundle>): Promise<void> {
    this.#receiving.add(put)
    try {
      await put
    } catch (cause) {
      throw asFndError(cause, 'store-failed')
    } finally {
      this.#receiving.delete(put)
    }
  }
}

/** What the disk refuses, or was removed meanwhile, is this node's trouble and no bug. */
async function* readable(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* chunks
  } catch (cause) {
    throw asFndError(cause, 'bundle-not-found')
  }
}

function asFndError(cause: unknown, code: 'store-failed' | 'bundle-not-found'): unknown {
  if (cause instanceof FndError || cause instanceof AssertionError) return cause
  return new FndError(code, { detail: String(cause), cause })
}
