/**
 * What is done to a data directory while no server has it: it puts the parts of the store together
 * as `node.ts` does for a server. All throw `StartError` when the directory is in use or damaged.
 */
import { StartError } from './errors.ts'

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
}

/** Reads only. */
export async function inspectData(dataDir: string): Promise<DataSummary> {
  throw new StartError(`${dataDir}: this fnd keeps no log that could be recovered`)
}

/** Makes the node the only voter of a new cluster; its whole log counts as committed. */
export async function recoverData(dataDir: string): Promise<Restored> {
  throw new StartError(`${dataDir}: this fnd keeps no log that could be recovered`)
}

/** `dataDir` is empty or does not exist. Nothing is left there when it throws. */
export async function restoreBackup(file: string, _dataDir: string): Promise<Restored> {
  throw new StartError(`${file}: this fnd reads no backups`)
}
