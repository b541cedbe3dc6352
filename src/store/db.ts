/**
 * The state machine on SQLite. One transaction for each batch of entries holds the rows, the index
 * and the state hash, so that no entry is ever applied twice or in part.
 *
 * WAL with `synchronous=NORMAL`: a power loss may take the newest transactions but never corrupts
 * (sqlite.org/wal.html), and the log replays what was taken. That is why the log may be truncated
 * only after `flush`. Whatever takes long by its nature, checkpoints and the swap of whole files,
 * is done by a thread, so that no heartbeat waits for it.
 */
import { Database, type Statement } from 'bun:sqlite'
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { assert, FndError, StartError } from '../errors.ts'
import type { CommittedEntry, StateMachine } from '../raft/ports.ts'
import type { ConfState } from '../raft/types.ts'
import { apply } from './apply.ts'
import { commandVersion, decodeCommand, mustKnow } from './codec.ts'
import type { Change, Outcome } from './commands.ts'
import { DiskThread, type DiskWork } from './disk-work.ts'
import type { Row, SqlValue, Tx } from './rows.ts'
import { decodeConfState, encodeConfState, firstConfState, prepareSchema } from './schema.ts'
import { cannotInstall, snapshotNameFrom } from './snapshot-file.ts'
import { Wal } from './wal.ts'

/**
 * How long opening waits for another that holds the file, such as somebody's `sqlite3`. Nothing
 * waits later: it would hold the whole process, and the caller of `apply` tries again.
 */
const openTimeoutMs = 100

/** Receives what one batch changed, in the turn in which it became durable here. */
export type ChangesListener = (changes: readonly Change[]) => void

export interface StateDbOptions {
  /** One that others use too; otherwise the database has its own. */
  readonly thread?: DiskWork
  /** Where snapshots lie that `install` is told the names of. */
  readonly stagedDir?: string
}

export class StateDb implements StateMachine, Disposable {
  readonly #path: string
  readonly #stagedDir: string
  readonly #statements = new Map<string, Statement<Row, SqlValue[]>>()
  readonly #tx: Tx
  readonly #thread: DiskWork
  readonly #ownThread: DiskThread | undefined
  #db: Database
  /** None in memory. */
  #wal: Wal | undefined
  #appliedIndex = 0
  #appliedTerm = 0
  #stateHash: Uint8Array = new Uint8Array(32)
  #confState: ConfState = firstConfState
  #clusterVersion = 0
  #nextNodeId = 0
  #onChanges: ChangesListener | undefined
  #onReset: ((done: () => void) => void) | undefined

  /** Throws `StartError` when the file is not a database that this version can use. */
  constructor(path: string, options: StateDbOptions = {}) {
    this.#path = path
    this.#ownThread = options.thread === undefined ? new DiskThread() : undefined
    this.#thread = options.thread ?? this.#ownThread ?? new DiskThread()
    this.#stagedDir = options.stagedDir ?? join(dirname(path), 'staged')
    this.#db = this.#open()
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

  get appliedTerm(): number {
    return this.#appliedTerm
  }

  get confState(): ConfState {
    return this.#confState
  }

  /** Commands up to this version may be proposed. */
  get clusterVersion(): number {
    return this.#clusterVersion
  }

  get nextNodeId(): number {
    return this.#nextNodeId
  }

  /** Hash over every entry applied and its result; equal on all nodes at the same index. */
  get stateHash(): string {
    return Buffer.from(this.#stateHash).toString('hex')
  }

  /**
   * Reads outside a command see the state as of the last applied batch. The same object serves
   * after `install`.
   */
  get rows(): Pick<Tx, 'get' | 'all'> {
    return this.#tx
  }

  /** One listener, told after the transaction committed and before `apply` returns. */
  onChanges(listener: ChangesListener): void {
    this.#onChanges = listener
  }

  /** One listener, told when a snapshot took the place of all; nothing changes until `done`. */
  onReset(listener: (done: () => void) => void): void {
    this.#onReset = listener
  }

  /**
   * An entry at or below the applied index is skipped; its result is undefined, and so is that of
   * an entry without a command.
   */
  apply(entries: readonly CommittedEntry[]): readonly (Outcome | undefined)[] {
    const fresh = entries.filter(entry => entry.index > this.#appliedIndex)
    const outcomes: (Outcome | undefined)[] = Array(entries.length - fresh.length).fill(undefined)
    const last = fresh.at(-1)
    if (last === undefined) return outcomes
    if (this.#wal?.fault !== undefined) throw this.#wal.fault
    const changes: Change[] = []
    let index = this.#appliedIndex
    let hash = this.#stateHash
    let confState = this.#confState
    let isOfCluster = false
    try {
      this.#tx.run('BEGIN IMMEDIATE')
      if (this.#wal?.isBeginning === true) throw new FndError('write-overload')
      for (const entry of fresh) {
        index += 1
        assert(entry.index === index, 'entries are applied without gaps')
        if (isConf(entry)) confState = entry.confState
        const command = hasCommand(entry) ? decodeCommand(entry.bytes) : undefined
        if (command !== undefined && /^(node|cluster)\./.test(command.type)) isOfCluster = true
        const applied = command === undefined ? nothing : apply(this.#tx, command)
        hash = nextHash(hash, entry, applied.outcome)
        outcomes.push(applied.outcome)
        changes.push(...applied.changes)
      }
      this.#tx.run(
        `UPDATE meta SET applied_index = ?, applied_term = ?, state_hash = ?, conf_state = ?
         WHERE id = 1`,
        index,
        last.term,
        hash,
        encodeConfState(confState),
      )
      this.#tx.run('COMMIT')
    } catch (cause) {
      if (this.#db.inTransaction) this.#db.run('ROLLBACK')
      if (cause instanceof FndError) throw cause
      const { code } = cause as { code?: string }
      if (code === 'SQLITE_FULL') throw new FndError('disk-full', { cause })
      if (code?.startsWith('SQLITE_BUSY')) throw new FndError('write-overload', { cause })
      throw cause
    }
    this.#appliedIndex = index
    this.#appliedTerm = last.term
    this.#stateHash = hash
    this.#confState = confState
    if (isOfCluster) this.#readMeta()
    this.#wal?.grew()
    this.#onChanges?.(changes)
    return outcomes
  }

  flush(done: (error: Error | undefined, durableIndex: number) => void): void {
    const index = this.#appliedIndex
    if (this.#wal === undefined) setImmediate(() => done(undefined, index))
    else this.#wal.sync(error => done(error, index))
  }

  /**
   * A crash at any point leaves either the old state and the snapshot, or the new state: the same
   * call then goes on or finds that nothing is left to do. `done` with a `StartError` when the
   * snapshot is neither there nor installed, or damaged.
   */
  install(data: string, done: (error: Error | undefined) => void): void {
    const { index } = snapshotNameFrom(data)
    const staged = join(this.#stagedDir, data)
    if (this.#appliedIndex >= index) {
      void rm(staged, { force: true }).then(() => done(undefined), done)
      return
    }
    this.#thread.ask({ kind: 'swap', database: this.#path, staged }, answer => {
      if (!answer.ok) return done(cannotInstall(staged, answer.message))
      this.#close()
      try {
        this.#db = this.#open()
      } catch (error) {
        return done(error as Error)
      }
      this.#readMeta()
      assert(this.#appliedIndex === index, 'a snapshot is of the index in its name')
      this.#thread.ask({ kind: 'release' }, () => {
        if (this.#onReset === undefined) done(undefined)
        else this.#onReset(() => done(undefined))
      })
    })
  }

  /** The id of the node of this uuid, or the next one that is free. */
  idFor(uuid: string): number {
    const row = this.#tx.get('SELECT id FROM nodes WHERE uuid = ?', uuid)
    return Number(row?.id ?? this.#tx.get('SELECT next_node_id FROM meta')?.next_node_id)
  }

  /**
   * Makes this node the only member, against what the log says: the others belong to a cluster
   * that was given up. Only offline.
   */
  forceAlone(own: { readonly id: number; readonly uuid: string }, nowMs: number): void {
    const { id, uuid } = own
    const confState = { ...firstConfState, voters: [id] }
    this.#db.transaction(() => {
      this.#tx.run('DELETE FROM nodes WHERE id <> ?', id)
      // A member has a row, or it counts as removed. Its next start fills in where it is.
      this.#tx.run(
        `INSERT INTO nodes VALUES (?, ?, '', '', '', '', ?, 'active', ?)
         ON CONFLICT (id) DO UPDATE SET state = 'active'`,
        id,
        uuid,
        commandVersion,
        nowMs,
      )
      this.#tx.run('UPDATE meta SET next_node_id = max(next_node_id, ?)', id + 1)
      this.#tx.run('UPDATE meta SET conf_state = ?', encodeConfState(confState))
    })()
    this.#confState = confState
  }

  [Symbol.dispose](): void {
    this.#close()
    this.#ownThread?.[Symbol.dispose]()
  }

  #close(): void {
    this.#wal?.close()
    for (const statement of this.#statements.values()) statement.finalize()
    this.#statements.clear()
    this.#db.close(true)
  }

  #statement(sql: string): Statement<Row, SqlValue[]> {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#db.prepare<Row, SqlValue[]>(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  #open(): Database {
    try {
      const db = new Database(this.#path, { create: true, readwrite: true, strict: true })
      db.run(`PRAGMA busy_timeout = ${openTimeoutMs}`)
      db.run('PRAGMA journal_mode = WAL')
      db.run('PRAGMA synchronous = NORMAL')
      db.run('PRAGMA wal_autocheckpoint = 0')
      db.run('PRAGMA foreign_keys = ON')
      prepareSchema(db, this.#path)
      db.run('PRAGMA busy_timeout = 0')
      this.#wal = this.#path === ':memory:' ? undefined : new Wal(this.#path, this.#thread)
      return db
    } catch (cause) {
      if (cause instanceof StartError) throw cause
      throw new StartError(
        `${this.#path} cannot be opened as a database (${(cause as Error).message}). If the ` +
          'file is damaged, restore the data directory from a backup.',
        { cause },
      )
    }
  }

  #readMeta(): void {
    const row = this.#tx.get('SELECT * FROM meta')
    assert(row?.state_hash instanceof Uint8Array, 'the database holds its meta row')
    mustKnow(Number(row.cluster_version))
    this.#appliedIndex = Number(row.applied_index)
    this.#appliedTerm = Number(row.applied_term)
    this.#stateHash = row.state_hash
    this.#confState = decodeConfState(String(row.conf_state))
    this.#clusterVersion = Number(row.cluster_version)
    this.#nextNodeId = Number(row.next_node_id)
  }
}

const nothing = { outcome: undefined, changes: [] }

function isConf(entry: CommittedEntry): entry is CommittedEntry & { confState: ConfState } {
  if (entry.kind !== 'conf' && entry.kind !== 'conf-v2') return false
  assert(entry.confState !== undefined, 'a change of the configuration says what it led to')
  return true
}

/** A leader begins its term with an entry of no bytes. */
function hasCommand(entry: CommittedEntry): boolean {
  return !isConf(entry) && entry.bytes.length > 0
}

function nextHash(
  previous: Uint8Array,
  entry: CommittedEntry,
  outcome: Outcome | undefined,
): Uint8Array {
  const index = new Uint8Array(8)
  new DataView(index.buffer).setBigUint64(0, BigInt(entry.index))
  const result = isConf(entry) ? encodeConfState(entry.confState) : JSON.stringify(outcome ?? null)
  return new Bun.CryptoHasher('sha256')
    .update(previous)
    .update(index)
    .update(entry.bytes)
    .update(result)
    .digest()
}
