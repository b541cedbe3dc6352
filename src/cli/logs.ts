import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { mustFn } from './objects.ts'
import { examples, wholeNumber } from './options.ts'
import { type Host, runs, type Session } from './session.ts'
import { printable } from './table.ts'

/** One line that a function printed, as the server sends it. */
export interface LogLine {
  readonly call_id?: string
  readonly fn_id?: string
  readonly time: string
  readonly stream: string
  readonly text: string
}

interface LogsOptions {
  readonly follow?: boolean
  readonly lines: number
}

export function addLogs(program: Command, host: Host): void {
  const command = program
    .command('logs')
    .description('show what a function printed, or one call of it')
    .argument('<app/fn|call-id>', 'app and function, or the id of a call')
    .option('-f, --follow', 'keep showing what comes')
    .option('-n, --lines <count>', 'how many lines back to begin', wholeNumber(0), 100)
    .action(
      runs(host, async (session, target: string, options: LogsOptions) => {
        const path = await pathFrom(session, target, options)
        const response = await session.client.send(path)
        if (!response.ok) throw await session.client.failure(response)
        for await (const line of jsonLines(response)) await show(session, line as LogLine)
      }),
    )
  examples(command, [
    ['fnd logs -f default/hello', 'as it is printed'],
    ['fnd logs -n 20 default/hello', 'the last 20 lines'],
    ['fnd logs 01KAB3D5Y00000000000000012', 'of one call; its id is in Fn-Call-Id'],
  ])
}

async function pathFrom(session: Session, target: string, options: LogsOptions): Promise<string> {
  if (target.includes('/')) {
    const { fn } = await mustFn(session.client, target)
    const follow = options.follow === true ? '&follow=1' : ''
    return `/fnd/v1/fns/${fn.id}/logs?lines=${options.lines}${follow}`
  }
  if (!/^[0-9A-Za-z]{26}$/.test(target)) {
    throw new CliError('usage', `"${target}" is neither app/function nor the id of a call`)
  }
  if (options.follow === true) {
    throw new CliError('usage', '-f follows a function, not a call', {
      hint: 'write app/function',
    })
  }
  return `/fnd/v1/calls/${target}/log`
}

/** Splits newline-delimited JSON; a line cut by the end of the connection is dropped. */
export async function* jsonLines(response: Response): AsyncGenerator<unknown> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of response.body ?? []) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) if (line.trim() !== '') yield JSON.parse(line)
  }
  if (rest.trim().endsWith('}')) yield JSON.parse(rest)
}

async function show(session: Session, line: LogLine): Promise<void> {
  if (session.isJson) return session.terminal.line(JSON.stringify(line))
  const call = line.call_id ? ` ${line.call_id.slice(-8)}` : ''
  const text = printable(line.text.replace(/\n$/, ''))
  await session.terminal.line(`${line.time}${call} ${line.stream} ${text}`)
}
