/**
 * Puts known bugs of Raft systems back into a copy of the sources, one at a time, and looks which
 * tests turn red: what no test finds is not tested. The list is the one that the literature and the
 * trackers of etcd, openraft, hashicorp and others give. A mutation is a replacement of text that
 * must be there exactly once, so that it fails loudly when the code has moved on.
 *
 * `npm run mutations` runs all, `npm run mutations -- --only 3,8` some. It ends with a table.
 */
import { rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { copyOfSources, mutate } from './mutation-copy.ts'
import { mutations, type Suite } from './mutation-list.ts'

const seedsMax = 600

interface Found {
  readonly by: string
  readonly how: string
}

const storeTests = [
  ...['log', 'log-damage', 'log-disk', 'log-model'],
  ...['journal', 'journal-sectors', 'recover'],
]

const commands: Readonly<Record<Suite, readonly string[]>> = {
  simulation: ['scripts/simulate.ts', '--from', '1', '--count', `${seedsMax}`, '--until-failure'],
  conformance: ['test', 'test/raft/conformance'],
  raft: ['test', ...['paper', 'election', 'replication', 'reads', 'quorum'].map(testOfRaft)],
  driver: ['test', testOfRaft('driver')],
  store: ['test', ...storeTests.map(name => `test/store/${name}.test.ts`)],
  install: ['test', 'test/store/install.test.ts', 'test/store/snapshots.test.ts'],
  crash: ['test', 'test/store/crash.test.ts', 'test/store/db.test.ts'],
}

function testOfRaft(name: string): string {
  return `test/raft/${name}.test.ts`
}

/** Undefined: every test of the suite passed. */
async function run(dir: string, suite: Suite): Promise<Found | undefined> {
  const child = Bun.spawn([process.execPath, ...commands[suite]], {
    cwd: dir,
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
    env: { ...process.env, NO_COLOR: '1' },
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), 15 * 60_000)
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ])
  clearTimeout(timer)
  if (code === 0) return undefined
  const text = out + err
  const ofSeed = /after (\d+) seeds: (seed \d+ failed[^\n]*)/.exec(text)
  if (ofSeed !== null) return { by: `simulation, ${ofSeed[1]} seeds`, how: ofSeed[2] ?? '' }
  const ofTest = /^\(fail\) ([^\n]*)/m.exec(text)
  return { by: suite, how: ofTest?.[1] ?? `exit code ${code}: ${text.trim().slice(-200)}` }
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { only: { type: 'string', default: '' } } })
  const only = values.only.split(',').filter(text => text !== '')
  const chosen = mutations.filter(({ number }) => only.length === 0 || only.includes(number))
  const dir = copyOfSources()
  let survivors = 0
  const rows: string[] = []
  try {
    // All of them apply, before hours are spent on the first.
    for (const mutation of chosen) mutate(dir, mutation)()
    for (const mutation of chosen) {
      const restore = mutate(dir, mutation)
      let found: Found | undefined
      for (const suite of mutation.suites) {
        found = await run(dir, suite)
        if (found !== undefined) break
      }
      restore()
      if (found === undefined) survivors += 1
      const { number, name } = mutation
      const row = `${number.padStart(3)}  ${name.padEnd(52)}  ${found?.by ?? 'NOTHING'}`
      rows.push(row)
      console.log(`${row}\n       ${found?.how.slice(0, 160) ?? ''}`)
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  console.log(`\n  n  ${'mutation'.padEnd(52)}  caught by\n${rows.join('\n')}`)
  console.log(`\n${chosen.length - survivors} of ${chosen.length} caught`)
  return survivors === 0 ? 0 : 1
}

process.exit(await main())
