/** What confines a container (fn-api.md §2.4): as the daemon has it, and as it is from within. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { readlinkSync } from 'node:fs'
import type Docker from 'dockerode'
import { instanceLabel, nodeLabel } from '../../src/exec/docker/container-spec.ts'
import type { DockerParts } from '../../src/exec/docker/open.ts'
import type { FnSpec, Instance } from '../../src/exec/driver.ts'
import { Collector, call, noSignal, specOf } from '../contract/driver.ts'
import { Daemon } from './daemon.ts'
import { openDockerDriver } from './docker-driver.ts'
import { makeImages } from './images.ts'

let daemon: Daemon
const open: DockerParts[] = []
let count = 0

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
  await makeImages(daemon.docker, ['fn-static', 'fn-contract', 'fn-user'])
})
afterEach(async () => {
  for (const parts of open.splice(0)) await parts[Symbol.asyncDispose]()
})
afterAll(() => daemon[Symbol.asyncDispose]())

async function driverWith(env: Record<string, string> = {}): Promise<DockerParts> {
  const parts = await openDockerDriver({
    env: { DOCKER_HOST: daemon.host, FND_NETWORK_POOL_SIZE: '0', ...env },
    output: new Collector(),
  })
  open.push(parts)
  return parts
}

async function started(
  { driver }: DockerParts,
  image = 'fn-static:1',
  overrides: Partial<FnSpec> = {},
): Promise<{ instance: Instance; about: Docker.ContainerInspectInfo }> {
  count += 1
  const id = `sandbox-${count}`
  const spec = specOf(image, { memoryMb: 64, ...overrides })
  const instance = await driver.start(spec, id, noSignal)
  const about = await daemon.docker.getContainer(`fnd-${id}`).inspect()
  return { instance, about }
}

/** What a shell in the container says, both streams. */
async function shell(about: Docker.ContainerInspectInfo, script: string): Promise<string> {
  const container = daemon.docker.getContainer(about.Id)
  const run = await container.exec({
    Cmd: ['/bin/sh', '-c', script],
    AttachStdout: true,
    AttachStderr: true,
    Tty: true,
  })
  const stream = await run.start({ Tty: true })
  let text = ''
  for await (const chunk of stream) text += String(chunk)
  return text
}

const limitOf = ({ HostConfig }: Docker.ContainerInspectInfo, name: string) =>
  HostConfig.Ulimits?.find(limit => limit.Name === name)

describe('options', () => {
  test('are those of Fn', async () => {
    const parts = await driverWith()
    const { about } = await started(parts)
    const { HostConfig, Config } = about
    expect(HostConfig).toMatchObject({
      Init: true,
      ReadonlyRootfs: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges'],
      Memory: 64 * 2 ** 20,
      MemorySwap: 64 * 2 ** 20,
      PidsLimit: 50,
      Tmpfs: { '/tmp': `size=${64 * 2 ** 20},mode=1777` },
      LogConfig: { Type: 'none' },
      NetworkMode: 'bridge',
      Privileged: false,
    })
    expect(HostConfig.StorageOpt ?? {}).toEqual({})
    const limits = ['nofile', 'memlock', 'sigpending', 'msgqueue']
    expect(limits.map(name => limitOf(about, name)?.Hard)).toEqual([350, 65_536, 5000, 819_200])
    expect(limits.map(name => limitOf(about, name)?.Soft)).toEqual([350, 65_536, 5000, 819_200])
    expect(Config.User).toBe('1000:1000')
    expect(Config.Labels).toEqual({
      [nodeLabel]: expect.stringContaining('test-'),
      [instanceLabel]: `sandbox-${count}`,
      'fnd.io/app-id': 'app-1',
      'fnd.io/fn-id': 'fn-1',
    })
    expect(about.Mounts).toMatchObject([{ Type: 'bind', Destination: '/tmp/iofs', RW: true }])
    expect(Config.OpenStdin).toBe(false)
  })

  test('change with their variables', async () => {
    const parts = await driverWith({
      FN_DISABLE_READONLY_ROOTFS: 'true',
      FN_DISABLE_UNPRIVILEGED_CONTAINERS: 'true',
      FN_MAX_PIDS: '77',
      FN_MAX_OPEN_FILES: '111',
      FN_MAX_LOCKED_MEMORY: '8192',
      FN_MAX_PENDING_SIGNALS: '222',
      FN_MAX_MESSAGE_QUEUE: '4096',
      FN_MAX_TMPFS_INODES: '99',
      FND_MAX_TMP_BYTES: '1048576',
      FN_CONTAINER_LABEL_TAG: 'mine',
    })
    const { about } = await started(parts, 'fn-user:1')
    const { HostConfig, Config } = about
    expect(HostConfig).toMatchObject({
      ReadonlyRootfs: false,
      PidsLimit: 77,
      Tmpfs: { '/tmp': 'size=1048576,mode=1777,nr_inodes=99' },
    })
    expect(HostConfig.CapDrop ?? []).toEqual([])
    expect(HostConfig.SecurityOpt ?? []).toEqual([])
    const limits = ['nofile', 'memlock', 'sigpending', 'msgqueue']
    expect(limits.map(name => limitOf(about, name)?.Hard)).toEqual([111, 8192, 222, 4096])
    expect(Config.User).toBe('1234:1234')
    expect(Config.Labels).toMatchObject({
      'fn-agent-classifier': 'mine',
      'fn-agent-instance': Config.Labels[nodeLabel] ?? '',
    })
  })

  test('FN_MAX_FS_SIZE_MB is passed on; where it cannot be had the daemon says why', async () => {
    const parts = await driverWith({ FN_MAX_FS_SIZE_MB: '10' })
    const start = started(parts)
    // Only overlay2 on xfs with quotas, and a few others, have it.
    const outcome = await start.then(
      ({ about }) => about.HostConfig.StorageOpt?.size,
      cause => `${cause.code} ${cause.message}`,
    )
    expect(outcome).toMatch(/^10M$|^container-refused .*(storage-opt|quota)/)
    expect(await daemon.docker.listContainers({ all: true })).toHaveLength(
      outcome === '10M' ? 1 : 0,
    )
  })

  test('the dialect of IronFunctions is unconfined: its own user, a root to write to', async () => {
    const parts = await driverWith()
    const { about } = await started(parts, 'fn-user:1', { dialect: 'iron' })
    expect(about.HostConfig.ReadonlyRootfs).toBe(false)
    expect(about.HostConfig.CapDrop ?? []).toEqual([])
    expect(about.Config.User).toBe('1234:1234')
    expect(about.HostConfig).toMatchObject({ PidsLimit: 50, Memory: 64 * 2 ** 20 })
  })
})

test('from within: no root, no capabilities, no room, no more processes', async () => {
  const tmp = 3 * 2 ** 20
  const parts = await driverWith({ FND_MAX_TMP_BYTES: String(tmp), FND_MAX_PIDS: '40' })
  const isTmpBounded = () =>
    parts.driver.isolation().measures.find(({ name }) => name === 'tmp-size')?.enforced
  expect(isTmpBounded()).toBe(true)
  const { instance, about } = await started(parts, 'fn-contract:1', { memoryMb: 128 })
  expect(isTmpBounded()).toBe(true)

  const status = await shell(about, 'id -u; id -g; cat /proc/self/status')
  expect(status).toMatch(/^1000\s+1000\s/)
  for (const set of ['CapEff', 'CapPrm', 'CapBnd', 'CapInh']) {
    expect(status).toMatch(new RegExp(`${set}:\\s+0{16}\\s`))
  }
  expect(status).toMatch(/NoNewPrivs:\s+1\s/)

  for (const path of ['/new', '/bin/new', '/etc/passwd', '/fn/new']) {
    expect(await shell(about, `echo x >>${path}`)).toMatch(
      /Read-only file system|Permission denied/,
    )
  }
  const fill = (path: string) =>
    shell(about, `dd if=/dev/zero of=${path} bs=65536 count=200; wc -c <${path}; rm ${path}`)
  const full = await fill('/tmp/full')
  expect(full).toContain('No space left on device')
  expect(full).toContain(String(tmp))
  const iofs = await fill('/tmp/iofs/full')
  expect(iofs).toContain('No space left on device')
  expect(Number(/(\d{4,})\s*$/.exec(iofs)?.[1])).toBeLessThanOrEqual(2 ** 20)
  const links = await shell(about, 'for i in $(seq 100); do touch /tmp/iofs/$i || break; done')
  expect(links).toContain('No space left on device')
  await shell(about, 'cd /tmp/iofs && for i in $(seq 100); do rm -f $i; done')

  const forks = await shell(about, 'for i in $(seq 60); do sleep 30 & done; echo all')
  expect(forks).toContain("can't fork")
  const answer = await call(instance, {}, { body: 'still here' })
  expect(await answer.text()).toBe('still here')
})

test('the root is read-only also for root', async () => {
  const parts = await driverWith({ FN_DISABLE_UNPRIVILEGED_CONTAINERS: 'true' })
  const { about } = await started(parts, 'fn-contract:1', { memoryMb: 128 })
  expect(await shell(about, 'id -u')).toMatch(/^0\s/)
  for (const path of ['/new', '/bin/new', '/etc/passwd']) {
    expect(await shell(about, `echo x >>${path}`)).toContain('Read-only file system')
  }
})

describe('networks', () => {
  const pidOf = (about: Docker.ContainerInspectInfo) => about.State.Pid
  const namespaceOf = (about: Docker.ContainerInspectInfo) =>
    readlinkSync(`/proc/${pidOf(about)}/ns/net`)

  test('each instance has one of its own, made ahead or not', async () => {
    const parts = await driverWith({ FND_NETWORK_POOL_SIZE: '2' })
    await parts.driver.prepare(specOf('fn-static:1'))
    await waitingHolders(2)
    const all = await Promise.all(Array.from({ length: 4 }, () => started(parts)))
    const modes = all.map(({ about }) => about.HostConfig.NetworkMode ?? '')
    expect(modes.filter(mode => mode.startsWith('container:')).length).toBeGreaterThanOrEqual(2)
    expect(new Set(modes.filter(mode => mode !== 'bridge')).size).toBe(
      modes.filter(mode => mode !== 'bridge').length,
    )
    const namespaces = all.map(({ about }) => namespaceOf(about))
    expect(new Set([...namespaces, readlinkSync('/proc/self/ns/net')]).size).toBe(5)
  })

  test('none has no interface but loopback', async () => {
    const parts = await driverWith({ FND_NETWORK_POOL_SIZE: '1' })
    const { about } = await started(parts, 'fn-contract:1', { network: 'none', memoryMb: 128 })
    expect(about.HostConfig.NetworkMode).toBe('none')
    const links = await shell(about, 'ip link')
    expect(links.match(/^\d+: \S+/gm)).toEqual(['1: lo:'])
    expect(await shell(about, 'ip addr')).not.toContain('inet 10.')
  })

  test('FN_DOCKER_NETWORKS: the least used one is next', async () => {
    for (const Name of ['left', 'right']) await daemon.docker.createNetwork({ Name })
    const parts = await driverWith({ FN_DOCKER_NETWORKS: 'left, right' })
    const all: Awaited<ReturnType<typeof started>>[] = []
    for (let i = 0; i < 4; i++) all.push(await started(parts))
    const modes = () => all.map(({ about }) => about.HostConfig.NetworkMode)
    expect(modes()).toEqual(['left', 'right', 'left', 'right'])
    for (const one of all.filter(({ about }) => about.HostConfig.NetworkMode === 'right')) {
      await one.instance.stop(0)
    }
    all.push(await started(parts), await started(parts))
    expect(modes().slice(4)).toEqual(['right', 'right'])
    await parts.driver[Symbol.asyncDispose]()
    for (const name of ['left', 'right']) await daemon.docker.getNetwork(name).remove()
  })

  test('FN_DOCKER_NETWORKS with one that is not there: refused, and named', async () => {
    const parts = await driverWith({ FN_DOCKER_NETWORKS: 'nowhere' })
    await expect(started(parts)).rejects.toThrow(/refused the container.*nowhere/)
    expect(await daemon.docker.listContainers({ all: true })).toEqual([])
  })
})

/** Until that many networks were made ahead. */
async function waitingHolders(wanted: number): Promise<void> {
  const deadlineMs = performance.now() + 30_000
  for (;;) {
    const running = await daemon.docker.listContainers({ filters: { name: ['fnd-net-'] } })
    if (running.length >= wanted) return
    if (performance.now() > deadlineMs) throw new Error('no network is made ahead')
    await Bun.sleep(20)
  }
}
