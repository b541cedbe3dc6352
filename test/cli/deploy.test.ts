import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from 'bun:test'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { extract } from 'tar-stream'
import { type FixtureServer, startFixtureServer } from './fixture-server.ts'
import { bareEnv, cliMain, lineReader, runCli, spawnCli } from './run-cli.ts'

// Each test starts processes, on a machine that may be busy with others.
setDefaultTimeout(60_000)

let server: FixtureServer
let dir: string

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-cli-'))
})
beforeEach(() => {
  server?.[Symbol.dispose]()
  server = startFixtureServer()
})
afterAll(() => {
  server[Symbol.dispose]()
  rmSync(dir, { recursive: true })
})

const hello = 'export default (input: unknown) => ({ hello: input })\n'

/** A fresh directory with these files. */
function tree(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(dir, 'tree-'))
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(root, path, '..'), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  return root
}

const run = (args: readonly string[], cwd: string) => runCli(['deploy', ...args], { server, cwd })

interface Entry {
  readonly mode: number | undefined
  readonly mtimeMs: number | undefined
  readonly text: string
}

async function unpack(bytes: Uint8Array): Promise<Map<string, Entry>> {
  const entries = new Map<string, Entry>()
  const tar = Readable.from([bytes]).pipe(extract())
  tar.on('entry', async (header, stream, next) => {
    const chunks: Uint8Array[] = []
    for await (const chunk of stream) chunks.push(chunk as Uint8Array)
    const text = Buffer.concat(chunks).toString()
    entries.set(header.name, { mode: header.mode, mtimeMs: header.mtime?.getTime(), text })
    next()
  })
  await new Promise((resolve, reject) => tar.on('finish', resolve).on('error', reject))
  return entries
}

async function onlyBundle(): Promise<Map<string, Entry>> {
  expect(server.bundles.size).toBe(1)
  return unpack([...server.bundles.values()][0] ?? new Uint8Array())
}

async function manifest(): Promise<unknown> {
  return JSON.parse((await onlyBundle()).get('fnd.json')?.text ?? '')
}

describe('deploy of a file', () => {
  test('makes bundle, app, function and trigger, and prints the address', async () => {
    const root = tree({ 'hello.ts': hello })
    const { stdout, exitCode } = await run(['hello.ts'], root)
    expect(exitCode).toBe(0)
    const url = `${server.url}/t/default/hello`
    expect(stdout).toContain(`  ${url}\ncall it with:\n  curl ${url}\n`)
    const id = [...server.bundles.keys()][0]
    expect(server.rows.fns[0]).toMatchObject({ name: 'hello', image: `bundle:${id}` })
    expect(server.rows.triggers[0]).toMatchObject({ source: '/hello', type: 'http' })
    expect(await manifest()).toEqual({
      version: 1,
      kind: 'module',
      entry: 'index.js',
      concurrency: 100,
    })
  })

  test('--json prints names, ids and addresses', async () => {
    const { stdout } = await run(['hello.ts', '--json'], tree({ 'hello.ts': hello }))
    const [app, fn] = [server.rows.apps[0], server.rows.fns[0]]
    expect(JSON.parse(stdout)).toEqual({
      app: 'default',
      fn: 'hello',
      app_id: app?.id,
      fn_id: fn?.id,
      url: `${server.url}/t/default/hello`,
      invoke_url: `${server.url}/invoke/${fn?.id}`,
    })
  })

  test('a second deploy uploads nothing and leaves what was not given', async () => {
    const root = tree({ 'hello.ts': hello })
    await run(['hello.ts', '--memory', '256', '--path', 'greet'], root)
    await run(['hello.ts', '--config', 'A=1'], root)
    expect(server.requests.filter(line => line.startsWith('PUT /fnd'))).toHaveLength(1)
    expect(server.rows.fns).toHaveLength(1)
    expect(server.rows.fns[0]).toMatchObject({ memory: 256, config: { A: '1' } })
    expect(server.rows.triggers.map(one => one.source)).toEqual(['/greet'])
  })

  test('--path moves the trigger; --no-trigger makes none', async () => {
    const root = tree({ 'hello.ts': hello })
    await run(['hello.ts'], root)
    const moved = await run(['hello.ts', '--path', '/new', '--json'], root)
    expect(JSON.parse(moved.stdout).url).toBe(`${server.url}/t/default/new`)
    expect(server.rows.triggers).toHaveLength(1)
    const none = await run(['hello.ts', '--name', 'quiet', '--no-trigger', '--json'], root)
    expect(JSON.parse(none.stdout).url).toBeNull()
    const clash = await run(['hello.ts', '--name', 'other', '--path', '/new'], root)
    expect(clash).toMatchObject({ exitCode: 1 })
    expect(clash.stderr).toContain('choose another with --path')
  })

  test('options become fields and annotations', async () => {
    const limits = ['--memory', '64', '--timeout', '5', '--idle-timeout', '6']
    const more = ['--concurrency', '8', '--min-instances', '1', '--max-instances', '2']
    const args = ['hello.ts', '--app', 'shop', ...limits, ...more, '--network', 'none']
    await run(args, tree({ 'hello.ts': hello }))
    expect(server.rows.fns[0]).toMatchObject({
      memory: 64,
      timeout: 5,
      idle_timeout: 6,
      annotations: {
        'fnd.io/concurrency': 8,
        'fnd.io/min-instances': 1,
        'fnd.io/max-instances': 2,
        'fnd.io/network': 'none',
      },
    })
  })
})

describe('bundles', () => {
  test('the same source gives the same bundle in another directory', async () => {
    const one = tree({
      'package.json': '{"name":"x"}',
      'src/a.ts': [
        "import { b } from './b.ts'",
        'export default () => [b, __dirname, process.env.NODE_ENV]',
      ].join('\n'),
      'src/b.ts': 'export const b = 1\n',
    })
    const two = mkdtempSync(join(dir, 'deeper-'))
    cpSync(one, join(two, 'copy'), { recursive: true })
    await run(['src/a.ts'], one)
    await run([join(two, 'copy/src/a.ts')], '/')
    const env = { NODE_ENV: 'test', TZ: 'Asia/Tokyo' }
    await runCli(['deploy', 'a.ts'], { server, cwd: join(two, 'copy/src'), env })
    expect(server.bundles.size).toBe(1)
    const entries = await onlyBundle()
    expect([...entries.keys()]).toEqual(['fnd.json', 'index.js'])
    for (const entry of entries.values()) {
      expect(entry).toMatchObject({ mode: 0o644, mtimeMs: 0 })
      expect(entry.text).not.toContain(tmpdir())
    }
  })

  test('npm dependencies are bundled, and the fdk is noticed', async () => {
    const root = tree({
      'node_modules/@fnproject/fdk/package.json': '{"name":"@fnproject/fdk","main":"i.js"}',
      'node_modules/@fnproject/fdk/i.js': 'exports.handle = fn => globalThis.handled = fn',
      'func.js': `const fdk = require('@fnproject/fdk')\nfdk.handle(input => input)\n`,
    })
    await run(['func.js'], root)
    expect(await manifest()).toEqual({ version: 1, kind: 'module', entry: 'index.js', form: 'fdk' })
    expect((await onlyBundle()).get('index.js')?.text).toContain('globalThis.handled')
  })

  test('a module without a default export speaks for itself', async () => {
    await run(['x.ts'], tree({ 'x.ts': 'console.log(1)' }))
    expect(await manifest()).toMatchObject({ form: 'fdk' })
  })

  test('CommonJS with module.exports is a module like others', async () => {
    await run(['x.cjs'], tree({ 'x.cjs': 'module.exports = input => input' }))
    expect(await manifest()).toMatchObject({ concurrency: 100 })
  })

  test('files imported as files come along', async () => {
    const source = `import path from './logo.txt' with { type: 'file' }\nexport default () => path\n`
    await run(['x.ts'], tree({ 'x.ts': source, 'logo.txt': 'LOGO' }))
    const entries = await onlyBundle()
    const asset = [...entries].find(([path]) => path.startsWith('logo-'))
    expect(asset?.[1].text).toBe('LOGO')
  })

  test('a directory begins where package.json says, else at index.ts', async () => {
    const named = tree({
      'package.json': '{"main":"lib/start.js"}',
      'lib/start.js': hello.slice(0, 0),
    })
    writeFileSync(join(named, 'lib/start.js'), 'export default () => "from lib"')
    await run([named, '--app', 'a', '--name', 'b'], '/')
    expect((await onlyBundle()).get('index.js')?.text).toContain('from lib')
    const shop = join(tree({}), 'my shop')
    mkdirSync(shop)
    writeFileSync(join(shop, 'index.ts'), hello)
    const { stdout } = await run(['my shop', '--json'], join(shop, '..'))
    expect(JSON.parse(stdout)).toMatchObject({ app: 'my-shop', fn: 'my-shop' })
  })

  test('faults of the source are shown with file and line', async () => {
    const root = tree({
      'bad.ts': 'export default () => {\n  return 1 +\n}\n',
      'lost.ts':
        "import { x } from './nowhere.ts'\nimport y from 'no-such-package'\nexport default [x, y]\n",
    })
    const bad = await run(['bad.ts'], root)
    expect(bad).toMatchObject({ exitCode: 1, stdout: '' })
    expect(bad.stderr).toContain('bad.ts:3:1: ')
    const lost = await run(['lost.ts'], root)
    expect(lost.stderr).toContain('lost.ts:1:19: ')
    expect(lost.stderr).toContain('lost.ts:2:15: ')
    expect(server.rows.apps).toEqual([])
  })
})

describe('deploy --exec', () => {
  test('a file alone', async () => {
    const root = tree({ program: '#!/bin/sh\n' })
    await run(['--exec', './program'], root)
    expect(await manifest()).toEqual({ version: 1, kind: 'program', entry: 'program' })
    expect((await onlyBundle()).get('program')?.mode).toBe(0o755)
  })

  test('a directory, with its executable found or named', async () => {
    const root = tree({
      run: '#!/bin/sh\n',
      'data/list.txt': 'x',
      '.git/config': 'y',
      'fnd-data/admin.token': 'the token of a server that keeps its data here',
      helper: 'z',
    })
    chmodSync(join(root, 'run'), 0o700)
    symlinkSync('data/list.txt', join(root, 'link.txt'))
    await run(['--exec', root, '--app', 'a', '--name', 'b'], '/')
    expect(await manifest()).toMatchObject({ entry: 'run' })
    const entries = await onlyBundle()
    expect([...entries.keys()]).toEqual(['data/list.txt', 'fnd.json', 'helper', 'link.txt', 'run'])
    expect(entries.get('helper')?.mode).toBe(0o644)
    chmodSync(join(root, 'helper'), 0o755)
    server.bundles.clear()
    await run(['--exec', root, '--entry', './helper'], '/')
    expect(await manifest()).toMatchObject({ entry: 'helper' })
  })

  test('what cannot be a bundle is refused', async () => {
    const out = tree({ 'main.sh': '' })
    symlinkSync('/etc/passwd', join(out, 'link'))
    expect((await run(['--exec', out], '/')).stderr).toContain('outside of the directory')
    const none = await run(['--exec', tree({ a: '' })], '/')
    expect(none).toMatchObject({ exitCode: 2 })
    expect(none.stderr).toContain('--entry')
    expect((await run(['--exec', tree({ 'fnd.json': '' })], '/')).exitCode).toBe(2)
    expect((await run(['x.py'], tree({ 'x.py': '' }))).stderr).toContain('--exec')
    expect((await run(['missing.ts'], '/')).exitCode).toBe(2)
  })
})

describe('deploy --watch', () => {
  test('deploys again on save, by rename too, and survives a broken source', async () => {
    const root = tree({
      'hello.ts': `import { word } from './lib/word.ts'\nexport default () => word\n`,
      'lib/word.ts': `export const word = 'one'\n`,
    })
    const args = ['deploy', '--watch', '--json', 'hello.ts']
    await using child = spawnCli(args, { server, cwd: root })
    const lines = lineReader(child.stdout)
    const faults = lineReader(child.stderr)
    expect(JSON.parse(await lines()).fn).toBe('hello')
    writeFileSync(join(root, 'lib/word.ts.tmp'), `export const word = 'two'\n`)
    renameSync(join(root, 'lib/word.ts.tmp'), join(root, 'lib/word.ts'))
    expect(JSON.parse(await lines()).fn).toBe('hello')
    expect(server.bundles.size).toBe(2)
    writeFileSync(join(root, 'lib/word.ts'), 'export const word =\n')
    expect(await faults()).toContain('word.ts:')
    writeFileSync(join(root, 'lib/word.ts'), `export const word = 'three'\n`)
    await lines()
    expect(server.bundles.size).toBe(3)
    child.kill()
    await child.exited
  })

  test('what it prints itself, into a file beside the source, is no change of it', async () => {
    const root = tree({ 'a.ts': 'export default =\n' })
    const script = 'exec "$0" "$@" 2>faults.log'
    const command = ['/bin/sh', '-c', script, process.execPath, cliMain]
    const child = Bun.spawn([...command, 'deploy', '--watch', '--json', 'a.ts'], {
      cwd: root,
      env: bareEnv({ server }),
      stdout: 'pipe',
    })
    const faults = () => readFileSync(join(root, 'faults.log'), 'utf8').trim().split('\n')
    const lines = lineReader(child.stdout)
    // Long enough for a loop to show itself, whose turns take a tenth of a second.
    await Bun.sleep(1000)
    writeFileSync(join(root, 'a.ts'), 'export default () => 1\n')
    expect(JSON.parse(await lines()).fn).toBe('a')
    child.kill()
    await child.exited
    expect(faults().length).toBeLessThan(4)
    expect(JSON.parse(faults()[0] ?? '').error).toMatchObject({ reason: 'failed' })
  })

  test('begins with a broken source, and a directory counts as a whole', async () => {
    const root = tree({ 'a.ts': "import './lib/b.ts'\nexport default () => 1\n", 'lib/b.ts': '=' })
    await using child = spawnCli(['deploy', '--watch', '--json', 'a.ts'], { server, cwd: root })
    expect(await lineReader(child.stderr)()).toContain('lib/b.ts:1:1')
    writeFileSync(join(root, 'lib/b.ts'), 'export {}\n')
    expect(JSON.parse(await lineReader(child.stdout)()).fn).toBe('a')
    child.kill()
    await child.exited

    const program = tree({ run: '#!/bin/sh\n', 'sub/x': '1', 'fnd-data/admin.token': 'x' })
    chmodSync(join(program, 'run'), 0o755)
    const args = ['deploy', '--watch', '--json', '--exec', '.', '--name', 'p']
    await using other = spawnCli(args, { server, cwd: program })
    const lines = lineReader(other.stdout)
    await lines()
    const before = server.requests.length
    writeFileSync(join(program, 'fnd-data/log'), 'what the server writes')
    writeFileSync(join(program, 'sub/x'), '2')
    await lines()
    expect(server.requests.length).toBeGreaterThan(before)
    expect(server.bundles.size).toBe(3)
    other.kill()
    await other.exited
  })
})
