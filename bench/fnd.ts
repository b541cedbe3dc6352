/** Starts the compiled fnd for a bench, deploys to it, and looks at its processes. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

export const binary = process.env.FND_BENCH_BIN ?? resolve(import.meta.dir, '../dist/fnd')

export interface Deployed {
  readonly app: string
  readonly fn: string
  readonly app_id: string
  readonly fn_id: string
  readonly url: string
  readonly invoke_url: string
}

export interface Described {
  readonly instances: readonly { readonly id: string; readonly pid: number }[]
}

export const helloSource = `export default {
  fetch() {
    return new Response('hello world', { headers: { 'content-type': 'text/plain' } })
  },
}
`

/** Clients that create functions at the same time. */
const writersMax = 16

export async function freePort(): Promise<number> {
  return new Promise((resolvePort, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolvePort(typeof address === 'object' ? (address?.port ?? 0) : 0))
    })
  })
}

export class BenchFnd implements AsyncDisposable {
  readonly dir: string
  readonly port: number
  readonly url: string
  #process: Bun.Subprocess
  readonly #environment: Record<string, string | undefined>

  private constructor(dir: string, port: number, environment: Record<string, string>) {
    this.dir = dir
    this.port = port
    this.url = `http://127.0.0.1:${port}`
    this.#environment = {
      ...Bun.env,
      FND_DATA: join(dir, 'data'),
      FND_URL: this.url,
      FND_LISTEN: `127.0.0.1:${port}`,
      FND_LOG_LEVEL: 'warn',
      XDG_STATE_HOME: join(dir, 'state'),
      ...environment,
    }
    this.#process = this.#start()
  }

  static async start(environment: Record<string, string> = {}): Promise<BenchFnd> {
    const dir = mkdtempSync(join(tmpdir(), 'fnd-bench-'))
    const fnd = new BenchFnd(dir, await freePort(), environment)
    await fnd.answers()
    return fnd
  }

  get pid(): number {
    return this.#process.pid
  }

  #start(): Bun.Subprocess {
    return Bun.spawn([binary], {
      env: this.#environment,
      cwd: this.dir,
      stdout: 'inherit',
      stderr: 'inherit',
    })
  }

  /** Resolves at the first answer to /healthz. */
  async answers(): Promise<void> {
    for (;;) {
      const isThere = await fetch(`${this.url}/healthz`).then(
        response => response.ok,
        () => false,
      )
      if (isThere) return
      if (this.#process.exitCode !== null) throw new Error('fnd ended instead of starting')
      await Bun.sleep(1)
    }
  }

  /** Starts it again after `stop`; returns before it answers. */
  spawn(): void {
    this.#process = this.#start()
  }

  async stop(): Promise<void> {
    this.#process.kill('SIGTERM')
    await this.#process.exited
  }

  get token(): string {
    return readFileSync(join(this.dir, 'data/admin.token'), 'utf8').trim()
  }

  async api(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { authorization: `Bearer ${this.token}`, ...init.headers }
    return fetch(this.url + path, { ...init, headers })
  }

  async deploy(name: string, source: string, flags: readonly string[] = []): Promise<Deployed> {
    const file = join(this.dir, `${name}.ts`)
    writeFileSync(file, source)
    const run = Bun.spawnSync([binary, 'deploy', file, '--app', 'bench', '--json', ...flags], {
      env: this.#environment,
      cwd: this.dir,
    })
    if (run.exitCode !== 0) throw new Error(`deploy failed: ${run.stderr.toString()}`)
    return JSON.parse(run.stdout.toString()) as Deployed
  }

  /** Stores further functions of the same bundle. */
  async addCopies(first: Deployed, count: number): Promise<void> {
    const { image } = (await (await this.api(`/v2/fns/${first.fn_id}`)).json()) as {
      image: string
    }
    let made = 0
    const writer = async (): Promise<void> => {
      while (made < count) {
        made += 1
        const body = JSON.stringify({ name: `copy-${made}`, app_id: first.app_id, image })
        const headers = { 'content-type': 'application/json' }
        const answer = await this.api('/v2/fns', { method: 'POST', headers, body })
        if (!answer.ok) throw new Error(`cannot create a function: ${await answer.text()}`)
      }
    }
    await Promise.all(Array.from({ length: writersMax }, writer))
  }

  async describe(fnId: string): Promise<Described> {
    return (await this.api(`/fnd/v1/fns/${fnId}`)).json() as Promise<Described>
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** User and system CPU time of a process so far, in µs. */
export function cpuUs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // Fields 14 and 15 of proc(5), in ticks of 10 ms.
  return (Number(fields[11]) + Number(fields[12])) * 10_000
}

/** Kilobytes from /proc/<pid>/smaps_rollup. */
export function memoryKb(pid: number, field: 'Rss' | 'Pss'): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  return Number(new RegExp(`^${field}: +(\\d+)`, 'm').exec(text)?.[1] ?? 0)
}

export function table(rows: readonly (readonly (string | number)[])[]): void {
  const cells = rows.map(row => row.map(cell => (typeof cell === 'number' ? round(cell) : cell)))
  const widths = (cells[0] ?? []).map((_, i) => Math.max(...cells.map(row => row[i]?.length ?? 0)))
  for (const row of cells) {
    console.log(
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
  }
}

function round(value: number): string {
  if (!Number.isFinite(value)) return '-'
  return value >= 100 ? String(Math.round(value)) : String(Math.round(value * 100) / 100)
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}
