/**
 * The state machine on SQLite. One transaction for each batch of entries holds the rows, the index
 * and the state hash, so that no entry is ever applied twice or in part.
 *
 * WAL with `synchronous=NORMAL`: a power loss may take the newest transactions but never corrupts
 * (sqlite.org/wal.html), and the log replays what was taken. That is why the log may be truncated
 * only after `flush`.
 */
import { Database, type Statement } from 'bun:sqlite'
import { assert, FndError, StartError } from '../errors.ts'
import type { CommittedEntry, StateMachine } from '../raft/replicator.ts'
import { apply } from './apply.ts'
import { decodeCommand } from './codec.ts'
import type { Change, Outcome } from './commands.ts'
import { fsyncFile } from './fsync.ts'
import type { Row, SqlValue, Tx } from './rows.ts'

const schemaVersion = 2

/**
 * How long a write waits for another process that holds the file, such as somebody's `sqlite3`. It
 * blocks the whole process, so it is short; the caller of `apply` tries again.
 */
const busyTimeoutMs = 100

const registries = `
CREATE TABLE registries (
  app_id TEXT NOT NULL REFERENCES apps (id), host TEXT NOT NULL, username TEXT NOT NULL,
  sealed TEXT NOT NULL, updated_ms INTEGER NOT NULL, PRIMARY KEY (app_id, host)
) STRICT, WITHOUT ROWID;`

// Names are compared as bytes: SQLite's default collation is memcmp over UTF-8.
const schema = `
CREATE TABLE apps (
  id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL,
  annotations TEXT NOT NULL, syslog_url TEXT NOT NULL, shape TEXT NOT NULL,
  created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE fns (
  id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, app_id TEXT NOT NULL REFERENCES apps (id),
  image TEXT NOT NULL, memory_mb INTEGER NOT NULL, timeout_s INTEGER NOT NULL,
  idle_timeout_s INTEGER NOT NULL, config TEXT NOT NULL, annotations TEXT NOT NULL,
  shape TEXT NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
  UNIQUE (app_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE triggers (
  id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, app_id TEXT NOT NULL REFERENCES apps (id),
  fn_id TEXT NOT NULL REFERENCES fns (id), type TEXT NOT NULL, source TEXT NOT NULL,
  annotations TEXT NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
  UNIQUE (app_id, type, source), UNIQUE (app_id, fn_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX triggers_by_name ON triggers (app_id, name, id);
CREATE INDEX triggers_by_fn ON triggers (fn_id, name);
${registries}
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1), applied_index INTEGER NOT NULL,
  applied_term INTEGER NOT NULL, state_hash BLOB NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 0, 0, zeroblob(32));
PRAGMA user_version = ${schemaVersion};
`

/** Receives what one batch changed, in the turn in which it became durable here. */
export type ChangesListener = (changes: readonly Change[]) => void

export class StateDb implements StateMachine, Disposable {
  readonly #db: Database
  readonly #path: string
  readonly #statements = new Map<string, Statement<Row, SqlValue[]>>()
  readonly #tx: Tx
  #appliedIndex = 0
  #appliedTerm = 0
  #stateHash: Uint8Array = new Uint8Array(32)
  #listener: ChangesListener | undefined

  /** Throws `StartError` when the file is not a database that this version can use. */
  constructor(path: string, options: { readonly busyTimeoutMs?: number } = {}) {
    this.#path = path
    try {
      this.#db = new Database(path, { create: true, readwrite: true, strict: true })
      this.#prepare(options.busyTimeoutMs ?? busyTimeoutMs)
    } catch (cause) {
      if (cause instanceof StartError) throw cause
      throw new StartError(
        `${path} cannot be opened as a database (${(cause as Error).message}). If the file is ` +
          'damaged, restore the data directory from a backup.',
        { cause },
      )
    }
    this.#tx = {
      get: (sql, ...values) => this.#statement(sql).get(...values) ?? undefined,
      all: (sql, ...values) => this.#statement(sql).all(...values),
      run: (sql, ...values) => {
        this.#statement(sql).run(...values)
      },
    }
    this.#readMeta()
  }

  get appliedIndex(): number {
    return this.#appliedIndex
  }

  /** Hash over every entry applied and its result; equal on all nodes at the same index. */
  get stateHash(): string {
    return Buffer.from(this.#stateHash).toString('hex')
  }

  /** Reads outside a command see the state as of the last applied batch. */
  get rows(): Pick<Tx, 'get' | 'all'> {
    return this.#tx
  }

  /** One listener, told after the transaction committed and before `apply` returns. */
  onChanges(listener: ChangesListener): void {
    this.#listener = listener
  }

  /** An entry at or below the applied index is skipped; its result is undefined. */
  apply(entries: readonly CommittedEntry[]): readonly (Outcome | undefined)[] {
    const fresh = entries.filter(entry => entry.index > this.#appliedIndex)
    const outcomes: (Outcome | undefined)[] = Array(entries.length - fresh.length).fill(undefined)
    if (fresh.length === 0) return outcomes
    const changes: Change[] = []
    let index = this.#appliedIndex
    let term = this.#appliedTerm
    let hash = this.#stateHash
    try {
      this.#db.run('BEGIN IMMEDIATE')
      for (const entry of fresh) {
        assert(entry.index === index + 1, 'entries are applied without gaps')
        const applied = apply(this.#tx, decodeCommand(entry.bytes))
        hash = nextHash(hash, entry, applied.outcome)
        index = entry.index
        term = entry.term
        outcomes.push(applied.outcome)
        changes.push(...applied.changes)
      }
      this.#tx.run(
        'UPDATE meta SET applied_index = ?, applied_term = ?, state_hash = ? WHERE id = 1',
        index,
        term,
        hash,
      )
      this.#db.run('COMMIT')
    } catch (cause) {
      if (this.#db.inTransaction) this.#db.run('ROLLBACK')
      const { code } = cause as { code?: string }
      if (code === 'SQLITE_FULL') throw new FndError('disk-full', { cause })
      if (code === 'SQLITE_BUSY') throw new FndError('write-overload', { cause })
      throw cause
    }
    this.#appliedIndex = index
    this.#appliedTerm = term
    this.#stateHash = hash
    this.#listener?.(changes)
    return outcomes
  }

  flush(): void {
    this.#db.run('PRAGMA synchronous = FULL')
    const result = this.#db.query<{ busy: number }, []>('PRAGMA wal_checkpoint(TRUNCATE)').get()
    this.#db.run('PRAGMA synchronous = NORMAL')
    // Another process reads the file, for example `sqlite3`: the checkpoint could not finish. Then
    // the WAL itself is made durable, which serves the same end.
    if (result?.busy !== 0) fsyncFile(`${this.#path}-wal`)
  }

  [Symbol.dispose](): void {
    for (const statement of this.#statements.values()) statement.finalize()
    this.#statements.clear()
    this.#db.close()
  }

  #statement(sql: string): Statement<Row, SqlValue[]> {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#db.prepare<Row, SqlValue[]>(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  #prepare(timeoutMs: number): void {
    this.#db.run('PRAGMA journal_mode = WAL')
    this.#db.run('PRAGMA synchronous = NORMAL')
    this.#db.run('PRAGMA foreign_keys = ON')
    this.#db.run(`PRAGMA busy_timeout = ${timeoutMs}`)
    const row = this.#db.query<{ user_version: number }, []>('PRAGMA user_version').get()
    if (row?.user_version === schemaVersion) return
    if (row?.user_version === 1) {
      this.#db.transaction(() => this.#db.run(`${registries} PRAGMA user_version = 2;`))()
      return
    }
    if (row?.user_version !== 0) {
      throw new StartError(
        `${this.#path} has schema ${row?.user_version}, this fnd knows ${schemaVersion}. ` +
          'The data directory was used by a newer fnd: start that version or a later one.',
      )
    }
    this.#db.transaction(() => this.#db.run(schema))()
  }

  #readMeta(): void {
    const row = this.#tx.get('SELECT applied_index, applied_term, state_hash FROM meta')
    assert(row?.state_hash instanceof Uint8Array, 'the database holds its meta row')
    this.#appliedIndex = Number(row.applied_index)
    this.#appliedTerm = Number(row.applied_term)
    this.#stateHash = row.state_hash
  }
}

function nextHash(previous: Uint8Array, entry: CommittedEntry, outcome: Outcome): Uint8Array {
  const index = new Uint8Array(8)
  new DataView(index.buffer).setBigUint64(0, BigInt(entry.index))
  return new Bun.CryptoHasher('sha256')
    .update(previous)
    .update(index)
    .update(entry.bytes)
    .update(JSON.stringify(outcome))
    .digest()
}
