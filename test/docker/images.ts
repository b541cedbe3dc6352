/**
 * Images for tests, made on the spot: a tar of files is imported once for a daemon, and each image
 * is that with a configuration of its own. No registry is asked.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { rename, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import type Docker from 'dockerode'
import { pack } from 'tar-stream'

const root = join(import.meta.dir, '../..')
const fixtures = join(import.meta.dir, 'fixtures')

/** A file of an image: its bytes, or where a link points. */
interface Entry {
  readonly path: string
  readonly content?: Uint8Array
  readonly link?: string
  readonly mode?: number
}

interface Base {
  /** All that the files depend on; equal text, equal files. */
  readonly key: () => string
  readonly files: () => Promise<Entry[]>
}

const applets =
  'sh cat dd tr wc rm env sleep head tail printf echo test ps id ls touch true false kill mkdir ' +
  'stat nc wget seq date hostname ip'
const scripts = ['fn-default.sh', 'fn-http.sh']

/** What images are made from. */
const bases = {
  /** One static program and nothing else. */
  static: {
    key: () => textOf('fn-static.c'),
    files: async () => [{ path: 'fn-static', content: compiled('fn-static.c'), mode: 0o755 }],
  },
  /** busybox, and programs that speak over stdin and stdout. */
  shell: {
    key: () => [fileKey(busybox()), applets, ...scripts, ...scripts.map(textOf)].join(),
    files: async () => [
      ...shellFiles(),
      ...scripts.map(name => ({ path: name, content: bytesOf(name), mode: 0o755 })),
    ],
  },
  json: {
    key: () => textOf('fn-json.c'),
    files: async () => [{ path: 'fn-json', content: compiled('fn-json.c'), mode: 0o755 }],
  },
  /** The machine's own Node with its libraries, functions in JavaScript, and busybox. */
  node: {
    key: () => {
      const functions = [textOf('fn-fdk.js'), readFileSync(contractFn, 'utf8')]
      return [fileKey(node()), fileKey(busybox()), applets, ...functions].join()
    },
    files: async () => nodeFiles(),
  },
} satisfies Record<string, Base>

export type BaseName = keyof typeof bases

interface Recipe {
  readonly base: BaseName
  /** As `docker import --change` takes them. */
  readonly changes: readonly string[]
}

const entrypoint = (...command: readonly string[]) => `ENTRYPOINT ${JSON.stringify(command)}`
const shell = (script: string) => entrypoint('/bin/sh', '-c', script)

/** Images by name; each is tagged `<name>:1`. */
const recipes = {
  /** http-stream: echoes the body, or says hello. For benches too. */
  'fn-static': { base: 'static', changes: [entrypoint('/fn-static')] },
  /** Node and an unmodified FDK: greets `{"name": …}`, fails for `{"fail": true}`. */
  'fn-node-fdk': { base: 'node', changes: [entrypoint('/bin/node', '/fn/fn-fdk.js')] },
  /**
   * `test/exec/fixtures/contract-fn.js`, for the contract of drivers. Without the HOSTNAME that
   * Docker sets: the contract looks for what leaks from fnd's environment.
   */
  'fn-contract': {
    base: 'node',
    changes: [entrypoint('/bin/env', '-u', 'HOSTNAME', '/bin/node', '/fn/contract-fn.js')],
  },
  /** stdin and stdout, a container for each call; MODE: env, exit, log, sleep, deaf, or echo. */
  'fn-default': { base: 'shell', changes: [entrypoint('/fn-default.sh')] },
  /** HTTP over stdin and stdout; the header x-do says what a call does. */
  'fn-http': { base: 'shell', changes: [entrypoint('/fn-http.sh')] },
  /** JSON over stdin and stdout; some bodies have a meaning (fixtures/fn-json.c). */
  'fn-json': { base: 'json', changes: [entrypoint('/fn-json')] },
  /** A shell to try things with. */
  busybox: { base: 'shell', changes: ['CMD ["/bin/sh"]'] },
  /** Declares a volume, which Fn refuses. */
  'fn-volume': { base: 'static', changes: [entrypoint('/fn-static'), 'VOLUME /data'] },
  /** Runs as a user of its own choice. */
  'fn-user': { base: 'static', changes: [entrypoint('/fn-static'), 'USER 1234:1234'] },
  /** Its program is not there. */
  'fn-no-entrypoint': { base: 'shell', changes: [entrypoint('/nothing/here')] },
  /** Names no program at all. */
  'fn-no-command': { base: 'shell', changes: [] },
  /** Says why on stderr, and ends with code 3 before it is ready. */
  'fn-exits': { base: 'shell', changes: [shell('echo cannot start today >&2; exit 3')] },
  /** Runs, and never makes its socket. */
  'fn-never': { base: 'shell', changes: [shell('sleep 100000')] },
  /** Takes memory without end from its start. */
  'fn-oom': { base: 'static', changes: [entrypoint('/fn-static', 'allocate')] },
  /** Gets ready, and takes memory without end in its first call. */
  'fn-oom-call': { base: 'static', changes: [entrypoint('/fn-static', 'allocate-on-call')] },
  /** Answers like fn-static, and ignores SIGTERM. */
  'fn-stubborn': { base: 'static', changes: [entrypoint('/fn-static', 'stubborn')] },
} satisfies Record<string, Recipe>

export type ImageName = keyof typeof recipes

/** Makes the images of these names in a daemon, each as `<name>:1`. */
export async function makeImages(docker: Docker, names: readonly ImageName[]): Promise<void> {
  for (const name of names) {
    const { base, changes } = recipes[name]
    await makeImage(docker, { base, repo: name, tag: '1', changes })
  }
}

/** An image with the files of `base` and a configuration of its own. Returns its id. */
export async function makeImage(
  docker: Docker,
  image: {
    readonly base: BaseName
    readonly repo: string
    readonly tag: string
    readonly changes: readonly string[]
  },
): Promise<string> {
  const { base, repo, tag, changes } = image
  // What is committed inherits an entrypoint, so an image without one is imported.
  if (!changes.some(change => change.startsWith('ENTRYPOINT'))) {
    await importBase(docker, base, { repo, tag, changes })
    return (await docker.getImage(`${repo}:${tag}`).inspect()).Id
  }
  const baseRepo = `fnd-base-${base}`
  const known = await docker.listImages({ filters: { reference: [`${baseRepo}:1`] } })
  if (known.length === 0) {
    await importBase(docker, base, { repo: baseRepo, tag: '1', changes: [entrypoint('/none')] })
  }
  const container = await docker.createContainer({
    Image: `${baseRepo}:1`,
    HostConfig: { NetworkMode: 'none' },
  })
  const made = (await container.commit({ repo, tag, changes })) as { Id: string }
  await container.remove()
  return made.Id
}

async function importBase(docker: Docker, base: BaseName, options: object): Promise<void> {
  await followed(docker, await docker.importImage(await tarOf(base), options))
}

/** Resolves at the end of the daemon's report of its progress; rejects with the error in it. */
export function followed(docker: Docker, stream: NodeJS.ReadableStream): Promise<void> {
  return new Promise((resolve, reject) => {
    const onEnd = (error: Error | null, events: readonly { readonly error?: string }[]) => {
      const message = error?.message ?? events.find(event => event.error !== undefined)?.error
      if (message === undefined) resolve()
      else reject(new Error(message))
    }
    docker.modem.followProgress(stream, onEnd)
  })
}

/** The tar with the files of a base; made once on a machine, since making it is slow. */
async function tarOf(name: BaseName): Promise<string> {
  const base = bases[name]
  const own = readFileSync(import.meta.path, 'utf8')
  const key = createHash('sha256').update(`${own}\n${base.key()}`).digest('hex').slice(0, 24)
  const cache = join(tmpdir(), `fnd-test-images-${process.getuid?.() ?? 0}`)
  mkdirSync(cache, { recursive: true, mode: 0o700 })
  const file = join(cache, `${name}-${key}.tar`)
  if (existsSync(file)) return file
  const partial = `${file}.${process.pid}`
  await writeFile(partial, await tarBytes(await base.files()))
  await rename(partial, file)
  return file
}

async function tarBytes(files: readonly Entry[]): Promise<Buffer> {
  const tar = pack()
  const chunks: Buffer[] = []
  const collected = (async () => {
    for await (const chunk of tar) chunks.push(chunk as Buffer)
  })()
  tar.entry({ name: 'tmp', type: 'directory', mode: 0o1777 })
  tar.entry({ name: 'etc/passwd' }, 'root:x:0:0::/:/bin/sh\nfn:x:1000:1000::/tmp:/bin/sh\n')
  for (const { path, content, link, mode } of files) {
    if (link !== undefined) tar.entry({ name: path, type: 'symlink', linkname: link })
    else tar.entry({ name: path, mode: mode ?? 0o644 }, Buffer.from(content ?? []))
  }
  tar.finalize()
  await collected
  return Buffer.concat(chunks)
}

const contractFn = join(root, 'test/exec/fixtures/contract-fn.js')

function textOf(fixture: string): string {
  return readFileSync(join(fixtures, fixture), 'utf8')
}

function bytesOf(fixture: string): Uint8Array {
  return readFileSync(join(fixtures, fixture))
}

function fileKey(path: string): string {
  const { size, mtimeMs } = statSync(path)
  return `${path} ${size} ${mtimeMs}`
}

function programPath(name: string, hint: string): string {
  const found = Bun.which(name)
  if (found === null) throw new Error(`no ${name}: ${hint}`)
  return realpathSync(found)
}

function busybox(): string {
  return programPath('busybox', 'install busybox-static')
}

function node(): string {
  return programPath('node', 'install Node.js, which package.json asks for')
}

function must(program: string, ...options: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, options, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${options.join(' ')}: ${stderr}`)
  return stdout
}

function compiled(source: string): Uint8Array {
  const gcc = programPath('gcc', 'install gcc and libc6-dev')
  const target = join(tmpdir(), `fnd-test-${process.pid}-${source}.out`)
  must(gcc, '-O2', '-static', '-s', '-Wall', '-Werror', '-o', target, join(fixtures, source))
  const program = readFileSync(target)
  must('rm', target)
  return program
}

function shellFiles(): Entry[] {
  return [
    { path: 'bin/busybox', content: readFileSync(busybox()), mode: 0o755 },
    ...applets.split(' ').map(name => ({ path: `bin/${name}`, link: 'busybox' })),
  ]
}

function nodeFiles(): Entry[] {
  const libraries = [...must('ldd', node()).matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)]
  return [
    ...shellFiles(),
    { path: 'bin/node', content: readFileSync(node()), mode: 0o755 },
    ...libraries.map(([, path = '']) => ({
      path: path.slice(1),
      content: readFileSync(path),
      mode: 0o755,
    })),
    { path: 'fn/fn-fdk.js', content: bytesOf('fn-fdk.js') },
    { path: 'fn/contract-fn.js', content: readFileSync(contractFn) },
    ...packageFiles('@fnproject/fdk', new Set()),
  ]
}

/** A package and those it depends on, as they are installed here. */
function packageFiles(name: string, seen: Set<string>): Entry[] {
  if (seen.has(name)) return []
  seen.add(name)
  const dir = join(root, 'node_modules', name)
  const manifest = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as {
    dependencies?: Record<string, string>
  }
  const files = readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name))
    .map(path => ({
      path: join('fn/node_modules', relative(join(root, 'node_modules'), path)),
      content: readFileSync(path),
    }))
  const needed = Object.keys(manifest.dependencies ?? {})
  return [...files, ...needed.flatMap(other => packageFiles(other, seen))]
}
