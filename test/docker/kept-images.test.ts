/** Which images stay in the daemon, which are removed, and what is loaded at the start. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { StartError } from '../../src/errors.ts'
import { Daemon } from './daemon.ts'
import { type Node, newImage, openNode, outcomeOf, specOf } from './images-of-apps.ts'
import { Registry } from './registry.ts'

let daemon: Daemon
let registry: Registry
const dir = mkdtempSync(join(tmpdir(), 'fnd-kept-'))

setDefaultTimeout(120_000)

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
  registry = await Registry.start({ address: daemon.gateway ?? '' })
})

afterAll(async () => {
  await registry?.stop()
  await daemon?.stop()
  rmSync(dir, { recursive: true, force: true })
})

let pushed = 0

async function inRegistry(): Promise<{ name: string; id: string }> {
  const { name, id } = await newImage(daemon)
  pushed += 1
  const full = await registry.push(daemon.docker, name, `kept/image${pushed}:1`)
  await daemon.docker.getImage(name).remove()
  return { name: full, id }
}

async function isThere(name: string): Promise<boolean> {
  return daemon.docker
    .getImage(name)
    .inspect()
    .then(
      () => true,
      () => false,
    )
}

/** A node with room for nothing: what may go, goes. */
function crampedNode(env: Record<string, string> = {}, graceMs = 1000): Node {
  return openNode(daemon, {
    env: { FN_DOCKER_AUTH: registry.dockerConfig, FND_MAX_IMAGE_BYTES: '1', ...env },
    graceMs,
  })
}

async function eventually(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await Bun.sleep(20)
}

describe('above the limit', () => {
  test('what was not used for longest goes first, and only what fnd pulled', async () => {
    // Far more than pulling takes, since real time counts with what is skipped.
    await using node = crampedNode({}, 100_000)
    const operators = await newImage(daemon)
    await node.images.ensure(specOf(operators.name))
    const [old, young, last] = [await inRegistry(), await inRegistry(), await inRegistry()]
    await node.images.ensure(specOf(old.name, { fnId: 'old' }))
    await node.images.ensure(specOf(young.name, { fnId: 'young' }))
    expect([await isThere(old.name), await isThere(young.name)]).toEqual([true, true])
    node.skip(60_000)
    await node.images.ensure(specOf(young.name, { fnId: 'young' }))
    node.skip(60_000)
    await node.images.ensure(specOf(last.name))
    await eventually(async () => !(await isThere(old.name)))
    expect(await isThere(young.name)).toBe(true)
    expect(await isThere(last.name)).toBe(true)
    expect(await isThere(operators.name)).toBe(true)
    await eventually(() => node.images.stats.removed === 1)
    expect(node.images.stats).toMatchObject({ images: 2, removed: 1 })
    expect(await outcomeOf(node.images.ensure(specOf(old.name)))).toBe('ok')
  })

  test('what an instance or a container uses stays, and so does what is exempt', async () => {
    const exempt = await inRegistry()
    await using node = crampedNode({ FN_IMAGE_CLEAN_EXEMPT_TAGS: exempt.name })
    const [running, contained, free] = [await inRegistry(), await inRegistry(), await inRegistry()]
    for (const { name } of [exempt, running, contained, free])
      await node.images.ensure(specOf(name))
    node.images.inUse = () => [running.id]
    const container = await daemon.docker.createContainer({ Image: contained.id })
    node.skip(5000)
    await node.images.ensure(specOf((await inRegistry()).name))
    await eventually(async () => !(await isThere(free.name)))
    await eventually(() => node.images.stats.removed === 1)
    for (const { name } of [exempt, running, contained]) expect(await isThere(name)).toBe(true)
    await container.remove()
  })

  test('what somebody else gave a name stays by that name', async () => {
    await using node = crampedNode()
    const { name } = await inRegistry()
    await node.images.ensure(specOf(name))
    await daemon.docker.getImage(name).tag({ repo: 'theirs', tag: '1' })
    node.skip(5000)
    await node.images.ensure(specOf((await inRegistry()).name))
    await eventually(async () => !(await isThere(name)))
    expect(await isThere('theirs:1')).toBe(true)
  })

  test('an image whose tag has moved away goes by its id', async () => {
    await using node = crampedNode()
    const { name, id } = await inRegistry()
    await node.images.ensure(specOf(name))
    const next = await newImage(daemon)
    const repo = name.slice(0, name.lastIndexOf(':'))
    await daemon.docker.getImage(next.name).tag({ repo, tag: '1' })
    node.skip(5000)
    await node.images.ensure(specOf((await inRegistry()).name))
    await eventually(async () => !(await isThere(id)))
    expect(await isThere(name)).toBe(true)
  })
})

test('what somebody else removed is forgotten', async () => {
  await using node = crampedNode({ FND_MAX_IMAGE_BYTES: '0' })
  const { name } = await inRegistry()
  await node.images.ensure(specOf(name))
  await daemon.docker.getImage(name).remove()
  await node.images.ensure(specOf((await inRegistry()).name))
  await eventually(() => node.images.stats.images === 1)
  expect(node.images.stats.removed).toBe(0)
})

test('the record outlives a restart, and a damaged one is not taken for none', async () => {
  const first = crampedNode()
  const { name } = await inRegistry()
  await first.images.ensure(specOf(name))
  await using second = await first.again()
  expect(second.images.stats.images).toBe(1)
  for (const text of ['', '{', '{}', '{"version":2,"images":{},"pending":[]}']) {
    await writeFile(join(dir, 'images.json'), text)
    expect(() => openNode(daemon, { dataDir: dir })).toThrow(StartError)
  }
})

describe('an archive of images', () => {
  test('is loaded before anything is looked for', async () => {
    const { name, id } = await newImage(daemon)
    const archive = join(dir, 'images.tar')
    const stream = await daemon.docker.getImage(name).get()
    await writeFile(archive, stream as unknown as AsyncIterable<Uint8Array>)
    await daemon.docker.getImage(name).remove()
    await using node = openNode(daemon, { env: { FN_DOCKER_LOAD_FILE: archive } })
    expect((await node.images.ensure(specOf(name, { pull: 'never' }))).id).toBe(id)
    expect(node.images.stats.images).toBe(0)
  })

  test.each([
    ['is not there', join(dir, 'nothing.tar'), undefined],
    ['is none', join(dir, 'text.tar'), 'no archive'],
  ])('that %s is told, and stops nothing', async (_, archive, content) => {
    if (content !== undefined) writeFileSync(archive, content)
    await using node = openNode(daemon, { env: { FN_DOCKER_LOAD_FILE: archive } })
    const { name } = await newImage(daemon)
    expect(await outcomeOf(node.images.ensure(specOf(name)))).toBe('ok')
    expect(node.logLines.join('')).toContain('cannot be loaded')
  })
})

describe('a credential helper', () => {
  // Where programs are looked for is settled when a process begins, so it must be a usual place.
  const name = `fnd-test-${process.pid}`
  const program = `/usr/local/bin/docker-credential-${name}`
  const helper = (script: string) => {
    writeFileSync(program, `#!/bin/sh\n${script}\n`)
    chmodSync(program, 0o755)
    return { FN_DOCKER_AUTH: JSON.stringify({ credsStore: name }) }
  }
  afterAll(() => rmSync(program, { force: true }))

  test('is asked for the host of the registry', async () => {
    const answer = { Username: registry.username, Secret: registry.password }
    const script = `test "$(cat)" = "${registry.name}" && echo '${JSON.stringify(answer)}'`
    await using node = openNode(daemon, { env: helper(script) })
    expect(await outcomeOf(node.images.ensure(specOf((await inRegistry()).name)))).toBe('ok')
  })

  test.each([
    ['knows nothing', 'echo credentials not found in native keychain; exit 1', false],
    ['fails', 'echo secret-text; exit 7', true],
  ])('that %s leaves the pull without credentials', async (_, script, isTold) => {
    await using node = openNode(daemon, { env: helper(script) })
    expect(await outcomeOf(node.images.ensure(specOf((await inRegistry()).name)))).toMatchObject({
      code: 'pull-failed',
    })
    const log = node.logLines.join('')
    expect(log.includes('a credential helper did not help')).toBe(isTold)
    expect(log).not.toContain('secret-text')
  })
})

test('a daemon that dies in the middle of a pull, and comes back', async () => {
  const credential = {
    host: registry.name,
    username: registry.username,
    password: registry.password,
    identityToken: '',
    fingerprint: 'right',
  }
  await using node = openNode(daemon, { credentials: { one: [credential] } })
  const { name, id } = await inRegistry()
  registry.requests.length = 0
  registry.delayMs = 200
  const cut = outcomeOf(node.images.ensure(specOf(name, { appId: 'one' })))
  await eventually(() => registry.requests.some(line => line.includes('/manifests/')))
  registry.hold()
  await eventually(() => node.images.pulls.length > 0)
  await daemon.kill()
  expect(await cut).toMatchObject({ code: 'docker-unavailable', status: 503 })
  registry.delayMs = 0
  registry.release()
  await daemon.start()
  await eventually(() => node.engine.state.kind === 'up')
  expect((await node.images.ensure(specOf(name, { appId: 'one' }))).id).toBe(id)
  const stranger = specOf(name, { appId: 'other', pull: 'never' })
  expect(await outcomeOf(node.images.ensure(stranger))).toMatchObject({ code: 'image-denied' })
  expect(await Bun.file(join(node.dataDir, 'images.json')).json()).toMatchObject({ pending: [] })
})
