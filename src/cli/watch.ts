import { existsSync, type FSWatcher, statSync, watch } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { type BundleContent, isDataDir } from './bundle.ts'
import { CliError } from './failure.ts'
import type { Session } from './session.ts'
import type { Terminal } from './terminal.ts'

/** Editors save in several steps; what comes within this belongs to one save. */
const settleMs = 60

/** File systems stamp with the kernel's coarse clock, which lags by up to a tick. */
const clockTickMs = 10

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
  const watched = new Watched(session.terminal)
  let dirs = [isDir ? full : dirname(full)]
  let inputs: readonly string[] = []
  let isTree = false
  for (;;) {
    const changed = watched.changed()
    const startedMs = Date.now()
    try {
      const content = await deploy()
      isTree = content.inputDir !== undefined
      inputs = content.inputs
      dirs = isTree ? [full] : [...new Set(inputs.map(file => dirname(file)))]
      watched.look(dirs, isTree, isTree ? undefined : new Set(inputs))
      watched.checkSince(startedMs, filesOf(content))
    } catch (error) {
      if (!(error instanceof CliError) || error.reason === 'unauthorized') throw error
      for (const line of error.lines(session.isJson)) session.terminal.note(line)
      // Nobody knows which file mends it: a missing one, perhaps.
      const faulty = error.files.map(file => dirname(file))
      watched.look([...new Set([...dirs, ...faulty])], isTree, undefined)
      watched.checkSince(startedMs, [...inputs, ...error.files])
    }
    if (!session.isJson) session.terminal.note('waiting for changes; stop with Ctrl-C')
    await changed
  }
}

function filesOf(content: BundleContent): string[] {
  const packed = content.files.flatMap(file => ('file' in file.content ? [file.content.file] : []))
  return [...content.inputs, ...packed]
}

/** A set of directories under watch, and a promise for the next change that matters. */
class Watched {
  readonly #terminal: Terminal
  readonly #watchers = new Map<string, FSWatcher>()
  /** Files that matter; undefined: all. */
  #inputs: ReadonlySet<string> | undefined
  #timer: Timer | undefined
  #resolve: (() => void) | undefined

  constructor(terminal: Terminal) {
    this.#terminal = terminal
  }

  /** Begins before a deploy, so that a save during it is not lost. */
  changed(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#resolve = resolve
    return promise
  }

  look(dirs: readonly string[], isTree: boolean, inputs: ReadonlySet<string> | undefined): void {
    this.#inputs = inputs
    for (const [dir, watcher] of this.#watchers) {
      if (dirs.includes(dir)) continue
      watcher.close()
      this.#watchers.delete(dir)
    }
    for (const dir of dirs) {
      if (this.#watchers.has(dir)) continue
      const watcher = watch(dir, { recursive: isTree }, (_event, name) => this.#event(dir, name))
      // The directory itself was removed: the next deploy says so.
      watcher.on('error', () => this.#event(dir, null))
      this.#watchers.set(dir, watcher)
    }
  }

  /** What was saved after it was read and before it was watched counts too. */
  checkSince(startedMs: number, files: readonly string[]): void {
    const isNewer = files.some(file => {
      const stat = statSync(file, { throwIfNoEntry: false })
      if (stat === undefined || stat.mtimeMs <= startedMs - clockTickMs) return false
      return !this.#terminal.writesTo(file)
    })
    if (isNewer) this.#settle()
  }

  #event(dir: string, name: string | null): void {
    if (name !== null) {
      if (this.#inputs?.has(resolve(dir, name)) === false) return
      // What is written here at every deploy would go on for ever: this command's own output, sent
      // to a file, and the data of a server.
      if (this.#terminal.writesTo(resolve(dir, name))) return
      const [top = ''] = name.split('/')
      if (name.includes('/') && isDataDir(join(dir, top))) return
    }
    this.#settle()
  }

  #settle(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#resolve?.(), settleMs)
  }
}
