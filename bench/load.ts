/**
 * A load generator over raw sockets, TCP or unix, so that a front and the function's own socket are
 * measured by the same program. Closed loop: each connection sends when its answer came. Open loop:
 * requests leave at a rate, and latency counts from when they should have left.
 */
import type { Socket } from 'bun'

export type Target =
  | { readonly unix: string }
  | { readonly hostname: string; readonly port: number }

export interface Load {
  readonly target: Target
  /** A whole request, head and body. */
  readonly request: string
  readonly connections: number
  readonly durationMs: number
  /** Requests per second; absent for a closed loop. */
  readonly rate?: number
}

export interface LoadResult {
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** Answers that were not 200, and connections that broke. */
  readonly errors: number
}

/** Latencies in a histogram of 10 µs, up to 10 s. */
const bucketMs = 0.01
const bucketsMax = 1_000_000

class Run {
  readonly buckets = new Uint32Array(bucketsMax)
  count = 0
  errors = 0
  isOver = false
  isCounting = false

  record(ms: number): void {
    if (!this.isCounting) return
    this.count += 1
    const bucket = Math.min(bucketsMax - 1, Math.floor(ms / bucketMs))
    this.buckets[bucket] = (this.buckets[bucket] ?? 0) + 1
  }

  quantile(part: number): number {
    let left = this.count * part
    for (let i = 0; i < bucketsMax; i += 1) {
      left -= this.buckets[i] ?? 0
      if (left <= 0) return (i + 1) * bucketMs
    }
    return Number.POSITIVE_INFINITY
  }
}

class Client {
  readonly #run: Run
  readonly #request: Buffer
  readonly #onFree: (client: Client) => void
  socket: Socket<Client> | null = null
  #sentMs = 0
  #text = ''

  constructor(run: Run, request: Buffer, onFree: (client: Client) => void) {
    this.#run = run
    this.#request = request
    this.#onFree = onFree
  }

  send(fromMs: number): void {
    this.#sentMs = fromMs
    this.#text = ''
    this.socket?.write(this.#request)
  }

  data(chunk: Buffer): void {
    this.#text =
      this.#text === '' ? chunk.toString('latin1') : this.#text + chunk.toString('latin1')
    if (!isWhole(this.#text)) return
    if (!this.#text.startsWith('HTTP/1.1 200')) this.#run.errors += 1
    this.#run.record(performance.now() - this.#sentMs)
    if (!this.#run.isOver) this.#onFree(this)
  }

  closed(): void {
    if (!this.#run.isOver) this.#run.errors += 1
  }
}

function isWhole(text: string): boolean {
  const head = text.indexOf('\r\n\r\n')
  if (head === -1) return false
  const length = /content-length: *(\d+)/i.exec(text.slice(0, head))?.[1]
  if (length === undefined) return text.endsWith('0\r\n\r\n')
  return text.length >= head + 4 + Number(length)
}

const handlers = {
  open: () => undefined,
  data: (socket: Socket<Client>, chunk: Buffer) => socket.data.data(chunk),
  close: (socket: Socket<Client>) => socket.data.closed(),
  error: (socket: Socket<Client>) => socket.data.closed(),
}

const warmUpMs = 500
const connectAttemptsMax = 50

export async function runLoad(load: Load): Promise<LoadResult> {
  const run = new Run()
  const request = Buffer.from(load.request, 'latin1')
  const free: Client[] = []
  const due: number[] = []
  const onFree = (client: Client): void => {
    if (load.rate === undefined) return client.send(performance.now())
    const fromMs = due.shift()
    if (fromMs === undefined) free.push(client)
    else client.send(fromMs)
  }
  const clients = await Promise.all(
    Array.from({ length: load.connections }, async () => {
      const client = new Client(run, request, onFree)
      client.socket = await connected(load.target, client)
      return client
    }),
  )
  for (const client of clients) onFree(client)
  const pacer = load.rate === undefined ? null : pace(load.rate, due, free)
  await Bun.sleep(warmUpMs)
  run.isCounting = true
  const startMs = performance.now()
  await Bun.sleep(load.durationMs)
  const elapsedMs = performance.now() - startMs
  run.isCounting = false
  run.isOver = true
  if (pacer !== null) clearInterval(pacer)
  for (const client of clients) client.socket?.terminate()
  return {
    perSecond: (run.count / elapsedMs) * 1000,
    p50Ms: run.quantile(0.5),
    p99Ms: run.quantile(0.99),
    errors: run.errors,
  }
}

/** A full backlog of a unix socket refuses; a thousand clients that come at once fill it. */
async function connected(target: Target, client: Client): Promise<Socket<Client>> {
  const options = { data: client, socket: handlers }
  for (let attempt = 1; ; attempt += 1) {
    try {
      if ('unix' in target) return await Bun.connect<Client>({ unix: target.unix, ...options })
      return await Bun.connect<Client>({ ...target, ...options })
    } catch (cause) {
      if (attempt === connectAttemptsMax) throw cause
      await Bun.sleep(20)
    }
  }
}

/** Sends what is due each millisecond; a request that finds no free connection waits its turn. */
function pace(rate: number, due: number[], free: Client[]): ReturnType<typeof setInterval> {
  const startMs = performance.now()
  let sent = 0
  return setInterval(() => {
    const nowMs = performance.now()
    const wanted = Math.floor(((nowMs - startMs) * rate) / 1000)
    for (; sent < wanted; sent += 1) {
      // Several may fall due in one turn of a late timer; that lateness is ours, not the server's.
      const client = free.pop()
      if (client === undefined) due.push(nowMs)
      else client.send(nowMs)
    }
  }, 1)
}
