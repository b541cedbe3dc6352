import type { Command } from 'commander'
import { commit, version } from '../version.ts'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'

export function addVersion(program: Command, host: Host): void {
  const command = program
    .command('version')
    .description('print the versions of this command and of the server')
    .option('--client', 'of this command only')
    .action(
      runs(host, async (session, options: { client?: boolean }) => {
        const client = { version, commit }
        const text = `fnd ${version} (${commit})`
        if (options.client === true) return session.print({ client }, () => text)
        const server = await serverVersion(session.client)
        const at = session.client.url
        const answer = server === undefined ? `no server at ${at}` : `server ${server} at ${at}`
        await session.print({ client, server: server ?? null }, () => `${text}\n${answer}`)
      }),
    )
  examples(command, [
    ['fnd version', 'both versions'],
    ['fnd version --json', 'for scripts'],
  ])
}

async function serverVersion(client: {
  json(method: string, path: string): Promise<unknown>
}): Promise<string | undefined> {
  try {
    const body = (await client.json('GET', '/version')) as { version?: unknown }
    return String(body.version ?? 'unknown')
  } catch (error) {
    // That no server runs is an answer here, and said as such.
    if (error instanceof CliError && error.reason === 'unreachable') return undefined
    throw error
  }
}
