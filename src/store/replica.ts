/**
 * This node's copy of the replicated state: rows, routes, bundles, and the way to change them.
 *
 * <data>/lock.db     one fnd per directory        <data>/store/state.db  SQLite
 * <data>/bundles/    code                         <data>/store/log.mdb   LMDB: log, hard state
 */
import { randomUUID } from 'node:crypto'
import { join, resolve } from 'node:path'
import type { Replicator, ReplicatorStatus } from '../raft/replicator.ts'
import { type SingleLimits, SingleMember } from '../raft/single.ts'
import { Bundles } from './bundles.ts'
import { encodeCommand } from './codec.ts'
import type { Command, Outcome } from './commands.ts'
import { StateDb } from './db.ts'
import { makeDir } from './fsync.ts'
import { DataLock } from './lock.ts'
import { LmdbLog } from './log.ts'
import { Queries } from './queries.ts'
import { RouteTable } from './routes.ts'
import { SingleLog } from './single-log.ts'
import type { State } from './state.ts'

export interface StoreOptions {
  readonly dataDir: string
  /** The disk failed or a bug showed: the process must end. Called once. */
  readonly onFatal: (error: Error) => void
  /** Writes get `disk-full` while the filesystem has less room than this. */
  readonly freeBytesMin?: number
  readonly limits?: Partial<SingleLimits>
}

export interface StoreStatus extends ReplicatorStatus {
  readonly clusterId: string
  readonly nodeId: string
  /** Hash over everything applied; equal on all nodes at the same index. */
  readonly stateHash: string
}

export interface Store extends AsyncDisposable {
  readonly state: State
  readonly routes: RouteTable
  readonly replicator: Replicator
  readonly bundles: Bundles
  status(): StoreStatus
}

const freeBytesMin = 64 * 1024 * 1024

/** Throws `StartError` when the directory is in use, damaged, or of a newer version. */
export async function openStore(options: StoreOptions): Promise<Store> {
  const dataDir = resolve(options.dataDir)
  // Functions on hosts without namespaces reach their own bundle through it, but cannot list it.
  await makeDir(dataDir, 0o711)
  await using opening = new AsyncDisposableStack()
  opening.use(new DataLock(dataDir))
  const storeDir = join(dataDir, 'store')
  await makeDir(storeDir, 0o700)
  const db = opening.use(new StateDb(join(storeDir, 'state.db')))
  const log = await LmdbLog.open({
    dir: storeDir,
    identity: () => ({ clusterId: randomUUID(), nodeId: 1, uuid: randomUUID() }),
    freeBytesMin: options.freeBytesMin ?? freeBytesMin,
  })
  let replicator: SingleMember
  try {
    replicator = SingleMember.open({
      log: new SingleLog(log),
      machine: db,
      onFatal: options.onFatal,
      ...(options.limits === undefined ? {} : { limits: options.limits }),
    })
  } catch (error) {
    await log.close()
    throw error
  }
  opening.use(replicator)
  const routes = new RouteTable(db.rows)
  db.onChanges(changes => routes.update(changes))
  db.onReset(() => routes.reset(db.rows))
  const bundles = opening.use(new Bundles(join(dataDir, 'bundles')))
  const parts = opening.move()
  return {
    state: new ReplicatedState(db, replicator),
    routes,
    replicator,
    bundles,
    status: () => ({
      ...replicator.status(),
      clusterId: log.identity.clusterId,
      nodeId: log.identity.uuid,
      stateHash: db.stateHash,
    }),
    // In reverse order of opening: the lock goes last.
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  }
}

class ReplicatedState extends Queries implements State {
  readonly #replicator: Replicator

  constructor(db: StateDb, replicator: Replicator) {
    super(db.rows)
    this.#replicator = replicator
  }

  async propose(command: Command): Promise<Outcome> {
    // The state machine is `StateDb`, whose results are outcomes.
    return (await this.#replicator.propose(
      encodeCommand(command, this.clusterVersion()),
    )) as Outcome
  }
}
