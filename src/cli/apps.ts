import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { listApps, listFns, mustApp, type WireApp } from './objects.ts'
import { examples, keyJson, keyValue } from './options.ts'
import { type Host, runs } from './session.ts'
import { formatFields, formatTable } from './table.ts'

interface AppOptions {
  readonly config?: Readonly<Record<string, string>>
  readonly annotation?: Readonly<Record<string, unknown>>
  readonly syslogUrl?: string
}

export function addApps(program: Command, host: Host): void {
  const apps = program.command('apps').alias('app').description('list and change apps')
  examples(apps, [
    ['fnd apps list', 'all apps'],
    ['fnd apps create shop --config REGION=eu', 'a new app with an environment variable'],
  ])
  addList(apps, host)
  addShow(apps, host)
  addCreate(apps, host)
  addUpdate(apps, host)
  addRemove(apps, host)
}

function addList(apps: Command, host: Host): void {
  const command = apps
    .command('list')
    .alias('ls')
    .description('list all apps')
    .action(
      runs(host, async session => {
        const found = await listApps(session.client)
        await session.print(found, () =>
          found.length === 0
            ? 'no apps yet; deploy a function with: fnd deploy <file>'
            : formatTable(
                ['NAME', 'ID', 'UPDATED'],
                found.map(app => [app.name, app.id, app.updated_at ?? '']),
              ),
        )
      }),
    )
  examples(command, [
    ['fnd apps list', 'as a table'],
    ['fnd apps list --json', 'for scripts'],
  ])
}

function addShow(apps: Command, host: Host): void {
  const command = apps
    .command('show')
    .alias('inspect')
    .description('show one app')
    .argument('<app>', 'its name')
    .action(
      runs(host, async (session, name: string) => {
        const app = await mustApp(session.client, name)
        await session.print(app, () => describeApp(app))
      }),
    )
  examples(command, [['fnd apps show shop', 'fields, config and annotations']])
}

function addCreate(apps: Command, host: Host): void {
  const command = withAppOptions(apps.command('create'))
    .description('create an app')
    .argument('<name>', 'letters, digits, _ and -')
    .action(
      runs(host, async (session, name: string, options: AppOptions) => {
        const body = { name, ...appFieldsFrom(options) }
        const app = (await session.client.json('POST', '/v2/apps', body)) as WireApp
        await session.print(app, () => `created app ${app.name}`)
      }),
    )
  examples(command, [['fnd apps create shop --config REGION=eu', 'with an environment variable']])
}

function addUpdate(apps: Command, host: Host): void {
  const command = withAppOptions(apps.command('update'))
    .description('change an app; what is not given stays')
    .argument('<app>', 'its name')
    .action(
      runs(host, async (session, name: string, options: AppOptions) => {
        const { id } = await mustApp(session.client, name)
        const app = await session.client.json('PUT', `/v2/apps/${id}`, appFieldsFrom(options))
        await session.print(app, () => `updated app ${name}`)
      }),
    )
  examples(command, [['fnd apps update shop --config REGION=', 'remove a variable']])
}

function addRemove(apps: Command, host: Host): void {
  const command = apps
    .command('rm')
    .alias('delete')
    .description('delete an app')
    .argument('<app>', 'its name')
    .option('--recursive', 'also its functions and triggers')
    .action(
      runs(host, async (session, name: string, options: { recursive?: boolean }) => {
        const app = await mustApp(session.client, name)
        if (options.recursive !== true) {
          const fns = await listFns(session.client, app.id)
          if (fns.length > 0) {
            throw new CliError('failed', `app ${name} has ${fns.length} function(s)`, {
              hint: 'delete them too with --recursive',
            })
          }
        }
        await session.client.json('DELETE', `/v2/apps/${app.id}`)
        await session.print({ deleted: app.id }, () => `deleted app ${name}`)
      }),
    )
  examples(command, [['fnd apps rm shop --recursive', 'the app and all in it']])
}

function withAppOptions(command: Command): Command {
  return command
    .option('--config <KEY=VALUE>', 'an environment variable of all functions', keyValue)
    .option('--annotation <KEY=JSON>', 'an annotation; repeatable', keyJson)
    .option(
      '--syslog-url <url>',
      'send what functions print there: udp, tcp, tcp+tls, unix, unixgram',
    )
}

function appFieldsFrom(options: AppOptions): Record<string, unknown> {
  return {
    ...(options.config === undefined ? {} : { config: options.config }),
    ...(options.annotation === undefined ? {} : { annotations: options.annotation }),
    ...(options.syslogUrl === undefined ? {} : { syslog_url: options.syslogUrl }),
  }
}

function describeApp(app: WireApp): string {
  return formatFields([
    ['name', app.name],
    ['id', app.id],
    ...(app.syslog_url === undefined ? [] : [['syslog', app.syslog_url] as const]),
    ['created', app.created_at ?? ''],
    ['updated', app.updated_at ?? ''],
    ...entries('config', app.config),
    ...entries('annotation', app.annotations),
  ])
}

/** One line a key: `config  KEY=VALUE`. */
export function entries(
  label: string,
  map: Readonly<Record<string, unknown>> | null | undefined,
): [string, string][] {
  return Object.entries(map ?? {}).map(([key, value]) => [
    label,
    `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  ])
}
