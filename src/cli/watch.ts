import { existsSync, type FSWatcher, statSync, watch } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { BundleContent } from './bundle.ts'
import { CliError } from './failure.ts'
import type { Session } from './session.ts'

/** Editors save in several steps; what comes within this belongs to one save. */
const settleMs = 60

/**
 * Deploys, then again after every change of an input, one deploy at a time. A fault is shown and
 * waited out. Directories are watched, not files: many editors save by renaming a new file over
 * the old one, which a watch of the file itself would not survive.
 */
export async function deployOnChange(
  session: Session,
  deploy: () => Promise<BundleContent>,
  path: string,
): Promise<void> {
  const full = resolve(path)
  if (!existsSync(full)) throw new CliError('usage', `there is no file or directory ${path}`)
  const isDir = statSync(full).isDirectory()
  const watched = new Watched()
  watched.look({ inputs: [], dirs: [isDir ? full : dirname(full)], isAnyFile: true })
  for (;;) {
    const changed = watched.changed()
    try {
      const content = await deploy()
      const dirs = content.inputDir === undefined ? [] : [content.inputDir]
      const inputDirs = [...new Set(content.inputs.map(file => dirname(file)))]
      watched.look({
        inputs: content.inputs,
        dirs: [...dirs, ...inputDirs],
        isAnyFile: content.inputDir !== undefined,
      })
    } catch (error) {
      if (!(error instanceof CliError) || error.reason === 'unauthorized') throw error
      session.terminal.note(`error: ${error.message}`)
      if (error.hint !== undefined) session.terminal.note(`hint: ${error.hint}`)
      watched.acceptAnyFile()
    }
    if (!session.isJson) session.terminal.note('waiting for changes; stop with Ctrl-C')
    await changed
  }
}

/** A set of directories under watch, and a promise for the next change that matters. */
class Watched {
  readonly #watchers = new Map<string, FSWatcher>()
  #inputs = new Set<string>()
  #isAnyFile = true
  #timer: Timer | undefined
  #resolve: (() => void) | undefined

  /** Begins before a deploy, so that a save during it is not lost. */
  changed(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#resolve = resolve
    return promise
  }

  look(what: {
    readonly inputs: readonly string[]
    readonly dirs: readonly string[]
    readonly isAnyFile: boolean
  }): void {
    this.#inputs = new Set(what.inputs)
    this.#isAnyFile = what.isAnyFile
    for (const [dir, watcher] of this.#watchers) {
      if (what.dirs.includes(dir)) continue
      watcher.close()
      this.#watchers.delete(dir)
    }
    for (const dir of what.dirs) {
      if (this.#watchers.has(dir)) continue
      const options = { recursive: what.isAnyFile && what.inputs.length === 0 }
      const watcher = watch(dir, options, (_event, name) => this.#event(dir, name))
      // The directory itself was removed: the next deploy says so.
      watcher.on('error', () => this.#event(dir, null))
      this.#watchers.set(dir, watcher)
    }
  }

  /** After a failed build nobody knows which file mends it. */
  acceptAnyFile(): void {
    this.#isAnyFile = true
  }

  #event(dir: string, name: string | null): void {
    if (!this.#isAnyFile && name !== null && !this.#inputs.has(resolve(dir, name))) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#resolve?.(), settleMs)
  }
}
