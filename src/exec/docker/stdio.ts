/** A container's stdin and stdout as streams with backpressure, without Docker's frames. */
import type { Socket } from 'node:net'
import type { Stdio } from './bridge.ts'

/** Bytes of an answer that wait in memory for a slow reader. */
const windowBytes = 256 * 1024

export class StdoutPipe {
  readonly stream: ReadableStream<Uint8Array>
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined
  #room: (() => void) | undefined

  constructor() {
    this.stream = new ReadableStream<Uint8Array>(
      {
        start: controller => {
          this.#controller = controller
        },
        pull: () => this.#makeRoom(),
        cancel: () => this.end(),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: windowBytes }),
    )
  }

  /** The promise, when there is one, asks to wait before more is pushed. */
  push(chunk: Uint8Array): Promise<void> | undefined {
    const controller = this.#controller
    if (controller === undefined) return undefined
    // The chunk is a part of a buffer that its reader uses again.
    controller.enqueue(chunk.slice())
    if ((controller.desiredSize ?? 0) > 0) return undefined
    return new Promise(resolve => {
      this.#room = resolve
    })
  }

  /** Idempotent. */
  end(): void {
    const controller = this.#controller
    this.#controller = undefined
    this.#makeRoom()
    try {
      controller?.close()
    } catch (cause) {
      // Its reader cancelled it, which closes it too.
      if (!(cause instanceof TypeError)) throw cause
    }
  }

  #makeRoom(): void {
    this.#room?.()
    this.#room = undefined
  }
}

/** `socket` is the attached stream; closing its side is the end of the container's stdin. */
export function stdioOf(socket: Socket, stdout: StdoutPipe): Stdio {
  return {
    stdin: {
      write: bytes =>
        new Promise((resolve, reject) => {
          socket.write(bytes, error => (error ? reject(error) : resolve()))
        }),
      end: () => socket.end(),
    },
    stdout: stdout.stream,
  }
}
