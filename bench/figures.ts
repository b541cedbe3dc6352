/** Figures of a bench: quantiles, targets printed beside what was measured, one timed request. */
import type { Socket } from 'bun'
import { median, table } from './fnd.ts'
import type { Target } from './load.ts'

/** A figure and what was wanted of it. A missed target is printed, and is no failure. */
export interface Figure {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly targetMax?: number
  readonly targetMin?: number
}

export function printFigures(figures: readonly Figure[]): void {
  table([
    ['', 'measured', 'unit', 'target'],
    ...figures.map(figure => [figure.name, figure.value, figure.unit, verdict(figure)]),
  ])
}

function verdict({ value, targetMax, targetMin }: Figure): string {
  const said = (isMet: boolean) => (isMet ? 'met' : 'missed')
  if (targetMax !== undefined) return `≤ ${targetMax}: ${said(value <= targetMax)}`
  return targetMin === undefined ? '' : `≥ ${targetMin}: ${said(value >= targetMin)}`
}

export function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN
}

/** A row of a table of times: name, median, p99 and the ratio of medians to `base`. */
export function timesRow(
  name: string,
  times: readonly number[],
  base: readonly number[],
): (string | number)[] {
  return [name, median(times), quantile(times, 0.99), median(times) / median(base)]
}

export interface Timed {
  /** From `startedMs` to the first byte. */
  readonly firstByteMs: number
  readonly text: string
}

interface Exchange {
  text: string
  firstMs: number
  readonly done: PromiseWithResolvers<void>
}

const handlers = {
  data(socket: Socket<Exchange>, chunk: Buffer) {
    const exchange = socket.data
    if (exchange.firstMs === 0) exchange.firstMs = performance.now()
    exchange.text += chunk.toString('latin1')
  },
  close: (socket: Socket<Exchange>) => socket.data.done.resolve(),
  error: (socket: Socket<Exchange>) => socket.data.done.resolve(),
  // Bun reports a refused connection here and in the promise; the promise is what is looked at.
  connectError: () => undefined,
}

/** One request on a connection of its own, which the server closes. Rejects when refused. */
export async function timedRequest(
  target: Target,
  request: string,
  startedMs: number,
): Promise<Timed> {
  const exchange: Exchange = { text: '', firstMs: 0, done: Promise.withResolvers<void>() }
  const options = { data: exchange, socket: handlers }
  const socket =
    'unix' in target
      ? await Bun.connect<Exchange>({ unix: target.unix, ...options })
      : await Bun.connect<Exchange>({ ...target, ...options })
  socket.write(request)
  await exchange.done.promise
  if (!exchange.text.startsWith('HTTP/1.1 200')) {
    throw new Error(`not an answer: ${exchange.text.slice(0, 300)}`)
  }
  return { firstByteMs: exchange.firstMs - startedMs, text: exchange.text }
}

/** A request without a body, after which the server closes the connection. */
export function requestText(method: 'GET' | 'POST', path: string): string {
  const length = method === 'POST' ? 'Content-Length: 0\r\n' : ''
  return `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${length}\r\n`
}
