/**
 * Makes the content of a bundle from source: the same source gives the same bytes, whatever the
 * directory, the machine or the day.
 */
import { existsSync, lstatSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, relative, resolve, sep } from 'node:path'
import type { Manifest } from '../store/manifest.ts'
import { CliError } from './failure.ts'

export interface BundleFile {
  /** Below the bundle's root, with `/`. */
  readonly path: string
  readonly content: Uint8Array | { readonly file: string; readonly bytes: number }
  readonly isExecutable: boolean
}

export interface BundleContent {
  readonly manifest: Manifest
  readonly files: readonly BundleFile[]
  /** Files whose change changes the bundle, absolute. */
  readonly inputs: readonly string[]
  /** What else to watch: a directory whose every file counts. */
  readonly inputDir?: string
}

/** A module keeps this many calls going where it does not say otherwise: it mostly waits. */
const moduleConcurrency = 100

const fdkPackage = /(^|\/)node_modules\/@fnproject\/fdk\//

/** The file to begin with: the one given, or what a directory's package.json or habit names. */
export function entryOf(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) throw new CliError('usage', `there is no file or directory ${path}`)
  if (stat.isFile()) return resolve(path)
  const packagePath = join(path, 'package.json')
  if (existsSync(packagePath)) {
    const main = packageEntry(packagePath)
    if (main !== undefined) return resolve(path, main)
  }
  const stems = ['index', 'main', 'func', 'mod', 'src/index', 'src/main']
  const endings = ['ts', 'tsx', 'mts', 'js', 'mjs', 'cjs', 'jsx']
  for (const stem of stems) {
    for (const ending of endings) {
      const candidate = resolve(path, `${stem}.${ending}`)
      if (existsSync(candidate)) return candidate
    }
  }
  throw new CliError('usage', `${path} has no index.ts, main.ts or func.js to begin with`, {
    hint: 'name the file itself, or set "main" in package.json; programs need --exec',
  })
}

function packageEntry(path: string): string | undefined {
  try {
    const fields = JSON.parse(readFileSync(path, 'utf8')) as { module?: unknown; main?: unknown }
    const found = [fields.module, fields.main].find(one => typeof one === 'string' && one !== '')
    const entry = typeof found === 'string' ? resolve(dirname(path), found) : undefined
    return entry !== undefined && statSync(entry, { throwIfNoEntry: false })?.isFile()
      ? entry
      : undefined
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    throw new CliError('usage', `${path}: ${cause.message}`, { cause })
  }
}

export async function bundleModule(entry: string): Promise<BundleContent> {
  const root = packageRoot(entry)
  const built = await build(entry, root)
  const inputs = Object.keys(built.metafile?.inputs ?? {}).map(path => resolve(root, path))
  const main = built.outputs.find(output => output.kind === 'entry-point')
  if (main === undefined) throw new CliError('failed', `${entry} built to nothing`)
  const files: BundleFile[] = []
  for (const output of built.outputs) {
    const path = output === main ? 'index.js' : output.path.replace(/^(\.?\/)+/, '')
    const content = new Uint8Array(await output.arrayBuffer())
    files.push({ path, content, isExecutable: false })
  }
  // Read from the output, where a CommonJS module has its `module.exports` as default export.
  const { exports } = new Bun.Transpiler({ loader: 'js' }).scan(await main.text())
  const isFdk =
    inputs.some(path => fdkPackage.test(path.replaceAll(sep, '/'))) || !exports.includes('default')
  const manifest: Manifest = isFdk
    ? { version: 1, kind: 'module', entry: 'index.js', form: 'fdk' }
    : { version: 1, kind: 'module', entry: 'index.js', concurrency: moduleConcurrency }
  return { manifest, files, inputs }
}

async function build(entry: string, root: string): Promise<Bun.BuildOutput> {
  // The bundler writes paths below the current directory into comments, so this has to be the
  // same place relative to the source on every machine.
  const before = process.cwd()
  process.chdir(root)
  let built: Bun.BuildOutput
  try {
    built = await Bun.build({
      entrypoints: [entry],
      target: 'bun',
      format: 'esm',
      metafile: true,
      throw: false,
      // Left alone the bundler writes what they are on this machine. What is deployed is
      // production: libraries such as React leave their checks out.
      define: {
        __dirname: 'import.meta.dirname',
        __filename: 'import.meta.filename',
        'process.env.NODE_ENV': '"production"',
      },
      naming: { asset: '[name]-[hash].[ext]' },
    })
  } finally {
    process.chdir(before)
  }
  if (!built.success) throw buildFailure(built.logs, root)
  return built
}

function buildFailure(logs: readonly (BuildMessage | ResolveMessage)[], root: string): CliError {
  const lines = logs
    .filter(log => log.level === 'error')
    .map(log => {
      const at = log.position
      if (at === null) return log.message
      const file = relative(process.cwd(), resolve(root, at.file))
      const text = at.lineText === '' ? '' : `\n    ${at.lineText.trim()}`
      return `${file}:${at.line}:${at.column}: ${log.message}${text}`
    })
  const files = logs.flatMap(log =>
    log.position === null ? [] : [resolve(root, log.position.file)],
  )
  const isResolve = logs.some(log => log.name === 'ResolveMessage')
  return new CliError('failed', lines.length > 0 ? lines.join('\n') : 'the build failed', {
    files,
    ...(isResolve ? { hint: 'are the dependencies installed? try: npm install' } : {}),
  })
}

/** The nearest directory upwards with a package.json, else the file's own. */
function packageRoot(entry: string): string {
  const own = realpathSync(dirname(entry))
  for (let dir = own; ; dir = dirname(dir)) {
    if (existsSync(join(dir, 'package.json'))) return dir
    if (dir === dirname(dir)) return own
  }
}

/** An executable alone, or a directory with one in it, as it is. */
export function bundleProgram(path: string, entryName: string | undefined): BundleContent {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) throw new CliError('usage', `there is no file or directory ${path}`)
  if (stat.isFile()) {
    const entry = basename(path)
    const content = { file: resolve(path), bytes: stat.size }
    return {
      manifest: { version: 1, kind: 'program', entry },
      files: [{ path: entry, content, isExecutable: true }],
      inputs: [resolve(path)],
    }
  }
  const files = filesBelow(realpathSync(path), '')
  const entry = programEntry(path, files, entryName)
  return {
    manifest: { version: 1, kind: 'program', entry: entry.path },
    files: files.map(file => (file === entry ? { ...file, isExecutable: true } : file)),
    inputs: [],
    inputDir: resolve(path),
  }
}

function programEntry(
  path: string,
  files: readonly BundleFile[],
  name: string | undefined,
): BundleFile {
  if (name !== undefined) {
    const wanted = name.replace(/^\.\//, '')
    const found = files.find(file => file.path === wanted)
    if (found !== undefined) return found
    throw new CliError('usage', `--entry: there is no file ${wanted} in ${path}`)
  }
  const executables = files.filter(file => file.isExecutable && !file.path.includes('/'))
  const habitual = ['main', 'func', 'run']
    .map(stem => executables.find(file => file.path === stem))
    .find(file => file !== undefined)
  const found = executables.length === 1 ? executables[0] : habitual
  if (found !== undefined) return found
  const names = executables.map(file => file.path).join(', ')
  throw new CliError(
    'usage',
    executables.length === 0
      ? `${path} has no executable file at its top`
      : `which of ${names} is it?`,
    { hint: 'name it with --entry <file>' },
  )
}

/** All files, links followed as long as they stay inside: a bundle holds files only. */
function filesBelow(root: string, below: string): BundleFile[] {
  const files: BundleFile[] = []
  for (const name of readdirSync(join(root, below)).sort()) {
    const path = below === '' ? name : `${below}/${name}`
    if (name === '.git' || name === '.DS_Store') continue
    if (path === 'fnd.json') {
      throw new CliError('usage', `${join(root, path)}: a bundle's own fnd.json takes this name`)
    }
    const full = join(root, path)
    const link = lstatSync(full)
    if (link.isSymbolicLink() && !isInside(root, full)) {
      throw new CliError('usage', `${full} links to something outside of the directory`)
    }
    const stat = statSync(full)
    if (stat.isDirectory()) {
      if (isDataDir(full)) continue
      if (link.isSymbolicLink()) {
        throw new CliError('usage', `${full} links to a directory; only files can be linked to`)
      }
      files.push(...filesBelow(root, path))
    } else if (stat.isFile()) {
      const content = { file: full, bytes: stat.size }
      files.push({ path, content, isExecutable: (stat.mode & 0o111) !== 0 })
    }
  }
  return files
}

/** A server's data, which holds the admin token, is never part of what is deployed. */
export function isDataDir(dir: string): boolean {
  return existsSync(join(dir, 'admin.token'))
}

function isInside(root: string, link: string): boolean {
  try {
    return realpathSync(link).startsWith(root + sep)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw cause
  }
}
