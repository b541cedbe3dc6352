/**
 * A child process of fnd that was cloned by `Script`: its output, and its end. Bun does not know
 * these children, so their end is looked for: at once when an output stream ends, and every
 * `sweepMs` for one that closed its streams and lives on.
 */
import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import { assert } from '../errors.ts'
import { reap, type WaitStatus } from './libc.ts'

export type OutputReceiver = (
  stream: 'stdout' | 'stderr',
  chunk: Uint8Array,
) => void | Promise<void>

export interface ChildExit {
  readonly code: number | null
  readonly signal: string | null
}

const sweepMs = 100
const tailBytesMax = 2048

export class Reaper {
  readonly #waiting = new Map<number, (status: WaitStatus) => void>()
  #timer: ReturnType<typeof setInterval> | undefined

  wait(pid: number): Promise<WaitStatus> {
    this.#timer ??= setInterval(() => this.#sweep(), sweepMs)
    return new Promise(resolve => {
      this.#waiting.set(pid, resolve)
    })
  }

  /** True when the child has ended, and `wait` is resolved. */
  check(pid: number): boolean {
    const resolve = this.#waiting.get(pid)
    if (resolve === undefined) return true
    const status = reap(pid)
    if (status === undefined) return false
    this.#waiting.delete(pid)
    if (this.#waiting.size === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
    }
    resolve(status)
    return true
  }

  /** Looks often for a short time: the streams end a moment before the process does. */
  async checkSoon(pid: number): Promise<void> {
    for (let delayMs = 0; delayMs < sweepMs; delayMs = delayMs * 2 + 1) {
      if (this.check(pid)) return
      await Bun.sleep(delayMs)
    }
  }

  #sweep(): void {
    for (const pid of [...this.#waiting.keys()]) this.check(pid)
  }
}

export class Child {
  readonly pid: number
  /** Settles when the process is gone. Never rejects. */
  readonly ended: Promise<ChildExit>
  /** Settles when its output is delivered, or given up. */
  readonly drained: Promise<void>
  #receiver: OutputReceiver | undefined
  #tail = Buffer.alloc(0)
  #hasEnded = false
  readonly #readers: { cancel(): Promise<void> }[] = []
  readonly #reaper: Reaper

  constructor(pid: number, fds: { stdout: number; stderr: number }, reaper: Reaper) {
    this.pid = pid
    this.#reaper = reaper
    this.ended = reaper.wait(pid).then(({ code, signal }) => {
      this.#hasEnded = true
      return { code, signal: signal === null ? null : signalName(signal) }
    })
    const pumped = [this.#pump('stdout', fds.stdout), this.#pump('stderr', fds.stderr)]
    this.drained = Promise.all(pumped).then(() => undefined)
  }

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** The last of what it wrote to stderr, for messages about a start that failed. */
  get tail(): string {
    // The worker's marks (\x1e call id \x1f) mean nothing to a reader.
    const parts = this.#tail.toString().split('\x1e')
    return parts
      .map(part => part.slice(part.indexOf('\x1f') + 1))
      .join('')
      .trim()
  }

  deliverTo(receiver: OutputReceiver): void {
    this.#receiver = receiver
  }

  /** Nothing happens to a child that has ended: its pid is kept until it is reaped, here. */
  kill(signal: 'SIGTERM' | 'SIGKILL'): void {
    if (this.#reaper.check(this.pid)) return
    process.kill(this.pid, signal)
  }

  /** Nobody waits for the rest of its output. */
  async abandonOutput(): Promise<void> {
    for (const reader of this.#readers) await reader.cancel()
  }

  async #pump(name: 'stdout' | 'stderr', fd: number): Promise<void> {
    const reader = Bun.file(fd).stream().getReader()
    this.#readers.push(reader)
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      if (name === 'stderr') {
        this.#tail = Buffer.concat([this.#tail, value]).subarray(-tailBytesMax)
      }
      const receiver = this.#receiver
      if (receiver !== undefined) await receiver(name, value)
    }
    closeSync(fd)
    await this.#reaper.checkSoon(this.pid)
  }
}

/** `signal` is the kernel's number. */
export function signalName(signal: number): string {
  const found = Object.entries(constants.signals).find(([, number]) => number === signal)
  assert(found !== undefined || signal > 31, 'the first 31 signals have names')
  return found?.[0] ?? `signal ${signal}`
}
