/** The tables of the state, and how those of earlier versions become them. */
import type { Database } from 'bun:sqlite'
import { StartError } from '../errors.ts'
import type { ConfState } from '../raft/types.ts'
import { firstClusterVersion } from './codec.ts'

export const schemaVersion = 3

const registries = `
CREATE TABLE registries (
  app_id TEXT NOT NULL REFERENCES apps (id), host TEXT NOT NULL, username TEXT NOT NULL,
  sealed TEXT NOT NULL, updated_ms INTEGER NOT NULL, PRIMARY KEY (app_id, host)
) STRICT, WITHOUT ROWID;`

/** A cluster begins as its first node alone. */
export const firstConfState: ConfState = {
  voters: [1],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
}

const cluster = `
CREATE TABLE nodes (
  id INTEGER PRIMARY KEY NOT NULL, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  peer_address TEXT NOT NULL, api_url TEXT NOT NULL, version TEXT NOT NULL,
  command_version INTEGER NOT NULL, state TEXT NOT NULL, joined_ms INTEGER NOT NULL
) STRICT;
ALTER TABLE meta ADD COLUMN conf_state TEXT NOT NULL DEFAULT '${encodeConfState(firstConfState)}';
ALTER TABLE meta ADD COLUMN next_node_id INTEGER NOT NULL DEFAULT 1;
ALTER TABLE meta ADD COLUMN cluster_version INTEGER NOT NULL DEFAULT ${firstClusterVersion};`

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
${cluster}
PRAGMA user_version = ${schemaVersion};
`

/** What each version added to the one before. */
const migrations: readonly (readonly [version: number, sql: string])[] = [
  [2, registries],
  [3, cluster],
]

/** Makes or migrates the tables. Throws `StartError` when they are of a later version. */
export function prepareSchema(db: Database, path: string): void {
  const row = db.query<{ user_version: number }, []>('PRAGMA user_version').get()
  const found = row?.user_version ?? 0
  if (found === schemaVersion) return
  if (found > schemaVersion) {
    throw new StartError(
      `${path} has schema ${found}, this fnd knows ${schemaVersion}. The data directory was ` +
        'used by a newer fnd: start that version or a later one.',
    )
  }
  const missing = migrations.filter(([version]) => version > found).map(([, sql]) => sql)
  const steps =
    found === 0 ? schema : `${missing.join('\n')} PRAGMA user_version = ${schemaVersion};`
  db.transaction(() => db.run(steps))()
}

/** The same text on every node for the same configuration. */
export function encodeConfState(state: ConfState): string {
  const { voters, votersOutgoing, learners, learnersNext, autoLeave } = state
  return JSON.stringify({ voters, votersOutgoing, learners, learnersNext, autoLeave })
}

export function decodeConfState(text: string): ConfState {
  return JSON.parse(text)
}
