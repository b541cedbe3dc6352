import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { doctorChecks, type FixtureServer, startFixtureServer } from './fixture-server.ts'
import { runCli, spawnCli } from './run-cli.ts'

// Each test starts processes, on a machine that may be busy with others.
setDefaultTimeout(60_000)

let server: FixtureServer
let dir: string
const run = (args: string[], stdin?: string) =>
  runCli(args, { server, cwd: dir, ...(stdin === undefined ? {} : { stdin }) })

beforeAll(async () => {
  server = startFixtureServer()
  dir = mkdtempSync(join(tmpdir(), 'fnd-cli-'))
  const app = { id: 'app1', name: 'shop', config: { REGION: 'eu' } }
  server.rows.apps.push(app, { id: 'app2', name: 'blog' })
  for (const name of ['pay', 'refund', 'cart', 'ship']) {
    const limits = { image: 'x/y:1', memory: 128, timeout: 30, idle_timeout: 30 }
    server.rows.fns.push({ id: `fn-${name}`, name, app_id: 'app1', ...limits })
  }
  const trigger = { app_id: 'app1', fn_id: 'fn-pay', type: 'http', source: '/pay' }
  server.rows.triggers.push({ id: 'trigger1', name: 'pay', ...trigger })
})

afterAll(() => {
  server[Symbol.dispose]()
  rmSync(dir, { recursive: true })
})

describe('lists', () => {
  test('a list shows all pages in aligned columns', async () => {
    const { stdout, exitCode } = await run(['fns', 'list', 'shop'])
    expect(exitCode).toBe(0)
    expect(stdout).toBe(
      [
        'FUNCTION     MEMORY  TIMEOUT  IMAGE  UPDATED',
        'shop/cart    128 MB  30 s     x/y:1',
        'shop/pay     128 MB  30 s     x/y:1',
        'shop/refund  128 MB  30 s     x/y:1',
        'shop/ship    128 MB  30 s     x/y:1',
        '',
      ].join('\n'),
    )
  })

  test('--json prints one document, wherever it stands on the line', async () => {
    for (const args of [
      ['--json', 'apps', 'list'],
      ['apps', 'list', '--json'],
    ]) {
      const { stdout } = await run(args)
      expect(JSON.parse(stdout).map((app: { name: string }) => app.name)).toEqual(['blog', 'shop'])
    }
  })

  test('triggers are named by app, function and trigger', async () => {
    const { stdout } = await run(['triggers', 'list', 'shop'])
    expect(stdout).toContain(`shop/pay/pay  /pay  ${server.url}/t/shop/pay`)
    expect((await run(['triggers', 'show', 'shop/pay/pay'])).stdout).toContain('trigger1')
  })
})

describe('changes', () => {
  test('an app is created, changed and deleted', async () => {
    await run(['apps', 'create', 'tmp', '--config', 'A=1', '--config', 'B=2=3'])
    const row = () => server.rows.apps.find(app => app.name === 'tmp')
    expect(row()?.config).toEqual({ A: '1', B: '2=3' })
    await run(['apps', 'update', 'tmp', '--config', 'A=', '--annotation', 'team={"id":7}'])
    expect(row()?.config).toEqual({ B: '2=3' })
    expect(row()?.annotations).toEqual({ team: { id: 7 } })
    expect((await run(['apps', 'rm', 'tmp'])).stdout).toBe('deleted app tmp\n')
    expect(row()).toBeUndefined()
  })

  test('an app with functions is not deleted by accident', async () => {
    const { stderr, exitCode } = await run(['apps', 'rm', 'shop'])
    expect(exitCode).toBe(1)
    expect(stderr).toContain('--recursive')
  })

  test('limits of a function are set through fields and annotations', async () => {
    await run(['fns', 'update', 'shop/cart', '--memory', '256', '--concurrency', '4'])
    const row = server.rows.fns.find(fn => fn.name === 'cart')
    expect(row).toMatchObject({ memory: 256, annotations: { 'fnd.io/concurrency': 4 } })
  })

  test('config of an app and of a function', async () => {
    await run(['config', 'set', 'shop/pay', 'KEY=a=b', 'DEBUG=1'])
    expect((await run(['config', 'get', 'shop/pay', 'KEY'])).stdout).toBe('a=b\n')
    await run(['config', 'unset', 'shop/pay', 'DEBUG'])
    const { stdout } = await run(['config', 'list', 'shop/pay', '--json'])
    expect(JSON.parse(stdout)).toEqual({ KEY: 'a=b' })
    expect((await run(['config', 'list', 'shop'])).stdout).toBe('KEY     VALUE\nREGION  eu\n')
    const missing = await run(['config', 'get', 'shop', 'REGOIN'])
    expect(missing).toMatchObject({ exitCode: 5, stdout: '' })
    expect(missing.stderr).toContain('did you mean REGION?')
  })
})

describe('call', () => {
  test('sends text, a file or standard input and prints the answer', async () => {
    writeFileSync(join(dir, 'in.txt'), 'from a file')
    expect((await run(['call', 'shop/pay', '-d', 'hi'])).stdout).toBe('hi')
    expect((await run(['call', 'shop/pay', '-d', '@in.txt'])).stdout).toBe('from a file')
    expect((await run(['call', 'shop/pay', '-d', '-'], 'piped')).stdout).toBe('piped')
  })

  test('--json gives status, headers, call id and body', async () => {
    const args = ['call', 'shop/pay', '-d', '{}', '-H', 'x-own: yes', '--json']
    const { stdout } = await run([...args, '--content-type', 'application/json'])
    expect(JSON.parse(stdout)).toMatchObject({
      status: 200,
      headers: { 'content-type': 'application/json', 'x-own': 'yes' },
      call_id: '01KAB3D5Y00000000000000012',
      body: '{}',
    })
  })

  test('a failed call says why, which call it was and where to look', async () => {
    const { stdout, stderr, exitCode } = await run(['call', 'shop/pay', '-d', 'fail'])
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 1 })
    expect(stderr).toBe(
      'error: 502 function failed (call 01KAB3D5Y00000000000000012)\n' +
        'hint: see what it printed: fnd logs 01KAB3D5Y00000000000000012\n',
    )
    const asJson = await run(['call', 'shop/pay', '-d', 'fail', '--json'])
    expect(JSON.parse(asJson.stdout)).toMatchObject({ status: 502 })
    expect(JSON.parse(asJson.stderr).error.message).toContain('502 function failed (call 01K')
  })
})

describe('logs', () => {
  test('of a call, control characters of the function taken out', async () => {
    const { stdout } = await run(['logs', '01KAB3D5Y00000000000000012'])
    expect(stdout).toBe(
      '2026-11-20T10:14:50.102Z 00000012 stdout first\n' +
        '2026-11-20T10:14:50.102Z 00000012 stdout second \ufffd[31mred\n',
    )
  })

  test('-f shows lines as they come, and --json one document a line', async () => {
    const child = spawnCli(['logs', '-f', 'shop/pay', '--json'], { server })
    const reader = child.stdout.getReader()
    let text = ''
    while (!text.includes('second')) text += new TextDecoder().decode((await reader.read()).value)
    server.endLogs()
    expect(await child.exited).toBe(0)
    const lines = text.trim().split('\n')
    expect(lines.map(line => JSON.parse(line).text)).toEqual(['first', 'second \u001b[31mred'])
  })
})

describe('doctor and version', () => {
  test('the server is asked', async () => {
    const { stdout, exitCode } = await run(['doctor'])
    expect(exitCode).toBe(0)
    expect(stdout).toContain('ok    storage: syncs in 2 ms')
    expect(stdout).toContain('warn  isolation: no cgroups\n        → run as root')
    const json = JSON.parse((await run(['doctor', '--json'])).stdout)
    expect(json).toEqual({ server: server.url, checks: doctorChecks })
  })

  test('without a server the machine is looked at', async () => {
    const { stdout } = await runCli(['doctor', '--json', '--url', 'http://127.0.0.1:1'])
    const report = JSON.parse(stdout)
    expect(report.server).toBeNull()
    expect(report.checks[0]).toMatchObject({ name: 'server', status: 'warn' })
  })

  test('version names both sides', async () => {
    expect((await run(['version'])).stdout).toContain(`server 9.9.9 at ${server.url}`)
    const alone = await runCli(['version', '--url', 'http://127.0.0.1:1'])
    expect(alone).toMatchObject({ exitCode: 0 })
    expect(alone.stdout).toContain('no server at')
  })
})

describe('exit codes', () => {
  const cases: [string[], number, string][] = [
    [['apps', 'show', 'shpo'], 5, 'did you mean shop?'],
    [['fns', 'show', 'shop/pya'], 5, 'did you mean pay?'],
    [['fns', 'show', 'shop'], 2, 'write app/function'],
    [['triggers', 'show', 'shop/pay/none'], 5, 'there are: pay'],
    [['apps', 'list', '--token', 'wrong'], 4, 'admin.token'],
    [['apps', 'list', '--url', 'http://127.0.0.1:1'], 3, 'start one with: fnd'],
    [['apps', 'list', '--url', 'ftp://x'], 2, 'is not a URL'],
    [['apps', 'lst'], 2, 'Did you mean'],
    [['deplyo', 'x.ts'], 2, 'did you mean deploy?'],
    [['fns', 'update', 'shop/pay', '--memory', 'much'], 2, 'whole number'],
    [['call', 'shop/pay', '-d', '@missing'], 2, 'there is no file missing'],
    [['logs', 'shop'], 2, 'neither app/function nor the id of a call'],
    [['serve', '--listen', 'nonsense:x'], 2, 'is not host:port'],
  ]
  for (const [args, code, text] of cases) {
    test(`fnd ${args.join(' ')}: ${code}`, async () => {
      const { exitCode, stderr } = await run(args)
      expect(stderr).toContain(text)
      expect(exitCode).toBe(code)
    })
  }

  test('--json gives errors as JSON on standard error', async () => {
    const { stderr, stdout } = await run(['apps', 'show', 'shpo', '--json'])
    expect(stdout).toBe('')
    expect(JSON.parse(stderr)).toEqual({
      error: {
        message: 'there is no app named shpo',
        reason: 'not-found',
        hint: 'did you mean shop?',
      },
    })
    const wrong = await run(['call', 'shop/pay', '-H', 'x', '--json'])
    expect(wrong).toMatchObject({ exitCode: 2, stdout: '' })
    expect(JSON.parse(wrong.stderr).error).toMatchObject({ reason: 'usage' })
  })

  test('a closed pipe ends a list in peace', async () => {
    const child = spawnCli(['logs', '-f', 'shop/pay'], { server })
    await child.stdout.cancel()
    expect(await child.exited).toBe(0)
    server.endLogs()
  })
})

describe('token', () => {
  const env = { FND_URL: '' }

  test('FN_TOKEN and FN_API_URL of the Fn client work', async () => {
    const fn = { FN_API_URL: `${server.url}/v1`, FN_TOKEN: server.token }
    expect((await runCli(['apps', 'list'], { env: fn })).exitCode).toBe(0)
  })

  test('a data directory of this machine gives it, FND_DATA first', async () => {
    const data = join(dir, 'fnd-data')
    mkdirSync(data, { recursive: true })
    writeFileSync(join(data, 'admin.token'), `${server.token}\n`)
    const here = { ...env, FND_URL: server.url }
    expect((await runCli(['apps', 'list'], { env: here, cwd: dir })).exitCode).toBe(0)
    const named = { ...here, FND_DATA: data }
    expect((await runCli(['apps', 'list'], { env: named, cwd: '/' })).exitCode).toBe(0)
    expect((await runCli(['apps', 'list'], { env: here, cwd: '/' })).exitCode).toBe(4)
  })
})
