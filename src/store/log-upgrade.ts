/**
 * Logs of the time when a node was alone: one value for each entry under its index, and a hard
 * state that names nodes by the uuids of their directories. All entries were of its only term.
 */
import type { Database, RootDatabase } from 'lmdb'
import { StartError } from '../errors.ts'
import type { Identity } from '../raft/ports.ts'
import type { Entry, HardState } from '../raft/types.ts'
import {
  type Base,
  baseRecord,
  cure,
  decodeRecord,
  encodeHard,
  encodeSegment,
  keyOf,
  type LogKey,
  segmentsOf,
  textRecord,
} from './log-records.ts'

interface OldLog {
  readonly identity: Identity
  readonly hardState: HardState
  readonly base: Base
  readonly entries: readonly Entry[]
}

interface OldHardState {
  readonly term: number
  readonly commitIndex: number
  readonly clusterId: string
  readonly nodeId: string
}

/**
 * Brings an old log into the form of a newer one, and removes what it was in: one transaction, so
 * that a crash leaves either. Does nothing to a log of any other kind. Throws `StartError` at
 * damage.
 */
export function upgradeOldLog(root: RootDatabase<Uint8Array, LogKey>): void {
  // Names of databases are no keys that `get` finds.
  const [name] = root.getKeys({ start: 'entries', limit: 1 })
  if (name !== 'entries') return
  const entries = root.openDB<Uint8Array, number>('entries', { encoding: 'binary' })
  const meta = root.openDB<Uint8Array, string>('meta', { encoding: 'binary' })
  const old = readOldLog(entries, meta)
  if (old === undefined) return
  root.transactionSync(() => {
    putOld(root, old)
    entries.dropSync()
    meta.dropSync()
  })
}

function putOld(
  root: RootDatabase<Uint8Array, LogKey>,
  { entries: all, hardState, identity, base }: OldLog,
): void {
  for (const entries of segmentsOf(all)) {
    root.putSync(keyOf(entries), encodeSegment(entries, hardState))
  }
  root.putSync('identity', textRecord(JSON.stringify(identity)))
  root.putSync('base', baseRecord(base))
  root.putSync('hard', encodeHard({ hardState, settled: undefined }))
}

/** Undefined when the process that made it ended before anything was in it. */
function readOldLog(
  database: Database<Uint8Array, number>,
  meta: Database<Uint8Array, string>,
): OldLog | undefined {
  const entries: Entry[] = []
  for (const { key, value } of database.getRange()) {
    const { index, term, bytes } = decodeRecord(value, `entry ${key}`)
    const previous = entries.at(-1)
    if (index !== key || (previous !== undefined && index !== previous.index + 1)) {
      throw new StartError(`The log lacks entries before entry ${key}: it is damaged. ${cure}`)
    }
    // A copy, as the buffer is lmdb's own.
    entries.push({ index, term, kind: 'normal', bytes: bytes.slice() })
  }
  const record = meta.get('hard')
  if (record === undefined) {
    if (entries.length === 0) return undefined
    throw new StartError(`The log holds entries but no hard state: it is damaged. ${cure}`)
  }
  const hard = JSON.parse(new TextDecoder().decode(decodeRecord(record, 'hard').bytes))
  const { term, commitIndex, clusterId, nodeId } = hard as OldHardState
  const index = (entries[0]?.index ?? 1) - 1
  return {
    // A node that was alone is the first of the cluster that it may become.
    identity: { clusterId, nodeId: 1, uuid: nodeId },
    hardState: { term, vote: 1, commit: commitIndex },
    base: { index, term: index === 0 ? 0 : term },
    entries,
  }
}
