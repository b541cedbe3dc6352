/** What travels between nodes of a bundle: names and sizes of requests, and the tar's bytes. */
import { FndError } from '../errors.ts'

/** The `hash` of a request. Throws `FndError`. */
export function hashOf(head: unknown): string {
  const hash = fieldOf(head, 'hash')
  if (typeof hash !== 'string') throw new FndError('bundle-hash-invalid')
  return hash
}

/** The `bytes` of a tar that is to come. Throws `FndError`. */
export function bytesOf(head: unknown): number {
  return countOf(head, 'bytes')
}

/** A whole number that is not negative. Throws `FndError`. */
export function countOf(head: unknown, field: string): number {
  const count = fieldOf(head, field)
  if (typeof count !== 'number' || !Number.isSafeInteger(count) || count < 0) {
    throw new FndError('invalid-field', { field })
  }
  return count
}

export function fieldOf(head: unknown, name: string): unknown {
  if (typeof head !== 'object' || head === null) return undefined
  return (head as Record<string, unknown>)[name]
}

/**
 * The chunks of a transfer. The iteration throws `FndError`: `bundle-unreachable` when it breaks
 * or nothing comes for `stallMs`, `shutting-down` when `closing` fires.
 */
export async function* watched(
  body: AsyncIterable<Uint8Array>,
  stallMs: number,
  closing: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const chunks = body[Symbol.asyncIterator]()
  let isOver = false
  try {
    for (;;) {
      const step = await within(chunks.next(), stallMs, closing)
      if (step.done === true) {
        isOver = true
        return
      }
      yield step.value
    }
  } finally {
    // Nobody waits for a peer that hangs; it has been given up, and how that ends is no news.
    if (!isOver) void chunks.return?.().then(undefined, () => undefined)
  }
}

async function within<T>(next: Promise<T>, ms: number, closing: AbortSignal): Promise<T> {
  const early = Promise.withResolvers<never>()
  const onClosing = () => early.reject(new FndError('shutting-down'))
  const timer = setTimeout(() => {
    early.reject(new FndError('bundle-unreachable', { detail: `nothing came for ${ms} ms` }))
  }, ms)
  closing.addEventListener('abort', onClosing)
  if (closing.aborted) onClosing()
  try {
    return await Promise.race([next, early.promise])
  } catch (cause) {
    if (cause instanceof FndError) throw cause
    throw new FndError('bundle-unreachable', { detail: 'the transfer was cut short', cause })
  } finally {
    clearTimeout(timer)
    closing.removeEventListener('abort', onClosing)
  }
}
