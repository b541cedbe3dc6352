import type { Command } from 'commander'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'
import { CliError } from './failure.ts'

export function addRun(program: Command, host: Host): void {
  const command = program
    .command('run')
    .description('run one function here, with no server')
    .argument('<file-or-dir>', 'TypeScript or JavaScript, or with --exec an executable')
    .option('-d, --data <text>', 'call it once with this: text, @file, or - for standard input')
    .option('--exec', 'the file, or a file in the directory, is a program to run')
    .action(
      runs(host, async () => {
        throw new CliError('failed', 'not available yet')
      }),
    )
  examples(command, [['fnd run hello.ts', 'serve it on a free port']])
}
