/** `fnd deploy --image` and `fnd registries`, against a node with a real daemon and registry. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { readConfig } from '../../src/config.ts'
import { type FndNode, startNode } from '../../src/node.ts'
import { runCli } from '../cli/run-cli.ts'
import { Daemon } from './daemon.ts'
import { makeImages } from './images.ts'
import { newImage } from './images-of-apps.ts'
import { Registry } from './registry.ts'

let daemon: Daemon
let registry: Registry
let node: FndNode
const dir = mkdtempSync(join(tmpdir(), 'fnd-deploy-image-'))
const dataDir = join(dir, 'data')
const logLines: string[] = []
/** Everything that the node answered to this test. */
const answers: string[] = []

setDefaultTimeout(120_000)

async function start(env: Record<string, string> = {}): Promise<void> {
  const read = readConfig(
    {},
    {
      FND_DATA: dataDir,
      FND_LISTEN: '127.0.0.1:0',
      FND_SPARE_WORKERS: '0',
      XDG_STATE_HOME: join(dir, 'state'),
      DOCKER_HOST: daemon.host,
      DOCKER_CONFIG: dir,
      ...env,
    },
  )
  if (!read.ok) throw new Error(read.faults.join('; '))
  const log = pino({ level: 'trace' }, { write: line => void logLines.push(line) })
  node = await startNode(read.config, log)
}

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
  registry = await Registry.start({ address: daemon.gateway ?? '' })
  await start()
})

afterAll(async () => {
  await node?.stop()
  await registry?.stop()
  await daemon?.stop()
  rmSync(dir, { recursive: true, force: true })
})

const token = () => readFileSync(join(dataDir, 'admin.token'), 'utf8').trim()

async function cli(args: readonly string[], stdin?: string) {
  const server = { url: node.url, token: token() }
  const result = await runCli([...args, '--json'], { server, ...(stdin ? { stdin } : {}) })
  answers.push(result.stdout, result.stderr)
  // biome-ignore lint/suspicious/noExplicitAny: documents of many commands, checked by each test
  const parsed: any = result.stdout === '' ? undefined : JSON.parse(result.stdout)
  return { ...result, json: parsed }
}

async function api(method: string, path: string, body?: unknown) {
  const response = await fetch(node.url + path, {
    method,
    headers: { authorization: `Bearer ${token()}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  answers.push(text, JSON.stringify([...response.headers]))
  return { status: response.status, text }
}

async function inRegistry(name: string): Promise<{ name: string; id: string }> {
  const made = await newImage(daemon)
  const full = await registry.push(daemon.docker, made.name, name)
  await daemon.docker.getImage(made.name).remove()
  return { name: full, id: made.id }
}

const setPassword = (app: string) =>
  cli(
    ['registries', 'set', app, registry.name, '--username', registry.username, '--password-stdin'],
    `${registry.password}\n`,
  )

describe('fnd deploy --image', () => {
  test('makes app, function and trigger with the settings given, and pins it', async () => {
    await cli(['apps', 'create', 'shop'])
    expect((await setPassword('shop')).exitCode).toBe(0)
    const { name } = await inRegistry('p/pay:1')
    const flags = ['--format', 'http', '--dialect', 'iron', '--pause-after-ms', '-1']
    const deployed = await cli(['deploy', '--image', name, '--app', 'shop', ...flags])
    expect(deployed).toMatchObject({ exitCode: 0, stderr: '' })
    expect(deployed.json).toMatchObject({
      app: 'shop',
      fn: 'pay',
      url: `${node.url}/t/shop/pay`,
      image: name,
      digest: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
    })
    const { digest } = deployed.json
    const shown = (await cli(['fns', 'show', 'shop/pay'])).json
    expect(shown).toMatchObject({
      image: name,
      annotations: {
        'fnd.io/digest': digest,
        'fnd.io/format': 'http',
        'fnd.io/dialect': 'iron',
        'fnd.io/pause-after-ms': -1,
      },
      image_status: { pinned: digest, tag: digest, has_moved: false },
    })
    // The tag moves, and the function stays until it is deployed again.
    const next = await inRegistry('p/pay:1')
    const other = await cli(['deploy', '--image', next.name, '--app', 'shop', '--name', 'other'])
    expect(other.json.digest).not.toBe(digest)
    expect((await cli(['fns', 'show', 'shop/pay'])).json.image_status).toEqual({
      pinned: digest,
      tag: other.json.digest,
      has_moved: true,
    })
    const server = { url: node.url, token: token() }
    const text = await runCli(['fns', 'show', 'shop/pay'], { server })
    expect(text.stdout).toContain(`the tag means ${other.json.digest} by now`)
    const again = await cli(['deploy', '--image', next.name, '--app', 'shop'])
    expect(again.json).toMatchObject({ fn_id: deployed.json.fn_id, digest: other.json.digest })
    // Whoever follows the tag is not pinned.
    const always = await cli(['deploy', '--image', name, '--app', 'shop', '--pull', 'always'])
    expect(always.json.digest).toBeNull()
    const { annotations } = (await cli(['fns', 'show', 'shop/pay'])).json
    expect(annotations['fnd.io/digest']).toBeUndefined()
    expect(annotations['fnd.io/pull']).toBe('always')
  })

  test('of an image of the daemon alone pins its id', async () => {
    const { name, id } = await newImage(daemon)
    const deployed = await cli(['deploy', '--image', name])
    expect(deployed.json).toMatchObject({ app: 'default', fn: 'made', digest: id })
  })

  test('fails with the words of the registry, and makes no function', async () => {
    const failed = await cli(['deploy', '--image', `${registry.name}/p/none:1`, '--app', 'shop'])
    expect(failed.exitCode).toBe(1)
    expect(failed.stderr).toContain(`Failed to pull image '${registry.name}/p/none:1'`)
    expect((await cli(['fns', 'show', 'shop/none'])).exitCode).toBe(5)
    const bad = await cli(['deploy', '--image', 'Bad Image', '--app', 'shop', '--name', 'bad'])
    expect(bad.stderr).toContain('is not a reference')
  })

  test.each([
    [['--image', 'x', 'hello.ts']],
    [['--image', 'x', '--exec']],
    [['--image', 'x', '--watch']],
    [[]],
    [['--image', 'x', '--pause-after-ms', '1.5']],
    [['--image', 'x', '--pull', 'sometimes']],
  ])('%p is wrong usage', async args => {
    expect((await cli(['deploy', ...args])).exitCode).toBe(2)
  })
})

describe('a call', () => {
  test('runs the image that was deployed, pulled with the credentials of its app', async () => {
    await makeImages(daemon.docker, ['fn-static'])
    const name = await registry.push(daemon.docker, 'fn-static:1', 'p/hello:1')
    await cli(['apps', 'create', 'calls'])
    await setPassword('calls')
    const { json } = await cli(['deploy', '--image', name, '--app', 'calls'])
    const answer = await fetch(json.url, { method: 'POST', body: 'abc' })
    expect([answer.status, await answer.text()]).toEqual([200, 'abc'])
  })

  test('says why the image cannot be had, with the status of that', async () => {
    const { id } = JSON.parse((await api('GET', '/v2/apps?name=calls')).text).items[0]
    const call = async (image: string, more = {}) => {
      const fn = { app_id: id, name: `f${Bun.randomUUIDv7()}`, image, ...more }
      const made = JSON.parse((await api('POST', '/v2/fns', fn)).text)
      const answer = await fetch(`${node.url}/invoke/${made.id}`, { method: 'POST' })
      return { status: answer.status, body: (await answer.json()) as { message: string } }
    }
    const missing = `${registry.name}/p/none:1`
    const message = expect.stringContaining(`Failed to pull image '${missing}'`)
    expect(await call(missing)).toMatchObject({ status: 404, body: { message } })
    expect(await call(`${daemon.gateway}:9/x:1`)).toMatchObject({ status: 502 })
    expect(await call('Not A Reference')).toMatchObject({ status: 400 })
    expect(await call('made:never', { annotations: { 'fnd.io/pull': 'never' } })).toMatchObject({
      status: 404,
    })
    await makeImages(daemon.docker, ['fn-volume'])
    expect(await call('fn-volume:1')).toMatchObject({
      status: 400,
      body: { message: expect.stringContaining('image has Volume definition') },
    })
  })
})

test('a hung registry holds up its own function only, whose calls are told of it', async () => {
  await node.stop()
  await start({ FND_WAIT_TIMEOUT: '10s', FND_MAX_STARTS: '1' })
  await cli(['apps', 'create', 'waits'])
  await setPassword('waits')
  const { id } = JSON.parse((await api('GET', '/v2/apps?name=waits')).text).items[0]
  const { name } = await inRegistry('p/slow:1')
  await makeImages(daemon.docker, ['fn-static'])
  const idOf = async (fn: object) =>
    JSON.parse((await api('POST', '/v2/fns', { app_id: id, ...fn })).text).id
  const slow = await idOf({ name: 'slow', image: name })
  const quick = await idOf({ name: 'quick', image: 'fn-static:1' })
  const call = (fnId: string) => fetch(`${node.url}/invoke/${fnId}`, { method: 'POST', body: 'x' })
  registry.hold()
  const [waiting] = [1, 2, 3].map(() => call(slow))
  while (!(await api('GET', '/fnd/v1/images')).text.includes(name)) await Bun.sleep(20)
  expect((await call(quick)).status).toBe(200)
  const answer = (await waiting) as Response
  expect([answer.status, await answer.json()]).toMatchObject([
    503,
    { message: expect.stringMatching(/too busy: its image is being pulled, the registry has not/) },
  ])
  const { pulls } = JSON.parse((await api('GET', '/fnd/v1/images')).text)
  expect(pulls).toMatchObject([{ image: name, layers: 0 }])
  registry.release()
  await node.stop()
  await start()
})

describe('credentials of an app', () => {
  test('are listed without the secret, replaced, and removed', async () => {
    await cli(['apps', 'create', 'books'])
    const { json: set } = await setPassword('books')
    expect(set).toMatchObject({ host: registry.name, username: registry.username })
    await cli(
      ['registries', 'set', 'books', 'index.docker.io', '--identity-token-stdin'],
      'token-secret',
    )
    const { json } = await cli(['registries', 'ls', 'books'])
    expect(json.map((one: { host: string }) => one.host).sort()).toEqual(
      [registry.name, 'docker.io'].sort(),
    )
    expect(Object.keys(json[0]).sort()).toEqual(['host', 'updated_at', 'username'])
    expect((await cli(['registries', 'rm', 'books', 'docker.io'])).exitCode).toBe(0)
    expect((await cli(['registries', 'rm', 'books', 'docker.io'])).exitCode).toBe(5)
    expect((await cli(['registries', 'ls', 'books'])).json).toHaveLength(1)
    const { name } = await inRegistry('p/books:1')
    expect((await cli(['deploy', '--image', name, '--app', 'books'])).exitCode).toBe(0)
    // Another app has to have its own.
    expect((await cli(['deploy', '--image', name, '--app', 'thief'])).exitCode).toBe(1)
  })

  test('go with the app', async () => {
    await cli(['apps', 'create', 'brief'])
    await setPassword('brief')
    await cli(['apps', 'rm', 'brief'])
    await cli(['apps', 'create', 'brief'])
    expect((await cli(['registries', 'ls', 'brief'])).json).toEqual([])
  })

  test('without a secret, or with both, are wrong usage', async () => {
    expect((await cli(['registries', 'set', 'books', 'r.example'])).exitCode).toBe(2)
    const both = ['--password-stdin', '--identity-token-stdin']
    expect((await cli(['registries', 'set', 'books', 'r.example', ...both])).exitCode).toBe(2)
    const nobody = await cli(['registries', 'set', 'books', 'r.example', '--password-stdin'], 'pw')
    expect(nobody.stderr).toContain('username is missing')
  })

  test('are nowhere in clear: no answer, no log line, no file of the node', async () => {
    const { items: apps } = JSON.parse((await api('GET', '/v2/apps')).text)
    for (const { id } of apps) {
      const path = `/fnd/v1/apps/${id}/registries`
      await api('GET', path)
      await api('GET', `${path}/${registry.name}`)
      await api('GET', `/v2/apps/${id}`)
      await api('PUT', `${path}/${registry.name}`, { username: 1, password: registry.password })
      await api('PUT', `${path}/a b`, { username: 'x', password: registry.password })
    }
    for (const path of ['status', 'doctor', 'images']) await api('GET', `/fnd/v1/${path}`)
    await node.stop()
    const encoded = Buffer.from(`${registry.username}:${registry.password}`).toString('base64')
    const clear = [registry.password, encoded, 'token-secret', 'dG9rZW4tc2VjcmV0']
    const files = readdirSync(dataDir, { recursive: true, encoding: 'utf8' })
      .map(name => join(dataDir, name))
      .filter(path => statSync(path).isFile())
    expect(files.length).toBeGreaterThan(4)
    const texts = [...answers, ...logLines, ...files.map(path => readFileSync(path, 'latin1'))]
    const found = clear.filter(secret => texts.some(text => text.includes(secret)))
    expect(found).toEqual([])
    expect(statSync(join(dataDir, 'secrets.key')).mode & 0o777).toBe(0o600)
    expect(statSync(join(dataDir, 'images.json')).mode & 0o777).toBe(0o600)
    await start()
    // And they still serve after a restart.
    const { name } = await inRegistry('p/later:1')
    expect((await cli(['deploy', '--image', name, '--app', 'books'])).exitCode).toBe(0)
  })

  test('that another key sealed are told as such, and can be set again', async () => {
    await node.stop()
    rmSync(join(dataDir, 'secrets.key'))
    await start()
    const { name } = await inRegistry('p/lost:1')
    const deploy = () => cli(['deploy', '--image', name, '--app', 'books'])
    const failed = await deploy()
    expect(failed.stderr).toContain('sealed with another secrets.key; set them again')
    await setPassword('books')
    expect((await deploy()).exitCode).toBe(0)
  })
})
