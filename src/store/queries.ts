import type { App, Fn, Node, RegistryLogin, Trigger } from './objects.ts'
import {
  appFrom,
  fnFrom,
  nodeFrom,
  type Row,
  registryFrom,
  type SqlValue,
  type Tx,
  triggerFrom,
} from './rows.ts'
import type { Page, State } from './state.ts'

/**
 * The reads of `State`. Lists are in byte order of the names in UTF-8. Trigger names are unique
 * within one function only; triggers of one name come in order of their ids.
 */
export class Queries implements Omit<State, 'propose'> {
  readonly #rows: Pick<Tx, 'get' | 'all'>

  constructor(rows: Pick<Tx, 'get' | 'all'>) {
    this.#rows = rows
  }

  app(id: string): App | undefined {
    return this.#one(appFrom, 'SELECT * FROM apps WHERE id = ?', id)
  }

  fn(id: string): Fn | undefined {
    return this.#one(fnFrom, 'SELECT * FROM fns WHERE id = ?', id)
  }

  trigger(id: string): Trigger | undefined {
    return this.#one(triggerFrom, 'SELECT * FROM triggers WHERE id = ?', id)
  }

  triggerBySource(appId: string, source: string): Trigger | undefined {
    return this.#one(
      triggerFrom,
      "SELECT * FROM triggers WHERE app_id = ? AND type = 'http' AND source = ?",
      appId,
      source,
    )
  }

  apps(filter: { name?: string }, page: Page): App[] {
    return this.#list('apps', 'name', { name: filter.name }, page).map(appFrom)
  }

  fns(filter: { appId: string; name?: string }, page: Page): Fn[] {
    const columns = { app_id: filter.appId, name: filter.name }
    return this.#list('fns', 'name', columns, page).map(fnFrom)
  }

  triggers(filter: { appId: string; fnId?: string; name?: string }, page: Page): Trigger[] {
    const columns = { app_id: filter.appId, fn_id: filter.fnId, name: filter.name }
    return this.#list('triggers', 'name, id', columns, page).map(triggerFrom)
  }

  registries(appId: string): RegistryLogin[] {
    const sql = 'SELECT * FROM registries WHERE app_id = ? ORDER BY host'
    return this.#rows.all(sql, appId).map(registryFrom)
  }

  nodes(): Node[] {
    return this.#rows.all('SELECT * FROM nodes ORDER BY id').map(nodeFrom)
  }

  node(id: number): Node | undefined {
    return this.#one(nodeFrom, 'SELECT * FROM nodes WHERE id = ?', id)
  }

  nextNodeId(): number {
    return Number(this.#rows.get('SELECT next_node_id FROM meta')?.next_node_id)
  }

  clusterVersion(): number {
    return Number(this.#rows.get('SELECT cluster_version FROM meta')?.cluster_version)
  }

  #one<T>(from: (row: Row) => T, sql: string, ...values: SqlValue[]): T | undefined {
    const row = this.#rows.get(sql, ...values)
    return row === undefined ? undefined : from(row)
  }

  /** The texts differ only in which filters are present, so few statements are ever prepared. */
  #list(
    table: 'apps' | 'fns' | 'triggers',
    order: string,
    filters: Readonly<Record<string, string | undefined>>,
    page: Page,
  ): Row[] {
    const conditions: string[] = []
    const values: SqlValue[] = []
    for (const [column, value] of Object.entries(filters)) {
      if (value === undefined) continue
      conditions.push(`${column} = ?`)
      values.push(value)
    }
    if (page.after !== '') {
      conditions.push('name > ?')
      values.push(page.after)
    }
    const where = conditions.length === 0 ? '' : `WHERE ${conditions.join(' AND ')}`
    const sql = `SELECT * FROM ${table} ${where} ORDER BY ${order} LIMIT ?`
    return this.#rows.all(sql, ...values, page.limit)
  }
}
