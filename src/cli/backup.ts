import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { type Host, runs, type Session } from './session.ts'

export function addBackup(program: Command, host: Host): void {
  const command = program
    .command('backup')
    .description('save all that the cluster holds, while it runs; the file is secret')
    .argument('[file]', 'where to; - for standard output; default: named by cluster and entry')
    .option('--force', 'replace a file that exists')
    .action(
      runs(host, async (session, file: string | undefined, options: { force?: boolean }) => {
        const response = await session.client.send('/fnd/v1/backup')
        if (!response.ok || response.body === null) throw await session.client.failure(response)
        const path = file ?? nameFrom(response)
        warnOfMissing(session, response)
        if (path === '-') {
          for await (const chunk of chunksOf(response)) await session.terminal.write(chunk)
          return
        }
        if (existsSync(path) && options.force !== true) {
          await response.body.cancel()
          throw new CliError('usage', `${path} exists`, { hint: 'replace it with --force' })
        }
        const bytes = await save(session, response, path)
        const index = Number(response.headers.get('fnd-applied-index'))
        await session.print(
          { file: path, bytes, index },
          () => `saved entry ${index} to ${path}: ${bytes} bytes`,
        )
      }),
    )
  examples(command, [
    ['fnd backup', 'into this directory'],
    ['fnd backup /var/backups/fnd --force', 'every night, by cron'],
    ['fnd backup - | gpg -e -r ops > fnd.gpg', 'encrypted'],
  ])
}

function warnOfMissing({ terminal }: Session, response: Response): void {
  const count = Number(response.headers.get('fnd-missing-bundles') ?? 0)
  if (count === 0) return
  terminal.note(
    `warning: no node has the code of some functions, so that the backup lacks it ` +
      `(bundles: ${count}); the log of the server names them`,
  )
}

/** The server's name for it, which must not lead out of this directory. */
function nameFrom(response: Response): string {
  const text = response.headers.get('content-disposition') ?? ''
  const name = /filename="([A-Za-z0-9][A-Za-z0-9._-]*)"/.exec(text)?.[1]
  return name ?? 'fnd.backup'
}

/** Under its name only once it is whole and on the disk. Readable by its owner alone. */
async function save(session: Session, response: Response, path: string): Promise<number> {
  const draft = `${path}.part`
  const file = openSync(draft, 'w', 0o600)
  let bytes = 0
  let isSaved = false
  try {
    for await (const chunk of chunksOf(response)) {
      writeAll(file, chunk, draft)
      bytes += chunk.length
      session.terminal.progress(`${bytes} bytes`)
    }
    orFull(draft, () => fsyncSync(file))
    renameSync(draft, path)
    isSaved = true
  } finally {
    closeSync(file)
    if (!isSaved) rmSync(draft, { force: true })
  }
  const folder = openSync(dirname(path), 'r')
  fsyncSync(folder)
  closeSync(folder)
  return bytes
}

/** A write takes less than it is given when the disk is nearly full. */
function writeAll(file: number, chunk: Uint8Array, path: string): void {
  for (let at = 0; at < chunk.length; ) {
    at += orFull(path, () => writeSync(file, chunk, at, chunk.length - at))
  }
}

function orFull<T>(path: string, write: () => T): T {
  try {
    return write()
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw cause
    throw new CliError('failed', `no space is left for ${path}, which was removed`, {
      hint: 'name a file on another disk',
      cause,
    })
  }
}

async function* chunksOf(response: Response): AsyncGenerator<Uint8Array> {
  try {
    if (response.body !== null) yield* response.body as unknown as AsyncIterable<Uint8Array>
  } catch (cause) {
    throw new CliError('failed', 'the backup broke off', {
      hint: 'run it again; the log of the server says why',
      cause,
    })
  }
}
