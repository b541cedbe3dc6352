/**
 * Begins a cluster anew from the state of one node: after a majority was lost, or from a backup. It
 * gets another id, so that members of the old one cannot come back into it by accident. Offline:
 * the caller holds the lock of the data directory.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { CommittedEntry, Identity } from '../raft/ports.ts'
import { StateDb } from './db.ts'
import { fsyncDir } from './fsync.ts'
import { JournaledLog } from './log.ts'
import type { Base } from './log-records.ts'
import { LogTree } from './log-tree.ts'

export interface RecoverOptions {
  /** Holds `state.db`, and `log.mdb` unless it is of a backup. */
  readonly storeDir: string
  readonly clusterId: string
  /** Of the data directory; the log's own where there is a log. */
  readonly uuid: string
}

export interface Recovered {
  readonly identity: Identity
  readonly index: number
  readonly term: number
  /** Entries of the log that were not applied yet; some may never have been acknowledged. */
  readonly appliedCount: number
}

const readBytesMax = 1024 * 1024
const retryMs = 2
const attemptsMax = 2000

/**
 * Makes this node the only member. Everything in its log is applied: what was acknowledged may be
 * there without this node's knowing that it was committed. Repeat it after a crash: until it is
 * done the node has no majority and changes nothing. Rejects with `StartError` at damage, and with
 * `FndError` `disk-full`.
 */
export async function recoverStore(options: RecoverOptions): Promise<Recovered> {
  const { storeDir, clusterId } = options
  using db = new StateDb(join(storeDir, 'state.db'))
  let own = { nodeId: db.idFor(options.uuid), uuid: options.uuid }
  const before = db.appliedIndex
  if (existsSync(join(storeDir, 'log.mdb'))) {
    const log = await JournaledLog.open({ dir: storeDir, identity: noIdentity, freeBytesMin: 0 })
    try {
      await finishInstall(log, db)
      await applyRest(log, db)
      own = log.identity
    } finally {
      await log.close()
    }
  }
  const identity = { clusterId, nodeId: own.nodeId, uuid: own.uuid }
  const { appliedIndex: index, appliedTerm: term } = db
  // The log goes only when it is not needed any more: a flush alone leaves out what has no room.
  db.settle()
  await flushed(db)
  // First the log: with it and the old configuration the node waits for members that are not there.
  await recoverLog(storeDir, identity, { index, term })
  db.forceAlone({ id: identity.nodeId, uuid: identity.uuid }, Date.now())
  await flushed(db)
  return { identity, index, term, appliedCount: index - before }
}

/** Puts an empty log that begins behind `base` in the place of the one in `dir`, on the disk. */
export async function recoverLog(dir: string, identity: Identity, base: Base): Promise<void> {
  const fresh = join(dir, 'log.new')
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { mode: 0o700 })
  // Without a journal: the next start makes one, in the place of that of the old log.
  const tree = await LogTree.open({ dir: fresh, identity: () => identity, base })
  await tree.close()
  rmSync(join(dir, 'log.mdb-lock'), { force: true })
  renameSync(join(fresh, 'log.mdb'), join(dir, 'log.mdb'))
  await fsyncDir(dir)
  rmSync(fresh, { recursive: true, force: true })
}

/** Installs a snapshot of which the log does not know that it was installed. */
export async function finishInstall(log: JournaledLog, db: StateDb): Promise<void> {
  if (log.installing === '') return
  const name = log.installing
  await new Promise<void>((resolve, reject) => {
    db.install(name, error => (error === undefined ? resolve() : reject(error)))
  })
  const { hardState } = log
  await new Promise<void>((resolve, reject) => {
    log.write({ entries: [], hardState, dropThrough: 0, isInstalled: true }, error => {
      if (error === undefined) resolve()
      else reject(error)
    })
  })
}

async function applyRest(log: JournaledLog, db: StateDb): Promise<void> {
  const { confState } = db
  for (let index = db.appliedIndex + 1; index <= log.lastIndex; ) {
    const entries = log.read(index, readBytesMax)
    // Whatever the configuration was to become: it is about to be this node alone.
    await applied(
      db,
      entries.map(entry => ({ ...entry, confState })),
    )
    index += entries.length
  }
}

/** The end of a checkpoint of our own may hold it up for some milliseconds. */
async function applied(db: StateDb, entries: readonly CommittedEntry[]): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      db.apply(entries)
      return
    } catch (error) {
      const isHeldUp = (error as { code?: unknown }).code === 'write-overload'
      if (!isHeldUp || attempt === attemptsMax) throw error
      await Bun.sleep(retryMs)
    }
  }
}

function flushed(db: StateDb): Promise<void> {
  return new Promise((resolve, reject) => {
    db.flush(error => (error === undefined ? resolve() : reject(error)))
  })
}

function noIdentity(): Identity {
  return { clusterId: '', nodeId: 0, uuid: '' }
}
