/**
 * Real processes on machines of their own, under load and faults: some rounds for three nodes and
 * some for five. `npm run chaos` runs more of the same.
 */
import { expect, test } from 'bun:test'
import { randomFrom } from '../e2e/fnd.ts'
import { seed } from '../watch/seed.ts'
import { Cluster, until } from './member.ts'
import { faults, healed } from './nemesis.ts'
import { describeRounds, runRounds } from './rounds.ts'
import { Workload } from './workload.ts'

for (const [nodes, rounds] of [
  [3, 14],
  [5, 6],
] as const) {
  test(`${nodes} nodes lose nothing acknowledged in ${rounds} rounds of faults`, async () => {
    await using cluster = await Cluster.start(nodes, seed)
    const report = await runRounds(cluster, rounds, seed + nodes)
    console.log(describeRounds(report, nodes))
    expect(report.rounds).toBe(rounds)
    // A checker of an empty history finds nothing.
    expect(report.acknowledged).toBeGreaterThan(rounds * 50)
  }, 600_000)
}

test('the checker finds the stale reads of those who ask for local ones', async () => {
  await using cluster = await Cluster.start(3, seed)
  const random = randomFrom(seed)
  const workload = new Workload(cluster.members, 'stale', random, 'local')
  await workload.start(2, 1)
  const leader = await cluster.waitForLeader()
  const others = cluster.members.filter(member => member !== leader)
  await faults['partition: the leader alone']({ cluster, leader, others, random })
  // The others go on without it, and it does not know what they write.
  const isLed = async () => others.includes((await cluster.leader()) ?? leader)
  await until(isLed, 'another one leads')
  await Bun.sleep(1000)
  await healed(cluster)
  await workload.stop()
  await workload.readAll()
  expect((await workload.faults()).join('\n')).toContain('not linearizable')
}, 120_000)
