import { describe, expect, test } from 'bun:test'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import {
  type BackupPart,
  exportBackup,
  importBackup,
  partOfBundle,
  partOfBytes,
} from '../../src/store/backup.ts'
import { Bundles } from '../../src/store/bundles.ts'
import { StateDb } from '../../src/store/db.ts'
import { DataLock } from '../../src/store/lock.ts'
import { Queries } from '../../src/store/queries.ts'
import { openStore } from '../../src/store/replica.ts'
import { isFreeToRestore, restoreBackup } from '../../src/store/restore.ts'
import { nameOf, tarOf } from './bundle-tars.ts'
import { anApp, entryOf, openAlone, openLog, snapshotOf, temporaryDir } from './sample.ts'

const origin = { version: '1.2.3', clusterId: 'old', nodeId: 1, createdMs: 5000 }
const parts = [
  partOfBytes('secrets.key', Buffer.from('a secret\n')),
  partOfBytes('cluster/ca.key', Buffer.from('another\n')),
]
const invalid = { code: 'backup-invalid', status: 400 }

/** A backup of a state of two apps. */
async function backup(dir: string, more: readonly BackupPart[] = []) {
  const database = join(dir, 'state.db')
  using db = new StateDb(database)
  for (const [at, name] of ['A', 'B'].entries()) {
    db.apply([entryOf(at + 1, { type: 'app.create', app: anApp(name) }, 2)])
  }
  await using taken = await snapshotOf(db, database, join(dir, 'snapshots'))
  const chunks: Uint8Array[] = []
  for await (const chunk of exportBackup(taken, origin, [...parts, ...more])) chunks.push(chunk)
  return { bytes: Buffer.concat(chunks), stateHash: db.stateHash, taken }
}

async function* inPieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 10_000) yield bytes.subarray(at, at + 10_000)
}

/** The backup with its files changed by hand. */
async function repacked(dir: string, bytes: Uint8Array, change: (folder: string) => void) {
  const folder = join(dir, `changed-${readdirSync(dir).length}`)
  mkdirSync(folder)
  writeFileSync(join(dir, 'backup.tar'), bytes)
  expect(spawnSync('tar', ['-xf', join(dir, 'backup.tar'), '-C', folder]).status).toBe(0)
  change(folder)
  const tar = spawnSync('tar', ['-c', ...readdirSync(folder)], { cwd: folder, maxBuffer: 1e9 })
  expect(tar.status).toBe(0)
  return tar.stdout
}

describe('a backup', () => {
  test('is a tar that other tools read and check', async () => {
    using dir = temporaryDir()
    const { bytes, taken } = await backup(dir.path)
    const folder = join(dir.path, 'folder')
    mkdirSync(folder)
    writeFileSync(join(dir.path, 'backup.tar'), bytes)
    spawnSync('tar', ['-xf', join(dir.path, 'backup.tar'), '-C', folder])
    const sum = spawnSync('sha256sum', ['-c', 'backup.json.sha256'], { cwd: folder })
    expect(sum.status).toBe(0)
    const head = JSON.parse(readFileSync(join(folder, 'backup.json'), 'utf8'))
    expect(head).toMatchObject({ ...origin, format: 1, index: 2, term: 2 })
    expect(head.files[0]).toEqual({
      path: 'store/state.db',
      bytes: taken.bytes,
      sha256: taken.sha256,
    })
    expect(readFileSync(join(folder, 'cluster/ca.key'), 'utf8')).toBe('another\n')
  })

  test('becomes a data directory of one member of another cluster', async () => {
    using dir = temporaryDir()
    const { bytes, stateHash } = await backup(dir.path)
    const dataDir = join(dir.path, 'data')
    const identity = { clusterId: 'new', uuid: 'fresh' }
    const { head, recovered } = await restoreBackup(inPieces(bytes), dataDir, identity)
    expect(head).toMatchObject(origin)
    expect(recovered).toMatchObject({ index: 2, term: 2, appliedCount: 0 })
    const names = readdirSync(dataDir).sort()
    expect(names).toEqual(['cluster', 'lock.db', 'lock.pid', 'secrets.key', 'store'])
    expect(statSync(join(dataDir, 'secrets.key')).mode & 0o777).toBe(0o600)
    expect(statSync(join(dataDir, 'cluster')).mode & 0o777).toBe(0o700)
    {
      using db = new StateDb(join(dataDir, 'store/state.db'))
      expect(new Queries(db.rows).app('B')?.name).toBe('app-B')
      expect([db.stateHash, db.confState.voters]).toEqual([stateHash, [recovered.identity.nodeId]])
    }
    const log = await openLog(join(dataDir, 'store'))
    expect(log.identity).toEqual({ clusterId: 'new', nodeId: 1, uuid: 'fresh' })
    await log.close()
    // And serves.
    await using store = await openAlone({ dataDir, onFatal: () => undefined })
    const outcome = await store.state.propose({ type: 'app.create', app: anApp('C') })
    expect(outcome).toMatchObject({ ok: true })
  })

  test('brings bundles along, which are there again as they were deployed', async () => {
    using dir = temporaryDir()
    const tar = await tarOf([['big.bin', Buffer.alloc(3_000_000, 7)]])
    const hash = nameOf(tar)
    const { bytes } = await backup(dir.path, [partOfBundle(hash, tar.length, () => inPieces(tar))])
    const dataDir = join(dir.path, 'data')
    await restoreBackup(inPieces(bytes), dataDir, { clusterId: 'new', uuid: 'fresh' })
    expect(readdirSync(dataDir).sort()).toEqual([
      ...['bundles', 'cluster', 'lock.db', 'lock.pid', 'secrets.key', 'store'],
    ])
    await using bundles = new Bundles(join(dataDir, 'bundles'))
    expect(readFileSync(join(bundles.get(hash)?.dir ?? '', 'big.bin'))[9]).toBe(7)
    expect(bundles.keep(hash)).toBe(true)
    const chunks: Uint8Array[] = []
    for await (const chunk of bundles.tar(hash)?.chunks ?? []) chunks.push(chunk)
    expect(Buffer.concat(chunks).equals(tar)).toBe(true)
  })

  test('of a file that was damaged on this node does not end as if it were whole', async () => {
    using dir = temporaryDir()
    const tar = await tarOf([['a', Buffer.alloc(100_000, 7)]])
    const damaged = Buffer.from(tar)
    spoilBytes(damaged)
    const part = partOfBundle(nameOf(tar), tar.length, () => inPieces(damaged))
    await expect(backup(dir.path, [part])).rejects.toMatchObject({ code: 'backup-failed' })
  })

  test('whose restoring broke off is restored again, and not started before', async () => {
    using dir = temporaryDir()
    const { bytes } = await backup(dir.path)
    const dataDir = join(dir.path, 'data')
    const identity = { clusterId: 'new', uuid: 'fresh' }
    await restoreBackup(inPieces(bytes), dataDir, identity)
    // As if the process had ended between its last two steps.
    mkdirSync(join(dataDir, '.restoring', 'store'), { recursive: true })
    const starting = openStore({ dataDir, onFatal: () => undefined })
    await expect(starting).rejects.toThrow(/run fnd restore again/)
    expect(isFreeToRestore(dataDir)).toBe(true)
    writeFileSync(join(dataDir, 'of somebody else'), '')
    await expect(restoreBackup(inPieces(bytes), dataDir, identity)).rejects.toThrow(/not empty/)
    rmSync(join(dataDir, 'of somebody else'))
    await restoreBackup(inPieces(bytes), dataDir, identity)
    expect(isFreeToRestore(dataDir)).toBe(false)
    await using store = await openStore({ dataDir, onFatal: () => undefined })
    expect(store.state.app('B')?.name).toBe('app-B')
  })

  test('is not restored into a directory that another process restores into', async () => {
    using dir = temporaryDir()
    const { bytes } = await backup(dir.path)
    const dataDir = join(dir.path, 'data')
    mkdirSync(dataDir)
    {
      using _lock = new DataLock(dataDir)
      const refused = restoreBackup(inPieces(bytes), dataDir, { clusterId: 'c', uuid: 'u' })
      await expect(refused).rejects.toThrow(/is in use by another fnd/)
    }
    await restoreBackup(inPieces(bytes), dataDir, { clusterId: 'c', uuid: 'u' })
  })

  test('is not restored over anything', async () => {
    using dir = temporaryDir()
    const { bytes } = await backup(dir.path)
    const refused = restoreBackup(inPieces(bytes), dir.path, { clusterId: 'c', uuid: 'u' })
    await expect(refused).rejects.toThrow(/is not empty/)
    expect(existsSync(join(dir.path, 'state.db'))).toBe(true)
  })

  const changes: [string, (folder: string) => void][] = [
    ['a byte of the state', folder => spoil(join(folder, 'store/state.db'))],
    ['a byte of a secret', folder => spoil(join(folder, 'secrets.key'))],
    ['a byte of its head', folder => spoil(join(folder, 'backup.json'))],
    ['a file too few', folder => spawnSync('rm', [join(folder, 'secrets.key')])],
    ['a file too many', folder => writeFileSync(join(folder, 'more'), 'x')],
    ['no head', folder => spawnSync('rm', [join(folder, 'backup.json')])],
    ['a later format', folder => newHead(folder, { format: 2 })],
    ['a head of another state', folder => newHead(folder, { index: 3 })],
    ['a head that is no JSON', folder => newText(folder, 'hello')],
  ]
  test.each(changes)('with %s is refused, and leaves nothing', async (_, change) => {
    using dir = temporaryDir()
    const { bytes } = await backup(dir.path)
    const bad = await repacked(dir.path, bytes, change)
    const dataDir = join(dir.path, 'data')
    const refused = restoreBackup(inPieces(bad), dataDir, { clusterId: 'c', uuid: 'u' })
    await expect(refused).rejects.toMatchObject(invalid)
    expect(existsSync(dataDir)).toBe(false)
    // What was there before stays.
    mkdirSync(dataDir)
    mkdirSync(join(dataDir, 'lost+found'))
    const again = restoreBackup(inPieces(bad), dataDir, { clusterId: 'c', uuid: 'u' })
    await expect(again).rejects.toMatchObject(invalid)
    expect(readdirSync(dataDir)).toEqual(['lost+found'])
  })

  test('that is cut short anywhere is refused', async () => {
    using dir = temporaryDir()
    const { bytes } = await backup(dir.path)
    for (const part of [0, 0.01, 0.3, 0.6, 0.97]) {
      const target = join(dir.path, `cut-${part}`)
      mkdirSync(target)
      const cut = bytes.subarray(0, Math.floor(bytes.length * part))
      await expect(importBackup(inPieces(cut), target)).rejects.toMatchObject(invalid)
    }
  })

  test('whose reader goes away ends', async () => {
    using dir = temporaryDir()
    const database = join(dir.path, 'state.db')
    using db = new StateDb(database)
    const config = { text: 'x'.repeat(1_000_000) }
    db.apply([entryOf(1, { type: 'app.create', app: anApp('A', { config }) })])
    await using taken = await snapshotOf(db, database, join(dir.path, 'snapshots'))
    let chunks = 0
    for await (const _chunk of exportBackup(taken, origin, parts)) {
      chunks += 1
      if (chunks === 5) break
    }
    expect(chunks).toBe(5)
  })
})

test('a backup whose snapshot is gone does not end as if it were whole', async () => {
  using dir = temporaryDir()
  const { taken } = await backup(dir.path)
  const reading = async () => {
    for await (const _chunk of exportBackup(taken, origin, parts));
  }
  await expect(reading()).rejects.toThrow(/ENOENT/)
})

function spoilBytes(bytes: Uint8Array): void {
  const at = bytes.length >> 1
  bytes[at] = (bytes[at] ?? 0) ^ 1
}

function spoil(path: string): void {
  const bytes = readFileSync(path)
  spoilBytes(bytes)
  writeFileSync(path, bytes)
}

function newText(folder: string, text: string): void {
  writeFileSync(join(folder, 'backup.json'), text)
  const sum = spawnSync('sha256sum', ['backup.json'], { cwd: folder }).stdout
  writeFileSync(join(folder, 'backup.json.sha256'), sum)
}

function newHead(folder: string, changes: object): void {
  const head = JSON.parse(readFileSync(join(folder, 'backup.json'), 'utf8'))
  newText(folder, JSON.stringify({ ...head, ...changes }))
}
