/**
 * Functions in containers, on a Docker daemon of the bench's own. Cold starts against `docker run`
 * and against the same container without fnd, in turns; hot calls of a static C program and of an
 * unmodified Node FDK function, against Fn's figures, which were measured elsewhere; and what it
 * costs to pause idle containers at a steady rate.
 *
 * npm run bench:container -- [--rounds N] [--seconds S] [--connections 1,8,…] [--pause MS]
 *   [--parts cold,hot,pause]
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Daemon } from '../test/docker/daemon.ts'
import { makeImages } from '../test/docker/images.ts'
import { bareTrial, runTrial, startBare } from './container-bare.ts'
import { ContainerFnd } from './container-fns.ts'
import { type Figure, printFigures, timesRow } from './figures.ts'
import { median, table } from './fnd.ts'
import { type LoadResult, runLoad, type Target } from './load.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '10' },
    seconds: { type: 'string', default: '3' },
    connections: { type: 'string', default: '1,8,32,64,256' },
    pause: { type: 'string', default: '1500' },
    parts: { type: 'string', default: 'cold,hot,pause' },
  },
})
const rounds = Number(values.rounds)
/** Loads are long, and their medians need fewer. */
const loadRounds = Math.min(3, rounds)
const durationMs = Number(values.seconds) * 1000
/** Containers are removed and networks made ahead by then. */
const pauseMs = Number(values.pause)
const connections = values.connections.split(',').map(Number)

/** An image, and the `docker run` of it that prints something at once. */
interface Image {
  readonly name: 'fn-static' | 'fn-node-fdk'
  readonly printing: readonly string[]
}

const images: readonly Image[] = [
  { name: 'fn-static', printing: ['fn-static:1', 'print'] },
  {
    name: 'fn-node-fdk',
    printing: ['--entrypoint', '/bin/node', 'fn-node-fdk:1', '-e', 'console.log("hello")'],
  },
]

/**
 * Fn 0.3.753, measured elsewhere: 2 cores, dockerd 20.10, POST /invoke of a hello function. Never
 * measured here; ratios to them say only which order of magnitude to expect.
 */
interface Reference {
  readonly perSecond: number
  readonly p99Ms: number
}
type ByConnections = Readonly<Record<number, Reference>>
const goTuned: ByConnections = {
  1: { perSecond: 2070, p99Ms: 1.8 },
  8: { perSecond: 3840, p99Ms: 6.6 },
  32: { perSecond: 3190, p99Ms: 39 },
  64: { perSecond: 2660, p99Ms: 92 },
}
const goStock: ByConnections = {
  1: { perSecond: 1650, p99Ms: 4 },
  8: { perSecond: 2390, p99Ms: 20 },
  32: { perSecond: 720, p99Ms: 296 },
  64: { perSecond: 600, p99Ms: 428 },
}
const nodeTuned: ByConnections = {
  1: { perSecond: 1990, p99Ms: 2.3 },
  8: { perSecond: 3940, p99Ms: 7.3 },
  32: { perSecond: 1610, p99Ms: 108 },
  64: { perSecond: 1740, p99Ms: 216 },
}

const dir = mkdtempSync(join(tmpdir(), 'fnd-bench-io-'))
await using daemon = await Daemon.start({ bridge: true })
const { docker, host } = daemon
await makeImages(docker, ['fn-static', 'fn-node-fdk'])
await using main = await ContainerFnd.start(docker, { DOCKER_HOST: host })
const figures: Figure[] = []
const client = Bun.spawnSync(['docker', '--version']).stdout.toString().trim()
console.log(`dockerd ${(await docker.version()).Version}; client: ${client}`)

interface Cold {
  readonly bare: number[]
  readonly run: number[]
  readonly ahead: number[]
  readonly plain: number[]
  readonly waiting: number[]
  readonly paused: number[]
}

/** The first call of a function that has never run. */
async function coldTrial(node: ContainerFnd, image: string): Promise<number> {
  const fn = await node.create(image)
  const { firstByteMs } = await node.call(fn)
  await node.remove(fn)
  return firstByteMs
}

/** The first call of a function with `min-instances` 1. */
async function waitingTrial(image: string): Promise<number> {
  const fn = await main.create(image, { 'fnd.io/min-instances': 1 })
  await main.untilIdle(fn)
  const { firstByteMs } = await main.call(fn)
  await main.remove(fn)
  return firstByteMs
}

/** A call of a function whose only container is paused; NaN where none gets paused. */
async function pausedTrial(image: string): Promise<number> {
  const fn = await main.create(image, { 'fnd.io/pause-after-ms': 50 })
  await main.call(fn)
  const isPaused = await main.has(fn, 'paused')
  const { firstByteMs } = await main.call(fn)
  await main.remove(fn)
  return isPaused ? firstByteMs : Number.NaN
}

async function cold({ name, printing }: Image): Promise<void> {
  await using plain = await ContainerFnd.start(docker, {
    DOCKER_HOST: host,
    FND_NETWORK_POOL_SIZE: '0',
  })
  const image = `${name}:1`
  const times: Cold = { bare: [], run: [], ahead: [], plain: [], waiting: [], paused: [] }
  // The first container of a fnd makes it look for what the daemon is, and make networks ahead.
  for (const node of [main, plain]) await coldTrial(node, image)
  for (let round = 0; round < rounds; round += 1) {
    await Bun.sleep(pauseMs)
    times.bare.push(await bareTrial(docker, dir, image))
    await Bun.sleep(pauseMs)
    times.run.push(await runTrial(host, printing))
    await Bun.sleep(pauseMs)
    times.plain.push(await coldTrial(plain, image))
    await Bun.sleep(pauseMs)
    times.ahead.push(await coldTrial(main, image))
    times.waiting.push(await waitingTrial(image))
    if (!times.paused.some(Number.isNaN)) times.paused.push(await pausedTrial(image))
  }
  printCold(name, times)
}

function printCold(name: string, times: Cold): void {
  console.log(`\ncold start of ${name}, to the first byte, ${rounds} rounds\n`)
  table([
    ['', 'median ms', 'p99 ms', '× bare'],
    timesRow('bare: create, start, socket, one call', times.bare, times.bare),
    timesRow('docker run --rm that prints', times.run, times.bare),
    timesRow('fnd, no network made ahead', times.plain, times.bare),
    timesRow('fnd, networks made ahead (the default)', times.ahead, times.bare),
    timesRow('fnd, an instance waits (min-instances 1)', times.waiting, times.bare),
    timesRow('fnd, its instance is paused', times.paused, times.bare),
  ])
  if (times.paused.some(Number.isNaN)) console.log('no container was ever paused')
  const over = (part: readonly number[], whole: readonly number[]) => median(part) / median(whole)
  const figure = (text: string, value: number, targetMax: number): Figure => ({
    name: `${name}: ${text}`,
    value,
    unit: '',
    targetMax,
  })
  figures.push(
    figure('cold, × bare', over(times.ahead, times.bare), 1.2),
    figure('cold without networks made ahead, × bare', over(times.plain, times.bare), 1.2),
    figure('cold, × docker run', over(times.ahead, times.run), 0.8),
    figure('an instance waits, × bare', over(times.waiting, times.bare), 0.5),
    figure('its instance is paused, × bare', over(times.paused, times.bare), 0.5),
  )
}

const requestTo = (path: string): string =>
  `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`

interface Row extends LoadResult {
  readonly containers: number
}

function medianOf(rows: readonly Row[]): Row {
  const of = (pick: (row: Row) => number) => median(rows.map(pick))
  return {
    perSecond: of(row => row.perSecond),
    p50Ms: of(row => row.p50Ms),
    p99Ms: of(row => row.p99Ms),
    errors: of(row => row.errors),
    containers: of(row => row.containers),
  }
}

async function hot({ name }: Image): Promise<void> {
  const fn = await main.create(`${name}:1`)
  await main.call(fn)
  const bare = await startBare(docker, dir, `${name}:1`)
  const front: Target = { hostname: '127.0.0.1', port: main.fnd.port }
  const measured = new Map<number, { own: Row; direct: Row }>()
  for (const count of connections) {
    const own: Row[] = []
    const direct: Row[] = []
    for (let round = 0; round < loadRounds; round += 1) {
      const load = { connections: count, durationMs }
      const result = await runLoad({ ...load, target: front, request: requestTo(fn.path) })
      own.push({ ...result, containers: (await main.containers(fn, 'running')).length })
      const socket = { unix: bare.socket }
      const alone = await runLoad({ ...load, target: socket, request: requestTo('/call') })
      direct.push({ ...alone, containers: 1 })
    }
    measured.set(count, { own: medianOf(own), direct: medianOf(direct) })
  }
  await bare.container.remove({ force: true })
  await main.remove(fn)
  printHot(name, measured)
}

function printHot(
  name: Image['name'],
  measured: ReadonlyMap<number, { readonly own: Row; readonly direct: Row }>,
): void {
  const isStatic = name === 'fn-static'
  const tuned = isStatic ? goTuned : nodeTuned
  console.log(
    `\nhot calls of ${name}; ×: over Fn's figures with ${isStatic ? 'its Go' : 'its Node'} FDK,`,
    'constants measured elsewhere\n',
  )
  table([
    [
      ...['connections', 'calls/s', 'p50 ms', 'p99 ms', 'errors', 'containers'],
      ...['× Fn tuned', 'p99 × Fn tuned', '× Fn stock', 'its socket alone, calls/s', 'p99 ms'],
    ],
    ...[...measured].map(([count, { own, direct }]) => {
      const stock = isStatic ? goStock[count]?.perSecond : undefined
      return [
        ...[String(count), own.perSecond, own.p50Ms, own.p99Ms, own.errors, own.containers],
        own.perSecond / (tuned[count]?.perSecond ?? Number.NaN),
        own.p99Ms / (tuned[count]?.p99Ms ?? Number.NaN),
        own.perSecond / (stock ?? Number.NaN),
        ...[direct.perSecond, direct.p99Ms],
      ]
    }),
  ])
  const figure = (text: string, value: number, target: Partial<Figure>): Figure => ({
    name: `${name}: ${text}`,
    value,
    unit: '',
    ...target,
  })
  const at32 = measured.get(32)?.own
  const reference = tuned[32]
  if (at32 !== undefined && reference !== undefined) {
    const p99 = at32.p99Ms / reference.p99Ms
    figures.push(
      figure('32 connections, × Fn tuned', at32.perSecond / reference.perSecond, { targetMin: 3 }),
      figure('32 connections, p99 × Fn tuned', p99, { targetMax: 0.2 }),
    )
    const stock = goStock[32]
    if (isStatic && stock !== undefined) {
      const ratio = at32.perSecond / stock.perSecond
      figures.push(figure('32 connections, × Fn stock', ratio, { targetMin: 10 }))
    }
  }
  const at256 = measured.get(256)?.own
  const best = Math.max(...[...measured.values()].map(({ own }) => own.perSecond))
  if (at256 !== undefined) {
    figures.push(
      figure('256 connections, over its best', at256.perSecond / best, { targetMin: 0.8 }),
    )
  }
}

/** A steady rate leaves containers idle again and again, for less or more than they are patient. */
async function pausing(): Promise<void> {
  const rate = 1000
  const sides = [
    { name: 'never paused', afterMs: -1, rows: [] as Row[] },
    { name: 'paused after 50 ms, as Fn does', afterMs: 50, rows: [] as Row[] },
  ]
  const fns = []
  for (const side of sides) {
    const fn = await main.create('fn-static:1', { 'fnd.io/pause-after-ms': side.afterMs })
    await main.call(fn)
    fns.push({ ...side, fn })
  }
  for (let round = 0; round < loadRounds; round += 1) {
    for (const { fn, rows } of fns) {
      const target = { hostname: '127.0.0.1', port: main.fnd.port }
      const load = { target, request: requestTo(fn.path), connections: 32, durationMs, rate }
      const result = await runLoad(load)
      rows.push({ ...result, containers: (await main.containers(fn)).length })
    }
  }
  console.log(`\nfn-static at ${rate} calls/s; Fn, measured elsewhere: p99 61 ms, tuned 2.7 ms\n`)
  table([
    ['', 'calls/s', 'p50 ms', 'p99 ms', 'errors', 'containers'],
    ...fns.map(({ name, rows }) => {
      const { perSecond, p50Ms, p99Ms, errors, containers } = medianOf(rows)
      return [name, perSecond, p50Ms, p99Ms, errors, containers]
    }),
  ])
  for (const { fn } of fns) await main.remove(fn)
}

const parts = values.parts.split(',')
if (parts.includes('cold')) for (const image of images) await cold(image)
if (parts.includes('hot')) for (const image of images) await hot(image)
if (parts.includes('pause')) await pausing()
console.log()
printFigures(figures)
rmSync(dir, { recursive: true, force: true })
