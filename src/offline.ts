/**
 * What is done to a data directory while no server has it: it puts the parts of the store together
 * as `node.ts` does for a server. All throw `StartError` when the directory is in use or damaged.
 */
import { randomUUID } from 'node:crypto'
import { createReadStream, existsSync } from 'node:fs'
import { join } from 'node:path'
import { removeClusterFiles } from './cluster/authority.ts'
import { StartError } from './errors.ts'
import { restoreBackup as restore } from './store/backup.ts'
import { StateDb } from './store/db.ts'
import { DataLock } from './store/lock.ts'
import { LmdbLog } from './store/log.ts'
import { recoverStore } from './store/recover.ts'

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
  /** Hashes of bundles that functions refer to and that are not there. */
  readonly missing: readonly string[]
}

/** Changes nothing that counts. */
export async function inspectData(dataDir: string): Promise<DataSummary> {
  const storeDir = mustHoldLog(dataDir)
  using _lock = new DataLock(dataDir)
  using db = new StateDb(join(storeDir, 'state.db'))
  const log = await LmdbLog.open({ dir: storeDir, identity: () => nobody, freeBytesMin: 0 })
  try {
    const { clusterId, nodeId } = log.identity
    const { lastIndex } = log
    const { appliedIndex } = db
    return {
      clusterId,
      nodeId,
      voters: db.confState.voters,
      appliedIndex,
      commitIndex: Math.max(log.hardState.commit, appliedIndex),
      lastIndex,
      lastTerm: log.term(lastIndex) ?? 0,
    }
  } finally {
    await log.close()
  }
}

/**
 * Makes the node the only voter of a new cluster; its whole log counts as committed. After a crash
 * it has to be repeated: until it is done the node does not start.
 */
export async function recoverData(dataDir: string): Promise<Restored> {
  const storeDir = mustHoldLog(dataDir)
  using _lock = new DataLock(dataDir)
  const clusterId = randomUUID()
  const { identity, index } = await recoverStore({ storeDir, clusterId, uuid: '' })
  // The authority of the old cluster: the next start makes one of the new.
  await removeClusterFiles(dataDir)
  return { clusterId, nodeId: identity.nodeId, index, missing: [] }
}

/**
 * `dataDir` is empty or does not exist. Nothing is left there when it throws: `FndError`
 * `backup-invalid` where the file is damaged, or none of ours.
 */
export async function restoreBackup(file: string, dataDir: string): Promise<Restored> {
  const clusterId = randomUUID()
  const stream = createReadStream(file)
  const { head, recovered } = await restore(stream, dataDir, { clusterId, uuid: randomUUID() })
  const { identity, index } = recovered
  return { clusterId, nodeId: identity.nodeId, index, missing: head.missing }
}

const nobody = { clusterId: '', nodeId: 0, uuid: '' }

function mustHoldLog(dataDir: string): string {
  const storeDir = join(dataDir, 'store')
  if (existsSync(join(storeDir, 'log.mdb'))) return storeDir
  throw new StartError(`${dataDir} holds no data of fnd: name the directory that --data named.`)
}
