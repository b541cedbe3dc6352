import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { type Host, runs, type Session } from './session.ts'

export function addRestore(program: Command, host: Host): void {
  const command = program
    .command('restore')
    .description('make the data directory of a new cluster from a backup')
    .argument('<file>', 'what fnd backup saved; - for standard input')
    .requiredOption('--data <dir>', 'an empty directory, or one to be made')
    .action(
      runs(host, async (session, file: string, options: { data: string }) => {
        const dataDir = resolve(options.data)
        const path = file === '-' ? '/dev/stdin' : resolve(file)
        if (!existsSync(path)) throw new CliError('usage', `there is no file ${file}`)
        const { isFreeToRestore, restoreBackup } = await import('../offline.ts')
        if (!isFreeToRestore(dataDir)) {
          throw new CliError('usage', `${dataDir} is not empty`, {
            hint: 'a backup never replaces what is there; name another directory',
          })
        }
        const done = await restoreBackup(path, dataDir)
        await session.print(
          done,
          () =>
            `restored entry ${done.index} into ${dataDir}\n` +
            `start it with: fnd --data ${options.data}\n` +
            'It is a new cluster of one node: further ones join it on empty data directories.',
        )
        warnOfMissing(session, done.missing, 'was on no node when the backup was made')
      }),
    )
  examples(command, [
    ['fnd restore fnd.backup --data ./fnd-data', 'then: fnd --data ./fnd-data'],
    ['gpg -d fnd.gpg | fnd restore - --data ./fnd-data', 'one that was encrypted'],
  ])
}

/** Tells of code that is lost. */
export function warnOfMissing(session: Session, hashes: readonly string[], why: string): void {
  if (hashes.length === 0) return
  session.terminal.note(
    `warning: the code of some functions ${why}: deploy them again. Their images are:`,
  )
  for (const hash of hashes) session.terminal.note(`  bundle:${hash}`)
}
