/** What fnd is compared with: the same containers, started without it. */
import { chmodSync, lstatSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type Docker from 'dockerode'
import { readConfig } from '../src/config.ts'
import { assert } from '../src/errors.ts'
import { createOptions } from '../src/exec/docker/container-spec.ts'
import { requestText, timedRequest } from './figures.ts'

export interface BareContainer {
  readonly socket: string
  readonly container: Docker.Container
}

let started = 0

/** Creates and starts a container with the options of the driver, until its socket is there. */
export async function startBare(
  docker: Docker,
  dir: string,
  image: string,
): Promise<BareContainer> {
  started += 1
  const name = `bare-${started}`
  const iofs = join(dir, name)
  mkdirSync(iofs)
  chmodSync(iofs, 0o777)
  const read = readConfig({}, {})
  assert(read.ok, 'the configuration by default is valid')
  const { exec, docker: config } = read.config
  const options = createOptions({
    spec: { ...bareSpec, image },
    containerId: name,
    nodeId: 'bench',
    image,
    env: { FN_FORMAT: 'http-stream', FN_LISTENER: 'unix:/tmp/iofs/lsnr.sock' },
    iofsSource: iofs,
    network: 'bridge',
    config,
    limits: exec,
    userProcessesMax: undefined,
  })
  const container = await docker.createContainer(options)
  await container.start()
  const socket = join(iofs, 'lsnr.sock')
  while (lstatSync(socket, { throwIfNoEntry: false }) === undefined) await Bun.sleep(1)
  return { socket, container }
}

const bareSpec = {
  key: '',
  fnId: '',
  fnName: '',
  appId: '',
  appName: '',
  memoryMb: 128,
  timeoutMs: 30_000,
  idleTimeoutMs: 30_000,
  env: {},
  concurrency: 1,
  instancesMin: 0,
  instancesMax: 1,
  network: 'host',
  format: 'http-stream',
  dialect: 'fn',
  pull: 'never',
  pauseAfterMs: Number.POSITIVE_INFINITY,
  syslogUrl: '',
} as const

/** From the request to create it to the first byte of an answer. */
export async function bareTrial(docker: Docker, dir: string, image: string): Promise<number> {
  const startedMs = performance.now()
  const { socket, container } = await startBare(docker, dir, image)
  const request = requestText('POST', '/call')
  const { firstByteMs } = await timedRequest({ unix: socket }, request, startedMs)
  await container.remove({ force: true })
  return firstByteMs
}

/** `docker run --rm` with a command that prints at once: from exec to its first byte. */
export async function runTrial(host: string, command: readonly string[]): Promise<number> {
  const startedMs = performance.now()
  const child = Bun.spawn(['docker', '--host', host, 'run', '--rm', ...command], {
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'inherit',
  })
  const reader = child.stdout.getReader()
  const { done } = await reader.read()
  const firstByteMs = performance.now() - startedMs
  reader.releaseLock()
  if ((await child.exited) !== 0 || done) throw new Error('docker run failed')
  return firstByteMs
}
