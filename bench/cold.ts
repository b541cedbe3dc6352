/**
 * Cold start of a TypeScript function, from the request to the first byte of its answer: through
 * fnd with spare workers, through fnd without, and of the bare worker on the same bundle (its exec,
 * its socket, one request; no fnd, no confinement). The sides take turns in each round. Every trial
 * calls a version of the function that has never run, when nothing else is starting.
 *
 * npm run bench:cold -- [--rounds N] [--pause MS]
 */
import { lstatSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { workerSource } from '../src/exec/worker-source.ts'
import {
  printFigures,
  quantile,
  requestText,
  type Timed,
  timedRequest,
  timesRow,
} from './figures.ts'
import { BenchFnd, binary, type Deployed, helloSource, median, table } from './fnd.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '25' },
    pause: { type: 'string', default: '600' },
  },
})
const rounds = Number(values.rounds)
/** An old version's end, and two spares at 150 ms from each other, are over by then. */
const pauseMs = Number(values.pause)
const withoutSparesMax = 1.5
const withSparesMax = 0.4

interface Side {
  readonly fnd: BenchFnd
  readonly cold: Deployed
  readonly hot: Deployed
  readonly firstByteMs: number[]
  /** fnd's own word on the wait for an instance. */
  readonly startMs: number[]
  /** The longest hot call while an instance started, less the longest of as long a time before. */
  readonly blockedMs: number[]
}

async function openSide(fnd: BenchFnd): Promise<Side> {
  const hot = await fnd.deploy('hot', helloSource)
  const cold = await fnd.deploy('cold', helloSource)
  return { fnd, cold, hot, firstByteMs: [], startMs: [], blockedMs: [] }
}

function call(fnd: BenchFnd, fn: Deployed): Promise<Timed> {
  const target = { hostname: '127.0.0.1', port: fnd.port }
  const request = requestText('POST', new URL(fn.invoke_url).pathname)
  return timedRequest(target, request, performance.now())
}

/** Another config makes another version: no instance of an older one serves it. */
async function renew({ fnd, cold }: Side, version: string): Promise<void> {
  const answer = await fnd.api(`/v2/fns/${cold.fn_id}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ config: { VERSION: version } }),
  })
  if (!answer.ok) throw new Error(`cannot update the function: ${await answer.text()}`)
  await Bun.sleep(pauseMs)
}

async function trial(side: Side, version: string): Promise<void> {
  await renew(side, version)
  const { firstByteMs, text } = await call(side.fnd, side.cold)
  const startMs = Number(/start;dur=([\d.]+)/.exec(text)?.[1] ?? 0)
  if (startMs === 0) throw new Error('the function was not cold')
  side.firstByteMs.push(firstByteMs)
  side.startMs.push(startMs)
}

/** Hot calls, one after the other, until `isOver`; the longest of them. */
async function longestHot(side: Side, isOver: () => boolean): Promise<number> {
  let longestMs = 0
  while (!isOver()) {
    longestMs = Math.max(longestMs, (await call(side.fnd, side.hot)).firstByteMs)
    await Bun.sleep(0)
  }
  return longestMs
}

async function blockedTrial(side: Side, version: string): Promise<void> {
  await renew(side, version)
  await call(side.fnd, side.hot)
  const windowMs = median(side.firstByteMs)
  const startedMs = performance.now()
  const quietMs = await longestHot(side, () => performance.now() - startedMs > windowMs)
  let isOver = false
  const starting = call(side.fnd, side.cold).then(() => {
    isOver = true
  })
  const longestMs = await longestHot(side, () => isOver)
  await starting
  side.blockedMs.push(Math.max(0, longestMs - quietMs))
}

/** The worker by itself, as the process driver would start it at level `process`. */
async function bareTrial(dir: string, version: number, bundleDir: string): Promise<number> {
  const sockets = join(dir, `bare-${version}`)
  mkdirSync(sockets)
  const socket = join(sockets, 'lsnr.sock')
  const environment = { FN_FORMAT: 'http-stream', FN_LISTENER: `unix:${socket}` }
  const startedMs = performance.now()
  const child = Bun.spawn([binary, join(dir, 'worker.js')], {
    env: { ...environment, BUN_BE_BUN: '1', BUN_RUNTIME_TRANSPILER_CACHE_PATH: '0' },
    stdin: 'pipe',
    stdout: 'ignore',
    stderr: 'inherit',
  })
  const job = { env: environment, cwd: bundleDir, entry: 'hello.js', version: 'bench' }
  child.stdin.write(`${JSON.stringify(job)}\n`)
  await child.stdin.end()
  while (lstatSync(socket, { throwIfNoEntry: false }) === undefined) await Bun.sleep(1)
  const { firstByteMs } = await timedRequest(
    { unix: socket },
    requestText('POST', '/call'),
    startedMs,
  )
  child.kill('SIGKILL')
  await child.exited
  return firstByteMs
}

await using withSpares = await BenchFnd.start()
await using without = await BenchFnd.start({ FND_SPARE_WORKERS: '0' })
const spared = await openSide(withSpares)
const direct = await openSide(without)
const bundleDir = join(without.dir, 'bundle')
mkdirSync(bundleDir)
const javascript = new Bun.Transpiler({ loader: 'ts' }).transformSync(helloSource)
writeFileSync(join(bundleDir, 'hello.js'), javascript)
writeFileSync(join(without.dir, 'worker.js'), await workerSource())

const bareMs: number[] = []
for (let round = 0; round < rounds; round += 1) {
  bareMs.push(await bareTrial(without.dir, round, bundleDir))
  await trial(direct, `cold-${round}`)
  await trial(spared, `cold-${round}`)
}
for (let round = 0; round < Math.ceil(rounds / 3); round += 1) {
  await blockedTrial(direct, `blocked-${round}`)
  await blockedTrial(spared, `blocked-${round}`)
}

console.log(`cold start of a TypeScript hello, request to first byte, ${rounds} rounds\n`)
table([
  ['', 'median ms', 'p99 ms', '× bare'],
  timesRow('bare worker, exec to first byte', bareMs, bareMs),
  timesRow('fnd without spares', direct.firstByteMs, bareMs),
  timesRow('fnd with spares', spared.firstByteMs, bareMs),
  timesRow('  of it start, without spares', direct.startMs, bareMs),
  timesRow('  of it start, with spares', spared.startMs, bareMs),
  ['hot call held up, without spares', median(direct.blockedMs), quantile(direct.blockedMs, 0.99)],
  ['hot call held up, with spares', median(spared.blockedMs), quantile(spared.blockedMs, 0.99)],
])
console.log()
printFigures([
  {
    name: 'without spares, × bare',
    value: median(direct.firstByteMs) / median(bareMs),
    unit: '',
    targetMax: withoutSparesMax,
  },
  {
    name: 'with spares, × bare',
    value: median(spared.firstByteMs) / median(bareMs),
    unit: '',
    targetMax: withSparesMax,
  },
])
