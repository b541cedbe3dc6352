/**
 * What is done to a data directory while no server has it: it puts the parts of the store together
 * as `node.ts` does for a server. All throw `StartError` when the directory is in use or damaged.
 */
import { randomUUID } from 'node:crypto'
import { createReadStream, existsSync } from 'node:fs'
import { join } from 'node:path'
import { removeClusterFiles } from './cluster/authority.ts'
import { StartError } from './errors.ts'
import { Bundles } from './store/bundles.ts'
import { StateDb } from './store/db.ts'
import { DataLock } from './store/lock.ts'
import { JournaledLog } from './store/log.ts'
import { recoverStore } from './store/recover.ts'
import { imagesSql, referencedBundles } from './store/references.ts'
import {
  isFreeToRestore,
  mustNotBeHalfRestored,
  restoreBackup as restore,
} from './store/restore.ts'

export { isFreeToRestore }

export interface DataSummary {
  readonly clusterId: string
  readonly nodeId: number
  /** Of the configuration as applied. */
  readonly voters: readonly number[]
  readonly appliedIndex: number
  /** Known to be committed. */
  readonly commitIndex: number
  readonly lastIndex: number
  readonly lastTerm: number
}

export interface Restored {
  /** New: members of the old cluster are refused. */
  readonly clusterId: string
  readonly nodeId: number
  /** The last entry that is kept. */
  readonly index: number
  /** Hashes of bundles that functions refer to and that are not there: deploy them again. */
  readonly missing: readonly string[]
}

/** Changes nothing that counts. */
export async function inspectData(dataDir: string): Promise<DataSummary> {
  const storeDir = mustHoldData(dataDir)
  using _lock = new DataLock(dataDir)
  using db = new StateDb(join(storeDir, 'state.db'))
  const log = await JournaledLog.open({
    dir: storeDir,
    identity: mustHaveIdentity,
    freeBytesMin: 0,
  })
  try {
    const { identity, lastIndex, hardState } = log
    const { appliedIndex, confState } = db
    return {
      clusterId: identity.clusterId,
      nodeId: identity.nodeId,
      voters: confState.voters,
      appliedIndex,
      commitIndex: Math.max(hardState.commit, appliedIndex),
      lastIndex,
      lastTerm: log.term(lastIndex) ?? 0,
    }
  } finally {
    await log.close()
  }
}

/**
 * Makes the node the only voter of a new cluster; its whole log counts as committed. When it broke
 * off, the directory does not serve until it was repeated.
 */
export async function recoverData(dataDir: string): Promise<Restored> {
  const storeDir = mustHoldData(dataDir)
  using _lock = new DataLock(dataDir)
  const clusterId = randomUUID()
  const { identity, index } = await recoverStore({ storeDir, clusterId, uuid: randomUUID() })
  // Of the old cluster. Behind the log, which does not start with them: so it shows when this
  // broke off. The next start makes an authority of the new cluster.
  await removeClusterFiles(dataDir)
  return { clusterId, nodeId: identity.nodeId, index, missing: await missingBundles(dataDir) }
}

/**
 * `dataDir` is empty or does not exist. Nothing is left there when it throws: also `FndError`
 * `backup-invalid`, with what is wrong with the file.
 */
export async function restoreBackup(file: string, dataDir: string): Promise<Restored> {
  const identity = { clusterId: randomUUID(), uuid: randomUUID() }
  const { head, recovered } = await restore(createReadStream(file), dataDir, identity)
  const { nodeId } = recovered.identity
  const { clusterId } = identity
  return { clusterId, nodeId, index: recovered.index, missing: head.missing }
}

function mustHoldData(dataDir: string): string {
  const storeDir = join(dataDir, 'store')
  const isThere = ['state.db', 'log.mdb'].every(name => existsSync(join(storeDir, name)))
  if (!isThere) {
    throw new StartError(`${dataDir} is no data directory of fnd: name what --data or FND_DATA was`)
  }
  mustNotBeHalfRestored(dataDir)
  return storeDir
}

async function missingBundles(dataDir: string): Promise<readonly string[]> {
  using db = new StateDb(join(dataDir, 'store', 'state.db'))
  await using bundles = new Bundles(join(dataDir, 'bundles'))
  return referencedBundles(db.rows.all(imagesSql)).filter(hash => bundles.get(hash) === undefined)
}

function mustHaveIdentity(): never {
  throw new StartError('The log is empty: this node never was a member, so there is nothing here.')
}
