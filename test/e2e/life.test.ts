/** How fnd ends, in order and by force, and what the next start finds. */
import { afterEach, describe, expect, test } from 'bun:test'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { seed } from '../watch/seed.ts'
import {
  binary,
  cgroupsOf,
  descendants,
  Fnd,
  isAlive,
  programOf,
  RawConnection,
  randomFrom,
  until,
} from './fnd.ts'

const open: Fnd[] = []
afterEach(async () => {
  for (const fnd of open.splice(0)) await fnd[Symbol.asyncDispose]()
})

async function started(env: Readonly<Record<string, string>> = {}): Promise<Fnd> {
  const fnd = new Fnd(env)
  open.push(fnd)
  await fnd.start()
  return fnd
}

const sleeper = {
  source: `export default { async fetch(request) {
    await Bun.sleep(Number(request.headers.get('x-ms') ?? 0))
    return new Response('slept')
  } }`,
}

const fixture = (name: string) => readFileSync(join(import.meta.dir, 'fixtures', name), 'utf8')

const sleepFor = (ms: number) => ({ headers: { 'x-ms': String(ms) } })

describe('SIGTERM', () => {
  test('lets running calls finish, takes no new connection, and exits 0', async () => {
    const fnd = await started()
    const fn = await fnd.deploy('sleeper', sleeper)
    await (await fetch(fn.url)).text()
    const children = descendants(fnd.pid)
    const running = fetch(fn.url, sleepFor(1000))
    await until(async () => (await fnd.describe(fn.id)).busy === 1, 'the call runs')
    fnd.process.kill('SIGTERM')
    await until(async () => {
      using connection = new RawConnection(fnd.port)
      const request = 'GET /healthz HTTP/1.1\r\nhost: f\r\nconnection: close\r\n\r\n'
      return (await connection.send(request).read(undefined)) === ''
    }, 'new connections are refused')
    expect(isAlive(fnd.pid)).toBe(true)
    const answer = await running
    expect({ status: answer.status, body: await answer.text() }).toEqual({
      status: 200,
      body: 'slept',
    })
    await fnd.process.exited
    expect(fnd.process.exitCode).toBe(0)
    expect(children.filter(isAlive)).toEqual([])
    expectNothingLeft(fnd)
  })

  test('serves calls that wait for their first instance', async () => {
    const fnd = await started({ FND_SPARE_WORKERS: '0' })
    const fn = await fnd.deploy('slow-start', {
      source: `await Bun.sleep(500)
        export default () => 'started'`,
    })
    const waiting = fetch(fn.url)
    await until(async () => (await fnd.describe(fn.id)).waiting === 1, 'the call waits')
    fnd.process.kill('SIGTERM')
    const answer = await waiting
    expect({ status: answer.status, body: await answer.text() }).toEqual({
      status: 200,
      body: 'started',
    })
    await fnd.process.exited
    expect(fnd.process.exitCode).toBe(0)
  })

  test('cuts calls that outlast FND_DRAIN_TIMEOUT', async () => {
    const fnd = await started({ FND_DRAIN_TIMEOUT: '300ms' })
    const fn = await fnd.deploy('sleeper', sleeper)
    const running = fetch(fn.url, sleepFor(20_000)).then(
      response => response.status,
      () => 'cut',
    )
    await until(async () => (await fnd.describe(fn.id)).busy === 1, 'the call runs')
    const startedMs = performance.now()
    expect(await fnd.stop()).toBe(0)
    expect(performance.now() - startedMs).toBeLessThan(8000)
    const end = await running
    expect(end === 'cut' || end === 502 || end === 503).toBe(true)
    expectNothingLeft(fnd)
  })

  test('ends functions that ignore it, and while an event stream is open', async () => {
    const fnd = await started({ FND_DRAIN_TIMEOUT: '300ms' })
    const fn = await fnd.deploy('stubborn', {
      source: `process.on('SIGTERM', () => {})
        export default { fetch: () => new Response(new ReadableStream({
          async pull(controller) {
            controller.enqueue(new TextEncoder().encode('x'))
            await Bun.sleep(50)
          },
        })) }`,
    })
    using connection = new RawConnection(fnd.port)
    connection.send('GET /t/e2e/stubborn HTTP/1.1\r\nhost: f\r\n\r\n')
    await connection.read(/x\r\n/)
    const [instance] = (await fnd.describe(fn.id)).instances
    expect(await fnd.stop()).toBe(0)
    expect(isAlive(instance?.pid ?? 0)).toBe(false)
    const text = await connection.read(undefined)
    expect(text).not.toEndWith('0\r\n\r\n')
  })

  test('twice stops at once', async () => {
    const fnd = await started()
    const fn = await fnd.deploy('sleeper', sleeper)
    const running = fetch(fn.url, sleepFor(20_000)).catch(() => undefined)
    await until(async () => (await fnd.describe(fn.id)).busy === 1, 'the call runs')
    fnd.process.kill('SIGTERM')
    await Bun.sleep(100)
    fnd.process.kill('SIGTERM')
    await fnd.process.exited
    expect(fnd.process.exitCode).toBe(143)
    await running
  })
})

describe('kill -9', () => {
  test('leaves no process within a second, and nothing else after the next start', async () => {
    const fnd = await started()
    const plain = await fnd.deploy('plain', sleeper)
    const parent = await fnd.deploy('parent', {
      source: `import { spawn } from 'node:child_process'
        export default () => {
          for (let i = 0; i < 3; i++) {
            spawn('/bin/sleep', ['1000'], { detached: true, stdio: 'ignore' }).unref()
          }
          return 'spawned'
        }`,
    })
    const stubborn = await fnd.deploy('stubborn', {
      source: `for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(name, () => {})
        export default () => 'here'`,
    })
    const program = await fnd.deploy('program', programOf(fixture('contract.js')))
    for (const fn of [plain, parent, stubborn, program]) {
      expect((await fetch(fn.url, { method: 'POST' })).status).toBe(200)
    }
    const running = fetch(plain.url, sleepFor(20_000)).catch(() => undefined)
    await until(async () => (await fnd.describe(plain.id)).busy === 1, 'a call runs')
    const processes = descendants(fnd.pid)
    // Four instances and their children, and the spares.
    expect(processes.length).toBeGreaterThanOrEqual(7)
    fnd.process.kill('SIGKILL')
    await fnd.process.exited
    await until(() => !processes.some(isAlive), 'its functions end', 1000)
    await running
    await fnd.start()
    for (const fn of [plain, parent, stubborn, program]) {
      const response = await fetch(`${fnd.url}/t/e2e/${new URL(fn.url).pathname.split('/')[3]}`)
      expect(response.status).toBe(200)
      await response.arrayBuffer()
    }
    expect(await fnd.stop()).toBe(0)
    expectNothingLeft(fnd)
  })

  test('at any moment of deploys loses nothing that was acknowledged', async () => {
    const random = randomFrom(seed)
    const fnd = await started()
    const { token } = fnd
    const acknowledged: { id: string; name: string; image: string }[] = []
    for (let round = 0; round < 12; round++) {
      const end = new AbortController()
      const writing = deployUntil(end.signal, fnd, round, acknowledged)
      await Bun.sleep(20 + random() * 150)
      end.abort()
      fnd.process.kill('SIGKILL')
      await fnd.process.exited
      await writing
      await fnd.start()
      expect(fnd.token).toBe(token)
      for (const { id, name, image } of acknowledged) {
        expect(await fnd.api('GET', `/v2/fns/${id}`)).toMatchObject({ name, image })
      }
    }
    console.log(`12 rounds, ${acknowledged.length} functions acknowledged`)
    expect(acknowledged.length).toBeGreaterThan(12)
    const last = acknowledged.at(-1)
    const answer = await fetch(`${fnd.url}/invoke/${last?.id}`, { method: 'POST' })
    expect({ status: answer.status, body: await answer.text() }).toEqual({
      status: 200,
      body: last?.name ?? '',
    })
    expect(await fnd.stop()).toBe(0)
    expectNothingLeft(fnd)
  })
})

async function deployUntil(
  end: AbortSignal,
  fnd: Fnd,
  round: number,
  acknowledged: { id: string; name: string; image: string }[],
): Promise<void> {
  for (let i = 0; ; i++) {
    const name = `fn-${round}-${i}`
    try {
      // When the process is killed the request under way breaks; before that none may.
      const image = await fnd.upload({ source: `export default () => '${name}'` })
      const { id } = await fnd.create(name, image)
      acknowledged.push({ id, name, image })
    } catch (cause) {
      if (end.aborted) return
      throw cause
    }
  }
}

test('a second fnd on the same data directory refuses and says so', async () => {
  const fnd = await started()
  const second = Bun.spawn([binary], {
    env: fnd.environment,
    cwd: fnd.dir,
    stdout: 'pipe',
    stderr: 'pipe',
  })
  const [text, code] = await Promise.all([new Response(second.stderr).text(), second.exited])
  expect(code).not.toBe(0)
  expect(text).toContain(fnd.dataDir)
  expect(text).toContain(String(fnd.pid))
  expect((await fetch(`${fnd.url}/healthz`)).status).toBe(200)
})

/** After fnd ended in order: no mount, no cgroup, no file of a running instance. */
function expectNothingLeft(fnd: Fnd): void {
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(fnd.dataDir)
  expect(existsSync(join(fnd.dataDir, 'run'))).toBe(false)
  expect(cgroupsOf(fnd.dataDir)).toEqual([])
}
