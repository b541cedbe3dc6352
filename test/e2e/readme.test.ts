/** The README's five minutes, typed as they stand there, in a fresh clone. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dir, '../..')
const readme = readFileSync(join(root, 'README.md'), 'utf8')
const dir = mkdtempSync(join(tmpdir(), 'fnd-readme-'))
const clone = join(dir, 'fnd')
const startMsMax = 240_000

let env: Record<string, string | undefined> = {}
let server: Bun.Subprocess | undefined

async function isFree(port: number): Promise<boolean> {
  const listener = createServer()
  const { promise, resolve } = Promise.withResolvers<boolean>()
  listener.once('error', () => resolve(false))
  listener.listen(port, '127.0.0.1', () => listener.close(() => resolve(true)))
  return promise
}

/**
 * One of two that are free, and below those that the kernel gives to connections: the install makes
 * some before the server takes its ports, the second for its peers.
 */
async function freePorts(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000)
    if ((await isFree(port)) && (await isFree(port + 1))) return port
  }
}

/** The shell lines of a section, in order. */
function linesOf(title: string): string[] {
  const section = readme.split(/^## /m).find(part => part.startsWith(title)) ?? ''
  return [...section.matchAll(/^```sh\n([\s\S]*?)^```/gm)].flatMap(([, block]) =>
    (block ?? '').split('\n').filter(line => line !== ''),
  )
}

async function run(line: string): Promise<string> {
  // The test may not have port 8080 to itself; all else is as it is written.
  const command = line.replaceAll('http://127.0.0.1:8080', env.FND_URL ?? '')
  const child = Bun.spawn(['bash', '-c', command], { cwd: clone, env, stderr: 'inherit' })
  const text = await new Response(child.stdout).text()
  expect({ line, exitCode: await child.exited }).toEqual({ line, exitCode: 0 })
  return text
}

beforeAll(async () => {
  const port = await freePorts()
  env = {
    ...process.env,
    FND_LISTEN: `127.0.0.1:${port}`,
    FND_URL: `http://127.0.0.1:${port}`,
    XDG_STATE_HOME: join(dir, 'state'),
    FND_DATA: undefined,
  }
  Bun.spawnSync(['git', 'clone', '--quiet', root, clone], { stderr: 'inherit' })
})

afterAll(async () => {
  server?.kill('SIGTERM')
  await server?.exited
  rmSync(dir, { recursive: true, force: true })
})

const lines = linesOf('Five minutes')

test(
  'the first command installs, builds and serves',
  async () => {
    expect(lines[0]).toBe('npm start')
    server = Bun.spawn(['bash', '-c', 'exec npm start'], {
      cwd: clone,
      env,
      stdout: 'inherit',
      stderr: 'inherit',
    })
    for (;;) {
      const isThere = await fetch(`${env.FND_URL}/healthz`).then(
        response => response.ok,
        () => false,
      )
      if (isThere) break
      expect(server.exitCode).toBeNull()
      await Bun.sleep(100)
    }
  },
  startMsMax,
)

test('the second deploys a function, and prints how to call it', async () => {
  expect(lines[1]).toBe('./dist/fnd deploy examples/hello.ts')
  const printed = await run(lines[1] ?? '')
  const call = /^ {2}(curl \S+)$/m.exec(printed)?.[1]
  expect(call).toBe(`curl ${env.FND_URL}/t/default/hello`)
  expect(await run(call ?? '')).toBe('hello, world\n')
}, 60_000)

test('what else there is to try works as it is written', async () => {
  const printed = new Map<string, string>()
  for (const line of lines.slice(2)) printed.set(line, await run(line))
  const of = (part: string) => [...printed].find(([line]) => line.includes(part))?.[1] ?? ''
  expect(of('name=Ada')).toBe('hello, Ada\n')
  expect(of('logs default/hello')).toContain('greeting Ada')
  expect(JSON.parse(of('call default/sum'))).toMatchObject({ sum: 6 })
  expect(of('curl -N')).toContain('data: tick 5')
  expect(of('doctor')).toContain('isolation')
}, 60_000)
