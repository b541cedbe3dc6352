/**
 * How long a wiped node takes to come back: three members hold many objects, one follower is killed
 * and loses its data directory, and joins anew. Measured from the start of its process until it has
 * applied what the leader has, with the same hash of the state, and until it is a voter. Beside it,
 * a plain copy of the leader's database on the same filesystem, flushed.
 *
 * npm run bench:catch-up -- [--objects N] [--rounds N]
 */
import { closeSync, copyFileSync, fsyncSync, openSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { printFigures } from './figures.ts'
import { median } from './fnd.ts'
import { BenchCluster, type BenchMember } from './members.ts'
import { runPump } from './pump.ts'

const { values } = parseArgs({
  options: {
    objects: { type: 'string', default: '100000' },
    rounds: { type: 'string', default: '3' },
  },
})
const objects = Number(values.objects)
const clients = 64

/** Apps with a name of their own, made by compiled clients. */
async function fill(leader: BenchMember): Promise<void> {
  const from = (await leader.status())?.applied_index ?? 0
  for (;;) {
    const made = ((await leader.status())?.applied_index ?? 0) - from
    if (made >= objects) return
    await runPump({
      ports: [leader.port],
      connections: clients,
      durationMs: Math.min(3000, Math.max(100, (objects - made) / 4)),
      warmUpMs: 0,
      request: {
        kind: 'http',
        method: 'POST',
        path: '/v2/apps',
        headers: {
          authorization: `Bearer ${leader.token}`,
          'content-type': 'application/json',
        },
        body: JSON.stringify({ name: 'app-00000000' }),
        tail: 2,
      },
    })
  }
}

interface Return {
  readonly caughtUpMs: number
  readonly voterMs: number
}

async function wipeAndReturn(cluster: BenchCluster): Promise<Return> {
  const leader = await cluster.leader()
  const victim = cluster.members.find(member => member !== leader)
  if (victim === undefined) throw new Error('a cluster has followers')
  await victim.kill()
  rmSync(join(victim.dir, 'data'), { recursive: true, force: true })
  const startedMs = performance.now()
  victim.spawn(leader.peerPort)
  await victim.answers()
  for (;;) {
    const [ours, theirs] = await Promise.all([victim.status(), leader.status()])
    if (ours !== undefined && theirs !== undefined && ours.applied_index > 0) {
      const isEqual = ours.applied_index === theirs.applied_index
      if (isEqual && ours.state_hash !== theirs.state_hash) throw new Error('states diverge')
      if (isEqual) break
    }
    await Bun.sleep(10)
  }
  const caughtUpMs = performance.now() - startedMs
  await cluster.whole()
  return { caughtUpMs, voterMs: performance.now() - startedMs }
}

/** Copies the database file, as fast as the machine does it. */
function copyMs(member: BenchMember): number {
  const source = join(member.dir, 'data/store/state.db')
  const target = join(member.dir, 'copy.db')
  const startedMs = performance.now()
  copyFileSync(source, target)
  const fd = openSync(target, 'r')
  fsyncSync(fd)
  closeSync(fd)
  const elapsedMs = performance.now() - startedMs
  console.log(`a database of ${Math.round(statSync(target).size / 1e6)} MB`)
  rmSync(target)
  return elapsedMs
}

await using cluster = await BenchCluster.start(3)
const startedMs = performance.now()
await fill(await cluster.leader())
console.log(`${objects} objects in ${((performance.now() - startedMs) / 1000).toFixed(1)} s`)
await cluster.whole()
const returns: Return[] = []
const copies: number[] = []
for (let round = 0; round < Number(values.rounds); round += 1) {
  returns.push(await wipeAndReturn(cluster))
  copies.push(copyMs(await cluster.leader()))
}
const seconds = (pick: (one: Return) => number) => median(returns.map(pick)) / 1000
const caughtUp = seconds(one => one.caughtUpMs)
printFigures([
  { name: 'wiped node caught up', value: caughtUp, unit: 's', targetMax: 10 },
  { name: 'wiped node a voter', value: seconds(one => one.voterMs), unit: 's' },
  { name: 'copy of the database', value: median(copies) / 1000, unit: 's' },
  { name: 'to that copy', value: caughtUp / (median(copies) / 1000), unit: 'ratio' },
])
