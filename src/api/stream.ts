/** A body that is made as it is read. */
import { appliedIndexHeader } from './freshness.ts'

export interface DownloadStream {
  readonly body: AsyncIterable<Uint8Array>
  /** What it is as of: the index of the last change in it. */
  readonly index: number
  readonly fileName: string
}

/** A reader that leaves ends the iteration; a failure of it breaks the connection. */
export function downloadResponse({ body, index, fileName }: DownloadStream): Response {
  const iterator = body[Symbol.asyncIterator]()
  const stream = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const part = await iterator.next()
      if (part.done === true) controller.close()
      else controller.enqueue(part.value)
    },
    async cancel() {
      await iterator.return?.()
    },
  })
  return new Response(stream, {
    headers: {
      'content-type': 'application/octet-stream',
      'content-disposition': `attachment; filename="${fileName}"`,
      'cache-control': 'no-store',
      [appliedIndexHeader]: String(index),
    },
  })
}
