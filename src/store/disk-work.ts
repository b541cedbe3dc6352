/** The thread that works on whole databases, as the event loop sees it. */
import { diskThreadUrl } from './disk-source.ts'
import type { DiskAnswer, DiskRequest } from './disk-tasks.ts'

export type DiskDone = (answer: DiskAnswer) => void

export interface DiskWork {
  /** Requests are done one after the other, in the order in which they came. */
  ask(request: DiskRequest, done: DiskDone): void
}

/** A thread that nobody asked for anything takes memory for nothing. */
const idleMs = 5000

export class DiskThread implements DiskWork, Disposable {
  #thread: Worker | undefined
  readonly #waiting: DiskDone[] = []
  #idleTimer: Timer | undefined
  #isKept = false

  /** `done` in a later turn; sooner once this is disposed. */
  ask(request: DiskRequest, done: DiskDone): void {
    clearTimeout(this.#idleTimer)
    // What a swap replaced is held by the thread.
    if (request.kind === 'swap') this.#isKept = true
    if (request.kind === 'release') this.#isKept = false
    this.#waiting.push(done)
    this.#thread ??= this.#start()
    this.#thread.postMessage(request)
  }

  whenDone(request: DiskRequest): Promise<DiskAnswer> {
    return new Promise(resolve => this.ask(request, resolve))
  }

  #start(): Worker {
    const thread = new Worker(diskThreadUrl())
    thread.onmessage = (event: MessageEvent<DiskAnswer>) => this.#answered(event.data)
    // The program catches what its work throws, so that the thread itself is broken.
    thread.onerror = ({ message }) => {
      this.#end()
      for (const done of this.#waiting.splice(0)) done({ ok: false, code: undefined, message })
    }
    return thread
  }

  #answered(answer: DiskAnswer): void {
    this.#waiting.shift()?.(answer)
    if (this.#waiting.length > 0 || this.#isKept) return
    clearTimeout(this.#idleTimer)
    this.#idleTimer = setTimeout(() => this.#end(), idleMs)
    this.#idleTimer.unref()
  }

  #end(): void {
    clearTimeout(this.#idleTimer)
    const thread = this.#thread
    this.#thread = undefined
    thread?.terminate()
  }

  [Symbol.dispose](): void {
    this.#end()
    const answer = { ok: false, code: undefined, message: 'the store is being closed' } as const
    for (const done of this.#waiting.splice(0)) done(answer)
  }
}
