/**
 * What the compiler and the linter cannot see: which file may import which, which words a file may
 * not hold, and that the documents name what the code reads. Function length, file length, `any`,
 * `!`, `enum`, cycles and barrels are rules of biome.json.
 */
import { describe, expect, test } from 'bun:test'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { Glob } from 'bun'

const root = join(import.meta.dir, '..')

/** Composition: the files that see every folder. */
const compositionFiles = [
  'src/main.ts',
  'src/node.ts',
  'src/node-cluster.ts',
  'src/node-backup.ts',
  'src/offline.ts',
]

/** Leaves that every folder may use. They import nothing but each other. */
const leafFiles = ['src/clock.ts', 'src/errors.ts', 'src/ids.ts', 'src/version.ts']

/** Folder → folders whose files it may import for their values. Types may come from anywhere. */
const folderMayUse: Readonly<Record<string, readonly string[]>> = {
  'src/http': [],
  'src/raft': [],
  'src/store': [],
  'src/cluster': [],
  'src/exec': ['src/http'],
  'src/watch': ['src/http'],
  'src/lb': ['src/http'],
  'src/api': ['src/http'],
  'src/console': [],
  'src/cli': ['src/http'],
  src: [],
}

/** Single files that others than their own folder may use for their values, and why. */
const openFiles: Readonly<Record<string, string>> = {
  'src/config.ts': 'pure parsing of addresses; its environment is an argument',
  'src/config-cluster.ts': 'pure parsing of addresses; its environment is an argument',
  'src/exec/docker/auth.ts': 'pure parsing of Docker configurations',
  'src/exec/docker/reference.ts': 'pure parsing of names of images',
  'src/log.ts': 'makes the logger that is handed down',
  'src/servers.ts': 'the record by which the command line finds a server',
  'src/store/settings.ts': 'pure parsing of annotations',
  'src/exec/syslog-url.ts': 'pure parsing of addresses',
  'src/raft/crc32c.ts': 'a pure function of bytes',
  'src/raft/desk.ts': 'memory that pure functions of bytes share',
  'src/raft/electorate.ts': 'pure functions of what a member says of itself',
  'src/raft/split.ts': 'a pure function of entries',
  'src/raft/wire.ts': 'pure functions of bytes',
  'src/store/fsync.ts': 'flushes files and directories; no state',
  'src/store/objects.ts': 'the objects that all of fnd speaks of; no effects',
  'src/store/commands.ts': 'the commands that shells propose; no effects',
  'src/store/command-shape.ts': 'a pure check of what another node sent',
}

/** Single uses across folders, where one part is built on another. */
const pairs: readonly (readonly [string, string])[] = [
  // The replicated state is a state machine and a log under a member of a group, opened as one.
  ['src/store/replica.ts', 'src/raft/driver.ts'],
  ['src/store/replica.ts', 'src/raft/group.ts'],
  ['src/store/replica.ts', 'src/raft/observer.ts'],
  ['src/store/replica.ts', 'src/raft/scheduler.ts'],
]

/** Pure cores: no effects, no time, no chance; they use each other and errors.ts. */
const coreFiles = [
  /^src\/exec\/(call|pool|scale|eviction)\.ts$/,
  /^src\/exec\/docker\/(format-\w+|refusal|sniff)\.ts$/,
  /^src\/store\/apply(-nodes)?\.ts$/,
  /^src\/lb\/(ring|score)\.ts$/,
  /^src\/cluster\/(autopilot|advice|upgrade)\.ts$/,
  /^src\/raft\/(types|quorum|confchange|log|progress|readindex|core|role-\w+)\.ts$/,
  /^src\/raft\/(describe|electorate)\.ts$/,
]
/** Pure files that only serve a core: a core may use them, and they obey the same rules. */
const coreParts = [
  'src/store/rows.ts',
  'src/exec/fleet.ts',
  'src/exec/pool-instance.ts',
  'src/exec/roster.ts',
  'src/exec/spread.ts',
  'src/http/wire.ts',
  'src/http/headers.ts',
]

/**
 * Where programs begin. The worker runs in processes of functions; the addon loader is reached
 * through a module that build.ts writes; the disk thread is found by its URL.
 */
const entryFiles = [
  'src/main.ts',
  'src/exec/worker.ts',
  'src/store/lmdb-addon.ts',
  'src/store/disk-thread.ts',
  'build.ts',
]

/** The only readers of the environment. The worker's is the contract with the function. */
const environmentReaders = [/^src\/config\.ts$/, /^src\/exec\/worker[\w-]*\.ts$/]
/** May hand the whole environment to config.ts, and read nothing in it. */
const environmentGivers = [/^src\/main\.ts$/, /^src\/cli\//]

interface Import {
  readonly from: string
  readonly isTypeOnly: boolean
}

function filesOf(...patterns: string[]): string[] {
  const found = patterns.flatMap(pattern => [...new Glob(pattern).scanSync({ cwd: root })])
  return found.filter(path => !path.includes('/fixtures/')).sort()
}

const sources = filesOf('src/**/*.ts').filter(path => !path.endsWith('.d.ts'))
const programs = [...sources, ...filesOf('test/**/*.ts', 'bench/**/*.ts', 'scripts/**', '*.ts')]

function textOf(path: string): string {
  return readFileSync(join(root, path), 'utf8')
}

/** The code without comments and types, so that words in sentences do not count. */
function codeOf(path: string): string {
  return new Bun.Transpiler({ loader: 'ts' }).transformSync(textOf(path))
}

function importsOf(path: string): Import[] {
  const text = textOf(path)
  const found: Import[] = []
  const resolved = (specifier: string) =>
    specifier.startsWith('.') ? normalize(join(dirname(path), specifier)) : specifier
  const statement = /^(?:import|export)\s+(?:([^'"]*?)\s+from\s+)?'([^']+)'/gm
  for (const [, clause = '', specifier = ''] of text.matchAll(statement)) {
    const names = /^\{([\s\S]*)\}$/.exec(clause)?.[1]?.split(',') ?? []
    const isEachType = names.length > 0 && names.every(name => /^\s*(type\s|$)/.test(name))
    found.push({ from: resolved(specifier), isTypeOnly: /^type\s/.test(clause) || isEachType })
  }
  for (const [, specifier = ''] of text.matchAll(/\b(?:import|require)\(\s*'([^']+)'/g)) {
    found.push({ from: resolved(specifier), isTypeOnly: false })
  }
  return found
}

function isCore(path: string): boolean {
  return coreParts.includes(path) || coreFiles.some(pattern => pattern.test(path))
}

function folderOf(path: string): string {
  return path.split('/').slice(0, -1).slice(0, 2).join('/')
}

function mayUse(path: string, used: string): boolean {
  if (compositionFiles.includes(path)) return true
  if (used === 'src/offline.ts') return /^src\/cli\/(recover|restore)\.ts$/.test(path)
  if (compositionFiles.includes(used)) return path === 'src/cli/serve.ts'
  if (leafFiles.includes(used) || used in openFiles || !used.startsWith('src/')) return true
  if (pairs.some(([user, usedByIt]) => user === path && usedByIt === used)) return true
  const [own, other] = [folderOf(path), folderOf(used)]
  return own === other || (folderMayUse[own]?.includes(other) ?? false)
}

describe('imports', () => {
  test('every folder of src is in the table', () => {
    expect(sources.map(folderOf).filter(folder => !(folder in folderMayUse))).toEqual([])
  })

  test('every file named in the tables exists', () => {
    const tables = [leafFiles, Object.keys(openFiles), pairs.flat(), coreParts, entryFiles]
    const named = tables.flat()
    expect(named.filter(path => !existsSync(join(root, path)))).toEqual([])
  })

  test('folders use only what the table allows', () => {
    const faults = sources.flatMap(path =>
      importsOf(path)
        .filter(({ from, isTypeOnly }) => !isTypeOnly && !mayUse(path, from))
        .map(({ from }) => `${path} uses ${from}`),
    )
    expect(faults).toEqual([])
  })

  test('leaves use only leaves', () => {
    const faults = leafFiles.flatMap(path =>
      importsOf(path)
        .filter(({ from }) => from.startsWith('src/') && !leafFiles.includes(from))
        .map(({ from }) => `${path} uses ${from}`),
    )
    expect(faults).toEqual([])
  })

  test('pure cores use each other, errors.ts and types', () => {
    const faults = sources.filter(isCore).flatMap(path =>
      importsOf(path)
        .filter(({ from, isTypeOnly }) => !isTypeOnly && from !== 'src/errors.ts' && !isCore(from))
        .map(({ from }) => `${path} uses ${from}`),
    )
    expect(faults).toEqual([])
  })

  test('pure cores have no time, no chance, no effects and nothing asynchronous', () => {
    const effects = ['console\\.', 'process\\.', 'Bun\\.', 'crypto\\.', 'fetch\\(']
    const times = ['Date\\b', 'performance\\.', 'setTimeout', 'setInterval', 'queueMicrotask']
    const words = [...effects, ...times, 'Math\\.random', 'Promise\\b', 'async ', 'await ']
    const impure = new RegExp(`\\b(${words.join('|')})`)
    const faults = sources.filter(isCore).flatMap(path => {
      const found = impure.exec(codeOf(path))
      return found === null ? [] : [`${path}: ${found[0]}`]
    })
    expect(faults).toEqual([])
  })

  test('src does not use tests, benches or scripts, and only main.ts is run', () => {
    const faults = sources.flatMap(path =>
      importsOf(path)
        .filter(({ from }) => /^(test|bench|scripts|build\.ts)/.test(from))
        .map(({ from }) => `${path} uses ${from}`),
    )
    expect(faults).toEqual([])
  })
})

describe('files', () => {
  test('none is dead', () => {
    const tests = programs.filter(path => path.endsWith('.test.ts'))
    const tools = filesOf('bench/*.ts', 'scripts/*', 'test/raft/conformance/shim.ts')
    const reached = new Set<string>()
    const visit = (path: string) => {
      if (reached.has(path) || !existsSync(join(root, path)) || !path.endsWith('.ts')) return
      reached.add(path)
      for (const { from } of importsOf(path)) visit(from)
    }
    for (const path of entryFiles) visit(path)
    const deadSources = sources.filter(path => !reached.has(path))
    for (const path of [...tests, ...tools]) visit(path)
    const isOwnTool = (path: string) => !path.startsWith('src/') && path.endsWith('.ts')
    const deadRest = programs.filter(path => isOwnTool(path) && !reached.has(path))
    expect({ deadSources, deadRest }).toEqual({
      deadSources: [],
      deadRest: [],
    })
  })

  test('no line is longer than 100 columns', () => {
    // A string that begins early and fills its line cannot be broken by the formatter.
    const isString = (line: string) => /^.{0,30}(?:'[^']*'|"[^"]*"|`[^`]*`)[,)]*$/.test(line)
    const isLong = (line: string) => [...line].length > 100 && !isString(line)
    const faults = programs.flatMap(path =>
      textOf(path)
        .split('\n')
        .flatMap((line, index) => (isLong(line) ? [`${path}:${index + 1}`] : [])),
    )
    expect(faults).toEqual([])
  })

  test('no marker of unfinished work is left', () => {
    const marker = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X'.repeat(3)].join('|')})\\b`)
    expect(programs.filter(path => marker.test(textOf(path)))).toEqual([])
  })

  test('only config.ts reads the environment', () => {
    const faults = sources.filter(path => {
      if (environmentReaders.some(pattern => pattern.test(path))) return false
      const code = codeOf(path).replaceAll('process.env.NODE_ENV', '')
      const isGiver = environmentGivers.some(pattern => pattern.test(path))
      return isGiver
        ? /(process|Bun)\.env[.[]/.test(code)
        : /(process|Bun|import\.meta)\.env\b/.test(code)
    })
    expect(faults).toEqual([])
  })

  test('a suppressed lint rule says why', () => {
    const bare = /biome-ignore[^:\n]*(:\s*)?(<explanation>)?\s*(\*\/)?$/m
    const self = relative(root, import.meta.path)
    expect(programs.filter(path => path !== self && bare.test(textOf(path)))).toEqual([])
  })
})

/** What git knows or would add; in a source archive, all that is neither built nor installed. */
function publishedFiles(): string[] {
  if (existsSync(join(root, '.git'))) {
    const listing = ['ls-files', '-z', '--cached', '--others', '--exclude-standard']
    const names = execFileSync('git', listing, { cwd: root, encoding: 'utf8' }).split('\0')
    const isFile = (name: string) => statSync(join(root, name), { throwIfNoEntry: false })?.isFile()
    return names.filter(name => name !== '' && isFile(name))
  }
  const all = [...new Glob('**/*').scanSync({ cwd: root, dot: true })]
  return all.filter(path => !/^(node_modules|dist|fnd-data|\.git|\.tmp)\//.test(path))
}

describe('what is published', () => {
  const texts = publishedFiles()
    .filter(path => !/\.(png|ico|woff2?|gz|tgz|zip|node)$/.test(path))
    .map(path => ({ path, text: textOf(path) }))

  test('no host of a package registry, and no path of the machine it was written on', () => {
    const configured = execFileSync('npm', ['config', 'get', 'registry'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    const banned = [
      new URL(configured.trim()).host,
      ['registry', 'npmjs', 'org'].join('.'),
      ['', 'work', 'main'].join('/'),
      ['', 'work', 'shared'].join('/'),
    ]
    const faults = texts.flatMap(({ path, text }) =>
      banned.filter(word => text.includes(word)).map(word => `${path}: ${word}`),
    )
    expect(faults).toEqual([])
  })

  test('the lock file agrees with package.json and holds no address', () => {
    const manifest = JSON.parse(textOf('package.json')) as Record<string, unknown>
    const lock = JSON.parse(textOf('package-lock.json')) as {
      packages: Record<string, Record<string, unknown>>
    }
    for (const kind of ['dependencies', 'devDependencies']) {
      expect(lock.packages['']?.[kind]).toEqual(manifest[kind])
    }
    const faults = Object.entries(lock.packages).filter(
      ([path, entry]) => path !== '' && (entry.resolved !== undefined || !entry.integrity),
    )
    expect(faults.map(([path]) => path)).toEqual([])
  })

  test('the lock file names the packages of all platforms, or `npm ci` refuses it', () => {
    const { packages } = JSON.parse(textOf('package-lock.json')) as {
      packages: Record<string, { optionalDependencies?: Record<string, string> }>
    }
    const wanted = Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
      Object.keys(optionalDependencies).map(name => ({ path, name })),
    )
    expect(wanted.length).toBeGreaterThan(0)
    const missing = wanted.filter(
      ({ path, name }) =>
        packages[`${path}/node_modules/${name}`] === undefined &&
        packages[`node_modules/${name}`] === undefined,
    )
    expect(missing).toEqual([])
  })

  test('ARCHITECTURE.md gives the reason of every dependency', () => {
    const manifest = JSON.parse(textOf('package.json')) as Record<string, Record<string, string>>
    const names = Object.keys({ ...manifest.dependencies, ...manifest.devDependencies })
    const text = textOf('ARCHITECTURE.md')
    expect(names.filter(name => !text.includes(name))).toEqual([])
  })

  test('docs/configuration.md names every variable that config.ts reads, and no other', () => {
    const variables = /\bF(?:ND|N)_[A-Z][A-Z0-9_]*/g
    const read = new Set(
      [
        ...codeOf('src/config.ts').matchAll(variables),
        ...codeOf('src/config-docker.ts').matchAll(variables),
        ...codeOf('src/config-cluster.ts').matchAll(variables),
      ].map(([name]) => name),
    )
    const page = new Set(textOf('docs/configuration.md').match(variables) ?? [])
    const elsewhere = new Set(['FND_COMMIT', 'FND_SEED'])
    expect([...read].filter(name => !page.has(name))).toEqual([])
    expect([...page].filter(name => !read.has(name) && !elsewhere.has(name))).toEqual([])
  })

  test('relative links of the documents lead somewhere', () => {
    const pages = texts.filter(({ path }) => path.endsWith('.md'))
    const faults = pages.flatMap(({ path, text }) =>
      [...text.matchAll(/\]\((?!\w+:|#)([^)#\s]+)/g)]
        .map(([, link = '']) => normalize(join(dirname(path), link)))
        .filter(target => !existsSync(join(root, target)))
        .map(target => `${path} links to ${target}`),
    )
    expect(faults).toEqual([])
  })
})
