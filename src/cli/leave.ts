import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { type Host, runs, type Session } from './session.ts'
import type { WireStatus } from './status.ts'

export function addLeave(program: Command, host: Host): void {
  const command = program
    .command('leave')
    .description('take the asked node out of its cluster; its process ends')
    .option('--no-wait', 'do not wait until it is out')
    .action(
      runs(host, async (session, options: { wait?: boolean }) => {
        const { client } = session
        const answer = await client.json('POST', '/fnd/v1/leave')
        if (options.wait === false) {
          return session.print(answer, () => `the node at ${client.url} is on its way out`)
        }
        await untilGone(session)
        await session.print(
          { left: client.url },
          () =>
            `the node at ${client.url} left the cluster; to join again it needs an empty data ` +
            'directory',
        )
      }),
    )
  examples(command, [
    ['fnd leave', 'leadership is handed over, calls end, then the process'],
    ['fnd leave --url http://10.0.0.3:8080', 'another node'],
  ])
}

/** A node that left ends; until then it answers. */
async function untilGone({ client, terminal }: Session): Promise<void> {
  for (;;) {
    try {
      const { cluster } = (await client.json('GET', '/fnd/v1/status')) as WireStatus
      terminal.progress(`${cluster.role}, ${cluster.state}`)
    } catch (error) {
      if (!(error instanceof CliError)) throw error
      if (error.reason === 'unreachable') return
      // As it stops it may answer with an error; that is no reason to look away.
      if (error.reason !== 'failed') throw error
    }
    await Bun.sleep(250)
  }
}
