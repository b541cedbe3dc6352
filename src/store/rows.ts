import type {
  Annotations,
  App,
  Config,
  Fn,
  Node,
  NodeState,
  RegistryLogin,
  Trigger,
} from './objects.ts'

/** The rows of SQLite and the objects made from them. Maps are stored as JSON text, keys sorted. */
export type SqlValue = string | number | null | Uint8Array
export type Row = Readonly<Record<string, SqlValue>>

/**
 * The rows as a command sees them: everything runs inside one transaction, and the same statements
 * in the same order have the same effect. The implementation caches statements by their text.
 */
export interface Tx {
  get(sql: string, ...values: SqlValue[]): Row | undefined
  all(sql: string, ...values: SqlValue[]): Row[]
  run(sql: string, ...values: SqlValue[]): void
}

function text(row: Row, column: string): string {
  const value = row[column]
  if (typeof value !== 'string') throw new TypeError(`column ${column} holds text`)
  return value
}

function number(row: Row, column: string): number {
  const value = row[column]
  if (typeof value !== 'number') throw new TypeError(`column ${column} holds a number`)
  return value
}

function map(row: Row, column: string): Readonly<Record<string, string>> {
  const json = text(row, column)
  // Most maps are empty, and this runs for every row at start.
  return json === '{}' ? {} : JSON.parse(json)
}

/** Keys in order of their UTF-16 code units, so that equal maps have equal text on every node. */
export function sortedMap(entries: Iterable<readonly [string, string]>): Record<string, string> {
  const sorted = [...entries].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  // Not by assignment: `__proto__` is a legal key, and fromEntries makes it an own property.
  return Object.fromEntries(sorted)
}

export function appFrom(row: Row): App {
  return {
    id: text(row, 'id'),
    name: text(row, 'name'),
    config: map(row, 'config') as Config,
    annotations: map(row, 'annotations') as Annotations,
    syslogUrl: text(row, 'syslog_url'),
    shape: text(row, 'shape'),
    createdMs: number(row, 'created_ms'),
    updatedMs: number(row, 'updated_ms'),
  }
}

export function fnFrom(row: Row): Fn {
  return {
    id: text(row, 'id'),
    name: text(row, 'name'),
    appId: text(row, 'app_id'),
    image: text(row, 'image'),
    memoryMb: number(row, 'memory_mb'),
    timeoutS: number(row, 'timeout_s'),
    idleTimeoutS: number(row, 'idle_timeout_s'),
    config: map(row, 'config') as Config,
    annotations: map(row, 'annotations') as Annotations,
    shape: text(row, 'shape'),
    createdMs: number(row, 'created_ms'),
    updatedMs: number(row, 'updated_ms'),
  }
}

export function triggerFrom(row: Row): Trigger {
  return {
    id: text(row, 'id'),
    name: text(row, 'name'),
    appId: text(row, 'app_id'),
    fnId: text(row, 'fn_id'),
    type: 'http',
    source: text(row, 'source'),
    annotations: map(row, 'annotations') as Annotations,
    createdMs: number(row, 'created_ms'),
    updatedMs: number(row, 'updated_ms'),
  }
}

export function registryFrom(row: Row): RegistryLogin {
  return {
    appId: text(row, 'app_id'),
    host: text(row, 'host'),
    username: text(row, 'username'),
    sealed: text(row, 'sealed'),
    updatedMs: number(row, 'updated_ms'),
  }
}

export function nodeFrom(row: Row): Node {
  return {
    id: number(row, 'id'),
    uuid: text(row, 'uuid'),
    name: text(row, 'name'),
    peerAddress: text(row, 'peer_address'),
    apiUrl: text(row, 'api_url'),
    version: text(row, 'version'),
    commandVersion: number(row, 'command_version'),
    // Only commands write it.
    state: text(row, 'state') as NodeState,
    joinedMs: number(row, 'joined_ms'),
  }
}
