/**
 * A snapshot is a whole database in one file, written by `VACUUM INTO`: everything that it says of
 * itself is in its own rows. It is called `<index>-<term>-<SHA-256>`, which is what raft carries as
 * its `data`, and what a receiver checks.
 */
import { Database } from 'bun:sqlite'
import { existsSync, renameSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { FndError, StartError } from '../errors.ts'
import type { ConfState } from '../raft/types.ts'
import { commandVersion } from './codec.ts'
import { fsyncDirSync } from './fsync.ts'
import { cure } from './log-records.ts'
import { decodeConfState, schemaVersion } from './schema.ts'

export interface SnapshotName {
  readonly index: number
  readonly term: number
  readonly sha256: string
}

/** What a snapshot says of itself. */
export interface Described {
  readonly index: number
  readonly term: number
  readonly confState: ConfState
  readonly schemaVersion: number
  /** Of the newest commands that may be in it. */
  readonly clusterVersion: number
  readonly stateHash: string
}

export function snapshotName({ index, term, sha256 }: SnapshotName): string {
  return `${index}-${term}-${sha256}`
}

/** Throws `FndError` for what is no name of a snapshot. */
export function snapshotNameFrom(text: string): SnapshotName {
  const [, index, term, sha256] = /^(\d{1,16})-(\d{1,16})-([0-9a-f]{64})$/.exec(text) ?? []
  if (sha256 === undefined) throw new FndError('snapshot-invalid', { detail: 'its name' })
  return { index: Number(index), term: Number(term), sha256 }
}

/**
 * Reads what the snapshot in this file says of itself. Throws `FndError` `snapshot-invalid` when it
 * is none, or of a newer fnd.
 */
export function describeSnapshot(path: string): Described {
  try {
    using db = new Database(path, { readonly: true })
    const version = db.query<{ user_version: number }, []>('PRAGMA user_version').get()
    const found = version?.user_version ?? 0
    if (found > schemaVersion) throw newer(`schema ${found}`)
    const row = db
      .query<Record<string, string | number | Uint8Array>, []>('SELECT * FROM meta')
      .get()
    if (row === null) throw new FndError('snapshot-invalid', { detail: 'it has no meta row' })
    const clusterVersion = Number(row.cluster_version)
    if (clusterVersion > commandVersion) throw newer(`version ${clusterVersion} of commands`)
    return {
      index: Number(row.applied_index),
      term: Number(row.applied_term),
      confState: decodeConfState(String(row.conf_state)),
      schemaVersion: found,
      clusterVersion,
      stateHash: Buffer.from(row.state_hash as Uint8Array).toString('hex'),
    }
  } catch (cause) {
    if (cause instanceof FndError) throw cause
    throw new FndError('snapshot-invalid', { detail: (cause as Error).message, cause })
  }
}

function newer(what: string): FndError {
  return new FndError('snapshot-invalid', {
    detail: `${what} is of a newer fnd; upgrade this node`,
  })
}

/** Of a staged snapshot that is not there or not whole, whatever the reason. */
export function cannotInstall(path: string, fault: string): StartError {
  return new StartError(`The snapshot ${path} cannot be installed: ${fault}. ${cure}`)
}

/** What makes the file unfit to be the state. Reads all of it. */
export function faultOf(path: string): string | undefined {
  if (!existsSync(path)) return 'it is not there'
  try {
    using db = new Database(path, { readonly: true })
    const row = db.query<{ quick_check: string }, []>('PRAGMA quick_check(1)').get()
    return row?.quick_check === 'ok' ? undefined : `quick_check says ${row?.quick_check}`
  } catch (cause) {
    return (cause as Error).message
  }
}

/**
 * Puts the file in the place of a database that nobody writes or opens meanwhile. SQLite would take
 * a WAL that it finds beside a database for that database's own, so the old one goes first, for
 * good. Who has the old database open reads on in it, and does nothing to the new one by closing
 * it: SQLite sees that its file was moved.
 */
export function swapIn(staged: string, path: string): void {
  const dir = dirname(path)
  for (const end of ['-wal', '-shm']) rmSync(path + end, { force: true })
  fsyncDirSync(dir)
  renameSync(staged, path)
  fsyncDirSync(dir)
  fsyncDirSync(dirname(staged))
}
