/**
 * Real processes on machines of their own, under load and faults: some rounds for three nodes and
 * some for five. `npm run chaos` runs more of the same.
 */
import { expect, test } from 'bun:test'
import { seed } from '../watch/seed.ts'
import { Cluster } from './member.ts'
import { describeRounds, runRounds } from './rounds.ts'

for (const [nodes, rounds] of [
  [3, 14],
  [5, 6],
] as const) {
  test(`${nodes} nodes lose nothing acknowledged in ${rounds} rounds of faults`, async () => {
    await using cluster = await Cluster.start(nodes, seed)
    const report = await runRounds(cluster, rounds, seed)
    console.log(describeRounds(report, nodes))
    expect(report.rounds).toBe(rounds)
    // A checker of an empty history finds nothing.
    expect(report.acknowledged).toBeGreaterThan(rounds * 50)
  }, 600_000)
}
