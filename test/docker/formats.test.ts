/** The older formats in containers of a real daemon. */
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readConfig } from '../../src/config.ts'
import type { DockerParts } from '../../src/exec/docker/open.ts'
import type { FnSpec } from '../../src/exec/driver.ts'
import { Client } from '../../src/http/client.ts'
import { makeLogger } from '../../src/log.ts'
import { type FndNode, startNode } from '../../src/node.ts'
import { Collector, eventually, noSignal, specOf } from '../contract/driver.ts'
import { bytesOf, call, headOf, limits, mib, streamOf } from '../exec/docker/bridge-harness.ts'
import { Daemon } from './daemon.ts'
import { openDockerDriver } from './docker-driver.ts'
import { makeImages } from './images.ts'

setDefaultTimeout(60_000)
const startTimeoutMs = 120_000
let daemon: Daemon
let docker: DockerParts
const closers: (() => Promise<void>)[] = []
const output = new Collector()
let count = 0

beforeAll(async () => {
  daemon = await Daemon.start()
  await makeImages(daemon.docker, [
    ...(['fn-default', 'fn-http', 'fn-json', 'fn-static'] as const),
    ...(['fn-no-entrypoint', 'fn-no-command'] as const),
  ])
  docker = await openDockerDriver({ env: { DOCKER_HOST: daemon.host }, output })
}, startTimeoutMs)
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})
afterAll(async () => {
  await docker[Symbol.asyncDispose]()
  await daemon[Symbol.asyncDispose]()
})

async function open(image: string, overrides: Partial<FnSpec>) {
  count += 1
  const spec = specOf(image, { network: 'none', ...overrides })
  const instance = await docker.driver.start(spec, `instance-${count}`, noSignal)
  const client = new Client(instance.socketPath, limits)
  closers.push(async () => {
    client.close()
    await instance.stop(0)
  })
  return { client, instance }
}

async function containersNow(): Promise<string[]> {
  const listed = await daemon.docker.listContainers({ all: true })
  return listed.map(({ State }) => State)
}

const header = (name: string, value: string) => headOf('/t/demo/x', [`fn-http-h-${name}: ${value}`])

const eventuallyNone = () =>
  eventually(async () => (await containersNow()).length === 0, 'no container is left')
const eventuallyRunning = () =>
  eventually(async () => (await containersNow()).includes('running'), 'a container runs')

describe('containers', () => {
  test('default: the body goes in, and its end; the output comes out, whole', async () => {
    const { client } = await open('fn-default:1', { format: 'default' })
    const small = await call(client, { head: header('x', 'y'), body: Buffer.from('hello') })
    expect(small.body.toString()).toBe('hello')
    const body = bytesOf(3 * mib)
    const large = await call(client, { body: streamOf([body]), length: body.length })
    expect(large.fault).toBeNull()
    expect(large.body.equals(body)).toBe(true)
    await eventuallyNone()
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
    const env = { MODE: 'sleep' }
    const { client } = await open('fn-default:1', { format: 'default', env })
    const exchange = client.exchange(
      headOf('/t/demo/x'),
      { body: null, length: undefined },
      { replied: () => undefined, exchangeEnded: () => undefined },
    )
    await eventuallyRunning()
    exchange.abort('aborted')
    await eventuallyNone()
  })

  test('default: stderr is the log', async () => {
    const env = { MODE: 'log' }
    const { client, instance } = await open('fn-default:1', { format: 'default', env })
    expect((await call(client, { body: Buffer.from('hello') })).body.toString()).toBe('hello')
    await eventually(() => output.of(instance.id, 'stderr') === 'to stderr\n', 'the log is kept')
    expect(output.of(instance.id, 'stdout')).toBe('')
  })

  test('default: an instance that is stopped ends the container of its call', async () => {
    const env = { MODE: 'sleep' }
    const { client, instance } = await open('fn-default:1', { format: 'default', env })
    const outcome = call(client)
    await eventuallyRunning()
    await instance.stop(0)
    const { fault, refusal } = await outcome
    expect(fault ?? refusal?.code).toMatch(/^(closed|function-failed)$/)
    expect(await containersNow()).toEqual([])
    expect((await instance.exited).code).toBe(0)
  })

  test('a program that is not there', async () => {
    const cold = await open('fn-no-entrypoint:1', { format: 'default' })
    const { refusal } = await call(cold.client)
    expect(refusal?.message).toBe('function failed: exit code 127')
    const hot = await open('fn-no-entrypoint:1', { format: 'http' })
    expect(await hot.instance.exited).toMatchObject({ code: 127 })
    await eventuallyNone()
  })

  test('a container that the daemon refuses', async () => {
    const cold = await open('fn-no-command:1', { format: 'default' })
    const { refusal } = await call(cold.client)
    expect(refusal?.message).toMatch(/no command specified/i)
    const hot = open('fn-no-command:1', { format: 'http' })
    const told = await hot.then(
      () => undefined,
      (cause: unknown) => cause,
    )
    expect(told).toMatchObject({ code: refusal?.code, message: refusal?.message })
    await eventuallyNone()
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
    expect(await containersNow()).toEqual(['running'])
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

  test('http: an idle container is paused and goes on', async () => {
    const { client, instance } = await open('fn-http:1', { format: 'http' })
    await instance.pause?.()
    expect(await containersNow()).toEqual(['paused'])
    await instance.resume?.()
    expect((await call(client, { body: Buffer.from('x') })).body.toString()).toBe('x')
  })

  test('iron: names in capitals', async () => {
    const env = { mode: 'env', 'my-key': 'v' }
    const { client } = await open('fn-default:1', { format: 'default', dialect: 'iron', env })
    const { body } = await call(client, { head: headOf('/t/demo/path') })
    const lines = body.toString().split('\n')
    for (const line of ['MY_KEY=v', 'METHOD=POST', 'ROUTE=/path']) {
      expect(lines).toContain(line)
    }
  })

  test('http-stream goes without a bridge', async () => {
    const { client } = await open('fn-static:1', {})
    const { status, body, refusal } = await call(client, { body: Buffer.from('x') })
    expect({ status, text: body.toString(), refusal }).toEqual({
      status: 200,
      text: 'x',
      refusal: undefined,
    })
  })
})

describe('through a node', () => {
  let node: FndNode

  beforeAll(async () => {
    const dataDir = join(daemon.dir, 'node')
    const settings = { FND_DATA: dataDir, FND_LISTEN: '127.0.0.1:0', FND_SPARE_WORKERS: '0' }
    const read = readConfig({}, { ...settings, DOCKER_HOST: daemon.host, XDG_STATE_HOME: dataDir })
    if (!read.ok) throw new Error(read.faults.join('; '))
    node = await startNode(read.config, await makeLogger({ level: 'silent', format: 'json' }))
  }, startTimeoutMs)
  afterAll(() => node.stop())

  async function post(path: string, object: unknown): Promise<{ id: string }> {
    const token = readFileSync(join(daemon.dir, 'node', 'admin.token'), 'utf8').trim()
    const headers = { authorization: `Bearer ${token}` }
    const init = { method: 'POST', headers, body: JSON.stringify(object) }
    const answer = await fetch(`${node.url}/v2/${path}`, init)
    expect(answer.status).toBe(200)
    return (await answer.json()) as { id: string }
  }

  test('triggers have the function’s status and headers, invocations its words', async () => {
    const app = await post('apps', { name: 'demo' })
    const annotations = { 'fnd.io/format': 'http', 'fnd.io/network': 'none' }
    const settings = { app_id: app.id, image: 'fn-http:1', annotations }
    const fn = await post('fns', { name: 'tea', ...settings })
    const about = { name: 'tea', app_id: app.id, fn_id: fn.id, type: 'http', source: '/tea' }
    await post('triggers', about)
    const headers = { 'x-do': 'status' }
    const triggered = await fetch(`${node.url}/t/demo/tea`, { headers })
    expect(triggered.status).toBe(418)
    expect(triggered.headers.get('x-http')).toBe('yes')
    expect(triggered.headers.get('content-type')).toBe('text/plain')
    expect(await triggered.text()).toBe('pot')
    const invoke = (init: RequestInit) =>
      fetch(`${node.url}/invoke/${fn.id}`, { method: 'POST', ...init })
    const invoked = await invoke({ headers })
    expect(invoked.status).toBe(200)
    expect(invoked.headers.get('fn-http-status')).toBe('418')
    expect(invoked.headers.get('x-http')).toBe('yes')
    const garbage = await invoke({ headers: { 'x-do': 'garbage' } })
    expect(garbage.status).toBe(502)
    expect(await garbage.json()).toEqual({
      message: 'invalid http response from function err: malformed HTTP response "this is no http"',
      code: 'function-response-invalid',
    })
    const echoed = await invoke({ body: 'and on' })
    expect(await echoed.text()).toBe('and on')
  })
})
