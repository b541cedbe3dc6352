import { resolve } from 'node:path'
import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import type { DataSummary } from '../offline.ts'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { warnOfMissing } from './restore.ts'
import { type Host, runs, type Session } from './session.ts'

/** Typed by whoever has read what may be lost. */
const confirmation = 'recover'

export function addRecover(program: Command, host: Host): void {
  const command = program
    .command('recover')
    .description('after the loss of a majority: make a cluster of one from what is here')
    .requiredOption('--data <dir>', 'the data directory of a node that is stopped')
    .option('--yes', 'without asking')
    .action(
      runs(host, async (session, options: { data: string; yes?: boolean }) => {
        const dataDir = resolve(options.data)
        const { inspectData, recoverData } = await import('../offline.ts')
        const found = await inspectData(dataDir)
        session.terminal.note(warningText(found, dataDir))
        if (options.yes !== true) await confirm(session)
        const done = await recoverData(dataDir)
        await session.print(
          done,
          () =>
            `recovered: node ${done.nodeId} is a cluster of one, from entry ${done.index}\n` +
            `start it with: fnd --data ${options.data}\n` +
            'then, on every other machine, empty the data directory and join: fnd token prints how',
        )
        warnOfMissing(session, done.missing, 'is not on this node')
      }),
    )
  examples(command, [
    ['fnd recover --data /var/lib/fnd', 'says what may be lost, and asks'],
    ['fnd recover --data /var/lib/fnd --yes', 'in a script'],
  ])
}

function warningText(found: DataSummary, dataDir: string): string {
  const others = found.voters.filter(id => id !== found.nodeId)
  return [
    `${dataDir} is of node ${found.nodeId} in cluster ${found.clusterId}.`,
    `Its log ends at entry ${found.lastIndex} of term ${found.lastTerm}; up to entry ` +
      `${found.appliedIndex} it is applied.`,
    others.length === 0
      ? 'It is the only voter: it needs no recovery, start it.'
      : `The voters are nodes ${found.voters.join(', ')}.`,
    '',
    'Recovery makes this node the only one of a new cluster:',
    '- what the others acknowledged and this node does not have is lost for good;',
    `- entries after ${found.commitIndex} that it has and no majority is known to have had will ` +
      'count;',
    '- the others must not come back: empty their data directories and let them join anew.',
    'Before you go on: look for the node with the highest term and entry and recover that one, and',
    'keep a copy of this directory.',
  ].join('\n')
}

async function confirm({ terminal }: Session): Promise<void> {
  if (!terminal.isInTty) {
    throw new CliError('usage', 'recover asks, and nobody is there to answer', {
      hint: 'if you have read what may be lost, say --yes',
    })
  }
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    const answer = await lines.question(`\nType "${confirmation}" to go on: `)
    if (answer.trim() !== confirmation) throw new CliError('usage', 'nothing was changed')
  } finally {
    lines.close()
  }
}
