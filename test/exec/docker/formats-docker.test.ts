/** The older formats in containers of a real daemon, through the driver. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import type { FnSpec, Instance } from '../../../src/exec/driver.ts'
import { Client } from '../../../src/http/client.ts'
import { Collector, eventually, noSignal, specOf } from '../../contract/driver.ts'
import { Daemon } from '../../docker/daemon.ts'
import { openDockerDriver } from '../../docker/docker-driver.ts'
import { makeImages } from '../../docker/images.ts'
import { bytesOf, call, headOf, limits, mib, streamOf } from './bridge-harness.ts'

const startTimeoutMs = 120_000
let daemon: Daemon
let docker: Awaited<ReturnType<typeof openDockerDriver>>
const instances: { readonly instance: Instance; readonly client: Client }[] = []
const output = new Collector()
let count = 0

beforeAll(async () => {
  daemon = await Daemon.start()
  await makeImages(daemon.docker, ['fn-default', 'fn-http', 'fn-json'])
  docker = await openDockerDriver({
    env: { DOCKER_HOST: daemon.host, FND_NETWORK_POOL_SIZE: '0' },
    output,
  })
}, startTimeoutMs)
afterEach(async () => {
  for (const { instance, client } of instances.splice(0)) {
    client.close()
    await instance.stop(0)
  }
  await eventually(async () => (await containerCount()) === 0, 'no container is left')
})
afterAll(async () => {
  await docker[Symbol.asyncDispose]()
  await daemon[Symbol.asyncDispose]()
})

async function containerCount(): Promise<number> {
  return (await daemon.docker.listContainers({ all: true })).length
}

async function open(image: string, overrides: Partial<FnSpec>) {
  count += 1
  const spec = specOf(image, { ...overrides, network: 'none' })
  await docker.driver.prepare(spec)
  const instance = await docker.driver.start(spec, `formats-${count}`, noSignal)
  const client = new Client(instance.socketPath, limits)
  instances.push({ instance, client })
  return { client, instance }
}

const header = (name: string, value: string) => headOf('/t/demo/x', [`fn-http-h-${name}: ${value}`])

describe('containers', () => {
  test('default: the body goes in, and its end; the output comes out, whole', async () => {
    const { client } = await open('fn-default:1', { format: 'default' })
    const small = await call(client, { head: header('x', 'y'), body: Buffer.from('hello') })
    expect(small.body.toString()).toBe('hello')
    const body = bytesOf(3 * mib)
    const large = await call(client, { body: streamOf([body]), length: body.length })
    expect(large.fault).toBeNull()
    expect(large.body.equals(body)).toBe(true)
    await eventually(async () => (await containerCount()) === 0, 'each call took its own along')
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
    const { client } = await open('fn-default:1', {
      format: 'default',
      env: { MODE: 'sleep' },
    })
    const exchange = client.exchange(
      { head: headOf('/t/demo/x'), body: null },
      { replied: () => undefined, exchangeEnded: () => undefined },
    )
    await eventually(async () => (await containerCount()) === 1, 'the container runs')
    exchange.abort('aborted')
    await eventually(async () => (await containerCount()) === 0, 'the container is gone')
  })

  test('http: call after call in one container', async () => {
    const { client } = await open('fn-http:1', { format: 'http', env: { A: 'b' } })
    for (const text of ['one', '', 'three']) {
      const outcome = await call(client, { head: header('a', 'b'), body: Buffer.from(text) })
      expect(outcome.body.toString()).toBe(text)
    }
    const status = await call(client, { head: header('x-do', 'status') })
    expect(status.headers).toMatchObject({ 'fn-http-status': '418', 'Fn-Http-H-X-Http': 'yes' })
    const env = await call(client, { head: header('x-do', 'env') })
    expect(env.body.toString()).toContain('A=b\n')
    expect(env.body.toString()).toContain('FN_PATH=/hello')
    expect(await containerCount()).toBe(1)
  })

  test('http: garbage, and an end in the middle', async () => {
    const one = await open('fn-http:1', { format: 'http' })
    const garbage = await call(one.client, { head: header('x-do', 'garbage') })
    expect(garbage.refusal?.message).toStartWith('invalid http response from function err:')
    await one.instance.exited
    const two = await open('fn-http:1', { format: 'http' })
    expect(await call(two.client, { head: header('x-do', 'exit') })).toMatchObject({
      status: 0,
      fault: 'closed',
    })
    expect(await two.instance.exited).toMatchObject({ code: 3 })
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
