/** From a container's start to its end: good ones, bad ones, hostile ones, those left behind. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { instanceLabel, nodeLabel } from '../../src/exec/docker/container-spec.ts'
import { rendezvousName } from '../../src/exec/docker/rendezvous-dir.ts'
import type { Driver, FnSpec } from '../../src/exec/driver.ts'
import { Client } from '../../src/http/client.ts'
import { Collector, call, noSignal, refusal, specOf } from '../contract/driver.ts'
import { call as exchanged, limits } from '../exec/docker/bridge-harness.ts'
import { Daemon } from './daemon.ts'
import { openDockerDriver } from './docker-driver.ts'
import { makeImage, makeImages } from './images.ts'

let daemon: Daemon
let dataDir = ''
let output = new Collector()
const open: AsyncDisposable[] = []
const bad = ['fn-no-entrypoint', 'fn-no-command', 'fn-exits', 'fn-never', 'fn-oom'] as const

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
  await makeImages(daemon.docker, [...bad, 'fn-oom-call', 'fn-static', 'fn-contract', 'busybox'])
  await makeImages(daemon.docker, ['fn-default'])
})
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'fnd-life-'))
  output = new Collector()
})
afterEach(async () => {
  for (const parts of open.splice(0)) await parts[Symbol.asyncDispose]()
  expect(await containers()).toEqual([])
  expect(mounts()).toEqual([])
  rmSync(dataDir, { recursive: true })
})
afterAll(() => daemon[Symbol.asyncDispose]())

async function driverOn(env: Record<string, string> = {}, nodeId = 'me'): Promise<Driver> {
  const settings = { DOCKER_HOST: daemon.host, FND_NETWORK_POOL_SIZE: '0', ...env }
  const parts = await openDockerDriver({ env: settings, output, nodeId, dataDir })
  open.push(parts)
  return parts.driver
}

/** Names of all containers of the daemon, running or not. */
async function containers(): Promise<string[]> {
  const all = await daemon.docker.listContainers({ all: true })
  return all.map(({ Names }) => Names[0] ?? '').sort()
}

function mounts(): string[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  return lines.filter(line => line.includes(dataDir))
}

async function until(holds: () => Promise<boolean>, what: string): Promise<void> {
  const deadlineMs = performance.now() + 30_000
  while (!(await holds())) {
    if (performance.now() > deadlineMs) throw new Error(`does not come to hold: ${what}`)
    await Bun.sleep(20)
  }
}

const baseName = (nodeId: string) =>
  `iofs-${createHash('sha256').update(nodeId).digest('hex').slice(0, 12)}`

const small = (image: string, overrides: Partial<FnSpec> = {}) =>
  specOf(image, { memoryMb: 32, ...overrides })

describe('a start that fails says why, and leaves nothing', () => {
  const startsMs = { FND_HOT_START_TIMEOUT_MSECS: '20000' }
  const faults: [(typeof bad)[number], string, RegExp][] = [
    ['fn-no-entrypoint', 'init-failed', /\/nothing\/here/],
    ['fn-no-command', 'init-failed', /no command/i],
    ['fn-exits', 'init-failed', /exit code 3: cannot start today/],
    ['fn-oom', 'init-failed', /out of memory, raise the memory/],
  ]
  for (const [image, code, text] of faults) {
    test(image, async () => {
      const driver = await driverOn(startsMs)
      const fault = await refusal(driver.start(small(`${image}:1`), 'x', noSignal))
      expect(fault).toEqual({ code, text: expect.stringMatching(text) })
      expect(await containers()).toEqual([])
      expect(readdirSync(join(dataDir, baseName('me')))).toEqual([])
    })
  }

  test('fn-never', async () => {
    const driver = await driverOn({ FND_HOT_START_TIMEOUT_MSECS: '500' })
    const fault = await refusal(driver.start(small('fn-never:1'), 'x', noSignal))
    expect(fault.code).toBe('init-timeout')
    expect(await containers()).toEqual([])
  })

  test('the daemon has no directory of that name', async () => {
    const driver = await driverOn({ FND_IOFS_PATH: dataDir, FND_IOFS_DOCKER_PATH: '/not/there' })
    const fault = await refusal(driver.start(small('fn-static:1'), 'x', noSignal))
    expect(fault).toEqual({
      code: 'rendezvous-unseen',
      text: expect.stringContaining('FND_IOFS_DOCKER_PATH'),
    })
  })

  test('the daemon has another directory of that name', async () => {
    const other = join(dataDir, 'other')
    const mistaken = join(other, baseName('me'), rendezvousName('x'))
    mkdirSync(mistaken, { recursive: true })
    chmodSync(mistaken, 0o777)
    const driver = await driverOn({
      FND_HOT_START_TIMEOUT_MSECS: '1500',
      FND_IOFS_PATH: join(dataDir, 'own'),
      FND_IOFS_DOCKER_PATH: other,
    })
    const fault = await refusal(driver.start(small('fn-static:1'), 'x', noSignal))
    expect(fault.code).toBe('rendezvous-unseen')
    expect(readdirSync(mistaken)).toContain('lsnr.sock')
  })

  test('something else is where the directories for sockets should be', async () => {
    const victim = join(dataDir, 'victim')
    mkdirSync(victim)
    writeFileSync(join(victim, 'file'), 'kept')
    symlinkSync(victim, join(dataDir, baseName('me')))
    const driver = await driverOn()
    const fault = await refusal(driver.start(small('fn-static:1'), 'x', noSignal))
    expect(fault).toEqual({ code: 'init-failed', text: expect.stringContaining('in the way') })
    expect(readFileSync(join(victim, 'file'), 'utf8')).toBe('kept')
  })
})

test('the directory for sockets may have two names, and need not share the mounts', async () => {
  const driver = await driverOn({
    FND_IOFS_PATH: `${dataDir}/./own/`,
    FND_IOFS_DOCKER_PATH: join(dataDir, 'own'),
  })
  const instance = await driver.start(small('fn-static:1'), 'x', noSignal)
  expect(mounts()).toEqual([])
  expect(await (await call(instance)).text()).toBe('hello')
  await instance.stop(0)
})

test('an operator may remove containers, and the image of those that hold networks', async () => {
  const driver = await driverOn({ FND_NETWORK_POOL_SIZE: '1' })
  const spec = small('fn-static:1')
  await driver.prepare(spec)
  const holders = () => daemon.docker.listContainers({ filters: { name: ['fnd-net-'] } })
  await until(async () => (await holders()).length === 1, 'a network is made ahead')
  for (const { Id } of await holders()) await daemon.docker.getContainer(Id).kill()
  const instance = await driver.start(spec, 'x', noSignal)
  expect(await (await call(instance)).text()).toBe('hello')
  await daemon.docker.getContainer('fnd-x').remove({ force: true })
  expect(await instance.exited).toEqual({ code: null, signal: 'SIGKILL', outOfMemory: false })
  expect(readdirSync(join(dataDir, baseName('me')))).toEqual([])

  await until(async () => (await holders()).length === 1, 'the next one is')
  for (const { Id } of await holders()) await daemon.docker.getContainer(Id).remove({ force: true })
  await daemon.docker.getImage('fnd.io/network-holder:1').remove({ force: true })
  await (await driver.start(spec, 'y', noSignal)).stop(0)
  await until(async () => (await holders()).length === 1, 'the image is made anew')
})

test('older formats: a call is answered whole where its network made ahead is gone', async () => {
  const driver = await driverOn({ FND_NETWORK_POOL_SIZE: '1' })
  const spec = small('fn-default:1', { format: 'default' })
  await driver.prepare(spec)
  const holders = () => daemon.docker.listContainers({ filters: { name: ['fnd-net-'] } })
  await until(async () => (await holders()).length === 1, 'a network is made ahead')
  for (const { Id } of await holders()) await daemon.docker.getContainer(Id).kill()
  const instance = await driver.start(spec, 'x', noSignal)
  const client = new Client(instance.socketPath, limits)
  const answer = await exchanged(client, { body: Buffer.from('hello') })
  expect({ status: answer.status, text: answer.body.toString() }).toEqual({
    status: 200,
    text: 'hello',
  })
  client.close()
  await instance.stop(0)
})

test('memory that runs out in a call is told apart, also when it is stopped for that', async () => {
  const driver = await driverOn()
  for (const id of ['a', 'b', 'c', 'd']) {
    const instance = await driver.start(small('fn-oom-call:1'), id, noSignal)
    await call(instance).catch(() => undefined)
    await instance.stop(10_000)
    expect(await instance.exited).toMatchObject({ outOfMemory: true })
  }
})

test('a function may close its output', async () => {
  const run = 'exec /bin/env -u HOSTNAME /bin/node /fn/contract-fn.js 1>&- 2>&-'
  const changes = [`ENTRYPOINT ${JSON.stringify(['/bin/sh', '-c', run])}`]
  await makeImage(daemon.docker, { base: 'node', repo: 'fn-silent', tag: '1', changes })
  const driver = await driverOn()
  const spec = specOf('fn-silent:1', { memoryMb: 128 })
  const instance = await driver.start(spec, 'x', noSignal)
  for (let i = 0; i < 3; i++) {
    const answer = await call(instance, {}, { body: `${i}` })
    expect(await answer.text()).toBe(`${i}`)
    await Bun.sleep(100)
  }
  await instance.stop(0)
})

test('closing leaves nothing, whatever is under way', async () => {
  const driver = await driverOn({ FND_NETWORK_POOL_SIZE: '2' })
  const spec = small('fn-static:1')
  await driver.prepare(spec)
  await driver.start(spec, 'ready', noSignal)
  expect(mounts().length).toBe(1)
  await until(async () => (await containers()).length >= 3, 'networks are made ahead')
  const starts = ['x', 'y', 'z'].map(id => driver.start(spec, id, noSignal).catch(fault => fault))
  await until(async () => (await containers()).length >= 4, 'a start is under way')
  await driver[Symbol.asyncDispose]()
  expect(await containers()).toEqual([])
  await Promise.all(starts)
  expect(await containers()).toEqual([])
  expect(existsSync(join(dataDir, baseName('me')))).toBe(false)
  await expect(driver.start(spec, 'late', noSignal)).rejects.toThrow('shutting down')
})

/** Starts instances named `<nodeId>-a` and `-b` in a process of their own, and kills that. */
async function killedOwner(nodeId: string, image: string, env: Record<string, string> = {}) {
  const script = join(import.meta.dir, 'fixtures/owner.ts')
  const command = [process.execPath, script, daemon.host, dataDir, nodeId, image]
  const owner = Bun.spawn(command, { env: { ...process.env, ...env }, stderr: 'inherit' })
  for await (const chunk of owner.stdout) if (String(chunk).length > 0) break
  const kill = async () => {
    owner.kill('SIGKILL')
    await owner.exited
  }
  open.push({ [Symbol.asyncDispose]: kill })
  return { kill }
}

describe('what a killed fnd left', () => {
  test('is removed by the next one of the same node, and nothing else is', async () => {
    const owner = await killedOwner('me', 'fn-static:1')
    const other = await driverOn({}, 'other')
    await other.start(small('fn-static:1'), 'others', noSignal)
    const foreign = { [nodeLabel]: 'me and more', [instanceLabel]: 'x' }
    for (const [name, Labels] of Object.entries({ plain: {}, foreign })) {
      const HostConfig = { NetworkMode: 'none' }
      await daemon.docker.createContainer({ name, Image: 'busybox:1', Labels, HostConfig })
    }
    await until(async () => (await containers()).length >= 6, 'a network is made ahead')
    await owner.kill()
    const before = await containers()
    expect(before).toContain('/fnd-me-a')
    expect(mounts().length).toBe(3)

    const driver = await driverOn()
    await until(async () => (await containers()).length === 3, 'the strays are gone')
    expect(await containers()).toEqual(['/fnd-others', '/foreign', '/plain'])
    const instance = await driver.start(small('fn-static:1'), 'me-a', noSignal)
    expect(await (await call(instance)).text()).toBe('hello')
    expect(mounts().length).toBe(2)
    for (const name of ['plain', 'foreign']) await daemon.docker.getContainer(name).remove()
  }, 60_000)

  const iofsEnv: Record<string, () => Record<string, string>> = {
    'in a file system of its own': () => ({}),
    'in a directory of the host': () => ({
      FND_IOFS_PATH: dataDir,
      FND_IOFS_DOCKER_PATH: dataDir,
    }),
  }
  for (const [where, env] of Object.entries(iofsEnv)) {
    test(`links of a hostile function ${where} are not followed`, async () => {
      const victim = join(dataDir, 'victim')
      mkdirSync(join(victim, 'dir'), { recursive: true })
      writeFileSync(join(victim, 'file'), 'kept', { mode: 0o640 })
      writeFileSync(join(victim, 'dir/file'), 'kept', { mode: 0o640 })
      chmodSync(victim, 0o711)
      const owner = await killedOwner('me', 'fn-contract:1', env())
      const driver = await driverOn(env(), 'other')
      const spec = specOf('fn-contract:1', { memoryMb: 128 })
      const instance = await driver.start(spec, 'others', noSignal)
      for (const name of ['me-a', 'others']) await swapForLinks(`fnd-${name}`, victim)

      // The socket that was checked is used, whatever its names point to by then.
      expect(await (await call(instance, {}, { body: 'mine' })).text()).toBe('mine')
      await instance.stop(0)
      await owner.kill()
      const next = await driverOn(env())
      await (await next.start(small('fn-static:1'), 'later', noSignal)).stop(0)

      expect(readdirSync(victim).sort()).toEqual(['dir', 'file'])
      expect(readFileSync(join(victim, 'file'), 'utf8')).toBe('kept')
      expect(readFileSync(join(victim, 'dir/file'), 'utf8')).toBe('kept')
      const modeOf = (name: string) => statSync(join(victim, name)).mode & 0o777
      expect(['.', 'file', 'dir/file'].map(modeOf)).toEqual([0o711, 0o640, 0o640])
      const left = () =>
        ['me', 'other'].flatMap(nodeId => readdirSync(join(dataDir, baseName(nodeId))))
      await until(async () => left().length === 0, 'all directories are removed')
    }, 60_000)
  }
})

/** Fills the directory for the socket with links out of it, as its function may. */
async function swapForLinks(container: string, victim: string): Promise<void> {
  const script = `
    cd /tmp/iofs && rm -rf * .fnd && mkdir -p deep/deeper &&
    ln -s ${victim} lsnr.sock && ln -s ${victim}/file .fnd && ln -s ${victim}/dir dir &&
    ln -s ${victim} deep/deeper/up && ln -s / root && ln -s .. dots &&
    touch deep/locked && chmod 000 deep/locked deep/deeper && echo done`
  const run = await daemon.docker.getContainer(container).exec({
    Cmd: ['/bin/sh', '-c', script],
    AttachStdout: true,
    AttachStderr: true,
    Tty: true,
  })
  let text = ''
  for await (const chunk of await run.start({ Tty: true })) text += String(chunk)
  expect(text.trim()).toBe('done')
}
