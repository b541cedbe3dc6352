/**
 * Stdin and stdout of an attached container in the form that the bridge takes, with backpressure
 * both ways: what the function writes waits in its pipe while nobody reads it.
 */
import type { Socket } from 'node:net'
import type { Stdio } from './bridge.ts'

/** Bytes of output that wait in memory for a slow reader. */
const windowBytes = 256 * 1024

export class ContainerStdio {
  readonly stdout: ReadableStream<Uint8Array>
  #controller: ReadableStreamDefaultController<Uint8Array> | null = null
  #wanted: PromiseWithResolvers<void> | null = null

  constructor() {
    const settle = () => {
      this.#wanted?.resolve()
      this.#wanted = null
    }
    this.stdout = new ReadableStream<Uint8Array>(
      {
        start: controller => {
          this.#controller = controller
        },
        pull: settle,
        cancel: () => {
          this.#controller = null
          settle()
        },
      },
      new ByteLengthQueuingStrategy({ highWaterMark: windowBytes }),
    )
  }

  /** The container wrote this; the promise, if there is one, asks to wait before more is read. */
  receive(chunk: Uint8Array): Promise<void> | undefined {
    const controller = this.#controller
    if (controller === null) return undefined
    controller.enqueue(chunk)
    if ((controller.desiredSize ?? 0) > 0) return undefined
    this.#wanted ??= Promise.withResolvers<void>()
    return this.#wanted.promise
  }

  /** The container ended, and all that it wrote was received. Idempotent. */
  end(): void {
    const controller = this.#controller
    this.#controller = null
    controller?.close()
  }
}

/** Writes to a container's stream; undefined where it has ended already. */
export function stdinOf(socket: Socket | undefined): Stdio['stdin'] {
  return {
    write: bytes =>
      new Promise((resolve, reject) => {
        if (socket === undefined || socket.destroyed) return reject(new Error('it has ended'))
        const onClose = () => reject(new Error('it has ended'))
        socket.once('close', onClose)
        socket.write(bytes, fault => {
          socket.off('close', onClose)
          if (fault instanceof Error) reject(fault)
          else resolve()
        })
      }),
    end: () => void socket?.end(),
  }
}
