/**
 * Members of a group in a simulated world: the same seeds in every run, those that once failed, and
 * fresh ones for a while. What fails prints how to replay it.
 */
import { afterAll, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type SimResult, simulate } from './sim.ts'
import { World } from './world.ts'

const alwaysCount = 100
const freshMs = 40_000

/** Each of these must have happened at least that often in the seeds that always run. */
const mustHappen: Readonly<Record<string, number>> = {
  'answers: read': 100,
  'answers: swap': 100,
  'answers: unknown': 100,
  'answers: write': 100,
  'autopilot: change': 30,
  'autopilot: node is leaving': 5,
  'autopilot: transfer': 3,
  'branch: a journal write during another': 100,
  'branch: append rejected': 100,
  'branch: applied entries lost': 50,
  'branch: applied while the log was being written': 100,
  'branch: applied while the state was being flushed': 20,
  'branch: conflicting entries replaced': 10,
  'branch: damage of a record imagined and found': 100,
  'branch: damage of a sector imagined and found': 100,
  'branch: election tells a commit': 3,
  'branch: end imagined': 100,
  'branch: entries of earlier terms sent': 100,
  'branch: heartbeat confirms reads': 100,
  'branch: install repeated by a start': 1,
  'branch: joint configuration': 20,
  'branch: journal begun anew in the same file': 100,
  'branch: journal flushed by a start': 50,
  'branch: journal home at a start': 50,
  'branch: journal home at an end': 10,
  'branch: journal turned': 100,
  'branch: journal write of many sectors': 100,
  'branch: leader gave up its term': 20,
  'branch: leader': 100,
  'branch: leadership handed over': 50,
  'branch: log begun anew': 20,
  'branch: log truncated': 100,
  'branch: lost voter replaced': 3,
  'branch: pre-vote rejected': 50,
  'branch: probe waits': 50,
  'branch: progress probe': 50,
  'branch: progress replicate': 100,
  'branch: progress snapshot': 20,
  'branch: read asked of the leader': 100,
  'branch: read before the first commit of the term': 3,
  'branch: removed node retired': 20,
  'branch: second snapshot refused': 3,
  'branch: simple configuration': 50,
  'branch: snapshot installed': 20,
  'branch: snapshot resumed': 20,
  'branch: state flushed': 100,
  'branch: state settled': 100,
  'branch: vote by transfer': 50,
  'branch: vote rejected': 50,
  'branch: waited for an index': 50,
  'branch: window of appends full': 20,
  'branch: write forwarded': 100,
  'branch: write went home at once': 100,
  'fault: a journal write failed': 5,
  'fault: a transaction failed': 1,
  'fault: blackout': 5,
  'fault: crash during a journal write': 5,
  'fault: crash during a transaction': 1,
  'fault: damaged record found': 1,
  'fault: damaged sector found': 1,
  'fault: disk full': 5,
  'fault: disk lost': 5,
  'fault: fatal': 5,
  'fault: flapping': 5,
  'fault: frame changed on its way': 100,
  'fault: kill': 20,
  'fault: link clogged': 20,
  'fault: message doubled': 100,
  'fault: message into a cut link': 100,
  'fault: message lost': 100,
  'fault: message of long ago': 100,
  'fault: no room for a transaction': 5,
  'fault: no room for a write': 5,
  'fault: no room for the journal at a start': 1,
  'fault: no room to apply': 5,
  'fault: no room to settle': 5,
  'fault: partition, bridge': 5,
  'fault: partition, halves': 5,
  'fault: partition, leader': 5,
  'fault: partition, links': 5,
  'fault: partition, one way': 5,
  'fault: partition, one': 5,
  'fault: pause': 20,
  'fault: power': 20,
  'fault: queue of a link full': 20,
  'fault: slow write': 20,
  'fault: snapshot given up': 2,
  'fault: stop': 20,
  'fault: torn write found': 2,
  'fault: transaction dropped by a crash': 5,
  'fault: transaction kept by a crash': 5,
  'fault: write found whole that was not acknowledged': 10,
  'heal: a majority': 5,
  'heal: all': 50,
}

const counts = new Map<string, number>()
let seeds = 0
let steps = 0

function run(seed: number): SimResult {
  const result = simulate({ seed })
  seeds += 1
  steps += result.steps
  if (result.failure !== undefined) {
    const commit = Bun.spawnSync(['git', 'rev-parse', '--short', 'HEAD']).stdout.toString().trim()
    throw new Error(
      `seed ${seed} at ${commit}: ${result.failure}\n` +
        `replay: node scripts/bun.mjs scripts/simulate.ts --seed ${seed} --verbose`,
    )
  }
  return result
}

const alwaysSeeds = Array.from({ length: alwaysCount }, (_, at) => at + 1)
const startedMs = performance.now()

test('the seeds of every run keep every promise', () => {
  for (const seed of alwaysSeeds) {
    for (const [name, count] of run(seed).counts) counts.set(name, (counts.get(name) ?? 0) + count)
  }
}, 600_000)

test('what matters happened in them', () => {
  for (const [name, count] of [...counts].sort()) {
    console.log(`${String(count).padStart(9)} ${name}`)
  }
  const rare = Object.entries(mustHappen).filter(([name, min]) => (counts.get(name) ?? 0) < min)
  expect(rare.map(([name, min]) => `${name}: ${counts.get(name) ?? 0} of ${min}`)).toEqual([])
})

test('a seed runs byte for byte the same way twice', () => {
  for (const seed of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) {
    const [first, second] = [simulate({ seed }), simulate({ seed })]
    expect([seed, second.traceHash, second.steps]).toEqual([seed, first.traceHash, first.steps])
  }
  expect(simulate({ seed: 1 }).traceHash).not.toBe(simulate({ seed: 2 }).traceHash)
}, 600_000)

test('a time that stands still is told, and does not hang a run', () => {
  const world = new World(1, false)
  const again = () => world.after(0, again)
  again()
  expect(() => world.runUntil(1, () => undefined)).toThrow('time stands still')
})

test('seeds that once failed', () => {
  const text = readFileSync(join(import.meta.dir, 'seeds.txt'), 'utf8')
  const found = text.split('\n').flatMap(line => /^\d+/.exec(line)?.[0] ?? [])
  expect(found.length).toBeGreaterThan(0)
  for (const seed of found) run(Number(seed))
}, 600_000)

test('fresh seeds', () => {
  const first = Number(process.env.FND_SEED ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`fresh seeds from ${first} on (replay with FND_SEED=${first})`)
  const endMs = performance.now() + freshMs
  for (let seed = first; performance.now() < endMs; seed++) run(seed)
}, 600_000)

afterAll(() => {
  const seconds = (performance.now() - startedMs) / 1000
  console.log(
    `${seeds} seeds, ${steps} steps in ${seconds.toFixed(0)} s: ` +
      `${((seeds / seconds) * 3600).toFixed(0)} seeds/h, ${(((steps / seconds) * 3600) / 1e6).toFixed(0)}M steps/h`,
  )
})
