import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'
import { printable } from './table.ts'

/** One thing that was looked at, as the server reports it. */
export interface Check {
  readonly name: string
  readonly status: 'ok' | 'warn' | 'fail'
  readonly note: string
  /** What to do about it. */
  readonly hint?: string
}

export function addDoctor(program: Command, host: Host): void {
  const command = program
    .command('doctor')
    .description('say what works on the server, or on this machine if none runs, and what does not')
    .action(
      runs(host, async session => {
        const report = await reportOf(session)
        await session.print(report, () => describe(report))
        const failed = report.checks.filter(check => check.status === 'fail')
        if (failed.length > 0) {
          throw new CliError('failed', `${failed.length} of ${report.checks.length} checks failed`)
        }
      }),
    )
  examples(command, [
    ['fnd doctor', 'a list with what to do'],
    ['fnd doctor --json', 'for scripts'],
  ])
}

interface Report {
  /** The server that was asked; null for a look at this machine. */
  readonly server: string | null
  readonly checks: readonly Check[]
}

async function reportOf(session: {
  readonly client: { readonly url: string; json(method: string, path: string): Promise<unknown> }
}): Promise<Report> {
  const { client } = session
  try {
    const body = (await client.json('GET', '/fnd/v1/doctor')) as { checks?: unknown }
    return { server: client.url, checks: Array.isArray(body.checks) ? body.checks : [] }
  } catch (error) {
    if (!(error instanceof CliError) || error.reason !== 'unreachable') throw error
    const { checkMachine } = await import('./machine.ts')
    const none: Check = {
      name: 'server',
      status: 'warn',
      note: error.message,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    }
    return { server: null, checks: [none, ...(await checkMachine())] }
  }
}

function describe(report: Report): string {
  const lines = [report.server === null ? 'This machine:' : `Server ${report.server}:`]
  for (const check of report.checks) {
    const mark = { ok: 'ok  ', warn: 'warn', fail: 'FAIL' }[check.status]
    lines.push(`  ${mark}  ${printable(check.name)}: ${printable(check.note)}`)
    if (check.hint !== undefined) lines.push(`        → ${printable(check.hint)}`)
  }
  return lines.join('\n')
}
