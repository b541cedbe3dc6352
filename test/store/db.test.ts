import { Database } from 'bun:sqlite'
import { describe, expect, test } from 'bun:test'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from '../../src/store/commands.ts'
import { StateDb } from '../../src/store/db.ts'
import type { App } from '../../src/store/objects.ts'
import { Queries } from '../../src/store/queries.ts'
import { aJoin, anApp, entryOf, temporaryDir } from './sample.ts'

function add(db: StateDb, name: string): void {
  db.apply([entryOf(db.appliedIndex + 1, { type: 'app.create', app: anApp(name) })])
}

const walBytes = (path: string) => statSync(`${path}-wal`).size

/** Adds apps until the WAL has grown by some megabytes. */
function growWal(db: StateDb, path: string, bytes: number): void {
  const end = walBytes(path) + bytes
  const config = { v: 'v'.repeat(100_000) }
  while (walBytes(path) < end) {
    tryToAdd(db, `big${db.appliedIndex}`, { config })
  }
}

test('a flush tells what survives: all that was applied before it was asked for', async () => {
  using dir = temporaryDir()
  using db = new StateDb(join(dir.path, 'state.db'))
  add(db, 'A')
  const flushed = new Promise((resolve, reject) => {
    db.flush((error, index) => (error === undefined ? resolve(index) : reject(error)))
  })
  add(db, 'B')
  expect(await flushed).toBe(1)
})

test('the WAL is emptied while changes go on, and is short again', async () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  using db = new StateDb(path)
  const mib = 1024 * 1024
  for (let round = 0; round < 3; round++) {
    growWal(db, path, 5 * mib)
    while (walBytes(path) > mib) {
      await Bun.sleep(1)
      tryToAdd(db, `C${db.appliedIndex}`)
    }
  }
  db.settle()
  // Nothing of it was lost on the way.
  using reader = new Database(path, { readonly: true })
  expect(reader.query('PRAGMA integrity_check').get()).toEqual({ integrity_check: 'ok' })
  const count = reader.query<{ count: number }, []>('SELECT count(*) AS count FROM apps').get()
  expect(count?.count).toBe(db.appliedIndex)
})

test('somebody who reads for long keeps the WAL, and holds up nobody', async () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  using db = new StateDb(path)
  add(db, 'A')
  db.settle()
  const reader = new Database(path, { readonly: true })
  reader.run('BEGIN')
  expect(reader.query('SELECT count(*) AS count FROM apps').get()).toEqual({ count: 1 })
  for (let round = 0; round < 3; round++) {
    growWal(db, path, 5 * 1024 * 1024)
    await Bun.sleep(20)
  }
  expect(walBytes(path)).toBeGreaterThan(10 * 1024 * 1024)
  reader.run('COMMIT')
  reader.close()
  const config = { v: 'v'.repeat(100_000) }
  while (walBytes(path) > 1024 * 1024) {
    await Bun.sleep(1)
    tryToAdd(db, `D${db.appliedIndex}`, { config })
  }
})

/** Unless another writer holds it up, after which the driver would try again. */
function tryToAdd(db: StateDb, name: string, changes: Partial<App> = {}): void {
  const app = anApp(name, changes)
  try {
    db.apply([entryOf(db.appliedIndex + 1, { type: 'app.create', app })])
    db.settle()
  } catch (error) {
    expect(error).toMatchObject({ code: 'write-overload' })
  }
}

test('a database of a later schema is refused', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  new StateDb(path)[Symbol.dispose]()
  const raw = new Database(path)
  raw.run('PRAGMA user_version = 4')
  raw.close()
  expect(() => new StateDb(path)).toThrow(/schema 4.*newer fnd/)
})

describe('an older database', () => {
  const toTwo = [
    'DROP TABLE nodes',
    'ALTER TABLE meta DROP COLUMN conf_state',
    'ALTER TABLE meta DROP COLUMN next_node_id',
    'ALTER TABLE meta DROP COLUMN cluster_version',
  ]
  test.each([
    [2, toTwo],
    [1, [...toTwo, 'DROP TABLE registries']],
  ])('of schema %d keeps its rows, and becomes like a new one', (version, steps) => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    const old = new StateDb(path)
    add(old, 'A')
    const { stateHash } = old
    old[Symbol.dispose]()
    const raw = new Database(path)
    for (const step of [...steps, `PRAGMA user_version = ${version}`]) raw.run(step)
    raw.close()
    using db = new StateDb(path)
    expect(db.rows.all('SELECT id FROM apps')).toEqual([{ id: 'A' }])
    expect([db.appliedIndex, db.stateHash]).toEqual([1, stateHash])
    expect(db.confState.voters).toEqual([1])
    const columns = (table: string, of: StateDb) => of.rows.all(`PRAGMA table_info(${table})`)
    using fresh = new StateDb(':memory:')
    for (const table of ['registries', 'nodes', 'meta']) {
      expect(columns(table, db)).toEqual(columns(table, fresh))
      expect(columns(table, db)).not.toEqual([])
    }
  })
})

describe('entries without a command', () => {
  const confState = {
    voters: [1, 2],
    votersOutgoing: [1],
    learners: [3],
    learnersNext: [],
    autoLeave: true,
  }
  const conf = (index: number) => ({
    index,
    term: 2,
    kind: 'conf-v2' as const,
    bytes: new Uint8Array([1]),
    confState,
  })
  const empty = { index: 1, term: 2, kind: 'normal' as const, bytes: new Uint8Array() }

  test('advance index, term and hash, and keep the configuration', () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    const db = new StateDb(path)
    const hashes = [db.stateHash]
    expect(db.apply([empty])).toEqual([undefined])
    hashes.push(db.stateHash)
    expect(db.confState.voters).toEqual([1])
    expect(db.apply([conf(2), { ...empty, index: 3 }])).toEqual([undefined, undefined])
    hashes.push(db.stateHash)
    expect(new Set(hashes).size).toBe(3)
    db[Symbol.dispose]()
    using again = new StateDb(path)
    expect([again.appliedIndex, again.appliedTerm]).toEqual([3, 2])
    expect(again.confState).toEqual(confState)
  })

  test('of a configuration that is not given are a bug', () => {
    using db = new StateDb(':memory:')
    const { confState: _, ...bare } = conf(1)
    expect(() => db.apply([bare])).toThrow(/says what it led to/)
    expect([db.appliedIndex, db.confState.voters]).toEqual([0, [1]])
  })

  test('make a different hash where they lead to another configuration', () => {
    using one = new StateDb(':memory:')
    using other = new StateDb(':memory:')
    one.apply([conf(1)])
    other.apply([{ ...conf(1), confState: { ...confState, autoLeave: false } }])
    expect(one.stateHash).not.toBe(other.stateHash)
  })
})

describe('the version of commands', () => {
  test('is never lowered', () => {
    using db = new StateDb(':memory:')
    const queries = new Queries(db.rows)
    expect(queries.clusterVersion()).toBe(3)
    for (const version of [2, 3, 1]) {
      db.apply([entryOf(db.appliedIndex + 1, { type: 'cluster.version', version })])
      expect(queries.clusterVersion()).toBe(3)
    }
  })

  test('that this fnd does not know ends it, in the log and in the state', () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    const db = new StateDb(path)
    const raised = entryOf(1, { type: 'cluster.version', version: 4 })
    expect(() => db.apply([raised])).toThrow(/newer fnd/)
    expect(db.appliedIndex).toBe(0)
    db[Symbol.dispose]()
    const raw = new Database(path)
    raw.run('UPDATE meta SET cluster_version = 4')
    raw.close()
    expect(() => new StateDb(path)).toThrow(/newer fnd/)
  })
})

test('ids of nodes are never given again', () => {
  using db = new StateDb(':memory:')
  const queries = new Queries(db.rows)
  const run = (command: Command) => db.apply([entryOf(db.appliedIndex + 1, command)])[0]
  const join = (uuid: string, changes = {}) => run({ type: 'node.join', ...aJoin(uuid, changes) })
  expect(join('a')).toMatchObject({ ok: true, object: { id: 1, state: 'active' } })
  expect(join('b')).toMatchObject({ ok: true, object: { id: 2 } })
  expect(run({ type: 'node.remove', id: 2 })).toEqual({ ok: true, object: null })
  expect(queries.node(2)).toBeUndefined()
  expect(queries.nextNodeId()).toBe(3)
  expect(join('b')).toMatchObject({ ok: true, object: { id: 3 } })
  // Wiped and back at its old address.
  expect(join('c', { peerAddress: 'b:8081' })).toMatchObject({ ok: true, object: { id: 4 } })
  expect(queries.nodes().map(({ id, state }) => [id, state])).toEqual([
    [1, 'active'],
    [3, 'replaced'],
    [4, 'active'],
  ])
  // Restarted by a newer fnd, elsewhere: its id stays, and nobody is replaced for it.
  const moved = { peerAddress: 'a:8081', version: '2.0.0' }
  expect(join('c', moved)).toMatchObject({ ok: true, object: { id: 4, ...moved } })
  expect(queries.node(1)?.state).toBe('active')
  expect(join('d', { id: 1 })).toEqual({ ok: false, code: 'node-exists' })
  expect(run({ type: 'node.remove', id: 9 })).toEqual({ ok: false, code: 'node-not-found' })
})

test('index, rows and hash survive a restart together', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  const db = new StateDb(path)
  add(db, 'A')
  const { appliedIndex, stateHash } = db
  db[Symbol.dispose]()
  using again = new StateDb(path)
  expect([again.appliedIndex, again.stateHash]).toEqual([appliedIndex, stateHash])
  expect(appliedIndex).toBe(1)
})

test('entries that another writer holds up are applied by the next attempt', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  using db = new StateDb(path)
  const writer = new Database(path)
  writer.run('BEGIN IMMEDIATE')
  expect(() => add(db, 'A')).toThrow(expect.objectContaining({ code: 'write-overload' }))
  expect(db.appliedIndex).toBe(0)
  writer.run('COMMIT')
  writer.close()
  add(db, 'A')
  expect(db.appliedIndex).toBe(1)
})

describe('what is applied and not settled', () => {
  const names = (db: Pick<Database, 'query'>) =>
    db
      .query<{ id: string }, []>('SELECT id FROM apps')
      .all()
      .map(({ id }) => id)

  test('is seen here and nowhere else, and by all once it is settled', () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    using db = new StateDb(path)
    using other = new Database(path, { readonly: true })
    add(db, 'A')
    add(db, 'B')
    expect(db.rows.all('SELECT id FROM apps')).toEqual([{ id: 'A' }, { id: 'B' }])
    expect(names(other)).toEqual([])
    db.settle()
    expect(names(other)).toEqual(['A', 'B'])
    const meta = other.query('SELECT applied_index, hex(state_hash) AS hash FROM meta').get()
    expect(meta).toEqual({ applied_index: 2, hash: db.stateHash.toUpperCase() })
  })

  test('stays when a later entry cannot be applied', () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    using db = new StateDb(path)
    add(db, 'A')
    const { stateHash } = db
    const raised = entryOf(3, { type: 'cluster.version', version: 4 })
    const app = anApp('B')
    expect(() => db.apply([entryOf(2, { type: 'app.create', app }), raised])).toThrow(/newer fnd/)
    expect(db.rows.all('SELECT id FROM apps')).toEqual([{ id: 'A' }])
    expect([db.appliedIndex, db.stateHash]).toEqual([1, stateHash])
    add(db, 'B')
    db.settle()
    using other = new Database(path, { readonly: true })
    expect(names(other)).toEqual(['A', 'B'])
  })

  test('stays when a query fails and takes the transaction with it', () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    using db = new StateDb(path)
    add(db, 'A')
    add(db, 'B')
    const { stateHash } = db
    const failing = 'INSERT OR ROLLBACK INTO apps SELECT * FROM apps'
    for (const query of ['get', 'all'] as const) {
      expect(() => db.rows[query](failing)).toThrow(/UNIQUE/)
      expect(db.rows.all('SELECT id FROM apps')).toEqual([{ id: 'A' }, { id: 'B' }])
      expect([db.appliedIndex, db.stateHash]).toEqual([2, stateHash])
    }
    add(db, 'C')
    db.settle()
    using other = new Database(path, { readonly: true })
    expect(names(other)).toEqual(['A', 'B', 'C'])
  })

  test('ends this node when it cannot be applied again', () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    {
      using db = new StateDb(path)
      add(db, 'A')
      db.settle()
      add(db, 'B')
      // As if it had been lost while somebody else writes for long.
      db.rows.get('ROLLBACK')
      using writer = new Database(path)
      writer.run('BEGIN IMMEDIATE')
      expect(() => db.rows.get('SELECT absent')).toThrow(/no such column/)
      for (const use of [() => db.rows.get('SELECT 1'), () => add(db, 'C'), () => db.settle()]) {
        expect(use).toThrow(/lost until the next start/)
      }
    }
    using again = new StateDb(path)
    expect([again.appliedIndex, again.rows.all('SELECT id FROM apps')]).toEqual([1, [{ id: 'A' }]])
  })

  /** On a disk of its own, which is full from `fill` on until `use` is over. */
  function onFullDisk(mib: number, fill: (db: StateDb) => void, use: (db: StateDb) => void): void {
    using dir = temporaryDir()
    const small = join(dir.path, 'small')
    mkdirSync(small)
    const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'tmpfs', small])
    expect(mount.status).toBe(0)
    try {
      const path = join(small, 'state.db')
      const db = new StateDb(path)
      fill(db)
      const { bavail, bsize } = statfsSync(small)
      writeFileSync(join(small, 'filler'), Buffer.alloc(bavail * bsize))
      use(db)
      rmSync(join(small, 'filler'))
      add(db, 'last')
      db.settle()
      const { appliedIndex, stateHash } = db
      db[Symbol.dispose]()
      using again = new StateDb(path)
      expect([again.appliedIndex, again.stateHash]).toEqual([appliedIndex, stateHash])
      const counted = again.rows.get('SELECT count(*) AS count FROM apps')
      expect(counted).toEqual({ count: appliedIndex })
    } finally {
      spawnSync('umount', ['-l', small])
    }
  }

  const addBig = (db: StateDb, count: number) => {
    const config = { v: 'v'.repeat(100_000) }
    for (let each = 0; each < count; each++) {
      const app = anApp(`big${db.appliedIndex}`, { config })
      db.apply([entryOf(db.appliedIndex + 1, { type: 'app.create', app })])
    }
  }

  // Only root may mount. CI is root, and the runner counts a skip as a failure.
  const isRoot = process.getuid?.() === 0
  test.if(isRoot)('stays while queries need memory and the disk is full', () => {
    const read = (db: StateDb) => db.rows.all('SELECT * FROM apps').length
    const fill = (db: StateDb) => {
      addBig(db, 25)
      db.settle()
      addBig(db, 18)
    }
    onFullDisk(16, fill, db => expect([read(db), read(db), db.appliedIndex]).toEqual([43, 43, 43]))
  })

  test.if(isRoot)('stays when there is no room to settle it', () => {
    const fill = (db: StateDb) => {
      add(db, 'A')
      db.settle()
    }
    onFullDisk(16, fill, db => {
      addBig(db, 40)
      const { stateHash } = db
      for (let attempt = 0; attempt < 3; attempt++) {
        expect(() => db.settle()).toThrow(expect.objectContaining({ code: 'disk-full' }))
        const count = db.rows.all('SELECT id FROM apps').length
        expect([count, db.appliedIndex, db.stateHash]).toEqual([41, 41, stateHash])
      }
    })
  })

  test('is not durable, and a flush settles it', async () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'state.db')
    using db = new StateDb(path)
    add(db, 'A')
    const index = await new Promise((resolve, reject) => {
      db.flush((error, durable) => (error === undefined ? resolve(durable) : reject(error)))
    })
    expect(index).toBe(1)
    using other = new Database(path, { readonly: true })
    expect(names(other)).toEqual(['A'])
  })
})

const flusher = join(import.meta.dir, 'fixtures', 'flusher.ts')
const strace = (...args: string[]) =>
  spawnSync('strace', ['-f', '-qq', ...args], { encoding: 'utf8', timeout: 60_000 })
const canTrace = strace('-o', '/dev/null', 'true').status === 0

test.skipIf(!canTrace)(
  'what is told as durable was flushed, and hardly ever by the event loop (needs strace)',
  () => {
    using dir = temporaryDir()
    const trace = join(dir.path, 'trace')
    const wanted = 'trace=fsync,fdatasync,write,pwrite64'
    strace('-y', '-o', trace, '-e', wanted, process.execPath, flusher, dir.path, '3')
    const lines = readFileSync(trace, 'utf8').split('\n')
    const begin = lines.findIndex(line => line.includes('"begins'))
    const [main] = lines[begin]?.split(' ') ?? []
    let isFlushed = false
    let told = 0
    const flushes = { loop: 0, threads: 0 }
    for (const line of lines.slice(begin)) {
      const isOfMain = line.split(' ')[0] === main
      if (/f(data)?sync\(/.test(line)) {
        flushes[isOfMain ? 'loop' : 'threads'] += 1
        // A commit may fall between the end of a checkpoint and the thread's first page of the new
        // WAL: then SQLite flushes the header of the WAL in that commit. Never the database.
        if (isOfMain) expect(line).toContain('state.db-wal>')
      }
      // Begun before the last commit it may not hold it.
      if (isOfMain && /pwrite64\(\d+<[^>]*-wal>/.test(line)) isFlushed = false
      if (/fsync\(\d+<[^>]*-wal>/.test(line)) isFlushed = true
      if (!line.includes('"durable')) continue
      expect(isFlushed).toBe(true)
      told += 1
    }
    expect(told).toBeGreaterThan(3)
    expect(flushes.loop).toBeLessThanOrEqual(flushes.threads / 10)
  },
  60_000,
)
