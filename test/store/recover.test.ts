/** Beginning anew from one node's state: offline, and as often as it takes. */
import { describe, expect, test } from 'bun:test'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { StateDb } from '../../src/store/db.ts'
import { Queries } from '../../src/store/queries.ts'
import { recoverLog, recoverStore } from '../../src/store/recover.ts'
import { canTrace, strace } from './fixtures/strace.ts'
import {
  aJoin,
  anApp,
  copyLog,
  entriesFrom,
  entryOf,
  openLog,
  snapshotOf,
  temporaryDir,
  writeLog,
} from './sample.ts'

const confState = {
  voters: [1, 2, 3],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
}

/**
 * Node 2 of three, whose log has more than was applied: a change of the configuration, an entry
 * that begins a term, and one that nobody knows to be committed.
 */
async function survivor(dir: string) {
  const path = join(dir, 'store')
  mkdirSync(path)
  const conf = { index: 4, term: 1, kind: 'conf-v2' as const, bytes: new Uint8Array(3), confState }
  const { confState: _, ...bare } = conf
  const entries = [
    ...['one', 'u', 'three'].map((uuid, at) =>
      entryOf(at + 1, { type: 'node.join', ...aJoin(uuid) }),
    ),
    bare,
    entryOf(5, { type: 'app.create', app: anApp('applied') }),
    { ...bare, index: 6 },
    { index: 7, term: 3, kind: 'normal' as const, bytes: new Uint8Array() },
    entryOf(8, { type: 'node.update', id: 2, atMs: 1, patch: { state: 'draining' } }, 3),
    entryOf(9, { type: 'app.create', app: anApp('acknowledged elsewhere') }, 3),
  ]
  using db = new StateDb(join(path, 'state.db'))
  db.apply([...entries.slice(0, 3), conf, ...entries.slice(4, 5)])
  const log = await openLog(path, 0, 2)
  await writeLog(log, { entries, hardState: { term: 5, vote: 3, commit: 6 } })
  await log.close()
  return path
}

const options = (storeDir: string) => ({ storeDir, clusterId: 'new', uuid: 'not used' })

async function mustBeAlone(storeDir: string) {
  using db = new StateDb(join(storeDir, 'state.db'))
  const queries = new Queries(db.rows)
  expect(db.appliedIndex).toBe(9)
  expect(queries.app('acknowledged elsewhere')).toBeDefined()
  expect(db.confState).toEqual({ ...confState, voters: [2] })
  expect(queries.nodes().map(({ id, uuid, state }) => [id, uuid, state])).toEqual([
    [2, 'u', 'active'],
  ])
  expect(queries.nextNodeId()).toBe(4)
  const log = await openLog(storeDir)
  expect(log.identity).toEqual({ clusterId: 'new', nodeId: 2, uuid: 'u' })
  expect(log.hardState).toEqual({ term: 3, vote: 0, commit: 9 })
  expect([log.firstIndex, log.lastIndex, log.term(9)]).toEqual([10, 9, 3])
  // It can go on.
  await writeLog(log, { entries: entriesFrom(10, 1, 0, 4) })
  await log.close()
}

describe('recovering', () => {
  test('applies all of the log, and leaves one member of another cluster', async () => {
    using dir = temporaryDir()
    const storeDir = await survivor(dir.path)
    const recovered = await recoverStore(options(storeDir))
    expect(recovered).toEqual({
      identity: { clusterId: 'new', nodeId: 2, uuid: 'u' },
      index: 9,
      term: 3,
      appliedCount: 4,
    })
    expect(existsSync(join(storeDir, 'log.new'))).toBe(false)
    await mustBeAlone(storeDir)
  })

  // Only root may mount. CI is root, and the runner counts a skip as a failure.
  test.if(process.getuid?.() === 0)('keeps the log while there is no room for it', async () => {
    using dir = temporaryDir()
    const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', dir.path])
    expect(mount.status).toBe(0)
    try {
      const storeDir = await survivor(dir.path)
      const log = await openLog(storeDir)
      const config = { v: 'v'.repeat(100_000) }
      const apps = Array.from({ length: 10 }, (_, at) => anApp(`big${at}`, { config }))
      const entries = apps.map((app, at) => entryOf(10 + at, { type: 'app.create', app }, 5))
      await writeLog(log, { entries, hardState: { term: 5, vote: 3, commit: 6 } })
      await log.close()
      const { bavail, bsize } = statfsSync(dir.path)
      writeFileSync(join(dir.path, 'filler'), Buffer.alloc(bavail * bsize - 400_000))
      const recovering = recoverStore(options(storeDir))
      await expect(recovering).rejects.toMatchObject({ code: 'disk-full' })
      rmSync(join(dir.path, 'filler'))
      const { index, appliedCount } = await recoverStore(options(storeDir))
      expect([index, appliedCount]).toEqual([19, 14])
    } finally {
      spawnSync('umount', ['-l', dir.path])
    }
  })

  test('once more changes nothing', async () => {
    using dir = temporaryDir()
    const storeDir = await survivor(dir.path)
    await recoverStore(options(storeDir))
    const { index, appliedCount } = await recoverStore(options(storeDir))
    expect([index, appliedCount]).toEqual([9, 0])
    await mustBeAlone(storeDir)
  })

  test('that died between its steps is finished by the next', async () => {
    using dir = temporaryDir()
    const storeDir = await survivor(dir.path)
    const copy = join(dir.path, 'copy')
    cpSync(storeDir, copy, { recursive: true })
    // The new log is there, the state is as before.
    await recoverLog(copy, { clusterId: 'other', nodeId: 2, uuid: 'u' }, { index: 5, term: 1 })
    mkdirSync(join(copy, 'log.new'))
    {
      using db = new StateDb(join(copy, 'state.db'))
      expect(db.confState.voters).toEqual([1, 2, 3])
    }
    const { identity, index } = await recoverStore(options(copy))
    expect([identity.clusterId, identity.nodeId, index]).toEqual(['new', 2, 5])
    using db = new StateDb(join(copy, 'state.db'))
    expect(db.confState.voters).toEqual([2])
  })

  test('leaves nothing of a journal that held what was not home', async () => {
    using dir = temporaryDir()
    const storeDir = await survivor(dir.path)
    using crashed = temporaryDir()
    const old = await openLog(storeDir)
    for (let index = 10; index <= 300; index++) {
      await writeLog(old, { entries: entriesFrom(index, 1, 10, 5) })
    }
    // As a kill leaves it: the journal is full of writes, with higher numbers than a new one's.
    copyLog(storeDir, crashed.path)
    await old.close()
    const identity = { clusterId: 'new', nodeId: 2, uuid: 'u' }
    await recoverLog(crashed.path, identity, { index: 9, term: 3 })
    for (const _start of [1, 2]) {
      const fresh = await openLog(crashed.path)
      expect(fresh.identity).toEqual(identity)
      expect(fresh.hardState).toEqual({ term: 3, vote: 0, commit: 9 })
      expect([fresh.firstIndex, fresh.lastIndex]).toEqual([10, 9])
      await fresh.close()
    }
    const journal = readFileSync(join(crashed.path, 'log-0.journal'))
    expect(journal.every(byte => byte === 0)).toBe(true)
    const again = await openLog(crashed.path)
    await writeLog(again, { entries: entriesFrom(10, 2, 10, 4) })
    copyLog(crashed.path, storeDir)
    await again.close()
    const killed = await openLog(storeDir)
    expect(killed.read(10, 1e6)).toEqual(entriesFrom(10, 2, 10, 4))
    await killed.close()
  })

  test('finishes an installation first', async () => {
    using dir = temporaryDir()
    const storeDir = await survivor(dir.path)
    const log = await openLog(storeDir)
    using other = new StateDb(join(dir.path, 'other.db'))
    for (let index = 1; index <= 20; index++) {
      other.apply([entryOf(index, { type: 'app.create', app: anApp(`${index}`) }, 6)])
    }
    const database = join(dir.path, 'other.db')
    await using taken = await snapshotOf(other, database, join(dir.path, 'snapshots'))
    mkdirSync(join(storeDir, 'staged'))
    cpSync(taken.path, join(storeDir, 'staged', taken.name))
    const hardState = { term: 6, vote: 0, commit: 20 }
    await writeLog(log, { hardState, reset: { index: 20, term: 6, data: taken.name } })
    await log.close()
    const { index, term } = await recoverStore(options(storeDir))
    expect([index, term]).toEqual([20, 6])
    expect(readdirSync(join(storeDir, 'staged'))).toEqual([])
  })

  test('of a state without a log gives the node an id that was never used', async () => {
    using dir = temporaryDir()
    const storeDir = await survivor(dir.path)
    for (const name of ['log.mdb', 'log.mdb-lock']) rmSync(join(storeDir, name))
    const { identity } = await recoverStore({ storeDir, clusterId: 'new', uuid: 'fresh' })
    expect(identity).toEqual({ clusterId: 'new', nodeId: 4, uuid: 'fresh' })
    using db = new StateDb(join(storeDir, 'state.db'))
    const queries = new Queries(db.rows)
    expect([db.confState.voters, queries.nextNodeId()]).toEqual([[4], 5])
    // Without a row it would count as removed.
    const rows = () => queries.nodes().map(({ id, uuid, peerAddress }) => [id, uuid, peerAddress])
    expect(rows()).toEqual([[4, 'fresh', '']])
    db.apply([entryOf(6, { type: 'node.join', ...aJoin('fresh', { id: 4 }) })])
    expect(rows()).toEqual([[4, 'fresh', 'fresh:8081']])
  })

  test('does not touch a log that is damaged', async () => {
    using dir = temporaryDir()
    const storeDir = await survivor(dir.path)
    await Bun.write(join(storeDir, 'log.mdb'), 'something else'.repeat(1000))
    await expect(recoverStore(options(storeDir))).rejects.toThrow(/is not an LMDB environment/)
    using db = new StateDb(join(storeDir, 'state.db'))
    expect(db.confState.voters).toEqual([1, 2, 3])
  })
})

const recoverer = join(import.meta.dir, 'fixtures', 'recoverer.ts')
const calls = 'unlink,unlinkat,rename,renameat,renameat2,fsync,fdatasync,pwrite64,ftruncate'

test.skipIf(!canTrace)(
  'killed at any step it is finished by the next (needs strace)',
  async () => {
    using dir = temporaryDir()
    const template = await survivor(dir.path)
    for (let step = 1, isDone = false; !isDone; step++) {
      expect(step).toBeLessThan(200)
      const own = join(dir.path, `step-${step}`)
      cpSync(template, own, { recursive: true })
      const inject = `inject=${calls}:signal=KILL:when=${step}`
      const run = strace('-o', '/dev/null', '-e', inject, process.execPath, recoverer, own)
      isDone = run.status === 0
      const again = spawnSync(process.execPath, [recoverer, own], { encoding: 'utf8' })
      expect([again.stdout, again.stderr]).toEqual(['recovered 9\n', ''])
      await mustBeAlone(own)
      rmSync(own, { recursive: true })
    }
  },
  120_000,
)
