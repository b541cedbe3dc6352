/**
 * What a start of the process driver costs, against the bare exec of the same worker in the same
 * run; what one more hot instance weighs; how long a start holds up fnd's main thread.
 *
 *   bun bench/driver-start.ts [rounds]
 */
import { lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readConfig } from '../src/config.ts'
import { assert } from '../src/errors.ts'
import type { FnSpec, Instance } from '../src/exec/driver.ts'
import { ProcessDriver } from '../src/exec/process.ts'
import { workerSource } from '../src/exec/worker-source.ts'

const rounds = Number(process.argv[2] ?? 20)
const dir = mkdtempSync(join(tmpdir(), 'fnd-bench-'))
const bundleDir = join(dir, 'bundle')
mkdirSync(bundleDir)
writeFileSync(join(bundleDir, 'hello.js'), `export default { fetch: () => new Response('hello') }`)
const workerPath = join(dir, 'worker.js')
writeFileSync(workerPath, await workerSource())

const spec: FnSpec = {
  key: 'bench',
  fnId: 'bench',
  fnName: 'bench',
  appId: 'bench',
  appName: 'bench',
  image: 'bundle:bench',
  memoryMb: 128,
  timeoutMs: 30_000,
  idleTimeoutMs: 30_000,
  env: { FN_FORMAT: 'http-stream' },
  concurrency: 1,
  instancesMin: 0,
  instancesMax: 100,
  network: 'host',
}

async function answer(socketPath: string): Promise<void> {
  const init = { unix: socketPath, method: 'POST' } as RequestInit
  const response = await fetch('http://localhost/call', init)
  assert((await response.text()) === 'hello', 'the worker answers')
}

/** The worker alone: no driver, no confinement. */
async function bare(round: number): Promise<number> {
  const sockets = join(dir, `bare-${round}`)
  mkdirSync(sockets)
  const env = { ...spec.env, FN_LISTENER: `unix:${sockets}/lsnr.sock` }
  const startedMs = performance.now()
  const child = Bun.spawn([process.execPath, workerPath], {
    env: { ...env, BUN_BE_BUN: '1' },
    stdin: 'pipe',
    stdout: 'ignore',
  })
  const job = { env, cwd: bundleDir, entry: 'hello.js', version: 'bench' }
  child.stdin.write(`${JSON.stringify(job)}\n`)
  await child.stdin.end()
  const link = `${sockets}/lsnr.sock`
  while (lstatSync(link, { throwIfNoEntry: false }) === undefined) await Bun.sleep(1)
  await answer(link)
  const elapsedMs = performance.now() - startedMs
  child.kill('SIGKILL')
  await child.exited
  return elapsedMs
}

async function openDriver(spareWorkers: number): Promise<ProcessDriver> {
  const read = readConfig({}, { FND_SPARE_WORKERS: String(spareWorkers) })
  assert(read.ok, 'the configuration is valid')
  return ProcessDriver.open({
    dataDir: join(dir, `data-${spareWorkers}`),
    config: read.config.exec,
    version: 'bench',
    bundles: { get: () => ({ dir: bundleDir, manifest: { kind: 'module', entry: 'hello.js' } }) },
    output: {
      output() {
        // The worker says nothing.
      },
    },
    onSparesGivenUp: detail => assert(false, `spares start: ${detail}`),
  })
}

interface Sample {
  readonly elapsedMs: number
  readonly blockedMs: number
}

async function cold(driver: ProcessDriver, round: number): Promise<Sample> {
  const startedMs = performance.now()
  const starting = driver.start(spec, `cold-${round}`, new AbortController().signal)
  const blockedMs = performance.now() - startedMs
  const instance = await starting
  await answer(instance.socketPath)
  const elapsedMs = performance.now() - startedMs
  await instance.stop(0)
  return { elapsedMs, blockedMs }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}

function pssMb(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  return Number(/^Pss:\s+(\d+)/m.exec(text)?.[1] ?? 0) / 1024
}

const times = { bare: [] as number[], direct: [] as Sample[], spare: [] as Sample[] }
const direct = await openDriver(0)
const spared = await openDriver(2)
await Bun.sleep(1000)
for (let round = 0; round < rounds; round++) {
  times.bare.push(await bare(round))
  times.direct.push(await cold(direct, round))
  await Bun.sleep(400)
  times.spare.push(await cold(spared, round))
  await Bun.sleep(400)
}
const bareMs = median(times.bare)
const row = (name: string, samples: readonly Sample[]) => {
  const elapsedMs = median(samples.map(sample => sample.elapsedMs))
  const blockedMs = median(samples.map(sample => sample.blockedMs))
  return {
    start: name,
    ms: elapsedMs.toFixed(1),
    ratio: (elapsedMs / bareMs).toFixed(2),
    blockedMs: blockedMs.toFixed(2),
  }
}
console.table([
  { start: 'bare exec of the worker', ms: bareMs.toFixed(1), ratio: '1.00', blockedMs: '' },
  row('direct', times.direct),
  row('with a spare', times.spare),
])
const instances: Instance[] = []
for (let i = 0; i < 8; i++) {
  const instance = await direct.start(spec, `hot-${i}`, new AbortController().signal)
  for (let n = 0; n < 500; n++) await answer(instance.socketPath)
  instances.push(instance)
}
console.log(
  'PSS of 8 hot instances, MB each:',
  instances.map(i => pssMb(i.pid).toFixed(1)).join(' '),
)
await direct[Symbol.asyncDispose]()
await spared[Symbol.asyncDispose]()
rmSync(dir, { recursive: true })
