/**
 * Runs seeds: `simulate.ts --seed 7 [--verbose]` replays one, `--from 1 --count 100` many.
 */
import { parseArgs } from 'node:util'
import { simulate } from '../test/sim/sim.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    from: { type: 'string', default: '1' },
    count: { type: 'string', default: '1' },
    /** Ends with the first that fails. */
    'until-failure': { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
})

const from = Number(values.seed ?? values.from)
let failed = 0
let steps = 0
const counts = new Map<string, number>()
const startedMs = performance.now()
for (let seed = from; seed < from + Number(values.count); seed++) {
  const result = simulate({ seed, isVerbose: values.verbose })
  if (values.verbose) console.log(result.lines.join('\n'))
  steps += result.steps
  for (const [name, count] of result.counts) counts.set(name, (counts.get(name) ?? 0) + count)
  if (result.failure === undefined) continue
  failed += 1
  if (values['until-failure']) process.stdout.write(`after ${seed - from + 1} seeds: `)
  console.log(`seed ${seed} failed at ${result.virtualMs.toFixed(0)} ms: ${result.failure}`)
  if (values['until-failure']) process.exit(1)
}
const seconds = (performance.now() - startedMs) / 1000
for (const [name, count] of [...counts].sort()) console.log(`${String(count).padStart(9)} ${name}`)
console.log(
  `${failed} of ${values.count} failed, ${steps} steps, ${(steps / seconds).toFixed(0)} steps/s, ` +
    `${((Number(values.count) / seconds) * 3600).toFixed(0)} seeds/h`,
)
process.exit(failed === 0 ? 0 : 1)
