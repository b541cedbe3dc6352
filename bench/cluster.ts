/**
 * Durable writes of 256-byte values: three members of fnd beside three of etcd, and one fnd beside
 * one etcd and LMDB alone. All on loopback and one filesystem, flushed, with default settings; the
 * sides take turns in each round, and medians over the rounds are printed.
 *
 * npm run bench:cluster -- [--rounds N] [--seconds S] [--clients 1,64,256] [--parts cluster,single]
 *   [--plain-peers]: etcd's members speak to each other without TLS, as fnd's cannot
 *
 * One compiled load generator (pump.c) drives all of them, so that it is no side's handicap. etcd
 * is spoken to in its own gRPC, which is faster than its JSON gateway (measured too): once with a
 * connection for each client, as fnd's clients have, and once with all clients on one connection,
 * which is its fastest way because it saves it system calls. Writes go to the leader, which is the
 * fastest for both, and once spread over all members: a client alone comes to another in each
 * round. That no write was answered but not done is checked by etcd's revision and fnd's applied
 * index. A bare file is flushed on the same disk all the time: a round in which that took long says
 * nothing of who wrote in it. Needs Debian's `etcd-server` and the headers of libc.
 */
import { parseArgs } from 'node:util'
import { DiskProbe } from './disk-probe.ts'
import { Etcd, putOverGrpc, putOverHttp } from './etcd.ts'
import { type Figure, printFigures } from './figures.ts'
import { cpuUs, freePort, median, table } from './fnd.ts'
import type { PutsResult } from './lmdb-puts.ts'
import { BenchCluster, putOf } from './members.ts'
import { type Pump, runPump } from './pump.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    clients: { type: 'string', default: '1,64,256' },
    parts: { type: 'string', default: 'cluster,single' },
    'plain-peers': { type: 'boolean', default: false },
  },
})
const rounds = Number(values.rounds)
const durationMs = Number(values.seconds) * 1000
const clientCounts = values.clients.split(',').map(Number)
const valueBytes = 256
const warmUpClients = 64
const warmUpMs = 15_000
/** Again with as many clients as are measured, since a few take other ways through a server. */
const warmUpAgainMs = 8000

interface Measured {
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly errors: number
  /** CPU time of the servers for each write. */
  readonly cpuUsPerWrite: number
}

interface Side {
  readonly name: string
  readonly run: (clients: number, forMs?: number) => Promise<Measured>
}

type PumpOf = (clients: number) => Promise<Omit<Pump, 'durationMs'>>

/** `written` counts what the servers have done, to compare with what they answered. */
function pumpedSide(
  name: string,
  pids: readonly number[],
  pump: PumpOf,
  written?: () => Promise<number>,
): Side {
  const cpu = () => pids.reduce((sum, pid) => sum + cpuUs(pid), 0)
  return {
    name,
    async run(clients, forMs = durationMs) {
      const [beforeUs, writtenBefore] = [cpu(), (await written?.()) ?? 0]
      const result = await runPump({ ...(await pump(clients)), durationMs: forMs })
      const answered = (result.perSecond * forMs) / 1000
      // It has also done those of the warm-up.
      const count = written === undefined ? Number.NaN : (await written()) - writtenBefore
      if (count < answered - 1) {
        throw new Error(`${name} answered more writes than it did`)
      }
      return { ...result, cpuUsPerWrite: (cpu() - beforeUs) / count }
    },
  }
}

interface Row {
  readonly name: string
  readonly perSecond: number
  readonly p99Ms: number
}

/** As after some minutes of life: what is compiled while it runs is compiled. */
async function warmUp(sides: readonly Side[]): Promise<void> {
  for (const side of sides) await side.run(warmUpClients, warmUpMs)
}

interface Round extends Measured {
  /** The longest flush of a bare file meanwhile. */
  readonly flushMs: number
}

/** All sides in turns; prints a table with ratios to the first side. */
async function compare(sides: readonly Side[], clients: number): Promise<Row[]> {
  for (const side of sides) await side.run(clients, warmUpAgainMs)
  await using probe = await DiskProbe.start()
  const all = new Map<Side, Round[]>(sides.map(side => [side, []]))
  for (let round = 0; round < rounds; round += 1) {
    for (const side of sides) {
      const fromMs = performance.now()
      const measured = await side.run(clients)
      all.get(side)?.push({ ...measured, flushMs: probe.longestMs(fromMs, performance.now()) })
    }
  }
  const rows = [...all].map(([{ name }, runs]) => ({
    name,
    perSecond: median(runs.map(run => run.perSecond)),
    p50Ms: median(runs.map(run => run.p50Ms)),
    p99Ms: median(runs.map(run => run.p99Ms)),
    cpu: median(runs.map(run => run.cpuUsPerWrite)),
    errors: runs.reduce((sum, run) => sum + run.errors, 0),
    flushMs: median(runs.map(run => run.flushMs)),
  }))
  const base = rows[0]
  console.log(`\n${clients} client${clients === 1 ? '' : 's'}`)
  table([
    ['', 'writes/s', 'ratio', 'p50 ms', 'p99 ms', 'ratio', 'CPU µs/write', 'errors', 'flush ms'],
    ...rows.map(row => [
      ...[row.name, row.perSecond, row.perSecond / (base?.perSecond ?? 1)],
      ...[row.p50Ms, row.p99Ms, row.p99Ms / (base?.p99Ms ?? 1), row.cpu, row.errors, row.flushMs],
    ]),
  ])
  return rows
}

const figures: Figure[] = []

function figureOf(rows: readonly Row[], name: string, base: string, clients: number): void {
  const [ours, theirs] = [name, base].map(wanted => rows.find(row => row.name === wanted))
  if (ours === undefined || theirs === undefined) return
  const words = `${name} to ${base}, ${clients} clients`
  const [perSecond, p99] = [ours.perSecond / theirs.perSecond, ours.p99Ms / theirs.p99Ms]
  figures.push({ name: `writes/s of ${words}`, value: perSecond, unit: 'ratio', targetMin: 1 })
  figures.push({ name: `p99 of ${words}`, value: p99, unit: 'ratio', targetMax: 1 })
}

/** All of them, and in each run another first. */
function inTurns(ports: readonly number[]): () => Promise<readonly number[]> {
  let runs = 0
  return async () => {
    const first = runs++ % ports.length
    return [...ports.slice(first), ...ports.slice(0, first)]
  }
}

async function compareClusters(): Promise<void> {
  await using etcd = await Etcd.start(3, !values['plain-peers'])
  await using fnd = await BenchCluster.start(3)
  const put = await putOf(await fnd.leader(), valueBytes)
  const fndPids = fnd.members.map(member => member.pid)
  const applied = async () => (await (await fnd.leader()).status())?.applied_index ?? 0
  const revision = () => etcd.revision()
  const etcdLeader = async () => [(await etcd.leaderPort()) ?? 0]
  const ofEtcd = (name: string, pump: PumpOf) =>
    pumpedSide(`etcd, ${name}`, etcd.pids, pump, revision)
  const ofFnd = (name: string, ports: () => Promise<readonly number[]>) => {
    const pump: PumpOf = async connections => ({ ports: await ports(), connections, request: put })
    return pumpedSide(`fnd, ${name}`, fndPids, pump, applied)
  }
  const anyOfEtcd = inTurns(etcd.ports)
  const grpc = (streams: number) => putOverGrpc('bench', valueBytes, streams)
  const sides = [
    ofEtcd('leader', async connections => ({
      ports: await etcdLeader(),
      connections,
      request: grpc(1),
    })),
    ofEtcd('leader, one connection', async connections => ({
      ports: await etcdLeader(),
      connections,
      request: grpc(connections),
    })),
    ofEtcd('all members', async connections => ({
      ports: await anyOfEtcd(),
      connections,
      request: grpc(1),
    })),
    ofEtcd('leader, JSON gateway', async connections => ({
      ports: await etcdLeader(),
      connections,
      request: putOverHttp('bench', valueBytes),
    })),
    ofFnd('leader', async () => [(await fnd.leader()).port]),
    ofFnd('all members', inTurns(fnd.ports)),
  ]
  console.log('Three members each, flushed, on this machine')
  await warmUp(sides)
  for (const clients of clientCounts) {
    const rows = await compare(sides, clients)
    figureOf(rows, 'fnd, leader', 'etcd, leader', clients)
    figureOf(rows, 'fnd, leader', 'etcd, leader, one connection', clients)
    figureOf(rows, 'fnd, leader', 'etcd, leader, JSON gateway', clients)
    figureOf(rows, 'fnd, all members', 'etcd, all members', clients)
  }
}

const lmdbProgram = `${import.meta.dir}/lmdb-puts.ts`

function lmdbSide(name: string, mode: 'each' | 'batch'): Side {
  return {
    name,
    async run(clients) {
      const args = [process.execPath, lmdbProgram, mode, String(clients), String(durationMs)]
      const child = Bun.spawn(args, { stdin: 'ignore', stdout: 'pipe', stderr: 'inherit' })
      const { perSecond, p99Ms } = JSON.parse(await new Response(child.stdout).text()) as PutsResult
      const unknown = Number.NaN
      return { perSecond, p99Ms, p50Ms: unknown, errors: 0, cpuUsPerWrite: unknown }
    },
  }
}

async function compareSingle(): Promise<void> {
  await using fnd = await BenchCluster.start(1)
  await using etcd = await Etcd.start(1)
  const request = await putOf(fnd.first, valueBytes)
  const port = await freePort()
  const server = Bun.spawn([process.execPath, lmdbProgram, 'serve', String(port)], {
    stdin: 'ignore',
    stdout: 'inherit',
    stderr: 'inherit',
  })
  while (!(await fetch(`http://127.0.0.1:${port}`, { method: 'PUT', body: '{}' }).catch(() => 0))) {
    await Bun.sleep(10)
  }
  const applied = async () => (await fnd.first.status())?.applied_index ?? 0
  const pump = (ports: number[]) => async (connections: number) => ({ ports, connections, request })
  const sides = [
    lmdbSide('LMDB, a transaction each', 'each'),
    lmdbSide('LMDB, in batches, no server', 'batch'),
    pumpedSide('LMDB, in batches, HTTP', [server.pid], pump([port])),
    pumpedSide('fnd', [fnd.first.pid], pump([fnd.first.port]), applied),
    pumpedSide(
      'etcd',
      etcd.pids,
      async connections => ({
        ports: etcd.ports,
        connections,
        request: putOverGrpc('bench', valueBytes, 1),
      }),
      () => etcd.revision(),
    ),
  ]
  console.log('\nOne node, one etcd, and LMDB on the same disk')
  await warmUp(sides)
  for (const clients of clientCounts) {
    const rows = await compare(sides, clients)
    const [each, batch, http, ours] = rows.map(row => row.perSecond)
    const ratio = (name: string, base = Number.NaN) =>
      figures.push({
        name: `writes/s of fnd, one node, to ${name}, ${clients} clients`,
        value: (ours ?? 0) / base,
        unit: 'ratio',
        targetMin: 0.7,
      })
    ratio('LMDB, a transaction each', each)
    ratio('LMDB, in batches, HTTP', http)
    ratio('LMDB, in batches, no server', batch)
    figureOf(rows, 'fnd', 'etcd', clients)
  }
  server.kill('SIGTERM')
  await server.exited
}

const parts = values.parts.split(',')
if (parts.includes('cluster')) await compareClusters()
if (parts.includes('single')) await compareSingle()
console.log('')
printFigures(figures)
