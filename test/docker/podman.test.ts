/**
 * podman's Docker socket, as root. What it does not tell is why a container was killed, where the
 * control groups are of version 1; the contract of drivers holds otherwise.
 */
import { afterAll, afterEach, beforeAll, expect, test } from 'bun:test'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Subprocess } from 'bun'
import type { Instance } from '../../src/exec/driver.ts'
import { Collector, call, eventually, noSignal, refusal, specOf } from '../contract/driver.ts'
import { Daemon } from './daemon.ts'
import { openDockerDriver } from './docker-driver.ts'
import { makeImages } from './images.ts'
import { removePodmanDir } from './leftovers.ts'

const startTimeoutMs = 120_000
const dir = mkdtempSync(join(tmpdir(), 'fnd-pod-'))
const socketPath = join(dir, 'p.sock')
const root = ['--root', join(dir, 'root'), '--runroot', join(dir, 'run')]
const output = new Collector()
let service: Subprocess
let docker: Awaited<ReturnType<typeof openDockerDriver>>
const instances: Instance[] = []
let count = 0

beforeAll(async () => {
  const archive = join(dir, 'images.tar')
  {
    await using daemon = await Daemon.start()
    await makeImages(daemon.docker, ['fn-contract'])
    const image = await daemon.docker.getImage('fn-contract:1').get()
    await Bun.write(archive, new Response(image as never))
  }
  execFileSync('podman', [...root, 'load', '-i', archive], { stdio: 'ignore' })
  // Root in a container may not raise limits, and podman's defaults are the kernel's maxima.
  const config = join(dir, 'containers.conf')
  writeFileSync(config, '[containers]\ndefault_ulimits = ["nproc=1000:1000","nofile=350:350"]\n')
  const flags = ['--cgroup-manager=cgroupfs', '--events-backend=file']
  const command = ['system', 'service', '-t', '0', `unix://${socketPath}`]
  service = Bun.spawn(['podman', ...root, ...flags, ...command], {
    env: { ...process.env, CONTAINERS_CONF: config },
    stdout: 'ignore',
    stderr: 'ignore',
  })
  await eventually(() => existsSync(socketPath), 'podman serves')
  const env = { DOCKER_HOST: `unix://${socketPath}`, FND_NETWORK_POOL_SIZE: '0' }
  docker = await openDockerDriver({ env, output })
}, startTimeoutMs)

afterEach(async () => {
  await Promise.all(instances.splice(0).map(instance => instance.stop(0)))
})
afterAll(async () => {
  await docker[Symbol.asyncDispose]()
  expect(podman('ps', '-aq')).toBe('')
  service.kill()
  await service.exited
  removePodmanDir(dir)
})

function podman(...args: readonly string[]): string {
  return execFileSync('podman', [...root, ...args], { encoding: 'utf8' }).trim()
}

async function start(env: Readonly<Record<string, string>> = {}): Promise<Instance> {
  count += 1
  const spec = specOf('fn-contract:1', { env, network: 'none' })
  await docker.driver.prepare(spec)
  const instance = await docker.driver.start(spec, `podman-${count}`, noSignal)
  instances.push(instance)
  return instance
}

test('a container of podman answers, and its output arrives', async () => {
  const instance = await start({ COLOUR: 'grün' })
  expect(await (await call(instance, {}, { body: 'hello' })).text()).toBe('hello')
  const env = (await (await call(instance, { 'x-do': 'env' })).json()) as Record<string, string>
  expect(env).toMatchObject({ COLOUR: 'grün', FN_FORMAT: 'http-stream' })
  await call(instance, { 'x-do': 'log' })
  await eventually(() => output.of(instance.id, 'stderr') !== '', 'stderr arrives')
  expect(output.of(instance.id, 'stderr')).toContain('to stderr\n')
})

test('it is paused, resumed and stopped', async () => {
  const instance = await start({ MODE: 'polite' })
  await instance.pause?.()
  expect(podman('ps', '-a', '--format', '{{.Status}}')).toMatch(/paused/i)
  await instance.resume?.()
  expect((await call(instance)).status).toBe(200)
  await instance.stop(10_000)
  expect(await instance.exited).toMatchObject({ code: 5, signal: null })
})

test('a crash and a failed start are told with their reasons', async () => {
  const instance = await start()
  await expect(call(instance, { 'x-do': 'crash' })).rejects.toThrow()
  expect(await instance.exited).toMatchObject({ code: 7, outOfMemory: false })
  const { code, text } = await refusal(start({ MODE: 'exit' }))
  expect({ code, text }).toMatchObject({ code: 'init-failed' })
  expect(text).toContain('cannot start today')
})

test('an image that is not there is refused', async () => {
  const { code } = await refusal(docker.driver.prepare(specOf('fn-missing:1')))
  expect(code).not.toBe('internal')
})
