import { assert } from '../errors.ts'
import type { Change } from './commands.ts'
import type { App, Fn, Trigger } from './objects.ts'
import { appFrom, fnFrom, type Row, type SqlValue, type Tx, triggerFrom } from './rows.ts'
import type { FnRoute, Routes } from './state.ts'

/** A function that was added (`before` undefined), replaced, or removed (`after` undefined). */
export interface RouteChange {
  readonly fnId: string
  readonly before: FnRoute | undefined
  readonly after: FnRoute | undefined
}

export type RouteListener = (change: RouteChange) => void

/**
 * The route table: everything that the invoke path looks up, in memory. It holds every app and
 * function of the cluster; one function with its maps takes about a kilobyte.
 */
export class RouteTable implements Routes {
  #apps = new Map<string, App>()
  #appIdByName = new Map<string, string>()
  #fns = new Map<string, FnRoute>()
  #fnIdsByApp = new Map<string, Set<string>>()
  #triggers = new Map<string, Trigger>()
  /** App id → source → trigger. */
  #bySource = new Map<string, Map<string, Trigger>>()
  readonly #listeners = new Set<RouteListener>()

  /** Reads the whole state; later changes come through `update`. */
  constructor(rows?: Pick<Tx, 'all'>) {
    if (rows !== undefined) for (const _ of this.#reading(rows));
  }

  fnById(id: string): FnRoute | undefined {
    return this.#fns.get(id)
  }

  appById(id: string): App | undefined {
    return this.#apps.get(id)
  }

  triggerById(id: string): Trigger | undefined {
    return this.#triggers.get(id)
  }

  appByName(name: string): App | undefined {
    const id = this.#appIdByName.get(name)
    return id === undefined ? undefined : this.#apps.get(id)
  }

  fnBySource(app: App, source: string): FnRoute | undefined {
    const trigger = this.#bySource.get(app.id)?.get(source)
    return trigger === undefined ? undefined : this.#fns.get(trigger.fnId)
  }

  /** Every route, for whoever starts after the table was built. */
  all(): Iterable<FnRoute> {
    return this.#fns.values()
  }

  /** Told of each function after the table changed. Returns the way to stop. */
  onChange(listener: RouteListener): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
    }
  }

  /** Takes the changes of one applied batch, then tells the listeners. */
  update(changes: readonly Change[]): void {
    const told: RouteChange[] = []
    for (const change of changes) {
      if (change.kind === 'app') this.#updateApp(change.id, change.row, told)
      else if (change.kind === 'fn') this.#updateFn(change.id, change.row, told)
      else if (change.kind === 'trigger') this.#updateTrigger(change.id, change.row)
    }
    for (const change of told) for (const listener of this.#listeners) listener(change)
  }

  /**
   * Reads the whole state anew, where another took its place, in small steps: each step of the
   * iterator is short. What is looked up meanwhile is found in the old state, until all of the new
   * one is read. Routes that are as before stay the same objects; the listeners are told of the
   * others. No `update` may come before the end.
   */
  *reset(rows: Pick<Tx, 'all'>): Generator<undefined, void> {
    const fresh = new RouteTable()
    yield* fresh.#reading(rows)
    const old = this.#fns
    const sameApps = new Set<App>()
    for (const [id, app] of fresh.#apps) {
      const before = this.#apps.get(id)
      if (before !== undefined && isSame(before, app)) sameApps.add(app)
      yield
    }
    const told: RouteChange[] = []
    for (const [fnId, after] of fresh.#fns) {
      const before = old.get(fnId)
      const isKept = before !== undefined && sameApps.has(after.app) && isSame(before.fn, after.fn)
      if (isKept) fresh.#fns.set(fnId, before)
      else told.push({ fnId, before, after })
      yield
    }
    for (const [fnId, before] of old) {
      if (!fresh.#fns.has(fnId)) told.push({ fnId, before, after: undefined })
      yield
    }
    this.#become(fresh)
    for (const change of told) {
      for (const listener of this.#listeners) listener(change)
      yield
    }
  }

  #become(other: RouteTable): void {
    this.#apps = other.#apps
    this.#appIdByName = other.#appIdByName
    this.#fns = other.#fns
    this.#fnIdsByApp = other.#fnIdsByApp
    this.#triggers = other.#triggers
    this.#bySource = other.#bySource
  }

  *#reading(rows: Pick<Tx, 'all'>): Generator<undefined, void> {
    for (const page of pages(rows, 'apps')) {
      for (const row of page) this.#putApp(appFrom(row))
      yield
    }
    for (const page of pages(rows, 'fns')) {
      for (const row of page) this.#putFn(fnFrom(row))
      yield
    }
    for (const page of pages(rows, 'triggers')) {
      for (const row of page) this.#putTrigger(triggerFrom(row))
      yield
    }
  }

  #updateApp(id: string, row: App | null, told: RouteChange[]): void {
    if (row === null) {
      const old = this.#apps.get(id)
      // The name may belong to another app by now: one batch can delete and create.
      if (old !== undefined && this.#appIdByName.get(old.name) === id) {
        this.#appIdByName.delete(old.name)
      }
      this.#apps.delete(id)
      return
    }
    this.#putApp(row)
    for (const fnId of this.#fnIdsByApp.get(id) ?? []) {
      const before = this.#fns.get(fnId)
      if (before === undefined) continue
      const after: FnRoute = { app: row, fn: before.fn }
      this.#fns.set(fnId, after)
      told.push({ fnId, before, after })
    }
  }

  #updateFn(id: string, row: Fn | null, told: RouteChange[]): void {
    const before = this.#fns.get(id)
    if (row !== null) {
      told.push({ fnId: id, before, after: this.#putFn(row) })
      return
    }
    if (before === undefined) return
    this.#fns.delete(id)
    const siblings = this.#fnIdsByApp.get(before.fn.appId)
    siblings?.delete(id)
    if (siblings?.size === 0) this.#fnIdsByApp.delete(before.fn.appId)
    told.push({ fnId: id, before, after: undefined })
  }

  #updateTrigger(id: string, row: Trigger | null): void {
    const old = this.#triggers.get(id)
    if (old !== undefined) {
      const sources = this.#bySource.get(old.appId)
      if (sources?.get(old.source)?.id === id) sources.delete(old.source)
      if (sources?.size === 0) this.#bySource.delete(old.appId)
      this.#triggers.delete(id)
    }
    if (row !== null) this.#putTrigger(row)
  }

  #putApp(app: App): void {
    this.#apps.set(app.id, app)
    this.#appIdByName.set(app.name, app.id)
  }

  #putFn(fn: Fn): FnRoute {
    const app = this.#apps.get(fn.appId)
    assert(app !== undefined, 'every function belongs to an app')
    const route: FnRoute = { app, fn }
    this.#fns.set(fn.id, route)
    const siblings = this.#fnIdsByApp.get(fn.appId)
    if (siblings === undefined) this.#fnIdsByApp.set(fn.appId, new Set([fn.id]))
    else siblings.add(fn.id)
    return route
  }

  #putTrigger(trigger: Trigger): void {
    this.#triggers.set(trigger.id, trigger)
    const sources = this.#bySource.get(trigger.appId)
    if (sources === undefined) {
      this.#bySource.set(trigger.appId, new Map([[trigger.source, trigger]]))
    } else sources.set(trigger.source, trigger)
  }
}

const pageRowsMax = 100
const pageCharsAim = 200_000

/** All rows of a table, some at a time: fewer where they are large. */
function* pages(
  rows: Pick<Tx, 'all'>,
  table: 'apps' | 'fns' | 'triggers',
): Generator<readonly Row[], void> {
  const sql = `SELECT * FROM ${table} WHERE id > ? ORDER BY id LIMIT ?`
  let after = ''
  for (let limit = 1; ; ) {
    const page = rows.all(sql, after, limit)
    const last = page.at(-1)
    if (last === undefined) return
    yield page
    after = String(last.id)
    const chars = page.reduce((sum, row) => sum + charsOf(row.config) + charsOf(row.annotations), 0)
    limit = chars < pageCharsAim ? Math.min(limit * 2, pageRowsMax) : Math.ceil(limit / 4)
  }
}

/** Rows come with their fields in one order and sorted maps, so their text decides. */
function isSame<T extends App | Fn>(a: T, b: T): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}

function charsOf(value: SqlValue | undefined): number {
  return typeof value === 'string' ? value.length : 0
}
