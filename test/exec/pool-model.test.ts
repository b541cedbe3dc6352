/** Random sequences of all that can happen to a pool, against the model of `pool-world.ts`. */
import { test } from 'bun:test'
import fc from 'fast-check'
import { type Step, type What, World } from './pool-world.ts'

/** The first is always the same, so that a change can be told from chance. */
const seeds = [1, Number(process.env.FND_SEED ?? Date.now() % 2 ** 31)]

/** Arrivals, ends and starts make most of a pool's life; the weights say so. */
const step: fc.Arbitrary<Step> = fc.record({
  what: fc.oneof(
    { weight: 12, arbitrary: fc.constant<What>('acquire') },
    { weight: 8, arbitrary: fc.constantFrom<What>('keep') },
    { weight: 6, arbitrary: fc.constant<What>('ready') },
    { weight: 4, arbitrary: fc.constant<What>('resumed') },
    { weight: 2, arbitrary: fc.constantFrom<What>('resumeFailed', 'pauseFailed') },
    { weight: 6, arbitrary: fc.constantFrom<What>('tick', 'unfit', 'observe', 'fetch') },
    {
      weight: 5,
      arbitrary: fc.constantFrom<What>(
        ...(['failed', 'gone', 'cancel', 'retire', 'define', 'late', 'drain'] as const),
      ),
    },
  ),
  key: fc.constantFrom('one', 'one', 'many', 'many', 'kept', 'big', 'huge'),
  pick: fc.integer({ min: 0, max: 400 }),
})

/** Found at random, kept for good: a retired function must not keep a start that nobody needs. */
const found: Step[] = [
  { what: 'acquire', key: 'one', pick: 0 },
  { what: 'acquire', key: 'one', pick: 0 },
  { what: 'ready', key: 'one', pick: 181 },
  { what: 'retire', key: 'one', pick: 0 },
  { what: 'keep', key: 'one', pick: 0 },
]

for (const seed of seeds) {
  test(`random lives of a pool keep every rule (FND_SEED=${seed})`, () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150, size: 'max' }), steps => {
        const world = new World()
        for (const each of steps) world.do(each)
        world.finish()
      }),
      { seed, numRuns: 1000, examples: [[found]] },
    )
  }, 60_000)
}
