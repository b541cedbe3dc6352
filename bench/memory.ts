/**
 * Memory of fnd and of the functions it runs: idle, with 1,000 functions stored, after calls; of
 * spare workers and of hot instances; and while a large body passes through a call. Beside it what
 * a server that only says hello takes on the same runtime, and nginx.
 *
 * npm run bench:memory -- [--functions N] [--seconds S] [--megabytes N]
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Figure, printFigures, requestText, timedRequest } from './figures.ts'
import { BenchFnd, binary, freePort, helloSource, median, memoryKb, table } from './fnd.ts'
import { runLoad } from './load.ts'

const { values } = parseArgs({
  options: {
    functions: { type: 'string', default: '1000' },
    seconds: { type: 'string', default: '5' },
    megabytes: { type: 'string', default: '1024' },
  },
})
const functions = Number(values.functions)
const loadMs = Number(values.seconds) * 1000
const bodyBytes = Number(values.megabytes) * 1024 * 1024
const idleTargetMb = 90
const instanceTargetMb = 8
const bodyTargetMb = 32
const hotCounts = [1, 2, 4, 8, 16]
const callsPerInstance = 200
const sampleMs = 10
/** Long enough for a collector to run and for freed pages to go back. */
const quietMs = 2000
const chunkBytes = 64 * 1024

const echoSource = `export default {
  async fetch(request: Request) {
    const bytes = Number(new URL(request.url).searchParams.get('bytes') ?? 0)
    if (bytes === 0) {
      let total = 0
      for await (const chunk of request.body ?? []) total += chunk.length
      return new Response(String(total))
    }
    const chunk = new Uint8Array(${chunkBytes})
    let left = bytes
    const body = new ReadableStream({
      pull(controller) {
        controller.enqueue(left < chunk.length ? chunk.subarray(0, left) : chunk)
        left -= Math.min(left, chunk.length)
        if (left === 0) controller.close()
      },
    })
    return new Response(body)
  },
}
`

function mb(pid: number, field: 'Rss' | 'Pss'): number {
  return memoryKb(pid, field) / 1024
}

function childrenOf(pid: number): number[] {
  const text = Bun.spawnSync(['pgrep', '-P', String(pid)]).stdout.toString()
  return text.split('\n').filter(Boolean).map(Number)
}

function loadOn(port: number, path: string) {
  const request = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`
  const target = { hostname: '127.0.0.1', port }
  return runLoad({ target, request, connections: 32, durationMs: loadMs })
}

/** RSS of a server that is started, left alone, loaded, and left alone again. */
async function ofServer(child: Bun.Subprocess, port: number, pidOf: () => number) {
  for (;;) {
    const target = { hostname: '127.0.0.1', port }
    const isThere = await timedRequest(target, requestText('GET', '/'), 0).then(
      () => true,
      () => false,
    )
    if (isThere) break
    await Bun.sleep(20)
  }
  await Bun.sleep(quietMs)
  const freshMb = mb(pidOf(), 'Rss')
  await loadOn(port, '/')
  await Bun.sleep(quietMs)
  const loadedMb = mb(pidOf(), 'Rss')
  child.kill()
  await child.exited
  return { freshMb, loadedMb }
}

async function bareServer(dir: string) {
  const port = await freePort()
  const file = join(dir, 'bare.js')
  const options = `hostname: '127.0.0.1', port: ${port}, fetch: () => new Response('hello world')`
  writeFileSync(file, `Bun.serve({ ${options} })\n`)
  const child = Bun.spawn([binary, file], {
    env: { ...Bun.env, BUN_BE_BUN: '1' },
    stdout: 'inherit',
    stderr: 'inherit',
  })
  return ofServer(child, port, () => child.pid)
}

/** Undefined where there is no nginx. */
async function nginxServer(dir: string) {
  if (Bun.which('nginx') === null) return undefined
  const port = await freePort()
  const conf = join(dir, 'nginx.conf')
  writeFileSync(
    conf,
    `worker_processes 1; daemon off; error_log stderr crit; pid ${dir}/nginx.pid;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path ${dir}/nginx-body; proxy_temp_path ${dir}/nginx-proxy;
  server { listen 127.0.0.1:${port}; location / { return 200 "hello world"; } }
}
`,
  )
  const child = Bun.spawn(['nginx', '-c', conf], { stdout: 'inherit', stderr: 'inherit' })
  return ofServer(child, port, () => childrenOf(child.pid)[0] ?? child.pid)
}

async function idle(fnd: BenchFnd) {
  await Bun.sleep(quietMs)
  const freshMb = mb(fnd.pid, 'Rss')
  const spares = childrenOf(fnd.pid)
  const spareRssMb = median(spares.map(pid => mb(pid, 'Rss')))
  const sparePssMb = median(spares.map(pid => mb(pid, 'Pss')))
  const first = await fnd.deploy('stored-0', helloSource)
  await fnd.addCopies(first, functions - 1)
  await Bun.sleep(quietMs)
  const filledMb = mb(fnd.pid, 'Rss')
  await fnd.stop()
  fnd.spawn()
  await fnd.answers()
  await Bun.sleep(quietMs)
  const restartedMb = mb(fnd.pid, 'Rss')
  const path = new URL(first.invoke_url).pathname
  const { errors } = await loadOn(fnd.port, path)
  if (errors > 0) throw new Error(`${errors} calls failed`)
  await Bun.sleep(quietMs)
  return {
    freshMb,
    spares: spares.length,
    spareRssMb,
    sparePssMb,
    filledMb,
    restartedMb,
    loadedMb: mb(fnd.pid, 'Rss'),
  }
}

interface HotRow {
  readonly count: number
  readonly rssMb: number
  readonly pssMb: number
  readonly totalPssMb: number
}

/** Instances of so many functions, each of which has answered some hundred calls. */
async function hot(fnd: BenchFnd): Promise<HotRow[]> {
  const rows: HotRow[] = []
  const pids: number[] = []
  const target = { hostname: '127.0.0.1', port: fnd.port }
  for (const count of hotCounts) {
    while (pids.length < count) {
      const flags = ['--idle-timeout', '600', '--memory', '64']
      const fn = await fnd.deploy(`hot-${pids.length}`, helloSource, flags)
      const request = requestText('POST', new URL(fn.invoke_url).pathname)
      for (let i = 0; i < callsPerInstance; i += 1) await timedRequest(target, request, 0)
      const instance = (await fnd.describe(fn.fn_id)).instances[0]
      if (instance === undefined) throw new Error('the function is not hot')
      pids.push(instance.pid)
    }
    await Bun.sleep(quietMs / 4)
    const pss = pids.map(pid => mb(pid, 'Pss'))
    rows.push({
      count,
      rssMb: median(pids.map(pid => mb(pid, 'Rss'))),
      pssMb: median(pss),
      totalPssMb: pss.reduce((sum, one) => sum + one, 0),
    })
  }
  return rows
}

/** How much more of fnd is resident at the peak of `work` than before it. */
async function growthMb(fnd: BenchFnd, work: () => Promise<void>): Promise<number> {
  const beforeMb = mb(fnd.pid, 'Rss')
  let peakMb = beforeMb
  const sampling = setInterval(() => {
    peakMb = Math.max(peakMb, mb(fnd.pid, 'Rss'))
  }, sampleMs)
  await work()
  clearInterval(sampling)
  return peakMb - beforeMb
}

/** Each on an fnd that has just started: one that was busy has freed pages to grow into. */
async function bodies(fnd: BenchFnd): Promise<{ upMb: number; downMb: number }> {
  const echo = await fnd.deploy('echo', echoSource, ['--memory', '256', '--timeout', '120'])
  const startAgain = async (): Promise<void> => {
    await fnd.stop()
    fnd.spawn()
    await fnd.answers()
    const warm = await fetch(echo.url, { method: 'POST', body: 'x' })
    if ((await warm.text()) !== '1') throw new Error('the echo function does not answer')
    await Bun.sleep(quietMs)
  }
  const run = (args: string[]): Promise<string> => {
    const child = Bun.spawn(['curl', '-sS', '--fail', ...args], { stderr: 'inherit' })
    return new Response(child.stdout).text()
  }
  const size = join(fnd.dir, 'body')
  const file = Bun.spawnSync(['truncate', '-s', String(bodyBytes), size])
  if (file.exitCode !== 0) throw new Error('cannot make the body')
  await startAgain()
  const upMb = await growthMb(fnd, async () => {
    const answer = await run(['-X', 'POST', '-T', size, echo.url])
    if (answer !== String(bodyBytes)) throw new Error(`the function counted ${answer}`)
  })
  await startAgain()
  const downMb = await growthMb(fnd, async () => {
    const where = `${echo.url}?bytes=${bodyBytes}`
    const answer = await run(['-o', '/dev/null', '-w', '%{size_download}', where])
    if (answer !== String(bodyBytes)) throw new Error(`curl got ${answer} bytes`)
  })
  return { upMb, downMb }
}

await using fnd = await BenchFnd.start()
const own = await idle(fnd)
const hotRows = await hot(fnd)
const big = await bodies(fnd)
mkdirSync(join(fnd.dir, 'servers'))
const bare = await bareServer(join(fnd.dir, 'servers'))
const nginx = await nginxServer(join(fnd.dir, 'servers'))

console.log('resident memory of servers, MB\n')
table([
  ['', 'fresh', `${functions} functions`, 'after a start with them', 'after calls'],
  ['fnd', own.freshMb, own.filledMb, own.restartedMb, own.loadedMb],
  ['Bun.serve that says hello, same runtime', bare.freshMb, '', '', bare.loadedMb],
  ...(nginx === undefined
    ? []
    : [['nginx that says hello, one worker', nginx.freshMb, '', '', nginx.loadedMb]]),
])
console.log(`\nspare workers: ${own.spares}, each, MB\n`)
table([
  ['RSS', 'PSS'],
  [own.spareRssMb, own.sparePssMb],
])
console.log('\nhot instances of as many hello functions, MB\n')
table([
  ['instances', 'RSS each', 'PSS each', 'PSS together'],
  ...hotRows.map(row => [String(row.count), row.rssMb, row.pssMb, row.totalPssMb]),
])
const [first, last] = [hotRows[0], hotRows.at(-1)]
if (first === undefined || last === undefined) throw new Error('no instance was measured')
const furtherMb = (last.totalPssMb - first.totalPssMb) / (last.count - first.count)
const idleMb = Math.max(own.freshMb, own.restartedMb)
const figures: Figure[] = [
  { name: 'idle RSS of fnd', value: idleMb, unit: 'MB', targetMax: idleTargetMb },
  { name: 'PSS of a further instance', value: furtherMb, unit: 'MB', targetMax: instanceTargetMb },
  {
    name: `growth by ${values.megabytes} MB up`,
    value: big.upMb,
    unit: 'MB',
    targetMax: bodyTargetMb,
  },
  {
    name: `growth by ${values.megabytes} MB down`,
    value: big.downMb,
    unit: 'MB',
    targetMax: bodyTargetMb,
  },
]
console.log()
printFigures(figures)
