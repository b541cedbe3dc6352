/**
 * The thread that copies a database while the process goes on serving: SQLite and the hash would
 * hold the event loop for as long as they take. One message in, one out, then it is ended.
 */
import { Database } from 'bun:sqlite'
import { createHash } from 'node:crypto'
import { closeSync, fsyncSync, openSync, readSync } from 'node:fs'
import { imagesSql, referencedBundles } from './references.ts'

export interface VacuumRequest {
  readonly database: string
  /** Must not exist. */
  readonly copy: string
}

export type VacuumAnswer =
  | {
      readonly ok: true
      readonly bytes: number
      readonly sha256: string
      /** Hashes of the bundles that its functions refer to. */
      readonly bundles: readonly string[]
    }
  | { readonly ok: false; readonly code: string | undefined; readonly message: string }

declare const self: Worker

const pieceBytes = 1024 * 1024

self.onmessage = (event: MessageEvent<VacuumRequest>) => {
  self.postMessage(answerTo(event.data))
}

function answerTo({ database, copy }: VacuumRequest): VacuumAnswer {
  try {
    // A connection of its own: what it reads is one moment, whatever is written meanwhile.
    const db = new Database(database, { readonly: true })
    try {
      db.run('PRAGMA busy_timeout = 5000')
      db.run('VACUUM INTO ?', [copy])
    } finally {
      db.close(true)
    }
    return { ok: true, ...flushAndHash(copy), bundles: bundlesIn(copy) }
  } catch (cause) {
    const { code, message } = cause as Error & { code?: string }
    return { ok: false, code, message }
  }
}

function bundlesIn(copy: string): string[] {
  using db = new Database(copy, { readonly: true })
  return referencedBundles(db.query<{ image: string }, []>(imagesSql).all())
}

/** SQLite does not flush what `VACUUM INTO` writes. */
function flushAndHash(path: string): { bytes: number; sha256: string } {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
    const hash = createHash('sha256')
    const piece = new Uint8Array(pieceBytes)
    let bytes = 0
    for (;;) {
      const count = readSync(fd, piece, 0, piece.length, bytes)
      if (count === 0) return { bytes, sha256: hash.digest('hex') }
      hash.update(piece.subarray(0, count))
      bytes += count
    }
  } finally {
    closeSync(fd)
  }
}
