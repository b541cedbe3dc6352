/** The older formats in containers of a real daemon, as the driver puts the parts together. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import type { ContainerCreateOptions } from 'dockerode'
import { readConfig } from '../../../src/config.ts'
import { type Bridge, type OneShot, openBridge } from '../../../src/exec/docker/bridge.ts'
import { Container } from '../../../src/exec/docker/container.ts'
import { createOptions } from '../../../src/exec/docker/container-spec.ts'
import { ContainerStdio, stdinOf } from '../../../src/exec/docker/container-stdio.ts'
import { Engine } from '../../../src/exec/docker/engine.ts'
import { containerEnv } from '../../../src/exec/docker/format-env.ts'
import type { FnSpec } from '../../../src/exec/driver.ts'
import { Client } from '../../../src/http/client.ts'
import { Collector, eventually, specOf } from '../../contract/driver.ts'
import { Daemon } from '../../docker/daemon.ts'
import { makeImages } from '../../docker/images.ts'
import {
  bridgeDir,
  bytesOf,
  call,
  headOf,
  limits,
  mib,
  streamOf,
  useBridges,
} from './bridge-harness.ts'

const startTimeoutMs = 120_000
useBridges()
let daemon: Daemon
let engine: Engine
const closers: (() => Promise<void>)[] = []
const output = new Collector()
let count = 0

const read = readConfig({}, {})
if (!read.ok) throw new Error(read.faults.join('; '))
const { docker: defaults } = read.config

beforeAll(async () => {
  daemon = await Daemon.start()
  await makeImages(daemon.docker, ['fn-default', 'fn-http', 'fn-json'])
  const host = { kind: 'unix', path: daemon.socketPath } as const
  engine = new Engine({ config: { ...defaults, host }, onState: () => undefined })
}, startTimeoutMs)
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})
afterAll(async () => {
  engine.close()
  await daemon[Symbol.asyncDispose]()
})

async function startContainer(spec: FnSpec, env: Readonly<Record<string, string>>) {
  count += 1
  const instanceId = `test-${count}`
  const options: ContainerCreateOptions = createOptions({
    spec,
    instanceId,
    nodeId: 'test',
    image: spec.image,
    env,
    iofsSource: undefined,
    network: 'none',
    config: defaults,
    limits: { pidsMax: 50, openFilesMax: 350, tmpBytesMax: mib },
  })
  const handle = await engine.ask(docker => docker.createContainer(options))
  const stdio = new ContainerStdio()
  const container = new Container({
    engine,
    instanceId,
    handle,
    output,
    hasStdin: true,
    stdout: chunk => stdio.receive(chunk),
    onGone: () => undefined,
  })
  closers.push(() => container.remove())
  void container.ended.then(() => stdio.end())
  await container.start()
  return { container, instanceId, stdin: stdinOf(container.stdin), stdout: stdio.stdout }
}

async function open(image: string, overrides: Partial<FnSpec>) {
  const spec = specOf(image, overrides)
  const socketPath = join(bridgeDir(), 's.sock')
  const containers: Container[] = []
  let bridge: Bridge
  if (spec.format === 'default') {
    const oneShot: OneShot = {
      run: async (env, signal) => {
        const { container, ...stdio } = await startContainer(spec, env)
        containers.push(container)
        signal.addEventListener('abort', () => void container.remove())
        return { ...stdio, exited: container.ended }
      },
    }
    bridge = openBridge({ socketPath, spec, limits, talk: { kind: 'cold', oneShot } })
  } else {
    const { container, ...stdio } = await startContainer(spec, containerEnv(spec))
    containers.push(container)
    bridge = openBridge({ socketPath, spec, limits, talk: { kind: 'hot', stdio } })
    void bridge.broken.then(() => container.remove())
  }
  const client = new Client(socketPath, limits)
  closers.push(async () => {
    client.close()
    await bridge.close()
  })
  return { client, bridge, containers }
}

const header = (name: string, value: string) => headOf('/t/demo/x', [`fn-http-h-${name}: ${value}`])

describe('containers', () => {
  test('default: the body goes in, and its end; the output comes out, whole', async () => {
    const { client, containers } = await open('fn-default:1', { format: 'default' })
    const small = await call(client, { head: header('x', 'y'), body: Buffer.from('hello') })
    expect(small.body.toString()).toBe('hello')
    const body = bytesOf(3 * mib)
    const large = await call(client, { body: streamOf([body]), length: body.length })
    expect(large.fault).toBeNull()
    expect(large.body.equals(body)).toBe(true)
    expect(containers).toHaveLength(2)
  })

  test.each([
    ['exit', undefined, 'function failed: exit code 3'],
    ['deaf', 'did not read\n', undefined],
  ])('default: %s', async (mode, text, refusal) => {
    const { client } = await open('fn-default:1', { format: 'default', env: { MODE: mode } })
    const outcome = await call(client, { body: bytesOf(mib) })
    expect({ text: outcome.body.toString(), refusal: outcome.refusal?.message }).toEqual({
      text: text ?? '',
      refusal,
    } as never)
  })

  test('default: a caller that leaves ends the container', async () => {
    const { client, containers } = await open('fn-default:1', {
      format: 'default',
      env: { MODE: 'sleep' },
    })
    const exchange = client.exchange(
      { head: headOf('/t/demo/x'), body: null },
      { replied: () => undefined, exchangeEnded: () => undefined },
    )
    await eventually(() => containers.length === 1, 'the container runs')
    exchange.abort('aborted')
    expect((await containers[0]?.gone)?.signal).toBe('SIGKILL')
  })

  test('http: call after call in one container', async () => {
    const { client, containers } = await open('fn-http:1', { format: 'http', env: { A: 'b' } })
    for (const text of ['one', '', 'three']) {
      const outcome = await call(client, { head: header('a', 'b'), body: Buffer.from(text) })
      expect(outcome.body.toString()).toBe(text)
    }
    const status = await call(client, { head: header('x-do', 'status') })
    expect(status.headers).toMatchObject({ 'fn-http-status': '418', 'Fn-Http-H-X-Http': 'yes' })
    const env = await call(client, { head: header('x-do', 'env') })
    expect(env.body.toString()).toContain('A=b\n')
    expect(env.body.toString()).toContain('FN_PATH=/hello')
    expect(containers).toHaveLength(1)
  })

  test('http: garbage, and an end in the middle', async () => {
    const one = await open('fn-http:1', { format: 'http' })
    const garbage = await call(one.client, { head: header('x-do', 'garbage') })
    expect(garbage.refusal?.message).toStartWith('invalid http response from function err:')
    await one.containers[0]?.gone
    await one.bridge.close()
    const two = await open('fn-http:1', { format: 'http' })
    expect(await call(two.client, { head: header('x-do', 'exit') })).toMatchObject({
      status: 0,
      fault: 'closed',
    })
    expect(await two.containers[0]?.gone).toMatchObject({ code: 3 })
  })

  test('json: call after call in one container', async () => {
    const { client } = await open('fn-json:1', { format: 'json' })
    const body = Buffer.from('ä"\\'.repeat(100_000))
    for (const sent of [Buffer.from('one'), body, Buffer.from('two')]) {
      expect((await call(client, { body: sent })).body.equals(sent)).toBe(true)
    }
    const status = await call(client, { body: Buffer.from('status') })
    expect(status.headers['fn-http-status']).toBe('418')
  })
})
