/**
 * `npm run soak -- --hours H`: the simulation with fresh seeds on all cores, for as long as wanted.
 * Seeds that fail are appended to test/sim/seeds.txt, so that every later run of the tests has
 * them. Ends with seeds and steps an hour, and fails when a seed did. SIGINT and SIGTERM end it
 * sooner, and those that run for it.
 */
import { appendFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const root = join(import.meta.dir, '..')
const seedsPath = join(root, 'test/sim/seeds.txt')
const seedsAtOnce = 200

const { values } = parseArgs({
  options: {
    hours: { type: 'string', default: '1' },
    from: { type: 'string' },
    cores: { type: 'string', default: `${availableParallelism()}` },
  },
})

const startedMs = performance.now()
const endMs = startedMs + Number(values.hours) * 3_600_000
let next = Number(values.from ?? Math.floor(Math.random() * 2 ** 31))
let seeds = 0
let steps = 0
const failed: string[] = []
const ending = new AbortController()

function report(): void {
  const hours = (performance.now() - startedMs) / 3_600_000
  console.log(
    `${seeds} seeds, ${steps} steps, ${failed.length} failed; ${(seeds / hours).toFixed(0)} ` +
      `seeds/h, ${(steps / hours / 1e6).toFixed(0)}M steps/h`,
  )
}

/** One process after the other, so that none grows old. */
async function lane(): Promise<void> {
  while (performance.now() < endMs) {
    const from = next
    next += seedsAtOnce
    const child = Bun.spawn(
      [process.execPath, 'scripts/simulate.ts', '--from', `${from}`, '--count', `${seedsAtOnce}`],
      { cwd: root, stdin: 'ignore', stdout: 'pipe', stderr: 'inherit', signal: ending.signal },
    )
    const text = await new Response(child.stdout).text()
    await child.exited
    for (const [line, seed, how] of text.matchAll(/^seed (\d+) failed at [\d.]+ ms: (.*)$/gm)) {
      console.log(line)
      failed.push(line)
      appendFileSync(seedsPath, `${seed} ${how}\n`)
    }
    const count = /, (\d+) steps,/.exec(text)?.[1]
    // A process that ended before its last line ended by a bug of its own.
    if (count === undefined) failed.push(`seeds from ${from} on ended with ${child.exitCode}`)
    seeds += seedsAtOnce
    steps += Number(count ?? 0)
    report()
  }
}

for (const [signal, exitCode] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.on(signal, () => {
    ending.abort()
    report()
    process.exit(exitCode)
  })
}
console.log(`seeds from ${next} on, until ${values.hours} h are over`)
await Promise.all(Array.from({ length: Number(values.cores) }, lane))
console.log(failed.join('\n'))
process.exit(failed.length === 0 ? 0 : 1)
