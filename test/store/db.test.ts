import { Database } from 'bun:sqlite'
import { expect, test } from 'bun:test'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { encodeCommand } from '../../src/store/codec.ts'
import { StateDb } from '../../src/store/db.ts'
import { anApp, temporaryDir } from './sample.ts'

function add(db: StateDb, name: string): void {
  const bytes = encodeCommand({ type: 'app.create', app: anApp(name) })
  db.apply([{ index: db.appliedIndex + 1, term: 1, bytes }])
}

test('a flush moves everything out of the WAL', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  using db = new StateDb(path)
  add(db, 'A')
  expect(statSync(`${path}-wal`).size).toBeGreaterThan(0)
  db.flush()
  expect(statSync(`${path}-wal`).size).toBe(0)
})

test('a flush while somebody else reads still succeeds, and the next one moves the rest', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  using db = new StateDb(path, { busyTimeoutMs: 10 })
  add(db, 'A')
  const reader = new Database(path, { readonly: true })
  reader.run('BEGIN')
  expect(reader.query('SELECT count(*) AS count FROM apps').get()).toEqual({ count: 1 })
  add(db, 'B')
  db.flush()
  expect(statSync(`${path}-wal`).size).toBeGreaterThan(0)
  reader.run('COMMIT')
  reader.close()
  db.flush()
  expect(statSync(`${path}-wal`).size).toBe(0)
})

test('a database of a later schema is refused', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  new StateDb(path)[Symbol.dispose]()
  const raw = new Database(path)
  raw.run('PRAGMA user_version = 3')
  raw.close()
  expect(() => new StateDb(path)).toThrow(/schema 3.*newer fnd/)
})

test('a database of schema 1 gains the table of registries, and keeps its rows', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'state.db')
  const old = new StateDb(path)
  add(old, 'A')
  old[Symbol.dispose]()
  const raw = new Database(path)
  raw.run('DROP TABLE registries')
  raw.run('PRAGMA user_version = 1')
  raw.close()
  using db = new StateDb(path)
  expect(db.rows.all('SELECT * FROM registries')).toEqual([])
  expect(db.rows.all('SELECT id FROM apps')).toEqual([{ id: 'A' }])
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
  using db = new StateDb(path, { busyTimeoutMs: 10 })
  const writer = new Database(path)
  writer.run('BEGIN IMMEDIATE')
  expect(() => add(db, 'A')).toThrow(expect.objectContaining({ code: 'write-overload' }))
  expect(db.appliedIndex).toBe(0)
  writer.run('COMMIT')
  writer.close()
  add(db, 'A')
  expect(db.appliedIndex).toBe(1)
})
