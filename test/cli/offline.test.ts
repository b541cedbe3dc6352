/** Backups, restoring and recovery, as an operator does them, on a real server process. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from 'bun:test'
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { lineReader, runCli, spawnCli } from './run-cli.ts'

// Each test starts processes, on a machine that may be busy with others.
setDefaultTimeout(120_000)

let dir: string
let env: Record<string, string>
let server: ReturnType<typeof spawnCli> | undefined

const run = (args: string[], stdin?: string) =>
  runCli(args, { cwd: dir, env, ...(stdin === undefined ? {} : { stdin }) })

/** Starts a server on a data directory of this test, and points the command line to it. */
async function start(data: string): Promise<void> {
  const args = ['--listen', '127.0.0.1:0', '--data', data, '--log-format', 'json']
  server = spawnCli(args, { cwd: dir, env })
  const next = lineReader(server.stderr)
  for (;;) {
    const line = await next()
    if (line === '') throw new Error('the server ended')
    const { url } = JSON.parse(line) as { url?: string }
    if (url === undefined) continue
    env = { ...env, FND_URL: url }
    return
  }
}

async function stop(): Promise<void> {
  server?.kill('SIGTERM')
  expect(await server?.exited).toBe(0)
}

async function clusterOf(): Promise<{ id: string; voters: number[]; health: string }> {
  return JSON.parse((await run(['status', '--json'])).stdout).cluster
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-offline-'))
  env = { XDG_STATE_HOME: join(dir, 'state'), FND_SPARE_WORKERS: '0', DOCKER_HOST: 'none' }
  writeFileSync(join(dir, 'hello.ts'), 'export default (input: unknown) => ({ hello: input })\n')
  await start('first')
  expect(await run(['deploy', 'hello.ts', '--app', 'shop'])).toMatchObject({ exitCode: 0 })
})

afterAll(async () => {
  server?.kill('SIGKILL')
  await server?.exited
  rmSync(dir, { recursive: true })
})

test('a backup of a running server becomes a new cluster that serves the same', async () => {
  const old = await clusterOf()
  const saved = await run(['backup', 'fnd.backup', '--json'])
  expect(saved).toMatchObject({ exitCode: 0, stderr: '' })
  expect(JSON.parse(saved.stdout).bytes).toBe(statSync(join(dir, 'fnd.backup')).size)
  await stop()
  const restored = await run(['restore', 'fnd.backup', '--data', 'second'])
  expect(restored).toMatchObject({ exitCode: 0, stderr: '' })
  expect(restored.stdout).toContain('start it with: fnd --data second')
  await start('second')
  const answer = await run(['call', 'shop/hello', '-d', '"again"'])
  expect(answer.stdout).toContain('again')
  const found = await clusterOf()
  expect(found.health).toBe('healthy')
  expect(found.id).not.toBe(old.id)
  // The token is the old one, so that clients need not be told of another.
  const token = (data: string) => readFileSync(join(dir, data, 'admin.token'), 'utf8')
  expect(token('second')).toBe(token('first'))
  // It changes too.
  expect((await run(['apps', 'create', 'more'])).exitCode).toBe(0)
})

test('a damaged backup is refused, and leaves nothing', async () => {
  const bytes = readFileSync(join(dir, 'fnd.backup'))
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
  writeFileSync(join(dir, 'bad.backup'), bytes)
  const refused = await run(['restore', 'bad.backup', '--data', 'third'])
  expect(refused.exitCode).toBe(1)
  expect(refused.stderr).toContain('Invalid backup')
  expect(existsSync(join(dir, 'third', 'store'))).toBe(false)
  // And so the same directory can be used once more.
  expect((await run(['restore', 'fnd.backup', '--data', 'third'])).exitCode).toBe(0)
})

test('recover refuses while the server runs, and without a word of consent', async () => {
  const running = await run(['recover', '--data', 'second', '--yes'])
  expect(running.exitCode).toBe(1)
  expect(running.stderr).toContain('in use by another fnd')
  await stop()
  const mute = await run(['recover', '--data', 'second'])
  expect(mute.exitCode).toBe(2)
  expect(mute.stderr).toContain('is lost for good')
  expect(mute.stderr).toContain('say --yes')
  const nothing = await run(['recover', '--data', 'nowhere', '--yes'])
  expect(nothing.stderr).toContain('is no data directory of fnd')
  expect(existsSync(join(dir, 'nowhere'))).toBe(false)
})

test('recover makes a new cluster of what is there, as often as it is asked to', async () => {
  await start('second')
  const before = await clusterOf()
  await stop()
  cpSync(join(dir, 'second'), join(dir, 'copy'), { recursive: true })
  for (const data of ['second', 'second', 'copy']) {
    const recovered = await run(['recover', '--data', data, '--yes', '--json'])
    expect(recovered.exitCode).toBe(0)
    expect(recovered.stderr).toMatch(/Its log ends at entry \d+ of term \d+/)
    expect(JSON.parse(recovered.stdout).clusterId).not.toBe(before.id)
  }
  await start('second')
  const after = await clusterOf()
  expect(after.id).not.toBe(before.id)
  expect(after).toMatchObject({ health: 'healthy' })
  expect(after.voters).toHaveLength(1)
  expect((await run(['call', 'shop/hello', '-d', '1'])).stdout).toContain('hello')
  expect((await run(['apps', 'list'])).stdout).toContain('more')
  expect((await run(['apps', 'create', 'yet-more'])).exitCode).toBe(0)
})
