/**
 * A network whose links can be cut, and can lose, delay and reorder packets, each direction by
 * itself: switch.c, compiled in memory by the runtime, in a process of its own. Kernels often lack
 * `netem`, and this needs of them only TAP devices. Needs root and the headers of libc. Run by
 * itself it is that process.
 */
import { cc } from 'bun:ffi'
import { join } from 'node:path'

export interface Link {
  /** Of packets, 0 to 1. */
  readonly loss: number
  readonly delayMs: number
  /** Uniform, on top of `delayMs`; packets overtake each other. */
  readonly jitterMs: number
}

export const goodLink: Link = { loss: 0, delayMs: 0, jitterMs: 0 }
export const cutLink: Link = { ...goodLink, loss: 1 }

export class Switch implements AsyncDisposable {
  readonly #process: Bun.Subprocess<'pipe', 'pipe', 'inherit'>
  readonly prefix: string
  readonly ports: number

  private constructor(prefix: string, ports: number, seed: number) {
    this.prefix = prefix
    this.ports = ports
    const args = [process.execPath, import.meta.path, prefix, String(ports), String(seed)]
    this.#process = Bun.spawn(args, { stdin: 'pipe', stdout: 'pipe', stderr: 'inherit' })
  }

  /** TAP devices `<prefix>0` and up are there when it resolves. */
  static async start(prefix: string, ports: number, seed: number): Promise<Switch> {
    const made = new Switch(prefix, ports, seed)
    for await (const chunk of made.#process.stdout) {
      if (Buffer.from(chunk).toString().includes('ready')) return made
    }
    throw new Error('no TAP devices: this needs root and /dev/net/tun')
  }

  /** What leaves `from` for `to`; the other direction stays as it is. */
  set(from: number, to: number, { loss, delayMs, jitterMs }: Link): void {
    this.#process.stdin.write(`${from} ${to} ${loss} ${delayMs} ${jitterMs}\n`)
    void this.#process.stdin.flush()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    void this.#process.stdin.end()
    await this.#process.exited
  }
}

if (import.meta.main) {
  const { symbols } = cc({
    source: join(import.meta.dir, 'switch.c'),
    symbols: { run_switch: { args: ['cstring', 'int', 'int'], returns: 'int' } },
  })
  const [prefix = '', ports, seed] = process.argv.slice(2)
  const text = Buffer.from(`${prefix}\0`)
  process.exit(symbols.run_switch(text as never, Number(ports), Number(seed)))
}
