/** The seed of a process's random tests: fresh, or the one of a failure to be replayed. */
const seed = Number(process.env.FND_SEED ?? Math.floor(Math.random() * 2 ** 31))
console.log(`random tests: seed ${seed} (replay with FND_SEED=${seed})`)

/** Parameters for `fc.assert`. */
export function seeded(numRuns = 300): { seed: number; numRuns: number } {
  return { seed, numRuns }
}
