/**
 * Work on whole databases: copies, checks, checkpoints and swaps. It takes as long as the disk
 * does, so that a server leaves it to a thread (disk-thread.ts).
 */
import { Database } from 'bun:sqlite'
import { createHash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { fsyncFile } from './fsync.ts'
import { imagesSql, referencedBundles } from './references.ts'
import { faultOf, swapIn } from './snapshot-file.ts'

export type DiskRequest =
  /** `copy` must not exist. */
  | { readonly kind: 'vacuum'; readonly database: string; readonly copy: string }
  /** Hashes a file. */
  | { readonly kind: 'hash'; readonly path: string }
  /** Moves the WAL into the database. */
  | { readonly kind: 'checkpoint'; readonly database: string }
  /** Puts `staged` in the place of the database, which nobody writes meanwhile. */
  | { readonly kind: 'swap'; readonly database: string; readonly staged: string }
  /** Gives back what an earlier `swap` replaced: whoever else had it open has closed it. */
  | { readonly kind: 'release' }

export type DiskAnswer =
  | ({ readonly ok: true } & Found)
  | { readonly ok: false; readonly code: string | undefined; readonly message: string }

/** Of a file that was copied or hashed. */
interface Found {
  readonly bytes: number
  readonly sha256: string
  /** Hashes of the bundles that the functions in a copy refer to. */
  readonly bundles: readonly string[]
}

const pieceBytes = 1024 * 1024
const nothing: Found = { bytes: 0, sha256: '', bundles: [] }

/** Times that the end of a checkpoint is tried, a millisecond apart, while somebody writes. */
const truncatesMax = 20

/** The event loop asks for the lock from time to time, and gives it back at once. */
const beginTimeoutMs = 5000

/** The database that was replaced, and a connection to that which took its place. */
let oldFile: number | undefined
let newDatabase: Database | undefined

/** Does it here and now. */
export function answerTo(request: DiskRequest): DiskAnswer {
  try {
    return { ok: true, ...(done(request) ?? nothing) }
  } catch (cause) {
    const { code, message } = cause as Error & { code?: string }
    return { ok: false, code, message }
  }
}

function done(request: DiskRequest): Found | undefined {
  switch (request.kind) {
    case 'vacuum':
      return vacuum(request)
    case 'hash':
      return hashed(request.path)
    case 'checkpoint':
      return checkpoint(request.database)
    case 'swap':
      return swap(request)
    case 'release':
      // Its last reference: the filesystem frees a gigabyte here.
      if (oldFile !== undefined) closeSync(oldFile)
      oldFile = undefined
      newDatabase?.close(true)
      newDatabase = undefined
      return undefined
  }
}

function vacuum({ database, copy }: DiskRequest & { kind: 'vacuum' }) {
  // A connection of its own: what it reads is one moment, whatever is written meanwhile.
  const db = new Database(database, { readonly: true })
  try {
    db.run('PRAGMA busy_timeout = 5000')
    db.run('VACUUM INTO ?', [copy])
  } finally {
    db.close(true)
  }
  // SQLite does not flush what `VACUUM INTO` writes.
  fsyncFile(copy)
  return { ...hashed(copy), bundles: bundlesIn(copy) }
}

function bundlesIn(copy: string): string[] {
  using db = new Database(copy, { readonly: true })
  return referencedBundles(db.query<{ image: string }, []>(imagesSql).all())
}

function hashed(path: string): Found {
  const fd = openSync(path, 'r')
  try {
    const hash = createHash('sha256')
    const piece = new Uint8Array(pieceBytes)
    let bytes = 0
    for (;;) {
      const count = readSync(fd, piece, 0, piece.length, bytes)
      if (count === 0) return { ...nothing, bytes, sha256: hash.digest('hex') }
      hash.update(piece.subarray(0, count))
      bytes += count
    }
  } finally {
    closeSync(fd)
  }
}

function checkpoint(database: string): undefined {
  const db = new Database(database, { readwrite: true, create: false })
  try {
    db.run('PRAGMA busy_timeout = 0')
    // Twice while others write; then little is left to do while they cannot.
    for (const mode of ['PASSIVE', 'PASSIVE']) db.run(`PRAGMA wal_checkpoint(${mode})`)
    for (let count = 0; count < truncatesMax; count++) {
      if (isTruncated(db)) return beginWal(db)
      Bun.sleepSync(1)
    }
  } finally {
    db.close(true)
  }
}

/** False when somebody reads or writes just now. */
function isTruncated(db: Database): boolean {
  return db.query<{ busy: number }, []>('PRAGMA wal_checkpoint(TRUNCATE)').get()?.busy === 0
}

/**
 * Who is the first to write into an empty WAL waits until its header is on the disk: that must not
 * be the event loop. What is written is there already.
 */
function beginWal(db: Database): undefined {
  const row = db.query<{ user_version: number }, []>('PRAGMA user_version').get()
  db.run(`PRAGMA busy_timeout = ${beginTimeoutMs}`)
  db.run(`PRAGMA user_version = ${row?.user_version}`)
}

function swap({ database, staged }: DiskRequest & { kind: 'swap' }): undefined {
  const fault = faultOf(staged)
  if (fault !== undefined) throw new Error(fault)
  const db = new Database(database, { readwrite: true, create: false })
  try {
    db.run('PRAGMA busy_timeout = 0')
    // The old database is whole without its WAL, should this process end before the swap.
    isTruncated(db)
  } finally {
    db.close(true)
  }
  oldFile ??= openSync(database, 'r')
  swapIn(staged, database)
  // Whoever opens it next finds a WAL that is begun, as long as this connection is open.
  newDatabase = new Database(database, { readwrite: true, create: false })
  newDatabase.run('PRAGMA journal_mode = WAL')
  beginWal(newDatabase)
}
