/** A snapshot takes the place of the state: all of it or nothing, whenever the process dies. */
import { Database } from 'bun:sqlite'
import { describe, expect, test } from 'bun:test'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { StateDb } from '../../src/store/db.ts'
import { Queries } from '../../src/store/queries.ts'
import {
  anApp,
  entriesFrom,
  entryOf,
  installed,
  openLog,
  snapshotOf,
  temporaryDir,
  writeLog,
} from './sample.ts'

const installer = join(import.meta.dir, 'fixtures', 'installer.ts')
const confState = {
  voters: [1, 2, 3],
  votersOutgoing: [],
  learners: [4],
  learnersNext: [],
  autoLeave: false,
}

/**
 * A directory of a member at index 3, with the snapshot of another at index 50 staged. Its WAL
 * holds what is not in the database yet, as after a crash.
 */
async function prepare(dir: string) {
  const otherDir = join(dir, 'other')
  const own = join(dir, 'own')
  for (const path of [otherDir, own]) mkdirSync(path)
  const database = join(otherDir, 'state.db')
  using other = new StateDb(database)
  const conf = { index: 1, term: 1, kind: 'conf-v2' as const, bytes: new Uint8Array(1), confState }
  other.apply([conf])
  for (let index = 2; index <= 50; index++) {
    other.apply([entryOf(index, { type: 'app.create', app: anApp(`new${index}`) }, 4)])
  }
  await using taken = await snapshotOf(other, database, join(otherDir, 'snapshots'))
  mkdirSync(join(own, 'staged'))
  cpSync(taken.path, join(own, 'staged', taken.name))
  using db = new StateDb(join(own, 'state.db'))
  for (let index = 1; index <= 3; index++) {
    db.apply([entryOf(index, { type: 'app.create', app: anApp(`old${index}`) })])
  }
  db.settle()
  const log = await openLog(own)
  await writeLog(log, { entries: entriesFrom(1, 3) })
  await log.close()
  const template = join(dir, 'template')
  cpSync(own, template, { recursive: true })
  expect(existsSync(join(template, 'state.db-wal'))).toBe(true)
  return { template, name: taken.name, stateHash: other.stateHash }
}

const names = (db: StateDb) =>
  new Queries(db.rows).apps({}, { after: '', limit: 999 }).map(app => app.id)

describe('installing', () => {
  test('replaces rows, index, term, hash and configuration, and tells', async () => {
    using dir = temporaryDir()
    const { template, name, stateHash } = await prepare(dir.path)
    using db = new StateDb(join(template, 'state.db'))
    const { rows } = db
    let resets = 0
    db.onReset(done => {
      resets += 1
      expect(rows.all('SELECT id FROM apps')).toHaveLength(49)
      done()
    })
    await installed(db, name)
    expect([db.appliedIndex, db.appliedTerm, db.stateHash]).toEqual([50, 4, stateHash])
    expect(db.confState).toEqual(confState)
    expect(resets).toBe(1)
    expect(names(db)).not.toContain('old1')
    expect(readdirSync(join(template, 'staged'))).toEqual([])
    db.apply([entryOf(51, { type: 'app.create', app: anApp('later') })])
    expect(names(db)).toContain('later')
    // The same again, as a start that does not know whether it was done.
    await installed(db, name)
    expect([db.appliedIndex, resets]).toEqual([51, 1])
  })

  test('a snapshot that is gone or damaged is refused, the state kept', async () => {
    using dir = temporaryDir()
    const { template, name } = await prepare(dir.path)
    using db = new StateDb(join(template, 'state.db'))
    const staged = join(template, 'staged', name)
    const bytes = readFileSync(staged)
    writeFileSync(staged, bytes.subarray(0, bytes.length - 8192))
    await expect(installed(db, name)).rejects.toThrow(/cannot be installed.*new node/)
    rmSync(staged)
    await expect(installed(db, name)).rejects.toThrow(/it is not there.*new node/)
    expect(names(db)).toEqual(['old1', 'old2', 'old3'])
  })

  test('somebody who still reads the old state does not harm the new one', async () => {
    using dir = temporaryDir()
    const { template, name } = await prepare(dir.path)
    const path = join(template, 'state.db')
    const db = new StateDb(path)
    const readers = [{ readonly: true }, { readwrite: true }].map(mode => {
      const reader = new Database(path, mode)
      reader.run('BEGIN')
      expect(reader.query('SELECT count(*) AS count FROM apps').get()).toEqual({ count: 3 })
      return reader
    })
    await installed(db, name)
    db.apply([entryOf(51, { type: 'app.create', app: anApp('later') })])
    db.settle()
    for (const reader of readers) {
      expect(reader.query('SELECT count(*) AS count FROM apps').get()).toEqual({ count: 3 })
      reader.run('COMMIT')
      reader.close()
    }
    expect(existsSync(`${path}-wal`)).toBe(true)
    // As a kill would leave it: without the checkpoint of a close.
    const copy = join(dir.path, 'copy')
    cpSync(template, copy, { recursive: true })
    using again = new StateDb(join(copy, 'state.db'))
    expect(again.appliedIndex).toBe(51)
    db[Symbol.dispose]()
  })
})

const strace = (...args: string[]) =>
  spawnSync('strace', ['-f', '-qq', ...args], { encoding: 'utf8', timeout: 60_000 })
const canTrace = strace('-o', '/dev/null', 'true').status === 0

describe('a process that dies while it installs (needs strace)', () => {
  const calls = 'unlink,unlinkat,rename,renameat,renameat2,fsync,fdatasync,pwrite64,ftruncate'

  test.skipIf(!canTrace)(
    'at any step is whole after the next start',
    async () => {
      using dir = temporaryDir()
      const { template, name, stateHash } = await prepare(dir.path)
      const began = new Set<string>()
      let isDone = false
      let step = 0
      while (!isDone) {
        step += 1
        expect(step).toBeLessThan(200)
        const own = join(dir.path, `step-${step}`)
        cpSync(template, own, { recursive: true })
        const inject = `inject=${calls}:signal=KILL:when=${step}`
        const run = strace('-o', '/dev/null', '-e', inject, process.execPath, installer, own, name)
        isDone = run.status === 0
        const { stdout, stderr } = spawnSync(process.execPath, [installer, own, name], {
          encoding: 'utf8',
        })
        expect(stderr).toBe('')
        const [, from] = /^began (\d+)\nended 50 (\w+) 51 50\n$/.exec(stdout) ?? []
        expect(stdout).toBe(`began ${from}\nended 50 ${stateHash} 51 50\n`)
        began.add(from ?? '')
        expect(readdirSync(join(own, 'staged'))).toEqual([])
        rmSync(own, { recursive: true })
      }
      // Both sides of the swap were seen, so that the steps between were as well.
      expect([...began].sort()).toEqual(['3', '50'])
      expect(step).toBeGreaterThan(8)
    },
    120_000,
  )

  test.skipIf(!canTrace)(
    'finds the old WAL gone for good before the new file is there',
    async () => {
      using dir = temporaryDir()
      const { template, name } = await prepare(dir.path)
      const trace = join(dir.path, 'trace')
      const wanted = 'trace=unlink,unlinkat,rename,renameat,renameat2,fsync'
      strace('-y', '-o', trace, '-e', wanted, process.execPath, installer, template, name)
      const steps = readFileSync(trace, 'utf8')
        .split('\n')
        .flatMap(line => {
          if (/unlink(at)?\(.*state\.db-wal"/.test(line)) return 'unlink wal'
          if (/rename\w*\(.*staged\/50-4-.*state\.db"/.test(line)) return 'rename'
          if (/fsync\(\d+<[^>]*\/template>\)/.test(line)) return 'sync dir'
          if (/fsync\(\d+<[^>]*\/template\/staged>\)/.test(line)) return 'sync staged'
          return []
        })
      const at = steps.indexOf('rename')
      expect(steps.slice(at - 1, at + 3)).toEqual(['sync dir', 'rename', 'sync dir', 'sync staged'])
      expect(steps.slice(0, at - 1)).toContain('unlink wal')
    },
  )
})
