/** Pulls from a real registry: when, how often, with whose credentials, and what errors say. */
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from 'bun:test'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { pack } from 'tar-stream'
import { alwaysFreshMs } from '../../src/exec/docker/images.ts'
import type { AppCredential } from '../../src/exec/docker/registry-auth.ts'
import { Daemon } from './daemon.ts'
import { followed } from './images.ts'
import { newImage, openNode, outcomeOf, specOf } from './images-of-apps.ts'
import { Registry } from './registry.ts'

let daemon: Daemon
let registry: Registry

// One machine runs many tests, each with daemons.
setDefaultTimeout(120_000)

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
  registry = await Registry.start({ address: daemon.gateway ?? '' })
})

afterAll(async () => {
  await registry?.stop()
  await daemon?.stop()
})

beforeEach(() => {
  registry.requests.length = 0
})

const right = (): AppCredential => ({
  host: registry.name,
  username: registry.username,
  password: registry.password,
  identityToken: '',
  fingerprint: 'right',
})
const wrong = (): AppCredential => ({ ...right(), password: 'wrong-secret', fingerprint: 'wrong' })
const auth = () => ({ FN_DOCKER_AUTH: registry.dockerConfig })

let pushed = 0

/** A fresh image in the registry, and not in the daemon. */
async function privateImage(
  changes: readonly string[] = [],
): Promise<{ name: string; id: string }> {
  const { name, id } = await newImage(daemon, changes)
  pushed += 1
  const pushedName = await registry.push(daemon.docker, name, `p/image${pushed}:1`)
  await daemon.docker.getImage(name).remove()
  registry.requests.length = 0
  return { name: pushedName, id }
}

/** Another image gets the name in the registry, while the daemon knows the old one by it. */
async function moveTag(name: string): Promise<string> {
  const next = await newImage(daemon)
  const { docker } = daemon
  const [repo = '', tag = ''] = name.slice(registry.name.length + 1).split(':')
  await docker.getImage(name).tag({ repo: 'kept', tag: '1' })
  await registry.push(docker, next.name, `${repo}:${tag}`)
  await docker.getImage('kept:1').tag({ repo: `${registry.name}/${repo}`, tag })
  await docker.getImage('kept:1').remove()
  await docker.getImage(next.name).remove()
  return next.id
}

describe('a pull', () => {
  test('is one for however many calls, of however many functions', async () => {
    await using node = openNode(daemon, { env: auth() })
    const { name, id } = await privateImage()
    const calls = Array.from({ length: 50 }, (_, at) =>
      node.images.ensure(specOf(name, { appId: `app${at % 7}`, fnId: `fn${at % 11}` })),
    )
    const found = await Promise.all(calls)
    expect(new Set(found.map(one => one.id))).toEqual(new Set([id]))
    expect(found[0]?.digest).toMatch(/^sha256:[0-9a-f]{64}$/)
    expect(found[0]?.entrypoint).toEqual(['/bin/sh'])
    expect(registry.pulls).toBe(1)
    expect(node.images.stats).toMatchObject({ images: 1, pulls: 1, pullFailures: 0 })
    expect(node.images.stats.bytes).toBeGreaterThan(0)
    await node.images.ensure(specOf(name))
    expect(registry.pulls).toBe(1)
  })

  test('goes on for others when one caller gives up', async () => {
    await using node = openNode(daemon, { env: auth() })
    const { name, id } = await privateImage()
    registry.hold()
    const leaving = new AbortController()
    const left = node.images.ensure(specOf(name), leaving.signal).catch((cause: Error) => cause)
    const stayed = node.images.ensure(specOf(name))
    while (node.images.pulls.length === 0) await Bun.sleep(5)
    expect(node.images.pulls).toMatchObject([{ image: name, layersDone: 0 }])
    leaving.abort(new Error('left'))
    expect(await left).toEqual(new Error('left'))
    registry.release()
    expect((await stayed).id).toBe(id)
    expect(node.images.pulls).toEqual([])
  })

  test('of a registry that hangs ends at its deadline, and holds nobody up', async () => {
    const silent = createServer(() => undefined).listen(0, daemon.gateway)
    await new Promise(resolve => silent.once('listening', resolve))
    const { port } = silent.address() as { port: number }
    await using node = openNode(daemon, {
      env: { ...auth(), FN_HOT_PULL_TIMEOUT_MSECS: '3000' },
    })
    const hung = outcomeOf(node.images.ensure(specOf(`${daemon.gateway}:${port}/x:1`)))
    while (node.images.pulls.length === 0) await Bun.sleep(5)
    const { name, id } = await privateImage()
    expect((await node.images.ensure(specOf(name))).id).toBe(id)
    expect(await hung).toMatchObject({
      code: 'pull-timeout',
      status: 504,
      message: 'Image pull timed out, the registry has not answered',
    })
    expect(node.engine.state.kind).toBe('up')
    silent.close()
  })

  test('that nobody can answer is told in Docker’s words', async () => {
    await using node = openNode(daemon, { env: auth() })
    const missing = `${registry.name}/p/nothing:1`
    expect(await outcomeOf(node.images.ensure(specOf(missing)))).toMatchObject({
      code: 'image-not-found',
      status: 404,
      message: expect.stringMatching(
        new RegExp(`^Failed to pull image '${missing}': .*manifest unknown`),
      ),
    })
    const nowhere = `${daemon.gateway}:9/x:1`
    expect(await outcomeOf(node.images.ensure(specOf(nowhere)))).toMatchObject({
      code: 'pull-failed',
      status: 502,
      message: expect.stringContaining(`Failed to pull image '${nowhere}': Get "https`),
    })
  })

  test('that is cut off by the end of fnd says so', async () => {
    const node = openNode(daemon, { env: auth() })
    const { name } = await privateImage()
    registry.hold()
    const cut = outcomeOf(node.images.ensure(specOf(name)))
    while (node.images.pulls.length === 0 || registry.requests.length === 0) await Bun.sleep(5)
    await node[Symbol.asyncDispose]()
    expect(await cut).toMatchObject({ code: 'shutting-down' })
    registry.release()
  })

  test('without a daemon is refused as such', async () => {
    await using node = openNode({ host: 'unix:///nowhere/docker.sock' })
    expect(await outcomeOf(node.images.ensure(specOf('x')))).toMatchObject({
      code: 'docker-unavailable',
      status: 503,
    })
    expect(await node.images.describe(specOf('x'))).toEqual({
      pinned: null,
      tag: null,
      has_moved: false,
    })
  })
})

/** A way to the registry that stops after so many bytes, until it is told to go on. */
function stallingProxy(bytesMax: number) {
  const { hostname, port } = new URL(`tcp://${registry.name}`)
  const stalled = new Set<Socket>()
  let bytes = 0
  let isOpen = false
  const server = createServer(client => {
    const upstream = connect(Number(port), hostname)
    client.pipe(upstream)
    upstream.on('data', chunk => {
      client.write(chunk)
      bytes += chunk.length
      if (bytes < bytesMax || isOpen) return
      upstream.pause()
      stalled.add(upstream)
    })
    upstream.on('end', () => client.end())
    for (const socket of [client, upstream]) socket.on('error', () => undefined)
  })
  return {
    server,
    release: () => {
      isOpen = true
      for (const socket of stalled) socket.resume()
    },
  }
}

test('a pull says how far it is', async () => {
  const archive = pack()
  archive.entry({ name: 'random' }, randomBytes(16_000_000))
  archive.finalize()
  const imported = await daemon.docker.importImage(archive, { repo: 'made', tag: 'big' })
  await followed(daemon.docker, imported)
  await registry.push(daemon.docker, 'made:big', 'p/big:1')
  await daemon.docker.getImage('made:big').remove()
  const { server, release } = stallingProxy(6_000_000)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const host = `127.0.0.1:${(server.address() as { port: number }).port}`
  await using node = openNode(daemon, { credentials: { app: [{ ...right(), host }] } })
  const spec = specOf(`${host}/p/big:1`)
  const pull = outcomeOf(node.images.ensure(spec))
  while ((node.images.pulls[0]?.bytesDone ?? 0) === 0) await Bun.sleep(20)
  // The size is not known here: the registry's proxy does not pass it on.
  expect(node.images.progressOf(spec)).toMatch(/^\d+ [kM]B so far$/)
  release()
  expect(await pull).toBe('ok')
  expect(node.images.progressOf(spec)).toBeUndefined()
  server.close()
})

describe('credentials', () => {
  test.each([
    ['of FN_DOCKER_AUTH', () => ({ env: auth() })],
    ['of Docker’s own file', () => ({ dockerFile: registry.dockerConfig })],
    ['of the app', () => ({ credentials: { app: [right()] } })],
    [
      'of the app before those of FN_DOCKER_AUTH',
      () => ({
        credentials: { app: [right()] },
        env: { FN_DOCKER_AUTH: registry.dockerConfig.replace(/"auth":"[^"]*"/, '"auth":"YTpi"') },
      }),
    ],
  ])('%s pull', async (_, options) => {
    await using node = openNode(daemon, options())
    const { name, id } = await privateImage()
    expect((await node.images.ensure(specOf(name))).id).toBe(id)
  })

  test.each([
    ['absent', () => ({})],
    ['wrong', () => ({ credentials: { app: [wrong()] }, env: auth() })],
  ])('%s are refused, and told nobody', async (_, options) => {
    await using node = openNode(daemon, options())
    const { name } = await privateImage()
    const failure = await outcomeOf(node.images.ensure(specOf(name)))
    expect(failure).toMatchObject({
      code: 'pull-failed',
      message: expect.stringMatching(/^Failed to pull image .*(no basic auth|unauthorized)/),
    })
    expect(JSON.stringify(failure) + node.logLines.join('')).not.toContain('wrong-secret')
  })

  test('a file that is not Docker’s is named', async () => {
    await using node = openNode(daemon, { dockerFile: 'secret-text' })
    const { name } = await privateImage()
    const failure = await outcomeOf(node.images.ensure(specOf(name)))
    expect(failure).toMatchObject({
      code: 'credentials-unreadable',
      message: expect.stringContaining(`${node.dataDir}/config.json is not JSON`),
    })
    expect(String(failure)).not.toContain('secret-text')
  })
})

describe('an image that needed the credentials of one app', () => {
  test('is not for another, until that can pull it as well', async () => {
    const grants: Record<string, readonly AppCredential[]> = { one: [right()], other: [] }
    await using node = openNode(daemon, { credentials: grants })
    const { name, id } = await privateImage()
    const as = (appId: string, more = {}) =>
      outcomeOf(node.images.ensure(specOf(name, { appId, ...more })))
    const { digest = '' } = await node.images.ensure(specOf(name, { appId: 'one' }))
    // By its name, its digest, or its id as a digest, and without asking the registry.
    expect(await as('other')).toMatchObject({ code: 'pull-failed' })
    expect(await as('other', { digest })).not.toBe('ok')
    expect(await as('other', { digest: id })).not.toBe('ok')
    expect(await as('other', { pull: 'never' })).toMatchObject({
      code: 'image-denied',
      status: 403,
    })
    // The start of an id is no name of an image.
    const short = specOf(id.slice('sha256:'.length, 19), { appId: 'other', pull: 'never' })
    expect(await outcomeOf(node.images.ensure(short))).toMatchObject({ code: 'image-not-found' })
    expect(await as('one', { pull: 'never' })).toBe('ok')
    grants.other = [wrong()]
    expect(await as('other')).toMatchObject({ code: 'pull-failed' })
    grants.other = [{ ...right(), fingerprint: 'other' }]
    registry.requests.length = 0
    expect(await as('other')).toBe('ok')
    expect(await as('other')).toBe('ok')
    expect(registry.pulls).toBe(1)
    // What an app had is gone with its credentials.
    grants.one = []
    expect(await as('one')).toMatchObject({ code: 'pull-failed' })
  })

  test('stays so over a restart, and when fnd died before it had noted it', async () => {
    const credentials = { one: [right()] }
    const first = openNode(daemon, { credentials })
    const { name } = await privateImage()
    await first.images.ensure(specOf(name, { appId: 'one' }))
    await using second = await first.again()
    const as = (appId: string) => outcomeOf(second.images.ensure(specOf(name, { appId })))
    expect(await as('other')).toMatchObject({ code: 'pull-failed' })
    expect(await as('one')).toBe('ok')
    // As a crash leaves it: the pull had begun, and the image came.
    const died = await privateImage()
    await using node = openNode(daemon, { credentials })
    const pending = [{ name: died.name, grant: 'right', before: null }]
    await Bun.write(
      `${node.dataDir}/images.json`,
      JSON.stringify({ version: 1, images: {}, pending }),
    )
    await using other = openNode(daemon, { credentials: { helper: [right()] } })
    await other.images.ensure(specOf(died.name, { appId: 'helper' }))
    await using risen = await node.again()
    const pull = 'never'
    const asRisen = (appId: string) =>
      outcomeOf(risen.images.ensure(specOf(died.name, { appId, pull })))
    expect(await asRisen('stranger')).toMatchObject({ code: 'image-denied' })
    expect(await asRisen('one')).toBe('ok')
  })

  test('is not for another in the moment in which it comes', async () => {
    await using node = openNode(daemon, { credentials: { one: [right()] } })
    for (let round = 0; round < 5; round += 1) {
      const { name } = await privateImage()
      let isDone = false
      const pull = node.images.ensure(specOf(name, { appId: 'one' })).finally(() => {
        isDone = true
      })
      const stolen = async () => {
        while (!isDone) {
          const spec = specOf(name, { appId: 'other', pull: 'never' })
          if ((await outcomeOf(node.images.ensure(spec))) === 'ok') return true
        }
        return false
      }
      expect(await Promise.all([stolen(), stolen(), stolen()])).toEqual([false, false, false])
      await pull
    }
  })

  test('what the operator put into the daemon is for all', async () => {
    await using node = openNode(daemon, { credentials: { one: [right()] } })
    const { name, id } = await newImage(daemon)
    expect((await node.images.ensure(specOf(name, { appId: 'any' }))).id).toBe(id)
    // Also when an app pulls the same image later.
    const pushedName = await registry.push(daemon.docker, name, 'p/same:1')
    await node.images.ensure(specOf(pushedName, { appId: 'one' }))
    expect(await outcomeOf(node.images.ensure(specOf(name, { appId: 'any' })))).toBe('ok')
    expect(node.images.stats.images).toBe(0)
  })
})

describe('the policy', () => {
  test('never takes what is there, and nothing else', async () => {
    await using node = openNode(daemon, { env: auth() })
    const { name } = await privateImage()
    const never = specOf(name, { pull: 'never' })
    expect(await outcomeOf(node.images.ensure(never))).toMatchObject({
      code: 'image-not-found',
      message: `Failed to pull image '${name}': it is not in the daemon, and fnd.io/pull is never`,
    })
    expect(registry.requests).toEqual([])
    await node.images.ensure(specOf(name))
    expect(await outcomeOf(node.images.ensure(never))).toBe('ok')
  })

  test('always sees that a tag has moved, and asks once for a burst of starts', async () => {
    await using node = openNode(daemon, { env: auth() })
    const { name } = await privateImage()
    await node.images.ensure(specOf(name))
    const nextId = await moveTag(name)
    expect((await node.images.ensure(specOf(name))).id).not.toBe(nextId)
    // Not even `always` asks again for what was pulled just now.
    const always = specOf(name, { pull: 'always' })
    expect((await node.images.ensure(always)).id).not.toBe(nextId)
    node.skip(alwaysFreshMs)
    registry.requests.length = 0
    const starts = await Promise.all([1, 2, 3].map(() => node.images.ensure(always)))
    expect(starts.map(one => one.id)).toEqual([nextId, nextId, nextId])
    expect((await node.images.ensure(always)).id).toBe(nextId)
    expect(registry.pulls).toBe(1)
  })

  test('missing follows a tag that is built again in the daemon', async () => {
    await using node = openNode(daemon)
    const first = await newImage(daemon)
    expect((await node.images.ensure(specOf(first.name))).id).toBe(first.id)
    const second = await newImage(daemon)
    const [repo = '', tag = ''] = first.name.split(':')
    await daemon.docker.getImage(second.name).tag({ repo, tag })
    expect((await node.images.ensure(specOf(first.name))).id).toBe(second.id)
  })

  test('a volume is refused, unless it is allowed', async () => {
    await using node = openNode(daemon)
    await using tolerant = openNode(daemon, { env: { FN_IMAGE_ENABLE_VOLUME: 'true' } })
    const { name } = await newImage(daemon, ['VOLUME /data'])
    expect(await outcomeOf(node.images.ensure(specOf(name)))).toMatchObject({
      code: 'image-has-volume',
      status: 400,
      message: expect.stringContaining('image has Volume definition'),
    })
    expect(await outcomeOf(tolerant.images.ensure(specOf(name)))).toBe('ok')
  })
})

describe('a digest', () => {
  test('means one image for good: it is not pulled again, and its tag may move', async () => {
    await using node = openNode(daemon, { env: auth() })
    const { name, id } = await privateImage()
    const prepared = await node.images.prepare(specOf(name), false)
    expect(prepared.pin).toBe(prepared.digest ?? '')
    const pinned = specOf(name, { digest: prepared.pin, pull: 'always' })
    registry.requests.length = 0
    expect((await node.images.ensure(pinned)).id).toBe(id)
    expect(registry.requests).toEqual([])
    expect(await node.images.describe(pinned)).toEqual({
      pinned: prepared.pin,
      tag: prepared.pin,
      has_moved: false,
    })
    const nextId = await moveTag(name)
    node.skip(alwaysFreshMs)
    const next = await node.images.prepare(specOf(name), false)
    expect(next.id).toBe(nextId)
    expect(await node.images.describe(pinned)).toEqual({
      pinned: prepared.pin,
      tag: next.pin,
      has_moved: true,
    })
    expect((await node.images.ensure(pinned)).id).toBe(id)
    // By name and digest in one, as people write it.
    const written = specOf(`${name}@${prepared.pin}`)
    expect((await node.images.ensure(written)).id).toBe(id)
    expect(await node.images.describe(written)).toMatchObject({ has_moved: true })
    // Gone from the daemon, it comes again from the registry.
    await daemon.docker.getImage(id).remove({ force: true })
    expect((await node.images.ensure(pinned)).id).toBe(id)
  })

  test('of an image that no registry has is its id; the error without it says so', async () => {
    await using node = openNode(daemon, { env: auth() })
    const { name, id } = await newImage(daemon)
    const prepared = await node.images.prepare(specOf(name), false)
    expect(prepared).toMatchObject({ id, pin: id })
    const pinned = specOf(name, { digest: id })
    const next = await newImage(daemon)
    const [repo = '', tag = ''] = name.split(':')
    await daemon.docker.getImage(next.name).tag({ repo, tag })
    expect((await node.images.ensure(pinned)).id).toBe(id)
    expect(await node.images.describe(pinned)).toEqual({
      pinned: id,
      tag: next.id,
      has_moved: true,
    })
    await daemon.docker.getImage(id).remove({ force: true })
    const failure = await outcomeOf(node.images.ensure(pinned))
    expect(failure).toMatchObject({
      message: expect.stringMatching(
        new RegExp(`^Failed to pull image '${name}': .*pinned to ${id}.*deploy it again$`),
      ),
    })
  })
})
