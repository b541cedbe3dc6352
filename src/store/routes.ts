import { assert } from '../errors.ts'
import type { Change } from './commands.ts'
import type { App, Fn, Trigger } from './objects.ts'
import { appFrom, fnFrom, type Tx, triggerFrom } from './rows.ts'
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
  readonly #apps = new Map<string, App>()
  readonly #appIdByName = new Map<string, string>()
  readonly #fns = new Map<string, FnRoute>()
  readonly #fnIdsByApp = new Map<string, Set<string>>()
  readonly #triggers = new Map<string, Trigger>()
  /** App id → source → trigger. */
  readonly #bySource = new Map<string, Map<string, Trigger>>()
  readonly #listeners = new Set<RouteListener>()

  /** Reads the whole state; later changes come through `update`. */
  constructor(rows: Pick<Tx, 'all'>) {
    this.#read(rows)
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
   * Reads the whole state anew, where another took its place. Routes that are as before stay the
   * same objects; the listeners are told of the others.
   */
  reset(rows: Pick<Tx, 'all'>): void {
    const old = new Map(this.#fns)
    for (const map of [this.#apps, this.#appIdByName, this.#fns, this.#fnIdsByApp]) map.clear()
    this.#triggers.clear()
    this.#bySource.clear()
    this.#read(rows)
    const told: RouteChange[] = []
    for (const [fnId, before] of old) {
      const after = this.#fns.get(fnId)
      if (after !== undefined && isSame(before, after)) this.#fns.set(fnId, before)
      else told.push({ fnId, before, after })
    }
    for (const [fnId, after] of this.#fns) {
      if (!old.has(fnId)) told.push({ fnId, before: undefined, after })
    }
    for (const change of told) for (const listener of this.#listeners) listener(change)
  }

  #read(rows: Pick<Tx, 'all'>): void {
    for (const row of rows.all('SELECT * FROM apps')) this.#putApp(appFrom(row))
    for (const row of rows.all('SELECT * FROM fns')) this.#putFn(fnFrom(row))
    for (const row of rows.all('SELECT * FROM triggers')) this.#putTrigger(triggerFrom(row))
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

/** Rows come with their fields in one order and sorted maps, so their text decides. */
function isSame(a: FnRoute, b: FnRoute): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
