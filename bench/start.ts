/**
 * Start of fnd with 1,000 functions stored: from exec to the first answer of /healthz, and of a
 * call. Beside it, in the same rounds, what the machine takes to start programs that do nothing.
 *
 * npm run bench:start -- [--rounds N] [--functions N]
 */
import { parseArgs } from 'node:util'
import { printFigures, requestText, timedRequest, timesRow } from './figures.ts'
import { BenchFnd, binary, helloSource, median, table } from './fnd.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    functions: { type: 'string', default: '1000' },
  },
})
const rounds = Number(values.rounds)
const functions = Number(values.functions)
const targetMs = 150

/** Asks until somebody answers; what is refused costs nothing on loopback. */
async function firstAnswer(fnd: BenchFnd, request: string, startedMs: number): Promise<number> {
  for (;;) {
    try {
      const target = { hostname: '127.0.0.1', port: fnd.port }
      return (await timedRequest(target, request, startedMs)).firstByteMs
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ECONNREFUSED') throw cause
      await Bun.sleep(1)
    }
  }
}

async function untilExit(
  command: string[],
  environment: Record<string, string> = {},
): Promise<number> {
  const startedMs = performance.now()
  const child = Bun.spawn(command, {
    env: { ...Bun.env, ...environment },
    stdout: 'ignore',
    stderr: 'inherit',
  })
  if ((await child.exited) !== 0) throw new Error(`${command.join(' ')} failed`)
  return performance.now() - startedMs
}

await using fnd = await BenchFnd.start()
const hello = await fnd.deploy('hello', helloSource)
await fnd.addCopies(hello, functions - 1)
const callRequest = requestText('POST', new URL(hello.invoke_url).pathname)
const healthRequest = requestText('GET', '/healthz')

const times: Record<'health' | 'call' | 'version' | 'runtime' | 'node', number[]> = {
  health: [],
  call: [],
  version: [],
  runtime: [],
  node: [],
}
for (let round = 0; round < rounds; round += 1) {
  times.version.push(await untilExit([binary, '--version']))
  times.runtime.push(await untilExit([binary, '-e', '0'], { BUN_BE_BUN: '1' }))
  times.node.push(await untilExit(['node', '-e', '0']))
  await fnd.stop()
  let startedMs = performance.now()
  fnd.spawn()
  times.health.push(await firstAnswer(fnd, healthRequest, startedMs))
  await fnd.stop()
  startedMs = performance.now()
  fnd.spawn()
  times.call.push(await firstAnswer(fnd, callRequest, startedMs))
}

console.log(`exec to first answer, ${functions} functions stored, ${rounds} rounds\n`)
table([
  ['', 'median ms', 'p99 ms', '× fnd --version'],
  timesRow('fnd: first answer of /healthz', times.health, times.version),
  timesRow('fnd: first answer of a call', times.call, times.version),
  timesRow('fnd --version, to its exit', times.version, times.version),
  timesRow('the same runtime, no program', times.runtime, times.version),
  timesRow('node -e 0', times.node, times.version),
])
console.log()
printFigures([
  {
    name: 'first answer of /healthz',
    value: median(times.health),
    unit: 'ms',
    targetMax: targetMs,
  },
  { name: 'first answer of a call', value: median(times.call), unit: 'ms', targetMax: targetMs },
])
