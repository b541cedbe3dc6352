/**
 * Output of a worker, attributed to calls: each whole line becomes `\x1e<call id>\x1f<line>\n` on
 * its descriptor, a line outside of any call has no prefix. Writes block while fnd does not read,
 * which holds back the function that writes and nobody else.
 */
import type { AsyncLocalStorage } from 'node:async_hooks'
import { closeSync, openSync, writeSync } from 'node:fs'

const partBytesMax = 64 * 1024

/** What one call has written of a line that has not ended, by descriptor. */
const parts = new Map<string, string>()

export class CallOutput {
  readonly #calls: AsyncLocalStorage<string>

  constructor(calls: AsyncLocalStorage<string>) {
    this.#calls = calls
  }

  write(fd: 1 | 2, text: string): void {
    const callId = this.#calls.getStore() ?? ''
    const key = `${fd}${callId}`
    const waiting = parts.get(key)
    const all = waiting === undefined ? text : waiting + text
    const end = all.lastIndexOf('\n')
    if (end < all.length - 1 && all.length - end < partBytesMax) {
      parts.set(key, all.slice(end + 1))
      if (end < 0) return
      writeLines(fd, callId, all.slice(0, end))
      return
    }
    if (waiting !== undefined) parts.delete(key)
    writeLines(fd, callId, end === all.length - 1 ? all.slice(0, -1) : all)
  }

  /** The call has ended: what it left of a line is a line. */
  end(callId: string): void {
    if (parts.size > 0) this.#flush(callId)
  }

  endAll(): void {
    for (const key of [...parts.keys()]) this.#flush(key.slice(1))
  }

  #flush(callId: string): void {
    for (const fd of [1, 2] as const) {
      const part = parts.get(`${fd}${callId}`)
      if (part === undefined) continue
      parts.delete(`${fd}${callId}`)
      writeLines(fd, callId, part)
    }
  }

  /** Puts this in the way of `console` and of the standard streams. */
  install(): void {
    const { format } = require('node:util') as typeof import('node:util')
    const print =
      (fd: 1 | 2) =>
      (...args: unknown[]) => {
        this.write(fd, `${format(...args)}\n`)
      }
    console.log = console.info = console.debug = print(1)
    console.warn = console.error = print(2)
    console.trace = (...args: unknown[]) => {
      const stack = new Error(format(...args)).stack ?? ''
      this.write(2, `Trace: ${stack.replace(/^Error: /, '')}\n`)
    }
    console.dir = (value: unknown) => this.write(1, `${Bun.inspect(value)}\n`)
    console.table = (...args: unknown[]) => {
      this.write(1, Bun.inspect.table(...(args as [object])))
    }
    this.#wrap('stdout', 1)
    this.#wrap('stderr', 2)
  }

  /** The stream is made when a function first asks for it: most never do. */
  #wrap(name: 'stdout' | 'stderr', fd: 1 | 2): void {
    let stream: object | undefined
    const make = (): object => {
      const { Writable } = require('node:stream') as typeof import('node:stream')
      const write = (chunk: Buffer, _encoding: string, done: () => void): void => {
        this.write(fd, chunk.toString())
        done()
      }
      return Object.assign(new Writable({ write }), { fd, isTTY: false })
    }
    Object.defineProperty(process, name, {
      configurable: true,
      enumerable: true,
      get: () => {
        stream ??= make()
        return stream
      },
    })
    reopen(fd)
  }
}

/**
 * Bun made its own stream when that was replaced, and the descriptor non-blocking with it. A new
 * open file is blocking again, so that a function is held back and loses nothing.
 */
function reopen(fd: 1 | 2): void {
  const fresh = openSync(`/proc/self/fd/${fd}`, 'w')
  closeSync(fd)
  openSync(`/proc/self/fd/${fresh}`, 'w')
  closeSync(fresh)
}

function writeLines(fd: 1 | 2, callId: string, text: string): void {
  const prefix = callId === '' ? '' : `\x1e${callId}\x1f`
  const lines = callId === '' ? text : prefix + text.replaceAll('\n', `\n${prefix}`)
  const bytes = Buffer.from(`${lines}\n`)
  let at = 0
  while (at < bytes.length) {
    try {
      at += writeSync(fd, bytes, at)
    } catch (cause) {
      // A function may have made the descriptor non-blocking; fnd still holds it back.
      if ((cause as NodeJS.ErrnoException).code !== 'EAGAIN') throw cause
      Bun.sleepSync(1)
    }
  }
}
