/**
 * Functions that mean harm. Each case says what the function could do, then that a neighbour still
 * answers; at the end nothing may be left. What the protocol is abused for (half answers, endless
 * headers) is the client's business and tested there.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import type { FnSpec, Instance } from '../../src/exec/driver.ts'
import type { ProcessDriver } from '../../src/exec/process.ts'
import { Collector, call, noSignal, specOf } from '../contract/driver.ts'
import { Place } from './process-driver.ts'

const isRoot = process.getuid?.() === 0
const mib = 1024 * 1024
const place = new Place()
const output = new Collector()
const image = place.fixture('hostile.js')
const secretPath = join(place.dataDir, 'admin.token')
const privateSocket = join(place.dataDir, 'private.sock')
const running: Instance[] = []
let driver: ProcessDriver
let neighbour: Instance
let listening: Server
let count = 0

async function start(rest: Partial<FnSpec> = {}): Promise<Instance> {
  count += 1
  const spec = specOf(image, { memoryMb: 256, ...rest })
  const instance = await driver.start(spec, `hostile-${count}`, noSignal)
  running.push(instance)
  return instance
}

/** What an attempt reports, in the fields that apply. */
interface Outcome {
  readonly worked?: boolean
  readonly value?: unknown
  readonly status?: number | null
  readonly text?: string
  readonly written?: number
  readonly count?: number
}

async function ask<T = Outcome>(instance: Instance, name: string, argument?: unknown): Promise<T> {
  const answer = await call(instance, {}, { body: JSON.stringify([name, argument]) })
  const isJson = answer.headers.get('content-type')?.startsWith('application/json')
  return (isJson ? await answer.json() : await answer.text()) as T
}

function openAll(levelMax: 'namespaces' | 'process') {
  beforeAll(async () => {
    mkdirSync(place.dataDir, { recursive: true })
    writeFileSync(secretPath, 'the secret', { mode: 0o600 })
    listening = createServer().listen(privateSocket)
    const env = { FND_MAX_TMP_BYTES: String(8 * mib), FND_MAX_PIDS: '60' }
    driver = await place.open({ output, levelMax, env })
    neighbour = await driver.start(specOf(image), 'neighbour', noSignal)
  })
  afterEach(async () => {
    expect(await ask<unknown>(neighbour, 'hello')).toBe('hello')
    await Promise.all(running.splice(0).map(instance => instance.stop(50)))
  })
  afterAll(async () => {
    await driver[Symbol.asyncDispose]()
    listening.close()
    expect(leftovers()).toEqual([])
    expect(existsSync(join(place.dataDir, 'run'))).toBe(false)
  })
}

/** Processes that say by uid or environment that they are instances of this data directory. */
function leftovers(): string[] {
  const pids = readdirSync('/proc').filter(
    name => /^\d+$/.test(name) && Number(name) !== process.pid,
  )
  return pids.filter(pid => {
    try {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8')
      if (/^State:\s+Z/m.test(status)) return false
      return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(place.dataDir)
    } catch (cause) {
      // It ended while it was looked at, or is of the kernel.
      const { code = '' } = cause as NodeJS.ErrnoException
      expect(['ENOENT', 'ESRCH', 'EACCES']).toContain(code)
      return false
    }
  })
}

// Only root may make namespaces and mounts. CI is root, and the runner counts a skip as a failure.
describe.if(isRoot)('hostile functions, namespaces', () => {
  openAll('namespaces')

  test('sees nothing of the data directory, nor of other functions', async () => {
    const instance = await start()
    expect(await ask(instance, 'read', secretPath)).toEqual({ worked: false, value: 'ENOENT' })
    expect(await ask(instance, 'list', place.dataDir)).toMatchObject({ worked: false })
    expect(await ask(instance, 'list', '/root')).toMatchObject({ worked: false })
    expect((await ask(instance, 'list', '/fn')).value).toEqual(['hostile.js'])
    const rooted = await ask(instance, 'list', `/proc/${process.pid}/root`)
    expect(rooted).toMatchObject({ worked: false })
  })

  test('cannot change its bundle, the system, or fnd itself', async () => {
    const instance = await start()
    for (const path of [
      '/fn/hostile.js',
      '/fn/new',
      '/etc/passwd',
      '/usr/new',
      '/new',
      '/.fnd/fnd',
    ]) {
      expect((await ask(instance, 'write', path)).worked).toBe(false)
    }
    expect((await ask(instance, 'write', '/tmp/mine')).worked).toBe(true)
  })

  test('has a uid of its own, no privileges, and no way to get any', async () => {
    const [instance, other] = [await start(), await start()]
    const [uid, gid, groups, pid] = await ask<[number, number, number[], number]>(instance, 'ids')
    expect(uid).toBeGreaterThanOrEqual(0x6000_0000)
    expect([gid, groups, pid]).toEqual([uid, [], 1])
    expect((await ask<number[]>(other, 'ids'))[0]).not.toBe(uid)
    const status = await ask(instance, 'read', '/proc/self/status')
    for (const line of ['CapEff', 'CapPrm', 'CapBnd', 'CapAmb', 'CapInh']) {
      expect(status.value).toMatch(new RegExp(`${line}:\\s0{16}`))
    }
    expect(status.value).toMatch(/NoNewPrivs:\s1/)
    for (const command of ['unshare -U true', 'mount -t tmpfs x /tmp', 'su -c id', 'chroot / id']) {
      expect((await ask(instance, 'run', command)).status).not.toBe(0)
    }
  })

  test('sees and signals only its own processes', async () => {
    const instance = await start()
    expect(await ask<unknown>(instance, 'processes')).toEqual([1])
    for (const pid of [process.pid, neighbour.pid]) {
      expect(await ask(instance, 'kill', pid)).toEqual({ worked: false, value: 'ESRCH' })
    }
    await ask(instance, 'kill', -1)
  })

  test('finds no private socket of fnd', async () => {
    const instance = await start()
    expect(await ask(instance, 'connect', privateSocket)).toMatchObject({ worked: false })
  })

  test('finds nothing of fnd in its environment or descriptors', async () => {
    const instance = await start()
    const env = JSON.stringify(await ask(instance, 'env'))
    expect(env).not.toContain(place.dataDir)
    const seen = await ask(instance, 'run', 'cat /proc/1/environ; ls -l /proc/1/fd')
    expect(seen.text).not.toContain(place.dataDir)
    expect(await ask<unknown>(instance, 'host')).toBe('fnd')
  })

  test("network 'none' cuts it off, loopback included", async () => {
    const server = Bun.serve({ port: 0, fetch: () => new Response('host') })
    const [open, cut] = [await start(), await start({ network: 'none' })]
    const url = `http://127.0.0.1:${server.port}/`
    expect(await ask(open, 'fetch', url)).toEqual({ worked: true, value: 200 })
    expect(await ask(cut, 'fetch', url)).toMatchObject({ worked: false })
    await server.stop(true)
  })

  test('fills its disk: its own only, and no further than allowed', async () => {
    const instance = await start()
    const { written, value } = await ask(instance, 'fill-disk')
    expect(value).toBe('ENOSPC')
    expect(written).toBeLessThanOrEqual(8 * mib)
    const inodes = await start()
    expect((await ask(inodes, 'fill-inodes')).value).toBe('ENOSPC')
  })

  test('forks without end: stopped by the limit, and all gone with it', async () => {
    const instance = await start()
    const forked = await ask<number>(instance, 'fork-bomb')
    expect(forked).toBeGreaterThan(10)
    expect(forked).toBeLessThan(60)
    const shell = await start()
    await ask(shell, 'shell-bomb')
    expect(await ask<unknown>(neighbour, 'hello')).toBe('hello')
  })

  test('allocates in a child process: the kernel counts it too', async () => {
    const instance = await start()
    expect(await ask<unknown>(instance, 'allocate-child')).toEqual({
      status: null,
      signal: 'SIGKILL',
    })
  })

  test('leaves a daemon behind: it ends with the instance', async () => {
    const instance = await start()
    expect(await ask<number>(instance, 'daemon')).toBeGreaterThan(1)
    await instance.stop(0)
    expect(existsSync(`/proc/${instance.pid}`)).toBe(false)
  })

  test('moves its socket directory and puts a link to the root in its place', async () => {
    const instance = await start()
    expect(await ask(instance, 'move-sockets')).toMatchObject({ worked: true })
    expect(await ask<unknown>(instance, 'hello')).toBe('hello')
  })
})

for (const levelMax of ['namespaces', 'process'] as const) {
  // As above: the lower level needs no root.
  describe.if(isRoot || levelMax === 'process')(`hostile functions, ${levelMax}`, () => {
    openAll(levelMax)

    test('allocates without end: ended, and known as out of memory', async () => {
      const instance = await start({ memoryMb: 128 })
      await expect(ask(instance, 'allocate')).rejects.toThrow()
      expect(await instance.exited).toMatchObject({ outOfMemory: true })
    })

    test('opens files without end: stopped by the limit', async () => {
      const { count: opened, value } = await ask(await start(), 'many-files')
      expect(value).toBe('EMFILE')
      expect(opened).toBeLessThan(350)
    })

    test('writes 1 GB of output: fnd stays small, the neighbour answers meanwhile', async () => {
      const instance = await start()
      const before = process.memoryUsage().rss
      const logging = ask<unknown>(instance, 'log', 1024)
      let answers = 0
      let isOver = false
      void logging.then(() => {
        isOver = true
      })
      while (!isOver) {
        expect(await ask<unknown>(neighbour, 'hello')).toBe('hello')
        answers += 1
      }
      expect(answers).toBeGreaterThan(10)
      expect(await logging).toBe(1024)
      expect((process.memoryUsage().rss - before) / mib).toBeLessThan(100)
    })

    test('writes a line without end', async () => {
      const instance = await start()
      expect(await ask<unknown>(instance, 'log-endless-line', 32)).toBe(32)
    })

    test('spins for ever: the stop does not wait for it', async () => {
      const instance = await start()
      const asked = ask(instance, 'spin').catch(() => 'broken')
      await Bun.sleep(50)
      await instance.stop(50)
      expect(await asked).toBe('broken')
      expect((await instance.exited).signal).toBe('SIGKILL')
    })

    test('ignores every signal it can', async () => {
      const instance = await start()
      expect(await ask<unknown>(instance, 'deaf')).toBe('deaf')
      await instance.stop(50)
      expect((await instance.exited).signal).toBe('SIGKILL')
    })

    test('closes its output: its end is noticed all the same', async () => {
      const instance = await start()
      expect(await ask<unknown>(instance, 'close-output')).toBe('closed')
      await expect(ask(instance, 'exit', 9)).rejects.toThrow()
      expect((await instance.exited).code).toBe(9)
    })

    test('exits in a call', async () => {
      const instance = await start()
      await expect(ask(instance, 'exit', 4)).rejects.toThrow()
      expect(await instance.exited).toMatchObject({ code: 4, outOfMemory: false })
    })
  })
}
afterAll(() => place.remove())
