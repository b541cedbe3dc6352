/**
 * Rounds of faults on real processes: `npm run chaos -- [--rounds N] [--nodes 3,5] [--seed S]`
 * `[--only TEXT]` (faults whose name holds the text). Needs root and the built `dist/fnd`. Prints
 * every round, and at the end the rounds and faults by kind. A failing history is kept in a file.
 */
import { parseArgs } from 'node:util'
import { Cluster } from '../test/cluster-e2e/member.ts'
import { faultNames } from '../test/cluster-e2e/nemesis.ts'
import { describeRounds, runRounds } from '../test/cluster-e2e/rounds.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '100' },
    nodes: { type: 'string', default: '3,5' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    only: { type: 'string', default: '' },
  },
})
const seed = Number(values.seed)
const names = faultNames.filter(name => name.includes(values.only))
const summaries: string[] = []
for (const nodes of values.nodes.split(',').map(Number)) {
  console.log(`${nodes} nodes, seed ${seed}`)
  await using cluster = await Cluster.start(nodes, seed)
  const report = await runRounds(cluster, Number(values.rounds), seed, names, line => {
    console.log(line)
  })
  summaries.push(describeRounds(report, nodes))
}
console.log(`\n${summaries.join('\n')}`)
