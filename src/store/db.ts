/**
 * The state machine on SQLite. One transaction holds rows, index and state hash, so that no entry
 * is ever applied twice or in part. It stays open over many batches until it is settled, since a
 * commit takes a dozen system calls and writes each page that changed, as often for one batch as
 * for a hundred. All reads are on the same connection, which sees what is in it.
 *
 * WAL with `synchronous=NORMAL`: a power loss may take the newest transactions but never corrupts
 * (sqlite.org/wal.html), and the log replays what was taken, as it replays what was not settled.
 * That is why the log may be truncated only after `flush`. Whatever takes long by its nature,
 * checkpoints and the swap of whole files, is done by a thread, so that no heartbeat waits for it.
 */
import { Database, type Statement } from 'bun:sqlite'
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { assert, FndError, StartError } from '../errors.ts'
import type { CommittedEntry, StateMachine } from '../raft/ports.ts'
import { splitAt } from '../raft/split.ts'
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
const restoreTimeoutMs = 1000

/**
 * Pages that the open transaction changed stay in memory up to this many, 64 MiB; SQLite's own
 * bound is 2 MiB. It writes them to the WAL when it needs room for others, also for those of a
 * query, and on a full disk it is the query that fails, and takes the transaction with it.
 */
const spillPages = 16_384

/** Receives what one batch changed, in the turn in which it became durable here. */
export type ChangesListener = (changes: readonly Change[]) => void

export interface StateDbOptions {
  /** One that others use too; otherwise the database has its own. */
  readonly thread?: DiskWork
  /** Where snapshots lie that `install` is told the names of. */
  readonly stagedDir?: string
}

/** How far the state has come. */
interface Point {
  readonly index: number
  readonly term: number
  /** Over every entry and its result. */
  readonly hash: Uint8Array
  readonly confState: ConfState
}

export class StateDb implements StateMachine, Disposable {
  readonly #path: string
  readonly #stagedDir: string
  readonly #statements = new Map<string, Statement<Row, SqlValue[]>>()
  readonly #tx: Tx
  readonly #rows: Pick<Tx, 'get' | 'all'>
  readonly #thread: DiskWork
  readonly #ownThread: DiskThread | undefined
  #db: Database
  /** None in memory. */
  #wal: Wal | undefined
  #at: Point = { index: 0, term: 0, hash: new Uint8Array(32), confState: firstConfState }
  /** As of the last settling. */
  #settled = this.#at
  /** What was applied since, which is what the open transaction holds. */
  #unsettled: CommittedEntry[] = []
  /** What was applied is lost to those who read, so that the process must end. */
  #fault: Error | undefined
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
    this.#rows = {
      get: (sql, ...values) => this.#read(() => this.#tx.get(sql, ...values)),
      all: (sql, ...values) => this.#read(() => this.#tx.all(sql, ...values)),
    }
    this.#readMeta()
  }

  get appliedIndex(): number {
    return this.#at.index
  }

  get appliedTerm(): number {
    return this.#at.term
  }

  get confState(): ConfState {
    return this.#at.confState
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
    return Buffer.from(this.#at.hash).toString('hex')
  }

  /**
   * Reads outside a command see the state as of the last applied batch. The same object serves
   * after `install`.
   */
  get rows(): Pick<Tx, 'get' | 'all'> {
    return this.#rows
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
    const [old, fresh] = splitAt(entries, this.#at.index)
    if (fresh.length === 0) return old.map(() => undefined)
    this.#mustBeSound()
    let applied: Applied
    try {
      this.#begin()
      applied = this.#applyAll(fresh)
    } catch (cause) {
      throw this.#restore() ?? refusalOf(cause)
    }
    this.#at = applied.at
    for (const entry of fresh) this.#unsettled.push(entry)
    if (applied.isOfCluster) this.#readCluster()
    this.#onChanges?.(applied.changes)
    // Who makes a checkpoint waits for a moment in which nobody writes.
    if (this.#wal?.isCheckpointing === true) this.#commit()
    const { outcomes } = applied
    return old.length === 0 ? outcomes : [...old.map(() => undefined), ...outcomes]
  }

  settle(): void {
    this.#mustBeSound()
    const error = this.#commit()
    if (error !== undefined) throw error
  }

  flush(done: (error: Error | undefined, durableIndex: number) => void): void {
    const error = this.#commit()
    const { index } = this.#settled
    // What found no room is not settled, and what is settled can be flushed.
    const fatal = error instanceof FndError ? undefined : error
    if (fatal !== undefined || this.#wal === undefined) setImmediate(() => done(fatal, index))
    else this.#wal.sync(cause => done(cause, index))
  }

  /**
   * A crash at any point leaves either the old state and the snapshot, or the new state: the same
   * call then goes on or finds that nothing is left to do. `done` with a `StartError` when the
   * snapshot is neither there nor installed, or damaged.
   */
  install(data: string, done: (error: Error | undefined) => void): void {
    const { index } = snapshotNameFrom(data)
    const staged = join(this.#stagedDir, data)
    if (this.#at.index >= index) {
      void rm(staged, { force: true }).then(() => done(undefined), done)
      return
    }
    // The thread puts it in the place of a database that nobody writes.
    const error = this.#commit()
    if (error !== undefined) return void setImmediate(() => done(error))
    this.#thread.ask({ kind: 'swap', database: this.#path, staged }, answer => {
      if (!answer.ok) return done(cannotInstall(staged, answer.message))
      this.#close()
      try {
        this.#db = this.#open()
      } catch (error) {
        return done(error as Error)
      }
      this.#readMeta()
      assert(this.#at.index === index, 'a snapshot is of the index in its name')
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
    assert(this.#unsettled.length === 0, 'what was applied is settled')
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
    this.#readMeta()
  }

  [Symbol.dispose](): void {
    this.#close()
    this.#ownThread?.[Symbol.dispose]()
  }

  // Transactions.

  #mustBeSound(): void {
    const fault = this.#fault ?? this.#wal?.fault
    if (fault !== undefined) throw fault
  }

  /**
   * Outside of a command. A query that fails for want of room, of memory, or by the disk makes
   * SQLite undo the whole transaction (sqlite.org/lang_transaction.html), which is of others.
   */
  #read<T>(query: () => T): T {
    if (this.#fault !== undefined) throw this.#fault
    try {
      return query()
    } catch (cause) {
      if (!this.#db.inTransaction) this.#restore()
      throw cause
    }
  }

  #begin(): void {
    if (this.#db.inTransaction) return
    assert(this.#unsettled.length === 0, 'the transaction holds what is not settled')
    this.#tx.run('BEGIN IMMEDIATE')
    if (this.#wal?.isBeginning === true) throw new FndError('write-overload')
  }

  /** In the transaction; nothing but the rows changes. */
  #applyAll(entries: readonly CommittedEntry[]): Applied {
    let { index, term, hash, confState } = this.#at
    const outcomes: (Outcome | undefined)[] = []
    const changes: Change[] = []
    let isOfCluster = false
    for (const entry of entries) {
      index += 1
      assert(entry.index === index, 'entries are applied without gaps')
      if (isConf(entry)) confState = entry.confState
      const command = hasCommand(entry) ? decodeCommand(entry.bytes) : undefined
      if (command !== undefined && /^(node|cluster)\./.test(command.type)) isOfCluster = true
      const applied = command === undefined ? nothing : apply(this.#tx, command)
      hash = nextHash(hash, entry, applied.outcome)
      term = entry.term
      outcomes.push(applied.outcome)
      for (const change of applied.changes) changes.push(change)
    }
    return { at: { index, term, hash, confState }, outcomes, changes, isOfCluster }
  }

  /** Ends the transaction. With an error everything is as it was, and still to be settled. */
  #commit(): Error | undefined {
    if (this.#fault !== undefined) return this.#fault
    if (!this.#db.inTransaction) {
      assert(this.#unsettled.length === 0, 'the transaction holds what is not settled')
      return undefined
    }
    const { index, term, hash, confState } = this.#at
    try {
      this.#tx.run(
        `UPDATE meta SET applied_index = ?, applied_term = ?, state_hash = ?, conf_state = ?
         WHERE id = 1`,
        index,
        term,
        hash,
        encodeConfState(confState),
      )
      this.#tx.run('COMMIT')
    } catch (cause) {
      return this.#restore() ?? refusalOf(cause)
    }
    this.#settled = this.#at
    this.#unsettled = []
    this.#wal?.grew()
    return undefined
  }

  /**
   * Makes the rows again what they were before a statement failed. SQLite undoes the whole
   * transaction when a commit fails, and may do so at other errors, but what was applied has been
   * seen. So it is applied again, which takes no room on the disk. Returns why it cannot be.
   */
  #restore(): Error | undefined {
    try {
      if (this.#db.inTransaction) this.#tx.run('ROLLBACK')
      if (this.#unsettled.length > 0) this.#applyAgain()
    } catch (cause) {
      this.#fault = new Error('What was applied is lost until the next start', { cause })
    }
    return this.#fault
  }

  #applyAgain(): void {
    const { hash } = this.#at
    this.#at = this.#settled
    // The thread may have been waiting for the lock, which it holds for milliseconds.
    this.#db.run(`PRAGMA busy_timeout = ${restoreTimeoutMs}`)
    this.#tx.run('BEGIN IMMEDIATE')
    this.#db.run('PRAGMA busy_timeout = 0')
    this.#at = this.#applyAll(this.#unsettled).at
    assert(Buffer.compare(hash, this.#at.hash) === 0, 'applying is deterministic')
  }

  /** What cannot be settled any more is applied from the log by the next start. */
  #close(): void {
    this.#commit()
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
      db.run(`PRAGMA cache_spill = ${spillPages}`)
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
    this.#at = {
      index: Number(row.applied_index),
      term: Number(row.applied_term),
      hash: row.state_hash,
      confState: decodeConfState(String(row.conf_state)),
    }
    this.#settled = this.#at
    this.#readCluster()
  }

  #readCluster(): void {
    const row = this.#tx.get('SELECT cluster_version, next_node_id FROM meta')
    this.#clusterVersion = Number(row?.cluster_version)
    this.#nextNodeId = Number(row?.next_node_id)
  }
}

interface Applied {
  readonly at: Point
  readonly outcomes: readonly (Outcome | undefined)[]
  readonly changes: readonly Change[]
  readonly isOfCluster: boolean
}

const nothing = { outcome: undefined, changes: [] }

/** What a statement came to, as `apply` and `settle` tell it. */
function refusalOf(cause: unknown): Error {
  const { code } = cause as { code?: string }
  if (code === 'SQLITE_FULL') return new FndError('disk-full', { cause })
  if (code?.startsWith('SQLITE_BUSY')) return new FndError('write-overload', { cause })
  return cause as Error
}

function isConf(entry: CommittedEntry): entry is CommittedEntry & { confState: ConfState } {
  if (entry.kind !== 'conf' && entry.kind !== 'conf-v2') return false
  assert(entry.confState !== undefined, 'a change of the configuration says what it led to')
  return true
}

/** A leader begins its term with an entry of no bytes. */
function hasCommand(entry: CommittedEntry): boolean {
  return !isConf(entry) && entry.bytes.length > 0
}

/** Made once, and filled for each entry. */
const indexBytes = new Uint8Array(8)
const indexView = new DataView(indexBytes.buffer)
const hasher = new Bun.CryptoHasher('sha256')

function nextHash(
  previous: Uint8Array,
  entry: CommittedEntry,
  outcome: Outcome | undefined,
): Uint8Array {
  indexView.setUint32(0, Math.floor(entry.index / 2 ** 32))
  indexView.setUint32(4, entry.index)
  const result = isConf(entry) ? encodeConfState(entry.confState) : JSON.stringify(outcome ?? null)
  return hasher.update(previous).update(indexBytes).update(entry.bytes).update(result).digest()
}
