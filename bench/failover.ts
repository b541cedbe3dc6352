/**
 * How long no write succeeds: after `kill -9` of the leader, and while leadership is handed over.
 * Three members of fnd and, in turns, three of etcd, with default settings. A client tries every
 * 10 ms on all members at once; what counts is the time from the kill to the first success of a
 * write that was begun after it. For a planned transfer a client for each member writes all the
 * time, and the longest time without a success that touches the handing over is taken.
 *
 * npm run bench:failover -- [--trials N] [--sides fnd,etcd]
 */
import { parseArgs } from 'node:util'
import { Etcd } from './etcd.ts'
import { type Figure, printFigures, quantile } from './figures.ts'
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
/** After a change all is given the time to settle, as it would have in life. */
const restMs = 1000

/** Whether this write through this member was acknowledged. */
type Write = (member: number) => Promise<boolean>

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

async function outageOfTransfer(side: Side): Promise<number> {
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
  return successes.reduce((longest, ms, i) => {
    const beforeMs = successes[i - 1] ?? ms
    const isOfTransfer = ms >= fromMs && beforeMs <= untilMs
    return isOfTransfer ? Math.max(longest, ms - beforeMs) : longest
  }, 0)
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
const sides: Side[] = []
for (const name of values.sides.split(',')) {
  if (name === 'fnd') sides.push(await fndSide(stack.use(await BenchCluster.start(3))))
  else sides.push(etcdSide(stack.use(await Etcd.start(3))))
}
const kills = new Map<Side, number[]>(sides.map(side => [side, []]))
const transfers = new Map<Side, number[]>(sides.map(side => [side, []]))
for (let trial = 0; trial < trials; trial += 1) {
  for (const side of sides) {
    kills.get(side)?.push(await outageOfKill(side))
    await Bun.sleep(restMs)
    transfers.get(side)?.push(await outageOfTransfer(side))
  }
}
const rowsOf = (what: string, outages: Map<Side, number[]>) =>
  [...outages].map(([{ name }, times]) => [
    ...[`${name}, ${what}`, median(times), quantile(times, 0.99), Math.max(...times)],
    times.length,
  ])
console.log('Milliseconds without a successful write')
table([
  ['', 'p50', 'p99', 'longest', 'trials'],
  ...rowsOf('kill -9 of the leader', kills),
  ...rowsOf('planned transfer', transfers),
])
const ours = sides.find(({ name }) => name === 'fnd')
if (ours !== undefined) {
  const of = (outages: Map<Side, number[]>) => quantile(outages.get(ours) ?? [], 0.99)
  const figures: Figure[] = [
    { name: 'kill -9 of the leader, p99', value: of(kills), unit: 'ms', targetMax: 1500 },
    { name: 'planned transfer, p99', value: of(transfers), unit: 'ms', targetMax: 100 },
  ]
  printFigures(figures)
}
