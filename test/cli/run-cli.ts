import { join } from 'node:path'
import type { FixtureServer } from './fixture-server.ts'

export const cliMain = join(import.meta.dir, '..', '..', 'src', 'main.ts')

export interface CliResult {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

export interface CliOptions {
  readonly server?: Pick<FixtureServer, 'url' | 'token'>
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly stdin?: string
}

/** The environment of a person who has set nothing: no settings of this machine leak in. */
export function bareEnv(options: CliOptions): Record<string, string> {
  return {
    PATH: process.env.PATH ?? '',
    HOME: '/nonexistent',
    ...(options.server === undefined
      ? {}
      : { FND_URL: options.server.url, FND_TOKEN: options.server.token }),
    ...options.env,
  }
}

export function spawnCli(args: readonly string[], options: CliOptions = {}) {
  return Bun.spawn([process.execPath, cliMain, ...args], {
    env: bareEnv(options),
    cwd: options.cwd ?? '/tmp',
    stdin: options.stdin === undefined ? 'ignore' : new Blob([options.stdin]),
    stdout: 'pipe',
    stderr: 'pipe',
  })
}

/** Runs the command line as a process of its own, to its end. */
export async function runCli(
  args: readonly string[],
  options: CliOptions = {},
): Promise<CliResult> {
  const child = spawnCli(args, options)
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ])
  return { exitCode, stdout, stderr }
}

/** Reads one line at a time. */
export function lineReader(stream: ReadableStream<Uint8Array>): () => Promise<string> {
  const reader = stream.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  return async () => {
    for (;;) {
      const end = rest.indexOf('\n')
      if (end >= 0) {
        const line = rest.slice(0, end)
        rest = rest.slice(end + 1)
        return line
      }
      const { value, done } = await reader.read()
      if (done) return rest
      rest += decoder.decode(value, { stream: true })
    }
  }
}
