import type { Command } from 'commander'
import { entries } from './apps.ts'
import {
  endpointOf,
  httpEndpoint,
  listFns,
  listTriggers,
  mustApp,
  mustFn,
  mustTrigger,
  type WireTrigger,
} from './objects.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'
import { formatFields, formatTable } from './table.ts'

export function addTriggers(program: Command, host: Host): void {
  const triggers = program
    .command('triggers')
    .alias('trigger')
    .description('list and change the addresses of functions')
  examples(triggers, [
    ['fnd triggers list shop', 'all addresses of an app'],
    ['fnd triggers create shop/pay pay-v2 --path /v2/pay', 'one more address'],
  ])
  addList(triggers, host)
  addShow(triggers, host)
  addCreate(triggers, host)
  addRemove(triggers, host)
}

function addList(triggers: Command, host: Host): void {
  const command = triggers
    .command('list')
    .alias('ls')
    .description('list the triggers of an app or a function')
    .argument('<app|app/fn>', 'app, or app and function')
    .action(
      runs(host, async (session, path: string) => {
        const { client } = session
        const { app, fn } = path.includes('/')
          ? await mustFn(client, path)
          : { app: await mustApp(client, path), fn: undefined }
        const found = await listTriggers(client, app.id, fn?.id)
        const fns = fn === undefined ? await listFns(client, app.id) : [fn]
        const fnNames = new Map(fns.map(one => [one.id, one.name]))
        await session.print(found, () =>
          found.length === 0
            ? `no triggers; create one with: fnd triggers create ${app.name}/<fn> <name> --path /x`
            : formatTable(
                ['TRIGGER', 'PATH', 'URL'],
                found.map(one => [
                  `${app.name}/${fnNames.get(one.fn_id) ?? one.fn_id}/${one.name}`,
                  one.source,
                  endpointOf(one, httpEndpoint) ?? '',
                ]),
              ),
        )
      }),
    )
  examples(command, [['fnd triggers list shop', 'of all functions of the app']])
}

function addShow(triggers: Command, host: Host): void {
  const command = triggers
    .command('show')
    .alias('inspect')
    .description('show one trigger')
    .argument('<app/fn/trigger>', 'app, function and trigger')
    .action(
      runs(host, async (session, path: string) => {
        const { trigger } = await mustTrigger(session.client, path)
        await session.print(trigger, () => describeTrigger(path, trigger))
      }),
    )
  examples(command, [['fnd triggers show shop/pay/pay', 'its path and URL']])
}

function addCreate(triggers: Command, host: Host): void {
  const command = triggers
    .command('create')
    .description('give a function one more address')
    .argument('<app/fn>', 'app and function')
    .argument('<name>', 'name of the trigger')
    .option('--path <path>', 'where it answers below /t/<app>; default /<name>')
    .action(
      runs(host, async (session, path: string, name: string, options: { path?: string }) => {
        const { app, fn } = await mustFn(session.client, path)
        const made = (await session.client.json('POST', '/v2/triggers', {
          name,
          app_id: app.id,
          fn_id: fn.id,
          type: 'http',
          source: options.path ?? `/${name}`,
        })) as WireTrigger
        await session.print(made, () => endpointOf(made, httpEndpoint) ?? `created ${name}`)
      }),
    )
  examples(command, [
    ['fnd triggers create shop/pay pay-v2 --path /v2/pay', 'answers at /t/shop/v2/pay'],
  ])
}

function addRemove(triggers: Command, host: Host): void {
  const command = triggers
    .command('rm')
    .alias('delete')
    .description('delete a trigger')
    .argument('<app/fn/trigger>', 'app, function and trigger')
    .action(
      runs(host, async (session, path: string) => {
        const { trigger } = await mustTrigger(session.client, path)
        await session.client.json('DELETE', `/v2/triggers/${trigger.id}`)
        await session.print({ deleted: trigger.id }, () => `deleted trigger ${path}`)
      }),
    )
  examples(command, [['fnd triggers rm shop/pay/pay-v2', 'the function itself stays']])
}

function describeTrigger(path: string, trigger: WireTrigger): string {
  return formatFields([
    ['trigger', path],
    ['id', trigger.id],
    ['type', trigger.type],
    ['path', trigger.source],
    ['url', endpointOf(trigger, httpEndpoint) ?? ''],
    ['created', trigger.created_at ?? ''],
    ['updated', trigger.updated_at ?? ''],
    ...entries('annotation', trigger.annotations),
  ])
}
