import type { Command, Outcome } from './commands.ts'
import type { App, Fn, Node, RegistryLogin, Trigger } from './objects.ts'

/** A page of a list: names ascending, `name > after`. */
export interface Page {
  /** The last name of the page before; `''` for the first page. */
  readonly after: string
  readonly limit: number
}

/** What the API sees of the replicated state. Reads are synchronous and local. */
export interface State {
  propose(command: Command): Promise<Outcome>
  app(id: string): App | undefined
  fn(id: string): Fn | undefined
  trigger(id: string): Trigger | undefined
  triggerBySource(appId: string, source: string): Trigger | undefined
  apps(filter: { name?: string }, page: Page): App[]
  fns(filter: { appId: string; name?: string }, page: Page): Fn[]
  triggers(filter: { appId: string; fnId?: string; name?: string }, page: Page): Trigger[]
  /** The registries that an app has credentials for, by host. */
  registries(appId: string): RegistryLogin[]
  /** By id. */
  nodes(): Node[]
  node(id: number): Node | undefined
  /** A node without a row whose id is below this was removed; others never were. */
  nextNodeId(): number
  /** Commands up to this version may be proposed: see `versionNeeded`. */
  clusterVersion(): number
}

/**
 * The lookups of the invoke path: in memory, no disk, no parsing. `FnRoute` objects are made when a
 * row of the function or of its app changes, not when a call arrives; they are replaced, never
 * mutated, so that identity tells whether anything changed.
 */
export interface Routes {
  fnById(id: string): FnRoute | undefined
  appByName(name: string): App | undefined
  /** Undefined when the app has no http trigger with exactly this source. */
  fnBySource(app: App, source: string): FnRoute | undefined
}

export interface FnRoute {
  readonly app: App
  readonly fn: Fn
}
