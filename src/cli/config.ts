import type { Command } from 'commander'
import type { FndClient } from './client.ts'
import { CliError } from './failure.ts'
import { nearNames } from './near.ts'
import { mustApp, mustFn } from './objects.ts'
import { examples, keyValue } from './options.ts'
import { type Host, runs } from './session.ts'
import { formatTable } from './table.ts'

type Values = Readonly<Record<string, string>>

export function addConfig(program: Command, host: Host): void {
  const config = program
    .command('config')
    .description('the environment variables of an app or a function')
  examples(config, [
    ['fnd config set shop REGION=eu', 'for all functions of the app'],
    ['fnd config set shop/pay KEY=abc DEBUG=1', 'for one function; wins over the app'],
    ['fnd config unset shop/pay DEBUG', 'remove one'],
  ])
  addRead(config, host)
  addWrite(config, host)
}

function addRead(config: Command, host: Host): void {
  const list = config
    .command('list')
    .alias('ls')
    .description('list the variables')
    .argument('<app|app/fn>', 'app, or app and function')
    .action(
      runs(host, async (session, path: string) => {
        const { values } = await targetOf(session.client, path)
        const rows = Object.entries(values).sort(([a], [b]) => (a < b ? -1 : 1))
        await session.print(values, () =>
          rows.length === 0 ? 'no variables' : formatTable(['KEY', 'VALUE'], rows),
        )
      }),
    )
  examples(list, [['fnd config list shop/pay', 'its own variables, not those of the app']])
  const get = config
    .command('get')
    .description('print one variable')
    .argument('<app|app/fn>', 'app, or app and function')
    .argument('<key>', 'its name')
    .action(
      runs(host, async (session, path: string, key: string) => {
        const { values } = await targetOf(session.client, path)
        const value = values[key]
        if (value === undefined) throw missingKey(path, key, values)
        await session.print({ [key]: value }, () => value)
      }),
    )
  examples(get, [['fnd config get shop REGION', 'the value alone']])
}

function addWrite(config: Command, host: Host): void {
  const set = config
    .command('set')
    .description('set variables')
    .argument('<app|app/fn>', 'app, or app and function')
    .argument('<KEY=VALUE...>', 'one or more', keyValue)
    .action(
      runs(host, async (session, path: string, given: Values) => {
        const { put } = await targetOf(session.client, path)
        await session.print(await put(given), () => `set ${Object.keys(given).join(', ')}`)
      }),
    )
  examples(set, [['fnd config set shop/pay KEY=abc DEBUG=1', 'running instances are replaced']])
  const unset = config
    .command('unset')
    .alias('rm')
    .description('remove variables')
    .argument('<app|app/fn>', 'app, or app and function')
    .argument('<key...>', 'one or more')
    .action(
      runs(host, async (session, path: string, keys: string[]) => {
        const { values, put } = await targetOf(session.client, path)
        for (const key of keys) if (values[key] === undefined) throw missingKey(path, key, values)
        const gone = Object.fromEntries(keys.map(key => [key, '']))
        await session.print(await put(gone), () => `removed ${keys.join(', ')}`)
      }),
    )
  examples(unset, [['fnd config unset shop/pay DEBUG', 'remove one']])
}

/** The config of an app or a function, and how to change it: an empty value removes a key. */
async function targetOf(
  client: FndClient,
  path: string,
): Promise<{ values: Values; put(config: Values): Promise<Values> }> {
  const object = path.includes('/')
    ? { at: '/v2/fns', ...(await mustFn(client, path)).fn }
    : { at: '/v2/apps', ...(await mustApp(client, path)) }
  return {
    values: object.config ?? {},
    put: async config => {
      const changed = await client.json('PUT', `${object.at}/${object.id}`, { config })
      return (changed as { config?: Values | null }).config ?? {}
    },
  }
}

function missingKey(path: string, key: string, values: Values): CliError {
  const near = nearNames(key, Object.keys(values))
  return new CliError('not-found', `${path} has no variable ${key}`, {
    hint: near.length > 0 ? `did you mean ${near.join(' or ')}?` : `see: fnd config list ${path}`,
  })
}
