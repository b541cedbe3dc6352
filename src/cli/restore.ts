import { existsSync, readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'

export function addRestore(program: Command, host: Host): void {
  const command = program
    .command('restore')
    .description('make the data directory of a new cluster from a backup')
    .argument('<file>', 'what fnd backup saved')
    .requiredOption('--data <dir>', 'an empty directory, or one to be made')
    .action(
      runs(host, async (session, file: string, options: { data: string }) => {
        const dataDir = resolve(options.data)
        if (!existsSync(file)) throw new CliError('usage', `there is no file ${file}`)
        if (existsSync(dataDir) && readdirSync(dataDir).length > 0) {
          throw new CliError('usage', `${dataDir} is not empty`, {
            hint: 'a backup never replaces what is there; name another directory',
          })
        }
        const { restoreBackup } = await import('../offline.ts')
        const done = await restoreBackup(resolve(file), dataDir)
        await session.print(
          done,
          () =>
            `restored entry ${done.index} into ${dataDir}\n` +
            `start it with: fnd --data ${options.data}\n` +
            'It is a new cluster of one node: further ones join it on empty data directories.',
        )
        if (done.missing.length > 0) {
          session.terminal.note(
            `warning: ${done.missing.length} bundle(s) were in no node's hands when the backup ` +
              'was made; deploy their functions again',
          )
        }
      }),
    )
  examples(command, [['fnd restore fnd.backup --data ./fnd-data', 'then: fnd --data ./fnd-data']])
}
