import { Database } from 'bun:sqlite'
import { describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { StateDb } from '../../src/store/db.ts'
import { Queries } from '../../src/store/queries.ts'
import { describeSnapshot, snapshotNameFrom } from '../../src/store/snapshot-file.ts'
import { Snapshots } from '../../src/store/snapshots.ts'
import { anApp, entryOf, temporaryDir } from './sample.ts'

function open(dir: string) {
  const database = join(dir, 'state.db')
  const db = new StateDb(database)
  const add = (name: string) =>
    db.apply([entryOf(db.appliedIndex + 1, { type: 'app.create', app: anApp(name) }, 7)])
  /** False when a checkpoint was just being ended. */
  const tryToAdd = (name: string) => {
    try {
      return add(name).length > 0
    } catch (error) {
      expect(error).toMatchObject({ code: 'write-overload' })
      return false
    }
  }
  const settle = () => db.settle()
  const snapshots = new Snapshots({ database, settle, dir: join(dir, 'snapshots') })
  return { db, add, tryToAdd, snapshots }
}

describe('a snapshot', () => {
  test('is of one moment, and says of which', async () => {
    using dir = temporaryDir()
    const { db, add, tryToAdd, snapshots } = open(dir.path)
    for (let at = 0; at < 500; at++) add(`A${at}`)
    const taking = snapshots.take()
    // Changes go on meanwhile.
    let more = 0
    while ((await Promise.race([taking, Bun.sleep(1)])) === undefined) {
      if (tryToAdd(`B${more}`)) more += 1
    }
    await using taken = await taking
    expect(taken.index).toBeGreaterThanOrEqual(500)
    expect(taken.index).toBeLessThanOrEqual(500 + more)
    expect(taken).toMatchObject({ term: 7, confState: { voters: [1] }, clusterVersion: 3 })
    const bytes = readFileSync(taken.path)
    expect(taken.bytes).toBe(bytes.length)
    expect(taken.sha256).toBe(createHash('sha256').update(bytes).digest('hex'))
    expect(snapshotNameFrom(taken.name)).toEqual({
      index: taken.index,
      term: 7,
      sha256: taken.sha256,
    })
    using copy = new StateDb(taken.path)
    expect(new Queries(copy.rows).apps({}, { after: '', limit: 9999 })).toHaveLength(taken.index)
    expect(copy.stateHash).toBe(taken.stateHash)
    db[Symbol.dispose]()
  })

  test('of the same state is the same bytes, so that a broken transfer can go on', async () => {
    using dir = temporaryDir()
    const { db, add, snapshots } = open(dir.path)
    add('A')
    const [one, two] = await Promise.all([snapshots.take(), snapshots.take()])
    expect(one.name).toBe(two.name)
    expect(one.path).not.toBe(two.path)
    await one[Symbol.asyncDispose]()
    expect(existsSync(one.path)).toBe(false)
    expect(existsSync(two.path)).toBe(true)
    await two[Symbol.asyncDispose]()
    db[Symbol.dispose]()
  })

  test('that cannot be taken leaves nothing, and the next one succeeds', async () => {
    using dir = temporaryDir()
    const { db, add, snapshots } = open(dir.path)
    add('A')
    const broken = new Snapshots({
      database: join(dir.path, 'none.db'),
      settle: () => undefined,
      dir: join(dir.path, 'x'),
    })
    await expect(broken.take()).rejects.toMatchObject({ code: 'snapshot-failed' })
    expect(readdirSync(join(dir.path, 'x'))).toEqual([])
    await using taken = await snapshots.take()
    expect(taken.index).toBe(1)
    db[Symbol.dispose]()
  })

  test('of an earlier process is removed', () => {
    using dir = temporaryDir()
    mkdirSync(join(dir.path, 'snapshots'))
    writeFileSync(join(dir.path, 'snapshots', 'left.db'), 'x')
    const { db } = open(dir.path)
    expect(readdirSync(join(dir.path, 'snapshots'))).toEqual([])
    db[Symbol.dispose]()
  })
})

describe('what is no snapshot', () => {
  const invalid = expect.objectContaining({ code: 'snapshot-invalid' })

  test.each(['', '1-2', '../1-2-aa', `1-2-${'g'.repeat(64)}`, `1-2-${'a'.repeat(64)}/`])(
    'is not named %p',
    name => {
      expect(() => snapshotNameFrom(name)).toThrow(invalid)
    },
  )

  test('is found by what it says of itself', () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'file')
    writeFileSync(path, 'something else '.repeat(1000))
    expect(() => describeSnapshot(path)).toThrow(invalid)
    expect(() => describeSnapshot(join(dir.path, 'none'))).toThrow(invalid)
    for (const change of ['PRAGMA user_version = 99', 'UPDATE meta SET cluster_version = 99']) {
      const own = join(dir.path, `${change.length}.db`)
      new StateDb(own)[Symbol.dispose]()
      const raw = new Database(own)
      raw.run(change)
      raw.close()
      expect(() => describeSnapshot(own)).toThrow(/newer fnd/)
    }
  })
})
