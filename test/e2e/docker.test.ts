/** Functions in images, by the binary and a daemon: deployed as Fn's CLI does it, called, ended. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { readdirSync, readFileSync } from 'node:fs'
import { Daemon } from '../docker/daemon.ts'
import { makeImage, makeImages } from '../docker/images.ts'
import { until as arrives, StreamReceiver } from '../exec/syslog-receiver.ts'
import { seed } from '../watch/seed.ts'
import { binary, type Deployed, Fnd, randomFrom, rssBytes, until } from './fnd.ts'

let daemon: Daemon
const open: Fnd[] = []
const mib = 2 ** 20
/** What Fn's CLI sends for times that it does not know. */
const zeroTime = '0001-01-01T00:00:00.000Z'

/** Answers with what the gateway told it, and by the gateway's headers. */
const gatewayFn = `
const fdk = require('/fn/node_modules/@fnproject/fdk')
fdk.handle((input, ctx) => {
  if (input && input.fail) throw new Error('asked to fail')
  const gateway = ctx.httpGateway
  gateway.statusCode = 418
  gateway.setResponseHeader('X-Mine', 'yes')
  console.error('called ' + ctx.callID)
  const { method, requestURL } = gateway
  return { method, requestURL, asked: gateway.getHeader('X-Asked'), input, set: ctx.config.SET }
})`

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
  await makeImages(daemon.docker, ['fn-static', 'fn-contract', 'fn-node-fdk'])
  const changes = [`ENTRYPOINT ${JSON.stringify(['/bin/node', '-e', gatewayFn])}`]
  await makeImage(daemon.docker, { base: 'node', repo: 'fn-gateway', tag: '1', changes })
})
afterEach(async () => {
  for (const fnd of open.splice(0)) {
    // Containers hold its directory until they are removed.
    if (fnd.process.exitCode === null && fnd.process.signalCode === null) await fnd.stop()
    await fnd[Symbol.asyncDispose]()
  }
})
afterAll(() => daemon[Symbol.asyncDispose]())

async function started(env: Record<string, string> = {}): Promise<Fnd> {
  const fnd = new Fnd({ DOCKER_HOST: daemon.host, FND_SPARE_WORKERS: '0', ...env })
  open.push(fnd)
  await fnd.start()
  return fnd
}

async function containers(): Promise<string[]> {
  const all = await daemon.docker.listContainers({ all: true })
  return all.map(({ Names, State }) => `${Names} ${State}`)
}

async function expectNothingLeft(fnd: Fnd): Promise<void> {
  expect(await containers()).toEqual([])
  expect(readdirSync(fnd.dataDir).filter(name => name.startsWith('iofs-'))).toEqual([])
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(fnd.dataDir)
}

function post(url: string, body = '', headers: Record<string, string> = {}): Promise<Response> {
  return fetch(url, { method: 'POST', body, headers })
}

/** The command line, as somebody on this machine uses it. */
async function cli(fnd: Fnd, ...options: string[]) {
  const env = { ...fnd.environment, FND_URL: fnd.url, FND_TOKEN: fnd.token }
  const child = Bun.spawn([binary, ...options], { env, stdout: 'pipe', stderr: 'pipe' })
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ])
  return { code: await child.exited, stdout, stderr }
}

test('an image with an FDK, deployed and called as by the tools of Fn', async () => {
  await using receiver = await StreamReceiver.listen({ port: 0 })
  const fnd = await started()
  const syslog_url = `tcp://127.0.0.1:${receiver.port}`
  const app = await fnd.api('POST', '/v2/apps', { name: 'shop', syslog_url })
  const fn = await fnd.api('POST', '/v2/fns', {
    app_id: app.id,
    name: 'pay',
    image: 'fn-gateway:1',
    memory: 128,
    timeout: 30,
    idle_timeout: 30,
    config: { SET: 'here' },
    created_at: zeroTime,
    updated_at: zeroTime,
  })
  const trigger = { app_id: app.id, fn_id: fn.id, name: 'pay', type: 'http', source: '/pay' }
  await fnd.api('POST', '/v2/triggers', { ...trigger, created_at: zeroTime, updated_at: zeroTime })
  expect(await fnd.api('GET', `/v2/fns?app_id=${app.id}&name=pay`)).toMatchObject({
    items: [{ id: fn.id, image: 'fn-gateway:1', memory: 128 }],
  })

  const url = `${fnd.url}/t/shop/pay?q=1`
  const answer = await post(url, '{"name":"Jo"}', {
    'content-type': 'application/json',
    'x-asked': 'for',
  })
  expect(answer.status).toBe(418)
  expect(answer.headers.get('x-mine')).toBe('yes')
  expect(answer.headers.get('content-type')).toContain('application/json')
  const told = (await answer.json()) as { requestURL: string }
  expect(told).toMatchObject({ method: 'POST', asked: 'for', input: { name: 'Jo' }, set: 'here' })
  expect(told.requestURL).toContain('/t/shop/pay?q=1')

  const invoked = await post(`${fnd.url}/invoke/${fn.id}`, '{}')
  expect(invoked.status).toBe(200)
  expect(invoked.headers.get('fn-http-status')).toBe('418')
  expect(invoked.headers.get('fn-fdk-version')).toStartWith('fdk-node/')
  const callId = invoked.headers.get('fn-call-id') ?? ''
  const failed = await post(`${fnd.url}/invoke/${fn.id}`, '{"fail":true}')
  expect(failed.status).toBe(502)
  expect(await failed.json()).toMatchObject({ message: 'function failed' })
  expect((await post(url, '{}')).status).toBe(418)
  // The instance that failed is the one that went on.
  expect((await fnd.describe(fn.id)).instances.length).toBe(1)

  const line = `called ${callId}`
  await until(async () => (await cli(fnd, 'logs', callId)).stdout.includes(line), 'its output')
  const ofOne = (await cli(fnd, 'logs', callId)).stdout
  expect(ofOne.match(/called /g)).toHaveLength(1)
  expect((await cli(fnd, 'logs', 'shop/pay')).stdout.match(/called /g)?.length).toBe(3)
  await arrives(() => receiver.messages.some(text => text.endsWith(line)), 'the message')
  const message = receiver.messages.find(text => text.endsWith(line)) ?? ''
  expect(message).toMatch(/^<11>1 \S+Z \S+ pay /)
  expect(message).toContain(`app_id="${app.id}" fn_id="${fn.id}" app="shop" fn="pay"`)
  expect(receiver.faults).toEqual([])

  const doctor = await cli(fnd, 'doctor')
  expect(doctor.stdout).toMatch(/ok\s+docker: answers at unix:/)
  expect(doctor.stdout).toMatch(/containers: memory/)
  await fnd.api('DELETE', `/v2/fns/${fn.id}`)
  await until(
    async () => (await containers()).every(name => name.startsWith('/fnd-net-')),
    'the instance of a deleted function goes',
    30_000,
  )
  expect(await fnd.stop()).toBe(0)
  await expectNothingLeft(fnd)
}, 120_000)

test('without a daemon: doctor says so, /readyz too once it is needed', async () => {
  const fnd = await started({ DOCKER_HOST: 'unix:///nowhere/docker.sock' })
  await until(async () => (await fetch(`${fnd.url}/readyz`)).status === 503, 'it is not ready')
  expect(await (await fetch(`${fnd.url}/readyz`)).text()).toContain('Docker')
  const doctor = await cli(fnd, 'doctor')
  expect(doctor.code).not.toBe(0)
  expect(doctor.stdout).toMatch(/FAIL\s+docker: unix:\/\/\/nowhere\/docker\.sock/)
  const fn = await fnd.create('static', 'fn-static:1')
  const refused = await post(fn.invokeUrl)
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '5'])
}, 60_000)

describe('ends', () => {
  test('kill -9 in the midst of starts: the next start removes what was left', async () => {
    const fnd = await started()
    const warm = await fnd.create('warm', 'fn-static:1')
    expect((await post(warm.url)).status).toBe(200)
    const others = ['a', 'b', 'c'].map(name => fnd.create(name, 'fn-static:1'))
    for (const { url } of await Promise.all(others)) void post(url).catch(() => undefined)
    const isStarting = async () => (await containers()).some(name => name.endsWith(' created'))
    await until(isStarting, 'a container that is made', 30_000)
    await fnd.stop('SIGKILL')
    expect((await containers()).length).toBeGreaterThan(0)
    await fnd.start()
    await until(
      async () => (await containers()).every(name => name.startsWith('/fnd-net-')),
      'what was left is removed',
      30_000,
    )
    expect((await post(`${fnd.url}/t/e2e/warm`)).status).toBe(200)
    expect(await fnd.stop()).toBe(0)
    await expectNothingLeft(fnd)
  }, 120_000)

  test('SIGTERM in the midst of starts leaves nothing', async () => {
    const fnd = await started({ FND_DRAIN_TIMEOUT: '1ms' })
    const names = ['a', 'b', 'c', 'd']
    await fnd.appId('e2e')
    const fns = await Promise.all(names.map(name => fnd.create(name, 'fn-static:1')))
    const calls = fns.map(({ url }) =>
      post(url).then(
        ({ status }) => status,
        () => 0,
      ),
    )
    await until(async () => (await containers()).length > 0, 'a container', 30_000)
    expect(await fnd.stop()).toBe(0)
    for (const status of await Promise.all(calls)) expect([0, 200, 503]).toContain(status)
    await expectNothingLeft(fnd)
  }, 120_000)
})

/** Every call is answered by its function, or told to come again. */
async function callChecked({ url }: Deployed, body: string): Promise<'answered' | 'busy'> {
  const answer = await post(url, body)
  const text = await answer.text()
  if (answer.status === 503 && answer.headers.has('retry-after')) return 'busy'
  expect({ status: answer.status, text }).toEqual({ status: 200, text: body })
  return 'answered'
}

test('many functions in little memory: all are answered, and nothing stays', async () => {
  const random = randomFrom(seed)
  const atOnce = 8
  const calls = 40
  const instancesMax = 20
  const fnd = await started({
    FND_MAX_TOTAL_MEMORY_BYTES: String(instancesMax * 32 * mib),
    FND_NETWORK_POOL_SIZE: '2',
  })
  const settings = [{}, { network: 'none' }]
  const fns: Deployed[] = []
  for (let i = 0; i < 200; i++) {
    const about = { memory: 32, settings: settings[i % 2] ?? {} }
    fns.push(await fnd.create(`fn-${i}`, 'fn-static:1', about))
  }
  const tally = { answered: 0, busy: 0 }
  let most = 0
  const round = async () => {
    let left = calls
    const caller = async () => {
      while (left > 0) {
        left -= 1
        const fn = fns[Math.floor(random() * fns.length)]
        if (fn !== undefined) tally[await callChecked(fn, `call ${left}`)] += 1
        most = Math.max(most, (await fnd.api('GET', '/fnd/v1/status')).instances)
      }
    }
    await Promise.all(Array.from({ length: atOnce }, caller))
  }
  await round()
  const before = rssBytes(fnd.pid)
  await round()
  expect(tally.answered + tally.busy).toBe(calls * 2)
  expect(most).toBeGreaterThan(10)
  expect(most).toBeLessThanOrEqual(instancesMax)
  expect(tally.answered).toBeGreaterThan(calls)
  expect(rssBytes(fnd.pid) - before).toBeLessThan(32 * mib)
  expect(await fnd.stop()).toBe(0)
  await expectNothingLeft(fnd)
}, 240_000)

test('redeployed again and again under load: every call is answered', async () => {
  const fnd = await started()
  const fn = await fnd.create('often', 'fn-contract:1', { memory: 128, config: { VERSION: '0' } })
  const state = { isOver: false, calls: 0 }
  const caller = async (name: string) => {
    while (!state.isOver) {
      const body = `${name} ${state.calls}`
      if ((await callChecked(fn, body)) === 'answered') state.calls += 1
      await Bun.sleep(5)
    }
  }
  const callers = ['one', 'two', 'three'].map(caller)
  for (let version = 1; version <= 8; version++) {
    const enough = state.calls + 20
    await fnd.api('PUT', `/v2/fns/${fn.id}`, { config: { VERSION: String(version) } })
    await until(() => state.calls >= enough, 'calls', 60_000)
  }
  state.isOver = true
  await Promise.all(callers)
  const env = await post(fn.invokeUrl, '', { 'x-do': 'env' })
  expect(await env.json()).toMatchObject({ VERSION: '8' })
  await until(
    async () => {
      const { instances } = await fnd.describe(fn.id)
      const names = (await containers()).filter(name => !name.startsWith('/fnd-net-'))
      return names.length === instances.length
    },
    'only instances of the newest version are left',
    30_000,
  )
  expect(await fnd.stop()).toBe(0)
  await expectNothingLeft(fnd)
}, 240_000)
