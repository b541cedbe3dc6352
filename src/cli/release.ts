/** The server's side of a deploy: bundle, app, function and trigger, made or changed as needed. */
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import type { BundleContent } from './bundle.ts'
import type { FndClient } from './client.ts'
import { CliError } from './failure.ts'
import {
  endpointOf,
  findApp,
  findFn,
  httpEndpoint,
  invokeEndpoint,
  listTriggers,
  type WireApp,
  type WireFn,
  type WireTrigger,
} from './objects.ts'
import { type FnOptions, fnFieldsFrom } from './options.ts'
import { type PackedBundle, packBundle } from './pack.ts'
import type { Session } from './session.ts'

export interface ReleaseOptions extends FnOptions {
  readonly app: string
  readonly name: string
  readonly path?: string
  readonly trigger: boolean
}

/** What `fnd deploy --json` prints. */
export interface Deployed {
  readonly app: string
  readonly fn: string
  readonly app_id: string
  readonly fn_id: string
  /** The trigger's; null where the function has none. */
  readonly url: string | null
  readonly invoke_url: string
}

/** What a function is made from. */
export interface Code {
  readonly image: string
  /** What `fnd.io/digest` is to say; null: nothing. */
  readonly digest: string | null
}

export async function release(
  session: Pick<Session, 'client' | 'terminal'>,
  content: BundleContent,
  options: ReleaseOptions,
): Promise<Deployed> {
  await using packed = await packBundle(content)
  await upload(session, packed)
  const app = await ensureApp(session.client, options.app)
  return releaseCode(session.client, app, { image: `bundle:${packed.id}`, digest: null }, options)
}

export async function ensureApp(client: FndClient, name: string): Promise<WireApp> {
  const find = () => findApp(client, name)
  const making = () => made(client.json('POST', '/v2/apps', { name }), find) as Promise<WireApp>
  return (await find()) ?? making()
}

/** The function of this code, and its trigger. */
export async function releaseCode(
  client: FndClient,
  app: WireApp,
  code: Code,
  options: ReleaseOptions,
): Promise<Deployed> {
  const { fn, invokeUrl } = await putFn(client, app, options, code)
  const trigger = options.trigger ? await putTrigger(client, app, fn, options) : undefined
  const source = trigger?.source
  return {
    app: app.name,
    fn: fn.name,
    app_id: app.id,
    fn_id: fn.id,
    url:
      trigger === undefined
        ? null
        : (endpointOf(trigger, httpEndpoint) ?? `${client.url}/t/${app.name}${source}`),
    invoke_url: invokeUrl,
  }
}

/** Another deploy at the same time may have made the same meanwhile: then that is the one. */
async function made(making: Promise<unknown>, find: () => Promise<unknown>): Promise<unknown> {
  try {
    return await making
  } catch (error) {
    if (!(error instanceof CliError) || !/already exists|exists on this app/.test(error.message)) {
      throw error
    }
    const found = await find()
    if (found === undefined) throw error
    return found
  }
}

async function upload(
  session: Pick<Session, 'client' | 'terminal'>,
  packed: PackedBundle,
): Promise<void> {
  const path = `/fnd/v1/bundles/${packed.id}`
  const { client, terminal } = session
  const head = await client.send(path, { method: 'HEAD' })
  if (head.ok) return
  if (head.status !== 404) {
    // An answer to HEAD carries no message of its own.
    if (head.status === 401 || head.status === 403) throw await client.failure(head)
    throw new CliError('failed', `the server answered ${head.status} when asked for the bundle`)
  }
  const totalMb = packed.bytes / 1e6
  let sentBytes = 0
  async function* chunks(): AsyncGenerator<Uint8Array> {
    for await (const chunk of createReadStream(packed.path, { highWaterMark: 256 * 1024 })) {
      sentBytes += (chunk as Uint8Array).byteLength
      const percent = Math.floor((100 * sentBytes) / packed.bytes)
      terminal.progress(`uploading ${totalMb.toFixed(1)} MB: ${percent} %`)
      yield chunk as Uint8Array
    }
  }
  const response = await client.send(path, {
    method: 'PUT',
    headers: { 'content-type': 'application/x-tar' },
    body: Readable.toWeb(Readable.from(chunks())) as unknown as ReadableStream,
  })
  terminal.clearProgress()
  if (!response.ok) throw await client.failure(response)
}

async function putFn(
  client: FndClient,
  app: WireApp,
  options: ReleaseOptions,
  { image, digest }: Code,
): Promise<{ fn: WireFn; invokeUrl: string }> {
  const fields: Record<string, unknown> = { image, ...fnFieldsFrom(options) }
  if (digest !== null) fields.annotations = { ...annotationsOf(fields), [digestKey]: digest }
  const put = ({ id, annotations }: WireFn) => {
    // An empty value removes the key; that of another image must not stay.
    const isStale = digest === null && annotations?.[digestKey] !== undefined
    const own = isStale ? { annotations: { [digestKey]: '', ...annotationsOf(fields) } } : {}
    return client.json('PUT', `/v2/fns/${id}`, { ...fields, ...own })
  }
  const find = () => findFn(client, app.id, options.name)
  const old = await find()
  const whole = { app_id: app.id, name: options.name, ...fields }
  const fn =
    old === undefined
      ? await made(client.json('POST', '/v2/fns', whole), async () => {
          const other = await find()
          return other === undefined ? undefined : put(other)
        })
      : await put(old)
  // Derived annotations come with create, get and list, as in Fn, and not with the answer to PUT.
  const shown = old ?? (fn as WireFn)
  const invokeUrl = endpointOf(shown, invokeEndpoint) ?? `${client.url}/invoke/${shown.id}`
  return { fn: fn as WireFn, invokeUrl }
}

const digestKey = 'fnd.io/digest'

function annotationsOf(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return { ...(fields.annotations as Record<string, unknown> | undefined) }
}

async function putTrigger(
  client: FndClient,
  app: WireApp,
  fn: WireFn,
  options: ReleaseOptions,
): Promise<WireTrigger> {
  const source = options.path === undefined ? undefined : `/${options.path.replace(/^\/+/, '')}`
  const isWanted = (one: WireTrigger) => source === undefined || one.source === source
  const existing = await listTriggers(client, app.id, fn.id)
  const same = existing.find(isWanted)
  if (same !== undefined) return same
  const named = existing.find(one => one.name === options.name)
  try {
    if (named === undefined) {
      const fields = { app_id: app.id, fn_id: fn.id, type: 'http', name: options.name }
      const body = { ...fields, source: source ?? `/${options.name}` }
      return (await made(client.json('POST', '/v2/triggers', body), async () => {
        return (await listTriggers(client, app.id, fn.id)).find(isWanted)
      })) as WireTrigger
    }
    await client.json('PUT', `/v2/triggers/${named.id}`, { source })
    return (await client.json('GET', `/v2/triggers/${named.id}`)) as WireTrigger
  } catch (error) {
    if (!(error instanceof CliError) || !error.message.includes('same type and source')) throw error
    throw new CliError('failed', `another function of app ${app.name} answers at this path`, {
      hint: 'choose another with --path, or none with --no-trigger',
      cause: error,
    })
  }
}
