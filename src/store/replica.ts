/**
 * This node's copy of the replicated state: rows, routes, bundles, and the way to change them.
 *
 * <data>/lock.db     one fnd per directory        <data>/store/state.db  SQLite
 * <data>/bundles/    code                         <data>/store/log.mdb   LMDB: log, hard state
 */
import { randomInt, randomUUID } from 'node:crypto'
import { join, resolve } from 'node:path'
import { Member } from '../raft/driver.ts'
import { isOnlyVoter } from '../raft/electorate.ts'
import { Group } from '../raft/group.ts'
import type { MemberLimits } from '../raft/member-options.ts'
import { type DriverObserver, noObserver } from '../raft/observer.ts'
import type { Identity, Network } from '../raft/ports.ts'
import { systemScheduler } from '../raft/scheduler.ts'
import { Bundles } from './bundles.ts'
import { encodeCommand } from './codec.ts'
import type { Change, Command, Outcome } from './commands.ts'
import { StateDb } from './db.ts'
import { DiskThread } from './disk-work.ts'
import { makeDir } from './fsync.ts'
import { inSlices } from './in-slices.ts'
import { DataLock } from './lock.ts'
import { JournaledLog } from './log.ts'
import type { App, Fn, Trigger } from './objects.ts'
import { Queries } from './queries.ts'
import { finishInstall } from './recover.ts'
import { mustNotBeHalfRestored } from './restore.ts'
import { RouteTable } from './routes.ts'
import { Snapshots } from './snapshots.ts'
import { Staging } from './staging.ts'
import type { State } from './state.ts'

export interface StoreOptions {
  readonly dataDir: string
  /** The disk failed or a bug showed: the process must end. Called once. */
  readonly onFatal: (error: Error) => void
  /** Changes get `disk-full` while the filesystem has less room than this. */
  readonly freeBytesMin?: number
  /** Of each file of the log's journal, always the same for one directory; see JournaledLog. */
  readonly journalBytes?: number
  readonly limits?: Partial<MemberLimits>
  /**
   * Who this node is to be, asked only when the directory holds no log: the first of a new cluster
   * unless given. The directory is locked meanwhile.
   */
  readonly identity?: (dataDir: string) => Promise<Identity>
  /** To the other members; absent in a group of one. */
  readonly network?: Network
  readonly observer?: DriverObserver
  /** The way of changes to the leader; this member's own unless given. */
  readonly propose?: (command: Command) => Promise<Outcome>
}

export interface StoreStatus {
  readonly role: 'leader' | 'follower' | 'candidate'
  readonly term: number
  readonly lastIndex: number
  readonly firstIndex: number
  readonly commitIndex: number
  readonly appliedIndex: number
  readonly clusterId: string
  readonly nodeId: number
  readonly uuid: string
  /** Hash over everything applied; equal on all nodes at the same index. */
  readonly stateHash: string
}

export interface Store extends AsyncDisposable {
  readonly identity: Identity
  readonly state: State
  readonly routes: RouteTable
  readonly bundles: Bundles
  readonly member: Member
  readonly group: Group
  readonly snapshots: Snapshots
  readonly staging: Staging
  /**
   * Begins to take part. Resolves when everything is applied that this node knows to be committed,
   * so that it does not show less than before it ended; but it does not wait for room on the disk.
   */
  start(): Promise<void>
  status(): StoreStatus
  /** Proposes here. Rejects with `no-leader` when this member does not lead. */
  propose(command: Command): Promise<{ readonly index: number; readonly outcome: Outcome }>
  /** Rows of nodes changed, in the turn in which that was applied. */
  onNodes(listener: () => void): void
}

const freeBytesMinDefault = 64 * 1024 * 1024
const startMsMax = 1000

/** Throws `StartError` when the directory is in use, damaged, or of a newer version. */
export async function openStore(options: StoreOptions): Promise<Store> {
  const dataDir = resolve(options.dataDir)
  const freeBytesMin = options.freeBytesMin ?? freeBytesMinDefault
  // Functions on hosts without namespaces reach their own bundle through it, but cannot list it.
  await makeDir(dataDir, 0o711)
  await using opening = new AsyncDisposableStack()
  opening.use(new DataLock(dataDir))
  mustNotBeHalfRestored(dataDir)
  const storeDir = join(dataDir, 'store')
  await makeDir(storeDir, 0o700)
  const log = await JournaledLog.open({
    dir: storeDir,
    identity: () => options.identity?.(dataDir) ?? firstIdentity(),
    freeBytesMin,
    ...(options.journalBytes === undefined ? {} : { journalBytes: options.journalBytes }),
  })
  opening.defer(() => log.close())
  const database = join(storeDir, 'state.db')
  const stagedDir = join(storeDir, 'staged')
  const thread = opening.use(new DiskThread())
  const staging = new Staging({ dir: stagedDir, keep: log.installing, freeBytesMin, thread })
  const db = opening.use(new StateDb(database, { stagedDir, thread }))
  await finishInstall(log, db)
  const dir = join(storeDir, 'snapshots')
  const settle = () => db.settle()
  const snapshots = new Snapshots({ database, settle, dir, freeBytesMin, thread })
  const member = new Member({
    log,
    machine: db,
    network: options.network ?? nobody,
    scheduler: systemScheduler,
    observer: options.observer ?? noObserver,
    random: n => randomInt(n),
    onFatal: options.onFatal,
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  })
  const group = new Group(member)
  opening.defer(() => group.close())
  const routes = new RouteTable(db.rows)
  const bundles = opening.use(new Bundles(join(dataDir, 'bundles')))
  const state = new ReplicatedState(db, routes, group, options.propose)
  const nodeListeners = new Set<() => void>()
  keepInMemory(db, routes, nodeListeners)
  const parts = opening.move()
  return {
    identity: log.identity,
    state,
    routes,
    bundles,
    member,
    group,
    snapshots,
    staging,
    start: () => started(member, log, db),
    propose: command => state.proposeHere(command),
    onNodes: listener => void nodeListeners.add(listener),
    status: () => {
      const { role, term, lastIndex, commit } = member.status()
      const { clusterId, nodeId, uuid } = log.identity
      return {
        role: role === 'pre-candidate' ? 'candidate' : role,
        term,
        lastIndex,
        firstIndex: log.firstIndex,
        commitIndex: commit,
        appliedIndex: db.appliedIndex,
        clusterId,
        nodeId,
        uuid,
        stateHash: db.stateHash,
      }
    },
    // In reverse order of opening: the lock goes last.
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  }
}

function started(member: Member, log: JournaledLog, { confState }: StateDb): Promise<void> {
  // What the log of the only voter holds is committed, or is about to be.
  const isAlone = isOnlyVoter(confState, log.identity.nodeId)
  const index = isAlone ? log.lastIndex : member.commit
  member.start()
  return new Promise(resolve => {
    const timer = setTimeout(resolve, startMsMax)
    member.whenApplied(index, () => {
      clearTimeout(timer)
      resolve()
    })
  })
}

/** What is kept in memory of the rows follows them, also when a snapshot takes their place. */
function keepInMemory(db: StateDb, routes: RouteTable, nodeListeners: Set<() => void>): void {
  const tellNodes = () => {
    for (const listener of nodeListeners) listener()
  }
  db.onChanges((changes: readonly Change[]) => {
    routes.update(changes)
    if (changes.some(({ kind }) => kind === 'node')) tellNodes()
  })
  db.onReset(done => {
    inSlices(routes.reset(db.rows), () => {
      tellNodes()
      done()
    })
  })
}

/** The first node of a new cluster. */
export function firstIdentity(): Identity {
  return { clusterId: randomUUID(), nodeId: 1, uuid: randomUUID() }
}

/** A group of one has nobody to send to. */
const nobody: Network = {
  send: () => undefined,
  sendSnapshot: (_message, done) => done(false),
}

/** What has to be found by its id is in memory; a query takes SQLite's locks. */
class ReplicatedState extends Queries implements State {
  readonly #db: StateDb
  readonly #routes: RouteTable
  readonly #group: Group
  readonly #toLeader: (command: Command) => Promise<Outcome>

  constructor(
    db: StateDb,
    routes: RouteTable,
    group: Group,
    propose: ((command: Command) => Promise<Outcome>) | undefined,
  ) {
    super(db.rows)
    this.#db = db
    this.#routes = routes
    this.#group = group
    this.#toLeader = propose ?? (async command => (await this.proposeHere(command)).outcome)
  }

  override app(id: string): App | undefined {
    return this.#routes.appById(id)
  }

  override fn(id: string): Fn | undefined {
    return this.#routes.fnById(id)?.fn
  }

  override trigger(id: string): Trigger | undefined {
    return this.#routes.triggerById(id)
  }

  override clusterVersion(): number {
    return this.#db.clusterVersion
  }

  override nextNodeId(): number {
    return this.#db.nextNodeId
  }

  propose(command: Command): Promise<Outcome> {
    return this.#toLeader(command)
  }

  async proposeHere(command: Command): Promise<{ index: number; outcome: Outcome }> {
    const bytes = encodeCommand(command, this.clusterVersion())
    const { index, result } = await this.#group.propose(bytes)
    // The state machine is `StateDb`, whose results are outcomes.
    return { index, outcome: result as Outcome }
  }
}
