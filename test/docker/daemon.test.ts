/** Daemons that die, hang, or are full, under a fnd that serves: it goes on, and leaves nothing. */
import { afterAll, afterEach, expect, test } from 'bun:test'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Collector, call, noSignal, specOf } from '../contract/driver.ts'
import { type Deployed, Fnd, until } from '../e2e/fnd.ts'
import { Daemon, type DaemonOptions } from './daemon.ts'
import { openDockerDriver } from './docker-driver.ts'
import { type ImageName, makeImages } from './images.ts'

const open: AsyncDisposable[] = []
const dir = mkdtempSync(join(tmpdir(), 'fnd-proxy-'))
const longMs = 60_000

afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]()
})
afterAll(() => rmSync(dir, { recursive: true }))

async function daemonWith(options: DaemonOptions, ...more: ImageName[]): Promise<Daemon> {
  const daemon = await Daemon.start(options)
  open.push(daemon)
  await makeImages(daemon.docker, ['fn-static', ...more])
  return daemon
}

async function fndOn(daemon: Daemon, env: Record<string, string> = {}): Promise<Fnd> {
  const fnd = new Fnd({ DOCKER_HOST: daemon.host, FND_NETWORK_POOL_SIZE: '1', ...env })
  open.push({
    [Symbol.asyncDispose]: async () => {
      // Containers hold its directory until they are removed.
      if (fnd.process.exitCode === null) await fnd.stop()
      await fnd[Symbol.asyncDispose]()
    },
  })
  await fnd.start()
  return fnd
}

const none = { network: 'none' }

interface Answer {
  readonly status: number
  readonly text: string
  readonly retryAfter: string | null
}

async function ask({ invokeUrl }: Deployed, headers = {}, body = ''): Promise<Answer> {
  const response = await fetch(invokeUrl, { method: 'POST', headers, body })
  const { status } = response
  return { status, text: await response.text(), retryAfter: response.headers.get('retry-after') }
}

async function answers(fn: Deployed, what: string): Promise<void> {
  await until(async () => (await ask(fn)).status === 200, what, longMs)
}

function expectUnavailable({ status, text, retryAfter }: Answer): void {
  expect({ status, text }).toEqual({ status: 503, text: expect.stringContaining('Docker daemon') })
  expect(Number(retryAfter)).toBeGreaterThan(0)
}

async function expectNoContainers({ docker }: Daemon): Promise<void> {
  const all = await docker.listContainers({ all: true })
  expect(all.map(({ Names, State }) => `${Names} ${State}`)).toEqual([])
}

const readyStatus = async (fnd: Fnd) => (await fetch(`${fnd.url}/readyz`)).status
const isNotReady = async (fnd: Fnd) => (await readyStatus(fnd)) === 503
const isReady = async (fnd: Fnd) => (await readyStatus(fnd)) === 200

test('a daemon that is killed in a call: what lives answers, all else recovers', async () => {
  const daemon = await daemonWith({ bridge: true }, 'fn-contract')
  const fnd = await fndOn(daemon)
  const warm = await fnd.create('warm', 'fn-contract:1', { memory: 128 })
  const cold = await fnd.create('cold', 'fn-static:1')
  const process = await fnd.deploy('process', { source: 'export default () => "hi"' })
  await answers(warm, 'the first call')
  const running = ask(warm, { 'x-do': 'sleep', 'x-ms': '1500' })
  await until(async () => (await fnd.describe(warm.id)).busy === 1, 'the call runs')
  await daemon.kill()
  expect(await running).toMatchObject({ status: 200, text: 'slept' })
  expect(await ask(warm, {}, 'alive')).toMatchObject({ status: 200, text: 'alive' })
  expectUnavailable(await ask(cold))
  await until(() => isNotReady(fnd), 'it is not ready')
  expect((await ask(process)).status).toBe(200)
  await daemon.start()
  await answers(cold, 'a start by the daemon that is back')
  await answers(warm, 'a function whose container ended with the daemon')
  await until(() => isReady(fnd), 'it is ready')
  await daemon.end()
  await until(() => isNotReady(fnd), 'it is not ready')
  await daemon.start()
  await answers(cold, 'a start after an orderly end')
  await answers(warm, 'the other one')
  expect(await fnd.stop()).toBe(0)
  await expectNoContainers(daemon)
}, 120_000)

test('a container outlives a restart with live restore; a daemon that hangs', async () => {
  const daemon = await daemonWith({ liveRestore: true }, 'fn-contract')
  const fnd = await fndOn(daemon, { FND_NETWORK_POOL_SIZE: '0' })
  const live = await fnd.create('live', 'fn-contract:1', { memory: 128, settings: none })
  await answers(live, 'the first call')
  const [before] = (await fnd.describe(live.id)).instances
  await daemon.restart()
  expect((await ask(live, {}, 'alive')).text).toBe('alive')
  const logs = async () => (await fnd.request('GET', `/fnd/v1/fns/${live.id}/logs`)).text()
  await until(
    async () => {
      await ask(live, { 'x-do': 'log' })
      return (await logs()).includes('to stderr')
    },
    'its output arrives again',
    longMs,
  )
  const after = (await fnd.describe(live.id)).instances
  expect(after.map(({ id, pid }) => ({ id, pid }))).toEqual([
    { id: before?.id ?? '', pid: before?.pid ?? 0 },
  ])

  const cold = await fnd.create('cold', 'fn-static:1', { settings: none })
  const changed = await fnd.create('changed', 'fn-static:1', { settings: none })
  await answers(changed, 'the other function')
  daemon.freeze()
  // Its instance is told to go, and cannot.
  await fnd.api('PUT', `/v2/fns/${changed.id}`, { config: { NEW: '1' } })
  const waiting = ask(cold)
  for (const name of ['one', 'two', 'three']) {
    const fn = await fnd.deploy(name, { source: `export default () => "${name}"` })
    expect(await ask(fn)).toMatchObject({ status: 200, text: name })
    await fnd.api('PUT', `/v2/fns/${fn.id}`, { config: { NEW: '1' } })
    expect(await ask(fn)).toMatchObject({ status: 200, text: name })
  }
  expectUnavailable(await waiting)
  expectUnavailable(await ask(cold))
  expect((await ask(live, {}, 'alive')).text).toBe('alive')
  daemon.thaw()
  await answers(cold, 'a start by the daemon that is awake')
  await answers(changed, 'a start of the changed function')
  await until(
    async () => (await daemon.docker.listContainers({ all: true })).length === 3,
    'what could not be stopped is',
    longMs,
  )
  expect(await fnd.stop()).toBe(0)
  await expectNoContainers(daemon)
}, 120_000)

test('a full disk of the daemon is a 503, until there is room', async () => {
  const daemon = await daemonWith({ diskMb: 30 })
  const fnd = await fndOn(daemon, { FND_NETWORK_POOL_SIZE: '0' })
  const one = await fnd.create('one', 'fn-static:1', { settings: none })
  await answers(one, 'the first call')
  const ballast = join(daemon.dir, 'data/ballast')
  fill(ballast)
  const other = await fnd.create('other', 'fn-static:1', { settings: none })
  const refused = await ask(other)
  expect(refused.status).toBe(503)
  expect(refused.text).toContain('out of space')
  expect(Number(refused.retryAfter)).toBeGreaterThan(0)
  expect((await ask(one)).status).toBe(200)
  rmSync(ballast)
  await answers(other, 'a start with room')
  expect(await fnd.stop()).toBe(0)
  await expectNoContainers(daemon)
}, 120_000)

/** Takes all the room there is. */
function fill(path: string): void {
  for (const bytes of [2 ** 20, 2 ** 12]) {
    const piece = new Uint8Array(bytes)
    try {
      for (;;) writeFileSync(path, piece, { flag: 'a' })
    } catch (cause) {
      expect((cause as NodeJS.ErrnoException).code).toBe('ENOSPC')
    }
  }
}

test('a container whose creation succeeds after it was given up is removed', async () => {
  const daemon = await daemonWith({})
  const state = { isLossy: false }
  const path = await proxyTo(daemon.socketPath, state)
  const parts = await openDockerDriver({
    env: { DOCKER_HOST: `unix://${path}`, FND_NETWORK_POOL_SIZE: '0' },
    output: new Collector(),
  })
  open.push(parts)
  const { driver } = parts
  const spec = specOf('fn-static:1', { memoryMb: 64, network: 'none' })
  const instance = await driver.start(spec, 'kept', noSignal)
  state.isLossy = true
  await expect(driver.start(spec, 'lost', noSignal)).rejects.toThrow('cannot be reached')
  const { docker } = daemon
  expect(await docker.getContainer('fnd-lost').inspect()).toBeDefined()
  state.isLossy = false
  await until(
    async () => (await docker.listContainers({ all: true })).length === 1,
    'the lost container is removed',
    longMs,
  )
  expect(await (await call(instance)).text()).toBe('hello')
}, 120_000)

/** Passes all on; while it is lossy, the answers to creations of containers are lost. */
async function proxyTo(target: string, state: { isLossy: boolean }): Promise<string> {
  const path = join(dir, 'proxy.sock')
  const sockets = new Set<Socket>()
  const server: Server = createServer(client => {
    const daemon = connect(target)
    let isLost = false
    for (const socket of [client, daemon]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        client.destroy()
        daemon.destroy()
      })
    }
    client.on('data', chunk => {
      isLost = state.isLossy && String(chunk).startsWith('POST /containers/create')
      daemon.write(chunk)
    })
    daemon.on('data', chunk => {
      if (isLost) client.destroy()
      else client.write(chunk)
    })
  })
  open.push({
    [Symbol.asyncDispose]: async () => {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  })
  await new Promise<void>(resolve => server.listen(path, resolve))
  return path
}
