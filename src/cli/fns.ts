import type { Command } from 'commander'
import { entries } from './apps.ts'
import {
  endpointOf,
  invokeEndpoint,
  listApps,
  listFns,
  mustApp,
  mustFn,
  type WireApp,
  type WireFn,
} from './objects.ts'
import { addFnOptions, examples, type FnOptions, fnFieldsFrom } from './options.ts'
import { type Host, runs } from './session.ts'
import { formatFields, formatTable } from './table.ts'

export function addFns(program: Command, host: Host): void {
  const fns = program.command('fns').alias('fn').description('list and change functions')
  examples(fns, [
    ['fnd fns list shop', 'the functions of an app'],
    ['fnd fns update shop/pay --memory 256', 'more memory for one'],
  ])
  addList(fns, host)
  addShow(fns, host)
  addUpdate(fns, host)
  addRemove(fns, host)
}

/** A function as the server runs it: the fields of Fn, and these. */
interface RunningFn extends WireFn {
  readonly concurrency: number
  readonly idle: number
  readonly busy: number
  readonly paused: number
  /** Of functions from Docker images. */
  readonly image_status?: {
    readonly pinned: string | null
    readonly tag: string | null
    readonly has_moved: boolean
  }
  readonly isolation: {
    readonly level: string
    readonly measures: readonly { name: string; enforced: boolean; note: string }[]
  }
}

function addList(fns: Command, host: Host): void {
  const command = fns
    .command('list')
    .alias('ls')
    .description('list the functions of one app, or of all')
    .argument('[app]', 'name of the app')
    .action(
      runs(host, async (session, name?: string) => {
        const apps: WireApp[] =
          name === undefined
            ? await listApps(session.client)
            : [await mustApp(session.client, name)]
        const found: { app: WireApp; fn: WireFn }[] = []
        for (const app of apps) {
          for (const fn of await listFns(session.client, app.id)) found.push({ app, fn })
        }
        await session.print(
          found.map(({ fn }) => fn),
          () =>
            found.length === 0
              ? 'no functions yet; deploy one with: fnd deploy <file>'
              : formatTable(
                  ['FUNCTION', 'MEMORY', 'TIMEOUT', 'IMAGE', 'UPDATED'],
                  found.map(({ app, fn }) => [
                    `${app.name}/${fn.name}`,
                    `${fn.memory} MB`,
                    `${fn.timeout} s`,
                    shortImage(fn.image),
                    fn.updated_at ?? '',
                  ]),
                ),
        )
      }),
    )
  examples(command, [
    ['fnd fns list shop', 'of one app'],
    ['fnd fns list --json', 'of all apps'],
  ])
}

function addShow(fns: Command, host: Host): void {
  const command = fns
    .command('show')
    .alias('inspect')
    .description('show one function')
    .argument('<app/fn>', 'app and function')
    .action(
      runs(host, async (session, path: string) => {
        const { app, fn } = await mustFn(session.client, path)
        const running = (await session.client.json('GET', `/fnd/v1/fns/${fn.id}`)) as RunningFn
        await session.print(running, () => describeFn(app, running))
      }),
    )
  examples(command, [
    ['fnd fns show shop/pay', 'limits, config, annotations, address, isolation, instances'],
  ])
}

function addUpdate(fns: Command, host: Host): void {
  const command = addFnOptions(fns.command('update'))
    .description('change a function; what is not given stays')
    .argument('<app/fn>', 'app and function')
    .option('--image <image>', 'a Docker image, or bundle:sha256-<hex>')
    .action(
      runs(host, async (session, path: string, options: FnOptions & { image?: string }) => {
        const { fn } = await mustFn(session.client, path)
        const fields = fnFieldsFrom(options)
        if (options.image !== undefined) fields.image = options.image
        const changed = await session.client.json('PUT', `/v2/fns/${fn.id}`, fields)
        await session.print(changed, () => `updated function ${path}`)
      }),
    )
  examples(command, [
    ['fnd fns update shop/pay --memory 256 --timeout 60', 'other limits'],
    ['fnd fns update shop/pay --config KEY=', 'remove a variable'],
  ])
}

function addRemove(fns: Command, host: Host): void {
  const command = fns
    .command('rm')
    .alias('delete')
    .description('delete a function and its triggers')
    .argument('<app/fn>', 'app and function')
    .action(
      runs(host, async (session, path: string) => {
        const { fn } = await mustFn(session.client, path)
        await session.client.json('DELETE', `/v2/fns/${fn.id}`)
        await session.print({ deleted: fn.id }, () => `deleted function ${path}`)
      }),
    )
  examples(command, [['fnd fns rm shop/pay', 'it can be deployed again later']])
}

/** A bundle's hash in the length that people compare. */
function shortImage(image: string): string {
  return image.replace(/^(bundle:sha256-[0-9a-f]{12})[0-9a-f]+$/, '$1')
}

/** Which image runs, and whether its tag would say another by now. */
function imageFields(status: RunningFn['image_status']): [string, string][] {
  if (status === undefined || status.pinned === null) return []
  const moved = `the tag means ${status.tag} by now; take it with: fnd deploy --image`
  return [
    ['pinned to', status.pinned],
    ...(status.has_moved ? [['moved', moved] as const] : []),
  ].map(([name = '', text = '']) => [name, text])
}

function describeFn(app: WireApp, fn: RunningFn): string {
  const missing = fn.isolation.measures.filter(measure => !measure.enforced)
  return formatFields([
    ['function', `${app.name}/${fn.name}`],
    ['id', fn.id],
    ['image', fn.image],
    ...imageFields(fn.image_status),
    ['memory', `${fn.memory} MB`],
    ['timeout', `${fn.timeout} s`],
    ['idle timeout', `${fn.idle_timeout} s`],
    ['concurrency', `${fn.concurrency} an instance`],
    ['instances', `${fn.idle} idle, ${fn.busy} busy, ${fn.paused} paused`],
    ['isolation', fn.isolation.level],
    ...missing.map(({ name, note }) => ['not enforced', `${name}: ${note}`] as const),
    ['invoke', endpointOf(fn, invokeEndpoint) ?? ''],
    ['created', fn.created_at ?? ''],
    ['updated', fn.updated_at ?? ''],
    ...entries('config', fn.config),
    ...entries('annotation', fn.annotations),
  ])
}
