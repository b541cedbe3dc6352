/** The command line against a real server process: what a newcomer does first. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { lineReader, runCli, spawnCli } from './run-cli.ts'

// Each test starts processes, on a machine that may be busy with others.
setDefaultTimeout(60_000)

let dir: string
let server: ReturnType<typeof spawnCli>
let url: string
let env: Record<string, string>

const sources = {
  'hello.ts': `export default (input: unknown, ctx: { log?: unknown }) => {
  console.log('greeting', JSON.stringify(input))
  return { hello: input }
}
`,
  'web.ts': `export default {
  fetch: (request: Request) =>
    new Response(request.method + ' ' + new URL(request.url).pathname, { status: 201 }),
}
`,
  'fails.ts': `export default () => { throw new Error('on purpose') }\n`,
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-cli-'))
  for (const [name, text] of Object.entries(sources)) writeFileSync(join(dir, name), text)
  mkdirSync(join(dir, 'tmp'))
  env = { XDG_STATE_HOME: join(dir, 'state'), TMPDIR: join(dir, 'tmp') }
  const args = ['--listen', '127.0.0.1:0', '--data', join(dir, 'data'), '--log-format', 'json']
  server = spawnCli(args, { cwd: dir, env })
  const lines = lineReader(server.stderr)
  while (url === undefined) url = JSON.parse(await lines()).url
  expect(url).toStartWith('http://127.0.0.1:')
})

afterAll(async () => {
  server.kill('SIGKILL')
  await server.exited
  rmSync(dir, { recursive: true })
})

/** Only the address is given: the token is found through the server's record. */
const run = (args: string[], stdin?: string) =>
  runCli(args, {
    cwd: dir,
    env: { ...env, FND_URL: url },
    ...(stdin === undefined ? {} : { stdin }),
  })

describe('a server of the same user', () => {
  test('deploy, call, logs', async () => {
    const deployed = await run(['deploy', 'hello.ts', '--json'])
    expect(deployed).toMatchObject({ exitCode: 0, stderr: '' })
    const { url: address } = JSON.parse(deployed.stdout)
    const answer = await fetch(address, { method: 'POST', body: '{"a":1}' })
    expect(answer.status).toBe(200)
    expect(await answer.text()).toContain('hello')
    const called = await run(['call', 'default/hello', '--json', '-d', '{"b":2}'])
    expect(called.exitCode).toBe(0)
    const { call_id: callId, status } = JSON.parse(called.stdout)
    expect(status).toBe(200)
    expect((await run(['logs', callId])).stdout).toContain('greeting')
    expect((await run(['logs', 'default/hello'])).stdout).toContain('greeting')
  })

  test('deploys at the same time share what the first of them makes', async () => {
    const deploys = ['hello.ts', 'web.ts', 'hello.ts', 'web.ts'].map(file =>
      run(['deploy', file, '--app', 'herd', '--json']),
    )
    const results = await Promise.all(deploys)
    expect(results.map(({ exitCode, stderr }) => ({ exitCode, stderr }))).toEqual(
      results.map(() => ({ exitCode: 0, stderr: '' })),
    )
    const ids = results.map(({ stdout }) => JSON.parse(stdout).fn_id)
    expect(new Set(ids).size).toBe(2)
  })

  test('the web form behind its address', async () => {
    const { stdout } = await run(['deploy', 'web.ts', '--path', '/a/b', '--json'])
    const answer = await fetch(JSON.parse(stdout).url)
    expect(answer.status).toBe(201)
    expect(await answer.text()).toStartWith('GET /')
  })

  test('a function that fails: why, and what to look at', async () => {
    await run(['deploy', 'fails.ts'])
    const { exitCode, stderr } = await run(['call', 'default/fails', '-d', 'x'])
    expect(exitCode).toBe(1)
    const [, callId = ''] = /\(call (\w{26})\)/.exec(stderr) ?? []
    expect((await run(['logs', callId])).stdout).toContain('on purpose')
  })

  test('changes of every kind of object', async () => {
    const steps: [string[], string][] = [
      [['apps', 'create', 'shop', '--config', 'A=1'], 'created app shop'],
      [['config', 'set', 'shop', 'B=2'], 'set B'],
      [['config', 'list', 'shop'], 'KEY  VALUE\nA    1\nB    2'],
      [['deploy', 'hello.ts', '--app', 'shop', '--memory', '64'], 'deployed shop/hello'],
      [['fns', 'update', 'shop/hello', '--timeout', '9'], 'updated function shop/hello'],
      [['fns', 'list', 'shop'], '64 MB   9 s'],
      [['fns', 'show', 'shop/hello'], 'not enforced  network: '],
      [['fns', 'show', 'shop/hello', '--json'], '"isolation": {'],
      [['triggers', 'create', 'shop/hello', 'two', '--path', '/two'], '/t/shop/two'],
      [['triggers', 'list', 'shop'], 'shop/hello/two'],
      [['triggers', 'rm', 'shop/hello/two'], 'deleted trigger'],
      [['fns', 'rm', 'shop/hello'], 'deleted function'],
      [['apps', 'rm', 'shop'], 'deleted app shop'],
    ]
    for (const [args, text] of steps) {
      const { exitCode, stdout, stderr } = await run(args)
      expect({ args, exitCode, stderr }).toEqual({ args, exitCode: 0, stderr: '' })
      expect(stdout).toContain(text)
    }
  })

  test('doctor and version', async () => {
    const report = JSON.parse((await run(['doctor', '--json'])).stdout)
    expect(report.server).toBe(url)
    expect(report.checks.map((check: { name: string }) => check.name)).toContain('disk')
    expect((await run(['version'])).stdout).toContain(`at ${url}`)
  })

  test('another token is refused', async () => {
    const { exitCode, stderr } = await run(['apps', 'list', '--token', 'not-the-token-of-it'])
    expect(exitCode).toBe(4)
    expect(stderr).toContain('admin.token')
  })

  test('a second server on the same data is refused', async () => {
    const second = await runCli(['--listen', '127.0.0.1:0', '--data', join(dir, 'data')], { env })
    expect(second.exitCode).toBe(1)
    expect(second.stderr).not.toContain('    at ')
  })
})

describe('fnd run', () => {
  test('calls once with what is piped, output of the function on standard error', async () => {
    const { exitCode, stdout, stderr } = await run(['run', 'hello.ts'], '{"name":"Ada"}')
    expect(exitCode).toBe(0)
    expect(stdout).toContain('Ada')
    expect(stderr).toContain('greeting')
    const failed = await run(['run', 'fails.ts', '-d', 'x'])
    expect(failed.exitCode).toBe(1)
    expect(failed.stderr).toContain('on purpose')
    const leftovers = readdirSync(join(dir, 'tmp')).filter(name => name.startsWith('fnd-run-'))
    expect(leftovers).toEqual([])
  })

  test('serves until it is told to stop', async () => {
    await using child = spawnCli(['run', 'web.ts', '--json'], { cwd: dir, env })
    const { url: address } = JSON.parse(await firstObject(child.stdout))
    expect((await fetch(address)).status).toBe(201)
    child.kill('SIGTERM')
    expect(await child.exited).toBe(0)
  })
})

/** A JSON document spread over lines, up to the brace that closes it. */
async function firstObject(stream: ReadableStream<Uint8Array>): Promise<string> {
  const lines = lineReader(stream)
  let text = ''
  for (let line = await lines(); line !== ''; line = await lines()) {
    text += line
    if (line === '}') return text
  }
  return text
}

describe('programs', () => {
  test('deploy --exec runs any executable that speaks the contract', async () => {
    const program = join(dir, 'program')
    mkdirSync(program)
    writeFileSync(
      join(dir, 'program.ts'),
      `import { symlinkSync } from 'node:fs'
const path = process.env.FN_LISTENER.slice('unix:'.length)
const fetch = async request => new Response('program got ' + (await request.text()))
Bun.serve({ unix: path + '.own', fetch })
symlinkSync(path.split('/').at(-1) + '.own', path)
`,
    )
    // An executable that needs nothing else, and large enough to be worth streaming.
    const built = await Bun.build({
      entrypoints: [join(dir, 'program.ts')],
      compile: { outfile: join(program, 'run') },
    })
    expect(built.success).toBe(true)
    const deployed = await run(['deploy', '--exec', 'program'])
    expect(deployed).toMatchObject({ exitCode: 0 })
    const called = await run(['call', 'program/program', '-d', 'text'])
    expect(called).toMatchObject({ exitCode: 0, stdout: 'program got text' })
  })
})

test('a drained node tells load balancers, until it is taken back', async () => {
  const ready = async () => {
    const answer = await fetch(`${url}/readyz`)
    return { status: answer.status, text: await answer.text() }
  }
  expect((await ready()).status).toBe(200)
  expect((await run(['nodes', 'drain', '1'])).exitCode).toBe(0)
  const drained = await ready()
  expect(drained.status).toBe(503)
  expect(drained.text).toContain('the node is drained')
  // It still serves who comes.
  expect((await run(['apps', 'list'])).exitCode).toBe(0)
  expect((await run(['nodes', 'undrain', '1'])).exitCode).toBe(0)
  expect((await ready()).status).toBe(200)
})

describe('signals', () => {
  test('SIGTERM stops in order, and the record of the server goes', async () => {
    const records = join(dir, 'state', 'fnd', 'servers')
    expect(readdirSync(records)).toHaveLength(1)
    server.kill('SIGTERM')
    expect(await server.exited).toBe(0)
    expect(existsSync(records) ? readdirSync(records) : []).toEqual([])
  })
})
