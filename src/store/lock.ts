import { Database } from 'bun:sqlite'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { StartError } from '../errors.ts'

/** What it keeps in the data directory. */
export const lockFiles = ['lock.db', 'lock.db-journal', 'lock.pid'] as const

/**
 * One fnd for each data directory. The lock is SQLite's exclusive lock on an empty database, a
 * POSIX record lock underneath: the kernel drops it when the process ends, however it ends, and no
 * child process inherits it. `lock.pid` only names the holder for people; it may be stale.
 */
export class DataLock implements Disposable {
  readonly #db: Database

  constructor(dataDir: string) {
    const path = join(dataDir, 'lock.db')
    const pidPath = join(dataDir, 'lock.pid')
    const db = new Database(path, { create: true, readwrite: true })
    try {
      db.run('PRAGMA busy_timeout = 0')
      db.run('BEGIN EXCLUSIVE')
    } catch (cause) {
      db.close()
      const { code } = cause as { code?: string }
      if (code === 'SQLITE_FULL') {
        throw new StartError(`${dataDir} is on a filesystem without any space left.`, { cause })
      }
      if (code !== 'SQLITE_BUSY') throw cause
      throw new StartError(
        `${dataDir} is in use by another fnd (${holder(pidPath)}). Stop that one, or give this ` +
          'one its own directory with --data.',
        { cause },
      )
    }
    this.#db = db
    writeFileSync(pidPath, `${process.pid}\n`)
  }

  [Symbol.dispose](): void {
    this.#db.close()
  }
}

/** The holder writes its pid just after it took the lock, so it may not be there yet. */
function holder(pidPath: string): string {
  const pid = existsSync(pidPath) ? readFileSync(pidPath, 'utf8').trim() : ''
  return pid === '' ? 'pid not known yet' : `pid ${pid}`
}
