/**
 * One command on the rows: pure and deterministic, so that every node that applies the same log
 * holds the same rows and gives the same outcomes. No clock, no randomness, no unordered SELECT.
 * Every conflict is found before the first write, so that a refused command changes nothing.
 */
import { applyToNodes } from './apply-nodes.ts'
import type {
  Applied,
  AppPatch,
  Change,
  Command,
  FnPatch,
  Outcome,
  TriggerPatch,
} from './commands.ts'
import type { App, Fn, RegistryLogin, Trigger } from './objects.ts'
import { appFrom, fnFrom, sortedMap, type Tx, triggerFrom } from './rows.ts'

const annotationsMax = 100

type ConflictCode = Extract<Outcome, { ok: false }>['code']
type Strings = Readonly<Record<string, string>>

export function apply(tx: Tx, command: Command): Applied {
  switch (command.type) {
    case 'app.create':
      return createApp(tx, command.app)
    case 'app.update':
      return updateApp(tx, command.id, command.atMs, command.patch)
    case 'app.delete':
      return deleteApp(tx, command.id)
    case 'fn.create':
      return createFn(tx, command.fn)
    case 'fn.update':
      return updateFn(tx, command.id, command.atMs, command.patch)
    case 'fn.delete':
      return deleteFn(tx, command.id)
    case 'trigger.create':
      return createTrigger(tx, command.trigger)
    case 'trigger.update':
      return updateTrigger(tx, command.id, command.atMs, command.patch)
    case 'trigger.delete':
      return deleteTrigger(tx, command.id)
    case 'registry.set':
      return setRegistry(tx, command.login)
    case 'registry.delete':
      return deleteRegistry(tx, command.appId, command.host)
    default:
      return applyToNodes(tx, command)
  }
}

const unchanged = (object: App | Fn | Trigger): Applied => ({
  outcome: { ok: true, object },
  changes: [],
})

const gone = (changes: readonly Change[]): Applied => ({
  outcome: { ok: true, object: null },
  changes,
})

function conflict(code: ConflictCode): Applied {
  return { outcome: { ok: false, code }, changes: [] }
}

// Apps.

function createApp(tx: Tx, given: App): Applied {
  const app: App = {
    ...given,
    name: given.name.toWellFormed(),
    config: sortedMap(Object.entries(given.config)),
    annotations: sortedMap(Object.entries(given.annotations)),
    syslogUrl: given.syslogUrl.toWellFormed(),
  }
  // Ids are unique by construction; a clash is refused like a clash of names, never overwritten.
  if (tx.get('SELECT 1 FROM apps WHERE name = ? OR id = ?', app.name, app.id) !== undefined) {
    return conflict('app-exists')
  }
  if (hasTooManyAnnotations(app.annotations)) return conflict('annotation-too-many')
  tx.run(
    `INSERT INTO apps (id, name, config, annotations, syslog_url, shape, created_ms, updated_ms)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
    app.id,
    app.name,
    JSON.stringify(app.config),
    JSON.stringify(app.annotations),
    app.syslogUrl,
    app.shape,
    app.createdMs,
    app.updatedMs,
  )
  return appChanged(app)
}

function updateApp(tx: Tx, id: string, atMs: number, patch: AppPatch): Applied {
  const old = findApp(tx, id)
  if (old === undefined) return conflict('app-not-found')
  if (patch.name !== undefined && patch.name !== old.name) return conflict('app-name-immutable')
  const merged: App = {
    ...old,
    config: mergeConfig(old.config, patch.config),
    annotations: mergeAnnotations(old.annotations, patch.annotations),
    syslogUrl: patch.syslogUrl?.toWellFormed() ?? old.syslogUrl,
  }
  if (hasTooManyAnnotations(merged.annotations)) return conflict('annotation-too-many')
  if (isSame(old, merged)) return unchanged(old)
  const app = { ...merged, updatedMs: atMs }
  tx.run(
    'UPDATE apps SET config = ?, annotations = ?, syslog_url = ?, updated_ms = ? WHERE id = ?',
    JSON.stringify(app.config),
    JSON.stringify(app.annotations),
    app.syslogUrl,
    app.updatedMs,
    id,
  )
  return appChanged(app)
}

function deleteApp(tx: Tx, id: string): Applied {
  if (findApp(tx, id) === undefined) return conflict('app-not-found')
  const changes: Change[] = []
  for (const row of tx.all('SELECT id FROM triggers WHERE app_id = ? ORDER BY id', id)) {
    changes.push({ kind: 'trigger', id: String(row.id), row: null })
  }
  for (const row of tx.all('SELECT id FROM fns WHERE app_id = ? ORDER BY id', id)) {
    changes.push({ kind: 'fn', id: String(row.id), row: null })
  }
  changes.push({ kind: 'app', id, row: null })
  // Explicit deletes, so that the cascade does not hang on a pragma of the connection.
  tx.run('DELETE FROM triggers WHERE app_id = ?', id)
  tx.run('DELETE FROM fns WHERE app_id = ?', id)
  tx.run('DELETE FROM registries WHERE app_id = ?', id)
  tx.run('DELETE FROM apps WHERE id = ?', id)
  return gone(changes)
}

// Functions.

function createFn(tx: Tx, given: Fn): Applied {
  const app = findApp(tx, given.appId)
  if (app === undefined) return conflict('app-not-found')
  const fn: Fn = {
    ...given,
    name: given.name.toWellFormed(),
    image: given.image.toWellFormed(),
    config: sortedMap(Object.entries(given.config)),
    annotations: sortedMap(Object.entries(given.annotations)),
    // A function has the shape of its app, whatever was asked for (fn-api.md §1.3).
    shape: app.shape,
  }
  const taken = 'SELECT 1 FROM fns WHERE (app_id = ? AND name = ?) OR id = ?'
  if (tx.get(taken, fn.appId, fn.name, fn.id) !== undefined) return conflict('fn-exists')
  if (hasTooManyAnnotations(fn.annotations)) return conflict('annotation-too-many')
  tx.run(
    `INSERT INTO fns (id, name, app_id, image, memory_mb, timeout_s, idle_timeout_s, config,
       annotations, shape, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    fn.id,
    fn.name,
    fn.appId,
    fn.image,
    fn.memoryMb,
    fn.timeoutS,
    fn.idleTimeoutS,
    JSON.stringify(fn.config),
    JSON.stringify(fn.annotations),
    fn.shape,
    fn.createdMs,
    fn.updatedMs,
  )
  return fnChanged(fn)
}

function updateFn(tx: Tx, id: string, atMs: number, patch: FnPatch): Applied {
  const old = findFn(tx, id)
  if (old === undefined) return conflict('fn-not-found')
  const merged: Fn = {
    ...old,
    image: patch.image?.toWellFormed() ?? old.image,
    memoryMb: patch.memoryMb ?? old.memoryMb,
    timeoutS: patch.timeoutS ?? old.timeoutS,
    idleTimeoutS: patch.idleTimeoutS ?? old.idleTimeoutS,
    config: mergeConfig(old.config, patch.config),
    annotations: mergeAnnotations(old.annotations, patch.annotations),
  }
  if (hasTooManyAnnotations(merged.annotations)) return conflict('annotation-too-many')
  if (isSame(old, merged)) return unchanged(old)
  const fn = { ...merged, updatedMs: atMs }
  tx.run(
    `UPDATE fns SET image = ?, memory_mb = ?, timeout_s = ?, idle_timeout_s = ?, config = ?,
       annotations = ?, updated_ms = ? WHERE id = ?`,
    fn.image,
    fn.memoryMb,
    fn.timeoutS,
    fn.idleTimeoutS,
    JSON.stringify(fn.config),
    JSON.stringify(fn.annotations),
    fn.updatedMs,
    id,
  )
  return fnChanged(fn)
}

function deleteFn(tx: Tx, id: string): Applied {
  if (findFn(tx, id) === undefined) return conflict('fn-not-found')
  const changes: Change[] = []
  for (const row of tx.all('SELECT id FROM triggers WHERE fn_id = ? ORDER BY id', id)) {
    changes.push({ kind: 'trigger', id: String(row.id), row: null })
  }
  changes.push({ kind: 'fn', id, row: null })
  tx.run('DELETE FROM triggers WHERE fn_id = ?', id)
  tx.run('DELETE FROM fns WHERE id = ?', id)
  return gone(changes)
}

// Triggers.

function createTrigger(tx: Tx, given: Trigger): Applied {
  const trigger: Trigger = {
    ...given,
    name: given.name.toWellFormed(),
    source: given.source.toWellFormed(),
    annotations: sortedMap(Object.entries(given.annotations)),
  }
  if (findApp(tx, trigger.appId) === undefined) return conflict('app-not-found')
  const clash = triggerClash(tx, trigger)
  if (clash !== undefined) return conflict(clash)
  if (findTrigger(tx, trigger.id) !== undefined) return conflict('trigger-exists')
  if (hasTooManyAnnotations(trigger.annotations)) return conflict('annotation-too-many')
  tx.run(
    `INSERT INTO triggers (id, name, app_id, fn_id, type, source, annotations, created_ms,
       updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    trigger.id,
    trigger.name,
    trigger.appId,
    trigger.fnId,
    trigger.type,
    trigger.source,
    JSON.stringify(trigger.annotations),
    trigger.createdMs,
    trigger.updatedMs,
  )
  return triggerChanged(trigger)
}

function updateTrigger(tx: Tx, id: string, atMs: number, patch: TriggerPatch): Applied {
  const old = findTrigger(tx, id)
  if (old === undefined) return conflict('trigger-not-found')
  const merged: Trigger = {
    ...old,
    name: patch.name?.toWellFormed() ?? old.name,
    fnId: patch.fnId ?? old.fnId,
    source: patch.source?.toWellFormed() ?? old.source,
    annotations: mergeAnnotations(old.annotations, patch.annotations),
  }
  // Fn's server does not check this on PUT and answers 500; here as on create (fn-api.md §10).
  const clash = triggerClash(tx, merged)
  if (clash !== undefined) return conflict(clash)
  if (hasTooManyAnnotations(merged.annotations)) return conflict('annotation-too-many')
  if (isSame(old, merged)) return unchanged(old)
  const trigger = { ...merged, updatedMs: atMs }
  tx.run(
    `UPDATE triggers SET name = ?, fn_id = ?, source = ?, annotations = ?, updated_ms = ?
     WHERE id = ?`,
    trigger.name,
    trigger.fnId,
    trigger.source,
    JSON.stringify(trigger.annotations),
    trigger.updatedMs,
    id,
  )
  return triggerChanged(trigger)
}

function deleteTrigger(tx: Tx, id: string): Applied {
  if (findTrigger(tx, id) === undefined) return conflict('trigger-not-found')
  tx.run('DELETE FROM triggers WHERE id = ?', id)
  return gone([{ kind: 'trigger', id, row: null }])
}

/** What stands in the way of this trigger, in Fn's order of checks (fn-api.md §1.5). */
function triggerClash(tx: Tx, trigger: Trigger): ConflictCode | undefined {
  const fn = findFn(tx, trigger.fnId)
  if (fn === undefined) return 'fn-not-found'
  if (fn.appId !== trigger.appId) return 'trigger-fn-not-owned'
  const sourceTaken = tx.get(
    'SELECT 1 FROM triggers WHERE app_id = ? AND type = ? AND source = ? AND id <> ?',
    trigger.appId,
    trigger.type,
    trigger.source,
    trigger.id,
  )
  if (sourceTaken !== undefined) return 'trigger-source-exists'
  const nameTaken = tx.get(
    'SELECT 1 FROM triggers WHERE app_id = ? AND fn_id = ? AND name = ? AND id <> ?',
    trigger.appId,
    trigger.fnId,
    trigger.name,
    trigger.id,
  )
  return nameTaken === undefined ? undefined : 'trigger-exists'
}

// Registries.

function setRegistry(tx: Tx, login: RegistryLogin): Applied {
  if (findApp(tx, login.appId) === undefined) return conflict('app-not-found')
  tx.run(
    `INSERT INTO registries (app_id, host, username, sealed, updated_ms) VALUES (?, ?, ?, ?, ?)
     ON CONFLICT (app_id, host) DO UPDATE SET username = excluded.username,
       sealed = excluded.sealed, updated_ms = excluded.updated_ms`,
    login.appId,
    login.host,
    login.username.toWellFormed(),
    login.sealed,
    login.updatedMs,
  )
  return gone([])
}

function deleteRegistry(tx: Tx, appId: string, host: string): Applied {
  const known = 'SELECT 1 FROM registries WHERE app_id = ? AND host = ?'
  if (tx.get(known, appId, host) === undefined) return conflict('registry-not-found')
  tx.run('DELETE FROM registries WHERE app_id = ? AND host = ?', appId, host)
  return gone([])
}

// Rows.

function findApp(tx: Tx, id: string): App | undefined {
  const row = tx.get('SELECT * FROM apps WHERE id = ?', id)
  return row === undefined ? undefined : appFrom(row)
}

function findFn(tx: Tx, id: string): Fn | undefined {
  const row = tx.get('SELECT * FROM fns WHERE id = ?', id)
  return row === undefined ? undefined : fnFrom(row)
}

function findTrigger(tx: Tx, id: string): Trigger | undefined {
  const row = tx.get('SELECT * FROM triggers WHERE id = ?', id)
  return row === undefined ? undefined : triggerFrom(row)
}

function appChanged(app: App): Applied {
  return { outcome: { ok: true, object: app }, changes: [{ kind: 'app', id: app.id, row: app }] }
}

function fnChanged(fn: Fn): Applied {
  return { outcome: { ok: true, object: fn }, changes: [{ kind: 'fn', id: fn.id, row: fn }] }
}

function triggerChanged(trigger: Trigger): Applied {
  const change: Change = { kind: 'trigger', id: trigger.id, row: trigger }
  return { outcome: { ok: true, object: trigger }, changes: [change] }
}

// Merging.

function mergeConfig(old: Strings, patch: Strings | undefined): Strings {
  return merge(old, patch, value => value === '')
}

function mergeAnnotations(old: Strings, patch: Strings | undefined): Strings {
  return merge(old, patch, value => value === '""' || value === 'null')
}

/** The map itself when the patch changes nothing of it. */
function merge(
  old: Strings,
  patch: Strings | undefined,
  isRemoval: (value: string) => boolean,
): Strings {
  if (patch === undefined) return old
  // Lists and own fields, because `__proto__` and `constructor` are ordinary keys here.
  const fields: [string, string][] = []
  let isChanged = false
  for (const key of Object.keys(old)) {
    const value = old[key] as string
    const given = Object.hasOwn(patch, key) ? patch[key] : undefined
    if (given === undefined) fields.push([key, value])
    else if (isRemoval(given)) isChanged = true
    else {
      fields.push([key, given])
      isChanged ||= given !== value
    }
  }
  const oldCount = fields.length
  for (const key of Object.keys(patch)) {
    const value = patch[key] as string
    if (!Object.hasOwn(old, key) && !isRemoval(value)) fields.push([key, value])
  }
  if (fields.length > oldCount) return sortedMap(fields)
  return isChanged ? Object.fromEntries(fields) : old
}

function hasTooManyAnnotations(annotations: Strings): boolean {
  return Object.keys(annotations).length > annotationsMax
}

/** Of an object and what `merge` made of it: maps that nothing changed are the same object. */
function isSame<T extends App | Fn | Trigger>(old: T, merged: T): boolean {
  for (const key in old) if (old[key] !== merged[key]) return false
  return true
}
