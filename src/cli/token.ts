import type { Command } from 'commander'
import { examples, lifetime } from './options.ts'
import { type Host, runs } from './session.ts'

interface WireToken {
  readonly token: string
  readonly expires_at: string
  readonly address: string
}

export function addToken(program: Command, host: Host): void {
  const command = program
    .command('token')
    .description('make a token with which a machine joins the cluster')
    .option('--ttl <time>', 'how long it may be used: 90m, 24h, 7d; default 24h', lifetime)
    .action(
      runs(host, async (session, options: { ttl?: number }) => {
        const body = options.ttl === undefined ? {} : { ttl_s: options.ttl }
        const made = (await session.client.json('POST', '/fnd/v1/token', body)) as WireToken
        await session.print(made, () => made.token)
        if (!session.isJson && session.terminal.isOutTty) {
          session.terminal.note(
            `\nOn the next machine, until ${made.expires_at}:\n\n` +
              `  FND_JOIN_TOKEN=${made.token} fnd --join ${made.address}\n\n` +
              'Whoever has the token can join, and read all that the cluster holds.',
          )
        }
      }),
    )
  examples(command, [
    ['fnd token', 'for a day; on a terminal with the whole command for the next machine'],
    ['fnd token --ttl 1h > token', 'the token alone, for FND_JOIN_TOKEN_FILE'],
  ])
}
