/**
 * How long no write succeeds: after `kill -9` of the leader, and while leadership is handed over.
 * Three members of fnd and, in turns, three of etcd, with default settings. A client tries every
 * 10 ms on all members at once; what counts is the time from the kill to the first success of a
 * write that was begun after it. For a planned transfer a client for each member writes all the
 * time, and the longest time without a success that touches the handing over is taken. A bare file
 * is flushed on the same disk all the time: when that stands still, no member can take anything.
 *
 * npm run bench:failover -- [--trials N] [--sides fnd,etcd]
 */
import { parseArgs } from 'node:util'
import { DiskProbe } from './disk-probe.ts'
import { Etcd } from './etcd.ts'
import { printFigures, quantile } from './figures.ts'
import { median, table } from './fnd.ts'
import { BenchCluster } from './members.ts'

const { values } = parseArgs({
  options: {
    trials: { type: 'string', default: '50' },
    sides: { type: 'string', default: 'fnd,etcd' },
  },
})
const trials = Number(values.trials)
const tryEveryMs = 10
const tryTimeoutMs = 1000
/** A flush that takes longer is the disk's standstill: ordinary ones take half a millisecond. */
const steadyFlushMs = 20
/** After a change all is given the time to settle, as it would have in life. */
const restMs = 1000

/** Whether this write through this member was acknowledged. */
type Write = (member: number) => Promise<boolean>

interface Outage {
  readonly ms: number
  /** The longest flush of a bare file meanwhile. */
  readonly flushMs: number
}

interface Side {
  readonly name: string
  readonly members: number
  readonly write: Write
  readonly leader: () => Promise<number>
  readonly kill: (member: number) => Promise<void>
  /** Starts it again; resolves when all members have caught up. */
  readonly revive: (member: number) => Promise<void>
  readonly transfer: () => Promise<void>
}

async function wrote(url: string, init: RequestInit): Promise<boolean> {
  try {
    const response = await fetch(url, { ...init, signal: AbortSignal.timeout(tryTimeoutMs) })
    await response.arrayBuffer()
    return response.ok
  } catch {
    // Refused, reset or late: the client tries again.
    return false
  }
}

async function outageOfKill(side: Side): Promise<number> {
  const victim = await side.leader()
  const done = Promise.withResolvers<number>()
  // Not waited for: clients do not know of it.
  void side.kill(victim)
  const killedMs = performance.now()
  const timer = setInterval(() => {
    for (let member = 0; member < side.members; member += 1) {
      void side.write(member).then(isDone => isDone && done.resolve(performance.now()))
    }
  }, tryEveryMs)
  const endMs = await done.promise
  clearInterval(timer)
  await side.revive(victim)
  return endMs - killedMs
}

async function outageOfTransfer(side: Side, probe: DiskProbe): Promise<Outage> {
  const successes: number[] = []
  let isOver = false
  const client = async (member: number) => {
    while (!isOver) {
      if (await side.write(member)) successes.push(performance.now())
      else await Bun.sleep(tryEveryMs)
    }
  }
  const clients = Array.from({ length: side.members }, (_, member) => client(member))
  await Bun.sleep(restMs / 2)
  const fromMs = performance.now()
  await side.transfer()
  const untilMs = performance.now()
  await Bun.sleep(restMs / 2)
  isOver = true
  await Promise.all(clients)
  // A busy machine makes gaps at other times too.
  const gaps = successes
    .map((ms, i) => ({ fromMs: successes[i - 1] ?? ms, untilMs: ms }))
    .filter(gap => gap.untilMs >= fromMs && gap.fromMs <= untilMs)
  const [longest] = gaps.sort((x, y) => y.untilMs - y.fromMs - (x.untilMs - x.fromMs))
  if (longest === undefined) throw new Error('no write succeeded after the transfer')
  return {
    ms: longest.untilMs - longest.fromMs,
    flushMs: probe.longestMs(longest.fromMs, longest.untilMs),
  }
}

async function fndSide(cluster: BenchCluster): Promise<Side> {
  const { members } = cluster
  const made = await cluster.first.api('POST', '/v2/apps', { name: 'bench', config: { v: '' } })
  const { id } = (await made.json()) as { id: string }
  const { token } = cluster.first
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  let written = 0
  return {
    name: 'fnd',
    members: members.length,
    write: member => {
      const body = JSON.stringify({ config: { v: `${++written}` } })
      return wrote(`${members[member]?.url}/v2/apps/${id}`, { method: 'PUT', headers, body })
    },
    leader: async () => members.indexOf(await cluster.leader()),
    kill: async member => members[member]?.kill(),
    revive: async member => {
      members[member]?.spawn()
      await members[member]?.answers()
      await cluster.whole()
    },
    transfer: async () => {
      const answer = await cluster.first.api('POST', '/fnd/v1/nodes/transfer', {})
      if (!answer.ok) throw new Error(`no transfer: ${await answer.text()}`)
    },
  }
}

function etcdSide(etcd: Etcd): Side {
  const key = Buffer.from('bench').toString('base64')
  let written = 0
  return {
    name: 'etcd',
    members: etcd.ports.length,
    write: member => {
      const value = Buffer.from(`${++written}`).toString('base64')
      const body = JSON.stringify({ key, value })
      return wrote(`http://127.0.0.1:${etcd.ports[member]}/v3/kv/put`, { method: 'POST', body })
    },
    leader: async () => etcd.ports.indexOf((await etcd.leaderPort()) ?? 0),
    kill: member => etcd.kill(member),
    revive: member => etcd.revive(member),
    transfer: () => etcd.transfer(),
  }
}

await using stack = new AsyncDisposableStack()
const probe = stack.use(await DiskProbe.start())
const sides: Side[] = []
for (const name of values.sides.split(',')) {
  if (name === 'fnd') sides.push(await fndSide(stack.use(await BenchCluster.start(3))))
  else sides.push(etcdSide(stack.use(await Etcd.start(3))))
}
const kills = new Map<Side, number[]>(sides.map(side => [side, []]))
const transfers = new Map<Side, Outage[]>(sides.map(side => [side, []]))
for (let trial = 0; trial < trials; trial += 1) {
  for (const side of sides) {
    kills.get(side)?.push(await outageOfKill(side))
    await Bun.sleep(restMs)
    transfers.get(side)?.push(await outageOfTransfer(side, probe))
  }
}
const steady = (outages: readonly Outage[]) =>
  outages.filter(({ flushMs }) => flushMs <= steadyFlushMs).map(({ ms }) => ms)
const row = (name: string, times: readonly number[]) => [
  ...[name, median(times), quantile(times, 0.99), Math.max(...times), times.length],
]
const ofTransfers = [...transfers].flatMap(([{ name }, outages]) => [
  row(
    `${name}, planned transfer`,
    outages.map(({ ms }) => ms),
  ),
  row(
    'the longest flush of a file meanwhile',
    outages.map(({ flushMs }) => flushMs),
  ),
  row(`${name}, where that took at most ${steadyFlushMs} ms`, steady(outages)),
])
console.log('Milliseconds without a successful write')
table([
  ['', 'p50', 'p99', 'longest', 'trials'],
  ...[...kills].map(([{ name }, times]) => row(`${name}, kill -9 of the leader`, times)),
  ...ofTransfers,
])
const ours = sides.find(({ name }) => name === 'fnd')
if (ours !== undefined) {
  const killsMs = quantile(kills.get(ours) ?? [], 0.99)
  const transfersMs = quantile(steady(transfers.get(ours) ?? []), 0.99)
  printFigures([
    { name: 'kill -9 of the leader, p99', value: killsMs, unit: 'ms', targetMax: 1500 },
    { name: 'planned transfer, steady disk, p99', value: transfersMs, unit: 'ms', targetMax: 100 },
  ])
}
