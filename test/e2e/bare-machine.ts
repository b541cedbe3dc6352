/**
 * A file tree with libc and fnd and nothing else: no Node, no Bun, no C++ runtime, no shell, no
 * /etc. Programs in it see it as their root, in a PID namespace of their own, so that ending the
 * outer process ends them all. Needs root and bubblewrap.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { assert } from '../../src/errors.ts'

export const binary = join(import.meta.dir, '../../dist/fnd')

export interface Result {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** The shared libraries that the executable asks for, the dynamic linker included. */
export function librariesOf(path: string): string[] {
  const listing = execFileSync('ldd', [path], { encoding: 'utf8' })
  return [...listing.matchAll(/(\/\S+) \(0x/g)].map(([, library = '']) => library)
}

export class BareMachine implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'fnd-bare-'))
  readonly #servers = new Set<Bun.Subprocess>()

  constructor() {
    assert(existsSync(binary), 'dist/fnd is built: npm run build')
    for (const library of librariesOf(binary)) this.#install(library, library)
    this.#install(binary, '/app/fnd')
    for (const folder of ['proc', 'dev', 'tmp']) mkdirSync(join(this.root, folder))
  }

  #install(source: string, place: string): void {
    const target = join(this.root, place)
    mkdirSync(dirname(target), { recursive: true })
    copyFileSync(source, target)
  }

  #command(args: readonly string[]): string[] {
    const view = ['--bind', this.root, '/', '--proc', '/proc', '--dev', '/dev', '--chdir', '/app']
    const life = ['--unshare-pid', '--die-with-parent', '--cap-add', 'ALL', '--clearenv']
    return ['bwrap', ...view, ...life, '/app/fnd', ...args]
  }

  async run(...args: string[]): Promise<Result> {
    const child = Bun.spawn(this.#command(args), {
      stdin: 'ignore',
      stdout: 'pipe',
      stderr: 'pipe',
      timeout: 60_000,
    })
    const [code, stdout, stderr] = await Promise.all([
      child.exited,
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ])
    return { code, stdout, stderr }
  }

  /** Starts a server on a free port and resolves with its address when it listens. */
  async serve(...args: string[]): Promise<string> {
    const logPath = join(this.root, `serve-${this.#servers.size}.log`)
    const listen = ['--listen', '127.0.0.1:0', '--log-format', 'json']
    const child = Bun.spawn(this.#command(['serve', ...listen, ...args]), {
      stdin: 'ignore',
      stdout: 'ignore',
      stderr: Bun.file(logPath),
    })
    this.#servers.add(child)
    const isOver = () => child.exitCode !== null
    for (let attempt = 0; attempt < 600; attempt++) {
      const isLast = isOver()
      const log = existsSync(logPath) ? readFileSync(logPath, 'utf8') : ''
      const url = /"url":"(http[^"]+)"/.exec(log)?.[1]
      if (url !== undefined) return url
      if (isLast) throw new Error(`the server ended with ${child.exitCode}:\n${log}`)
      await Bun.sleep(50)
    }
    throw new Error(`the server does not listen:\n${readFileSync(logPath, 'utf8')}`)
  }

  [Symbol.dispose](): void {
    for (const server of this.#servers) server.kill('SIGKILL')
    rmSync(this.root, { recursive: true, force: true })
  }
}

export function libraryNames(): string[] {
  return librariesOf(binary).map(path => basename(path))
}
