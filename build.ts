/**
 * Makes dist/fnd: one executable that holds Bun, the program, the LMDB addon and all assets.
 * `bun build.ts [--target linux-x64|linux-arm64|linux-x64-musl|linux-arm64-musl] [--outfile PATH]
 * [--command-version N]`; the last for tests of upgrades.
 * See docs/building.md for what each target needs.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import type { BunPlugin } from 'bun'
import manifest from './package.json' with { type: 'json' }
import type { EmbeddedLibrary } from './src/store/lmdb-addon.ts'

const root = import.meta.dir

type Libc = 'glibc' | 'musl'
type Cpu = 'x64' | 'arm64'

export interface Target {
  readonly name: string
  readonly cpu: Cpu
  readonly libc: Libc
}

export const targets: readonly Target[] = [
  { name: 'linux-x64', cpu: 'x64', libc: 'glibc' },
  { name: 'linux-arm64', cpu: 'arm64', libc: 'glibc' },
  { name: 'linux-x64-musl', cpu: 'x64', libc: 'musl' },
  { name: 'linux-arm64-musl', cpu: 'arm64', libc: 'musl' },
]

function hostTarget(): Target {
  const report = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  const libc: Libc = report.header.glibcVersionRuntime === undefined ? 'musl' : 'glibc'
  const found = targets.find(target => target.cpu === process.arch && target.libc === libc)
  if (process.platform !== 'linux' || found === undefined) {
    throw new Error(`fnd runs on Linux on x64 or arm64, not on ${process.platform} ${process.arch}`)
  }
  return found
}

function installedVersion(name: string): string {
  const path = join(root, 'node_modules', name, 'package.json')
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version
}

/**
 * The folder of an npm package of another platform, which `npm install` leaves out: fetched with
 * npm, in the version of `sibling`, and kept under node_modules/.cache.
 */
function foreignPackage(name: string, sibling: string): string {
  const installed = join(root, 'node_modules', name)
  if (existsSync(join(installed, 'package.json'))) return installed
  const version = installedVersion(sibling)
  const folder = join(root, 'node_modules/.cache/fnd-build', `${name}-${version}`)
  if (existsSync(folder)) return folder
  const partial = `${folder}.partial`
  rmSync(partial, { recursive: true, force: true })
  mkdirSync(partial, { recursive: true })
  const archive = execFileSync('npm', ['pack', '--silent', `${name}@${version}`], {
    cwd: partial,
    encoding: 'utf8',
  }).trim()
  execFileSync('tar', ['-xzf', archive, '--strip-components=1'], { cwd: partial })
  rmSync(join(partial, archive))
  renameSync(partial, folder)
  return folder
}

/** The Bun that runs the program; `undefined` stands for the one that runs this build. */
function runtimeOf(target: Target): string | undefined {
  if (target.name === hostTarget().name) return undefined
  const cpu = target.cpu === 'arm64' ? 'aarch64' : 'x64'
  const name = `@oven/bun-linux-${cpu}${target.libc === 'musl' ? '-musl' : ''}`
  return join(foreignPackage(name, 'bun'), 'bin', 'bun')
}

/**
 * The C++ runtime that the addon needs and that a machine with nothing but libc lacks. On musl,
 * Bun itself is linked to it, so that the machine has it or cannot run the program at all.
 */
function cxxLibraries(target: Target): EmbeddedLibrary[] {
  if (target.libc === 'musl') return []
  const triple = target.cpu === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu'
  const isHost = target.name === hostTarget().name
  const folders = isHost
    ? [`/usr/lib/${triple}`, `/lib/${triple}`, '/usr/lib64', '/usr/lib']
    : [`/usr/lib/${triple}`, `/usr/${triple}/lib`]
  const wanted = [
    { soname: 'libgcc_s.so.1', symbol: '_Unwind_Resume' },
    { soname: 'libstdc++.so.6', symbol: '__cxa_end_catch' },
  ]
  return wanted.flatMap(({ soname, symbol }) => {
    const folder = folders.find(candidate => existsSync(join(candidate, soname)))
    if (folder !== undefined) return [{ soname, symbol, path: realpathSync(join(folder, soname)) }]
    console.error(`warning: ${soname} not found; machines without it will not run this build`)
    return []
  })
}

/** The text of a module that hands lmdb its addon out of the executable. */
function addonModule(target: Target): string {
  const folder = foreignPackage(`@lmdb/lmdb-linux-${target.cpu}`, 'lmdb')
  const libraries = cxxLibraries(target)
  const asset = (path: string) => `${JSON.stringify(path)} with { type: 'file' }`
  return [
    `import { loadEmbeddedAddon } from ${JSON.stringify(join(root, 'src/store/lmdb-addon.ts'))}`,
    `import addon from ${asset(join(folder, `node.napi.${target.libc}.node`))}`,
    ...libraries.map(({ path }, index) => `import library${index} from ${asset(path)}`),
    'const libraries = [',
    ...libraries.map(
      ({ soname, symbol }, i) =>
        `  { soname: '${soname}', symbol: '${symbol}', path: library${i} },`,
    ),
    ']',
    'export default () => loadEmbeddedAddon(addon, libraries)',
  ].join('\n')
}

/** Native parts of packages: LMDB's is embedded, those that only give speed are left out. */
function nativePlugin(target: Target): BunPlugin {
  return {
    name: 'native',
    setup(build) {
      build.onResolve({ filter: /^node-gyp-build-optional-packages$/ }, () => {
        return { path: 'lmdb-addon', namespace: 'native' }
      })
      build.onLoad({ filter: /^lmdb-addon$/, namespace: 'native' }, () => {
        return { contents: addonModule(target), loader: 'js', resolveDir: root }
      })
      build.onResolve({ filter: /^(msgpackr-extract|cpu-features)$|sshcrypto\.node$/ }, args => {
        return { path: args.path, namespace: 'native-absent' }
      })
      // dockerode loads these for what fnd does not use: hosts by ssh, and BuildKit.
      build.onResolve({ filter: /^(ssh2|@grpc\/grpc-js|@grpc\/proto-loader)$/ }, args => {
        return { path: args.path, namespace: 'unused' }
      })
      build.onLoad({ filter: /.*/, namespace: 'unused' }, () => {
        return { contents: 'module.exports = {}', loader: 'js' }
      })
      build.onLoad({ filter: /.*/, namespace: 'native-absent' }, args => {
        return { contents: `throw new Error('${args.path} is not embedded')`, loader: 'js' }
      })
    },
  }
}

/** A program of its own, as one text. */
async function bundled(path: string): Promise<string> {
  const built = await Bun.build({
    entrypoints: [join(root, path)],
    target: 'bun',
    minify: { syntax: true, whitespace: true, identifiers: false },
  })
  const [output] = built.outputs
  if (output === undefined) throw new Error(`${path} did not bundle`)
  return output.text()
}

/** The executable holds the programs that it starts as texts, where the source refers to files. */
function programsPlugin(worker: string, diskThread: string): BunPlugin {
  return {
    name: 'programs',
    setup(build) {
      build.onLoad({ filter: /\/src\/exec\/worker-source\.ts$/ }, () => ({
        contents: `const text = ${JSON.stringify(worker)}
          export const workerSource = async () => text`,
        loader: 'js',
      }))
      build.onLoad({ filter: /\/src\/store\/disk-source\.ts$/ }, () => ({
        contents: `const text = ${JSON.stringify(diskThread)}
          let url
          export const diskThreadUrl = () =>
            (url ??= URL.createObjectURL(new Blob([text], { type: 'text/javascript' })))`,
        loader: 'js',
      }))
    },
  }
}

/** Commit of the checkout. */
function commitOf(): string {
  const given = process.env.FND_COMMIT
  if (given !== undefined && given !== '') return given
  const git = (...args: string[]) =>
    execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  try {
    return git('rev-parse', '--short', 'HEAD').trim()
  } catch {
    // No git, or no repository: a source archive builds too.
    return 'unknown'
  }
}

export interface BuildOptions {
  readonly entry: string
  readonly outfile: string
  readonly target: Target
  /** Makes a build that stands for a later version of fnd, to try upgrades with. */
  readonly commandVersion?: number
}

export async function build(options: BuildOptions): Promise<void> {
  const { entry, outfile, target, commandVersion } = options
  const runtime = runtimeOf(target)
  const suffix = commandVersion === undefined ? '' : `+commands.${commandVersion}`
  // Not inside a plugin: a build waits for ever for a build that one of its own plugins starts.
  const worker = await bundled('src/exec/worker.ts')
  const diskThread = await bundled('src/store/disk-thread.ts')
  mkdirSync(dirname(outfile), { recursive: true })
  // Written beside its place and renamed: a running fnd keeps the file it was started from.
  const partial = `${outfile}.${process.pid}.partial`
  try {
    const built = await Bun.build({
      entrypoints: [entry],
      target: 'bun',
      format: 'esm',
      minify: { syntax: true, whitespace: true, identifiers: false },
      bytecode: runtime === undefined,
      // Costs 1 % of the size and no time; a crash then names lines of the source.
      sourcemap: 'inline',
      define: {
        FND_VERSION: JSON.stringify(`${manifest.version}${suffix}`),
        FND_COMMIT: JSON.stringify(commitOf()),
        ...(commandVersion === undefined ? {} : { FND_COMMAND_VERSION: String(commandVersion) }),
        'process.env.NODE_ENV': JSON.stringify('production'),
      },
      plugins: [nativePlugin(target), programsPlugin(worker, diskThread)],
      compile: {
        outfile: partial,
        // What lies in the directory where fnd is started must not change what it does.
        autoloadDotenv: false,
        autoloadBunfig: false,
        ...(runtime === undefined ? {} : { executablePath: runtime }),
      },
    })
    for (const log of built.logs) console.error(String(log))
    renameSync(partial, outfile)
  } finally {
    rmSync(partial, { force: true })
    // The compiler writes the map it embeds to a file as well.
    rmSync(`${partial}.map`, { force: true })
  }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      target: { type: 'string' },
      outfile: { type: 'string' },
      'command-version': { type: 'string' },
    },
  })
  const host = hostTarget()
  const target = targets.find(({ name }) => name === (values.target ?? host.name))
  if (target === undefined) {
    console.error(`--target is one of ${targets.map(({ name }) => name).join(', ')}`)
    process.exit(2)
  }
  const suffix = target.name === host.name ? '' : `-${target.name}`
  const outfile = resolve(values.outfile ?? join(root, 'dist', `fnd${suffix}`))
  const commandVersion = Number(values['command-version'] ?? 0)
  if (!Number.isSafeInteger(commandVersion) || commandVersion < 0 || commandVersion > 255) {
    console.error('--command-version is a whole number up to 255')
    process.exit(2)
  }
  const startedMs = performance.now()
  const raised = commandVersion === 0 ? {} : { commandVersion }
  await build({ entry: join(root, 'src/main.ts'), outfile, target, ...raised })
  const megabytes = (Bun.file(outfile).size / 1e6).toFixed(0)
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1)
  console.error(`${outfile}: ${target.name}, ${megabytes} MB, built in ${seconds} s`)
}
