import { fstatSync, statSync } from 'node:fs'
import type { Writable } from 'node:stream'

/** Standard input, output and error of this process. */
export class Terminal {
  readonly isOutTty: boolean = process.stdout.isTTY === true
  readonly isErrTty: boolean = process.stderr.isTTY === true
  readonly isInTty: boolean = process.stdin.isTTY === true
  /** The line under way, which `progress` replaces and `note` clears first. */
  #progress = ''

  constructor() {
    // Whoever waits for a write is told; without a listener the process would end at once.
    process.stdout.on('error', () => undefined)
  }

  /** Resolves when the bytes have left, so that a slow reader slows us down. */
  write(chunk: string | Uint8Array): Promise<void> {
    this.clearProgress()
    return written(process.stdout, chunk)
  }

  line(text: string): Promise<void> {
    return this.write(`${text}\n`)
  }

  /** For people: warnings, hints and what is being done. */
  note(text: string): void {
    this.clearProgress()
    process.stderr.write(`${text}\n`)
  }

  /** Shows one line that the next replaces; nothing where no person looks. */
  progress(text: string): void {
    if (!this.isErrTty) return
    this.#progress = text.slice(0, (process.stderr.columns ?? 80) - 1)
    process.stderr.write(`\r\u001b[K${this.#progress}`)
  }

  /** Whether output or errors are being written to this file. */
  writesTo(path: string): boolean {
    const file = statSync(path, { throwIfNoEntry: false })
    if (file === undefined) return false
    const own = [process.stdout.fd, process.stderr.fd].map(fd => fstatSync(fd))
    return own.some(({ dev, ino }) => dev === file.dev && ino === file.ino)
  }

  clearProgress(): void {
    if (this.#progress === '') return
    this.#progress = ''
    process.stderr.write('\r\u001b[K')
  }
}

function written(stream: Writable, chunk: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(chunk, error => (error ? reject(error) : resolve()))
  })
}

/** `fnd logs … | head` closes the pipe: then the work is over, and it is no error. */
export function isReaderGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EPIPE'
}
