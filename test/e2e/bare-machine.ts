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

  /** Starts a server and resolves, when it answers /healthz, with its address. */
  async serve(port: number, ...args: string[]): Promise<string> {
    const listen = `127.0.0.1:${port}`
    const logPath = join(this.root, `serve-${port}.log`)
    const child = Bun.spawn(this.#command(['serve', '--listen', listen, ...args]), {
      stdin: 'ignore',
      stdout: Bun.file(logPath),
      stderr: Bun.file(logPath),
    })
    this.#servers.add(child)
    const url = `http://${listen}`
    for (let attempt = 0; attempt < 300; attempt++) {
      if (child.exitCode !== null) break
      const isUp = await fetch(`${url}/healthz`).then(
        ({ ok }) => ok,
        () => false,
      )
      if (isUp) return url
      await Bun.sleep(100)
    }
    throw new Error(`no server at ${url}:\n${readFileSync(logPath, 'utf8')}`)
  }

  [Symbol.dispose](): void {
    for (const server of this.#servers) server.kill('SIGKILL')
    rmSync(this.root, { recursive: true, force: true })
  }
}

/** A port that was free a moment ago. */
export function freePort(): number {
  const server = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data: () => undefined } })
  const { port } = server
  server.stop(true)
  return port
}

export function libraryNames(): string[] {
  return librariesOf(binary).map(path => basename(path))
}
