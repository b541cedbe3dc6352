/** Apps, functions and triggers by name, with their fields as they are on the wire. */
import type { FndClient } from './client.ts'
import { CliError } from './failure.ts'
import { nearNames } from './near.ts'

export interface WireApp {
  readonly id: string
  readonly name: string
  readonly config?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, unknown>>
  readonly syslog_url?: string
  readonly created_at?: string
  readonly updated_at?: string
}

export interface WireFn {
  readonly id: string
  readonly name: string
  readonly app_id: string
  readonly image: string
  readonly memory: number
  readonly timeout: number
  readonly idle_timeout: number
  readonly config?: Readonly<Record<string, string>> | null
  readonly annotations?: Readonly<Record<string, unknown>>
  readonly created_at?: string
  readonly updated_at?: string
}

export interface WireTrigger {
  readonly id: string
  readonly name: string
  readonly app_id: string
  readonly fn_id: string
  readonly type: string
  readonly source: string
  readonly annotations?: Readonly<Record<string, unknown>>
  readonly created_at?: string
  readonly updated_at?: string
}

export const invokeEndpoint = 'fnproject.io/fn/invokeEndpoint'
export const httpEndpoint = 'fnproject.io/trigger/httpEndpoint'

const query = encodeURIComponent

export async function collect<T>(items: AsyncIterable<unknown>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item as T)
  return all
}

export function listApps(client: FndClient): Promise<WireApp[]> {
  return collect(client.items('/v2/apps'))
}

export function listFns(client: FndClient, appId: string): Promise<WireFn[]> {
  return collect(client.items(`/v2/fns?app_id=${query(appId)}`))
}

export function listTriggers(
  client: FndClient,
  appId: string,
  fnId?: string,
): Promise<WireTrigger[]> {
  const ofFn = fnId === undefined ? '' : `&fn_id=${query(fnId)}`
  return collect(client.items(`/v2/triggers?app_id=${query(appId)}${ofFn}`))
}

export async function findApp(client: FndClient, name: string): Promise<WireApp | undefined> {
  const found = await collect<WireApp>(client.items(`/v2/apps?name=${query(name)}`))
  return found[0]
}

export async function findFn(
  client: FndClient,
  appId: string,
  name: string,
): Promise<WireFn | undefined> {
  const path = `/v2/fns?app_id=${query(appId)}&name=${query(name)}`
  return (await collect<WireFn>(client.items(path)))[0]
}

export async function mustApp(client: FndClient, name: string): Promise<WireApp> {
  const app = await findApp(client, name)
  if (app !== undefined) return app
  const names = (await listApps(client)).map(one => one.name)
  throw missing('app', name, names, 'create it with: fnd apps create '.concat(name))
}

export async function mustFn(
  client: FndClient,
  path: string,
): Promise<{ app: WireApp; fn: WireFn }> {
  const { appName, fnName } = fnPathFrom(path)
  const app = await mustApp(client, appName)
  const fn = await findFn(client, app.id, fnName)
  if (fn !== undefined) return { app, fn }
  const names = (await listFns(client, app.id)).map(one => one.name)
  throw missing(`function in app ${app.name}`, fnName, names, 'deploy it with: fnd deploy <file>')
}

export async function mustTrigger(
  client: FndClient,
  path: string,
): Promise<{ app: WireApp; fn: WireFn; trigger: WireTrigger }> {
  const slash = path.lastIndexOf('/')
  const { app, fn } = await mustFn(client, path.slice(0, Math.max(slash, 0)))
  const triggers = await listTriggers(client, app.id, fn.id)
  const name = path.slice(slash + 1)
  const trigger = triggers.find(one => one.name === name)
  if (trigger !== undefined) return { app, fn, trigger }
  const names = triggers.map(one => one.name)
  throw missing(`trigger of ${app.name}/${fn.name}`, name, names, 'see: fnd triggers create --help')
}

/** `app/fn`, as every command takes functions. */
export function fnPathFrom(path: string): { appName: string; fnName: string } {
  const [appName, fnName, ...rest] = path.split('/')
  if (!appName || !fnName || rest.length > 0) {
    throw new CliError('usage', `"${path}" is not a function: write app/function`, {
      hint: 'list them with: fnd fns list <app>',
    })
  }
  return { appName, fnName }
}

function missing(kind: string, name: string, names: readonly string[], make: string): CliError {
  const near = nearNames(name, names)
  const known = names.slice(0, 10).join(', ') + (names.length > 10 ? ', …' : '')
  const hint =
    near.length > 0
      ? `did you mean ${near.join(' or ')}?`
      : names.length > 0
        ? `there are: ${known}`
        : `there are none yet; ${make}`
  return new CliError('not-found', `there is no ${kind} named ${name}`, { hint })
}

/** The text of a derived annotation, which the server adds to what it returns. */
export function endpointOf(
  object: { readonly annotations?: Readonly<Record<string, unknown>> },
  key: string,
): string | undefined {
  const value = object.annotations?.[key]
  return typeof value === 'string' ? value : undefined
}
