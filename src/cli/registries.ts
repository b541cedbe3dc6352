import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { mustApp } from './objects.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'
import { formatTable } from './table.ts'

interface WireRegistry {
  readonly host: string
  readonly username: string
  readonly updated_at: string
}

interface SetOptions {
  readonly username?: string
  readonly passwordStdin?: boolean
  readonly identityTokenStdin?: boolean
}

const pathOf = (appId: string, registry: string) =>
  `/fnd/v1/apps/${appId}/registries/${encodeURIComponent(registry)}`

export function addRegistries(program: Command, host: Host): void {
  const registries = program
    .command('registries')
    .alias('registry')
    .description('the credentials with which an app pulls its images')
  examples(registries, [
    ['fnd registries set shop registry.example --username ada --password-stdin', 'from stdin'],
    ['fnd registries ls shop', 'where, and as whom'],
  ])
  addSet(registries, host)
  addList(registries, host)
  addRemove(registries, host)
}

function addSet(registries: Command, host: Host): void {
  const command = registries
    .command('set')
    .description('set or replace credentials; they cannot be read back')
    .argument('<app>', 'the app')
    .argument(
      '<registry>',
      'host or host:port, as in the names of images; docker.io for Docker Hub',
    )
    .option('--username <name>', 'the user; goes with --password-stdin')
    .option('--password-stdin', 'read the password, or an access token, from stdin')
    .option('--identity-token-stdin', 'read an identity token of `docker login` from stdin')
    .action(
      runs(host, async (session, name: string, registry: string, options: SetOptions) => {
        const isToken = options.identityTokenStdin === true
        if (isToken === (options.passwordStdin === true)) {
          throw new CliError('usage', 'give --password-stdin, or --identity-token-stdin', {
            hint: 'a secret on the command line would be seen by everyone on the machine',
          })
        }
        const secret = (await Bun.stdin.text()).replace(/\r?\n$/, '')
        const app = await mustApp(session.client, name)
        const body = isToken
          ? { identity_token: secret }
          : { username: options.username ?? '', password: secret }
        const set = (await session.client.json(
          'PUT',
          pathOf(app.id, registry),
          body,
        )) as WireRegistry
        await session.print(set, () => `set credentials of app ${name} for ${set.host}`)
      }),
    )
  examples(command, [
    ['fnd registries set shop docker.io --username ada --password-stdin < token', 'from a file'],
  ])
}

function addList(registries: Command, host: Host): void {
  const command = registries
    .command('list')
    .alias('ls')
    .description('list the registries that an app has credentials for')
    .argument('<app>', 'the app')
    .action(
      runs(host, async (session, name: string) => {
        const app = await mustApp(session.client, name)
        const path = `/fnd/v1/apps/${app.id}/registries`
        const { items } = (await session.client.json('GET', path)) as { items: WireRegistry[] }
        await session.print(items, () =>
          items.length === 0
            ? `no credentials; its images are pulled as any app pulls them`
            : formatTable(
                ['REGISTRY', 'USERNAME', 'UPDATED'],
                items.map(one => [one.host, one.username, one.updated_at]),
              ),
        )
      }),
    )
  examples(command, [['fnd registries ls shop', 'as a table']])
}

function addRemove(registries: Command, host: Host): void {
  const command = registries
    .command('rm')
    .alias('delete')
    .description('remove the credentials for a registry')
    .argument('<app>', 'the app')
    .argument('<registry>', 'host or host:port')
    .action(
      runs(host, async (session, name: string, registry: string) => {
        const app = await mustApp(session.client, name)
        await session.client.json('DELETE', pathOf(app.id, registry))
        const text = `removed credentials of app ${name} for ${registry}`
        await session.print({ deleted: registry }, () => text)
      }),
    )
  examples(command, [['fnd registries rm shop registry.example', 'at once']])
}
