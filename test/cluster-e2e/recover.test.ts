/** Backups, restoring, recovering and leaving: with the compiled binary, against running nodes. */
import { expect, setDefaultTimeout, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { StateDb } from '../../src/store/db.ts'
import { ownerOfLogin } from '../../src/store/objects.ts'
import { Queries } from '../../src/store/queries.ts'
import { SecretBox } from '../../src/store/secrets.ts'
import { binary, Fnd, programOf, rssBytes, until } from '../e2e/fnd.ts'
import { LocalCluster, patienceMs } from './local-cluster.ts'

setDefaultTimeout(240_000)

const mib = 1024 * 1024

interface Said {
  readonly code: number
  readonly text: string
}

/** A command of fnd for this node or its directory. */
function spawnFnd(node: Fnd, args: readonly string[]) {
  return Bun.spawn([binary, ...args], {
    env: node.environment,
    cwd: node.dir,
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
  })
}

async function fnd(node: Fnd, ...args: string[]): Promise<Said> {
  const child = spawnFnd(node, args)
  const [code, out, problems] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ])
  return { code, text: out + problems }
}

const asked = (node: Fnd, ...args: string[]) =>
  fnd(node, ...args, '--url', node.url, '--token', node.token)

async function done(said: Promise<Said>): Promise<string> {
  const { code, text } = await said
  expect({ code, text }).toMatchObject({ code: 0 })
  return text
}

const source = (text: string) => ({ source: `export default () => ${JSON.stringify(text)}` })

async function callOf(node: Fnd, fnId: string): Promise<string> {
  const answer = await fetch(`${node.url}/invoke/${fnId}`, { method: 'POST' })
  return `${answer.status} ${await answer.text()}`
}

async function apps(node: Fnd): Promise<string[]> {
  const { items } = await node.api('GET', '/v2/apps?per_page=100')
  return (items as { name: string }[]).map(({ name }) => name)
}

const status = (node: Fnd) => node.api('GET', '/fnd/v1/status')
const idOf = async (node: Fnd): Promise<number> => (await status(node)).node_id
const votersOf = async (node: Fnd): Promise<number[]> => (await status(node)).cluster.voters

async function leaderOf(cluster: LocalCluster): Promise<Fnd> {
  const seen = await Promise.all(
    cluster.nodes.map(async node => ({ node, ...(await status(node)) })),
  )
  const leader = seen.find(({ role }) => role === 'leader')
  if (leader === undefined) throw new Error('nobody leads')
  return leader.node
}

/** Creates apps through all nodes in turn until it is stopped; those that were acknowledged. */
function writing(nodes: readonly Fnd[]) {
  const names: string[] = []
  let isOver = false
  const running = (async () => {
    for (let at = 0; !isOver; at += 1) {
      const name = `written-${String(at).padStart(5, '0')}`
      const node = nodes[at % nodes.length]
      if (node === undefined) return
      const answer = await node.request('POST', '/v2/apps', { name })
      if (answer.ok) names.push(name)
    }
  })()
  const stop = async () => {
    isOver = true
    await running
    return names
  }
  return { names, stop }
}

/** Those that change names on the disk or flush; not every machine has each. */
const diskCalls = [
  'fsync',
  'fdatasync',
  '?rename',
  '?renameat',
  '?renameat2',
  '?unlink',
  'unlinkat',
]

/** Kills it at each of these calls, one after the other, and finishes what is left to do. */
async function mustBeRepeatable(node: Fnd, id: number): Promise<void> {
  const copy = join(node.dir, 'copy')
  const recover = ['recover', '--data', copy, '--yes']
  let kills = 0
  for (const call of diskCalls) {
    for (let at = 1, isKilled = true; isKilled; at += 1) {
      rmSync(copy, { recursive: true, force: true })
      cpSync(node.dataDir, copy, { recursive: true })
      const fault = ['-e', `trace=${call}`, '-e', `inject=${call}:signal=KILL:when=${at}`]
      const command = ['strace', '-f', '-qq', '-o', '/dev/null', ...fault, binary, ...recover]
      const child = Bun.spawn(command, {
        env: node.environment,
        stdout: 'ignore',
        stderr: 'ignore',
      })
      isKilled = (await child.exited) !== 0
      if (isKilled) kills += 1
      await done(fnd(node, ...recover))
      using db = new StateDb(join(copy, 'store', 'state.db'))
      expect(db.confState.voters).toEqual([id])
      expect(new Queries(db.rows).nodes().map(row => row.id)).toEqual([id])
    }
  }
  expect(kills).toBeGreaterThan(10)
}

function wipe(node: Fnd): void {
  rmSync(node.dataDir, { recursive: true, force: true })
}

test('one survivor becomes a cluster with all it had, however often that breaks off', async () => {
  await using cluster = await LocalCluster.start(3)
  const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)]
  const deployed = await first.deploy('kept', source('kept'))
  const writes = writing(cluster.nodes)
  await until(() => writes.names.length > 20, 'some writes are acknowledged', patienceMs)
  const names = await writes.stop()
  await cluster.agrees()
  await until(async () => (await callOf(second, deployed.id)) === '200 kept', 'the code is there')
  const before = await status(second)
  const running = await fnd(second, 'recover', '--data', second.dataDir, '--yes')
  expect(running.code).toBe(1)
  expect(running.text).toContain('is in use by another fnd')
  for (const node of cluster.nodes) await node.stop('SIGKILL')

  const warned = await fnd(second, 'recover', '--data', second.dataDir)
  expect(warned.code).toBe(2)
  expect(warned.text).toContain(`is of node ${before.node_id} in cluster ${before.cluster_id}`)
  expect(warned.text).toMatch(/log ends at entry \d+ of term \d+; up to entry \d+ it is applied/)
  expect(warned.text).toContain('is lost for good')
  const old = join(second.dir, 'old')
  cpSync(join(second.dataDir, 'cluster'), old, { recursive: true })
  await mustBeRepeatable(second, before.node_id)
  const text = await done(fnd(second, 'recover', '--data', second.dataDir, '--yes'))
  expect(text).toContain('is a cluster of one')
  expect(readdirSync(join(second.dataDir, 'cluster'))).toEqual(
    readdirSync(old).filter(name => name === 'uuid'),
  )
  // As if it had ended before its last step.
  rmSync(join(second.dataDir, 'cluster'), { recursive: true })
  cpSync(old, join(second.dataDir, 'cluster'), { recursive: true })
  await expect(second.start()).rejects.toThrow(/If fnd recover broke off here, run it again/)
  await done(fnd(second, 'recover', '--data', second.dataDir, '--yes'))

  await second.start()
  await until(async () => (await status(second)).role === 'leader', 'it leads', patienceMs)
  const after = await status(second)
  expect(after.cluster_id).not.toBe(before.cluster_id)
  expect([after.node_id, after.cluster.voters]).toEqual([before.node_id, [before.node_id]])
  expect(await callOf(second, deployed.id)).toBe('200 kept')
  expect((await apps(second)).slice(0, names.length + 1)).toEqual(['e2e', ...names].sort())
  await second.api('POST', '/v2/apps', { name: 'after' })

  // A member of the old cluster is told so, and changes nothing.
  await third.start()
  const isTold = () => third.logText().includes('Two clusters meet here')
  await until(isTold, 'the old member is told', patienceMs)
  expect(third.logText()).toContain('empty its data directory')
  expect(await votersOf(second)).toEqual([before.node_id])
  await third.stop()

  wipe(first)
  wipe(third)
  const address = String(second.environment.FND_PEER_LISTEN)
  await third.start(binary, ['--join', address])
  await first.start(binary, ['--join', address])
  await cluster.isWhole()
  await cluster.agrees()
  for (const node of cluster.nodes) {
    expect(await apps(node)).toContain('after')
    await until(async () => (await callOf(node, deployed.id)) === '200 kept', 'it has the code')
  }
})

test('a backup under writes, of a node without the code, becomes a cluster again', async () => {
  await using cluster = await LocalCluster.start(3)
  const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)]
  const deployed = await first.deploy('kept', source('kept'))
  const login = { username: 'ada', password: 'open sesame' }
  const path = `/fnd/v1/apps/${deployed.appId}/registries/registry.example`
  await first.api('PUT', path, login)
  await cluster.agrees()
  // A node that is asked for a backup fetches what it does not hold.
  await third.stop()
  rmSync(join(third.dataDir, 'bundles'), { recursive: true })
  await third.start()
  await cluster.isWhole()
  const writes = writing(cluster.nodes)
  await until(() => writes.names.length > 20, 'some writes are acknowledged', patienceMs)
  const earlier = [...writes.names]
  const file = join(third.dir, 'saved.backup')
  await done(asked(third, 'backup', file))
  await writes.stop()
  expect(statSync(file).mode & 0o777).toBe(0o600)
  expect(readdirSync(join(third.dataDir, 'store', 'snapshots'))).toEqual([])
  const old = await status(third)
  const token = third.token
  for (const node of cluster.nodes) await node.stop('SIGKILL')
  wipe(first)
  wipe(second)
  rmSync(third.dataDir, { recursive: true })

  await done(fnd(third, 'restore', file, '--data', third.dataDir))
  {
    using db = new StateDb(join(third.dataDir, 'store', 'state.db'))
    const [sealed] = new Queries(db.rows).registries(deployed.appId)
    if (sealed === undefined) throw new Error('the credentials are gone')
    const opened = new SecretBox(third.dataDir).open(sealed.sealed, ownerOfLogin(sealed))
    expect(JSON.parse(opened ?? '{}').password).toBe(login.password)
  }
  await third.start()
  await until(async () => (await status(third)).role === 'leader', 'it leads', patienceMs)
  expect((await status(third)).cluster_id).not.toBe(old.cluster_id)
  expect(third.token).toBe(token)
  expect(await callOf(third, deployed.id)).toBe('200 kept')
  expect(await apps(third)).toEqual(expect.arrayContaining(earlier))
  const address = String(third.environment.FND_PEER_LISTEN)
  for (const node of [first, second]) await node.start(binary, ['--join', address])
  await cluster.isWhole()
  await cluster.agrees()
  await first.stop('SIGKILL')
  await until(async () => (await callOf(second, deployed.id)) === '200 kept', 'it has the code')
})

test('a backup that is cut short or damaged is refused, and leaves nothing', async () => {
  await using node = await Fnd.start()
  await node.deploy('kept', programOf('console.log(1)'))
  const file = join(node.dir, 'saved.backup')
  await done(asked(node, 'backup', file))
  const { size } = statSync(file)
  const whole = readFileSync(file)
  const target = join(node.dir, 'restored')
  const before = readdirSync(node.dir).length + 1
  for (let piece = 0; piece < 8; piece += 1) {
    const bad = join(node.dir, 'bad.backup')
    copyFileSync(file, bad)
    truncateSync(bad, Math.floor((size * piece) / 8))
    const cut = await fnd(node, 'restore', bad, '--data', target)
    expect({ ...cut, exists: existsSync(target) }).toMatchObject({ code: 1, exists: false })
    expect(cut.text).toContain('Invalid backup: ')
    const spoilt = Buffer.from(whole)
    const at = Math.floor((size * (piece + 0.5)) / 8)
    for (let byte = at; byte < at + 600; byte += 1) spoilt[byte] = (spoilt[byte] ?? 0) ^ 255
    writeFileSync(bad, spoilt)
    const damaged = await fnd(node, 'restore', bad, '--data', target)
    expect({ ...damaged, exists: existsSync(target) }).toMatchObject({ code: 1, exists: false })
    expect(damaged.text).toContain('Invalid backup: ')
  }
  expect(readdirSync(node.dir)).toHaveLength(before)
  await done(fnd(node, 'restore', file, '--data', target))
})

test('a restore that is killed anywhere does not start, and is done by the next', async () => {
  await using node = await Fnd.start()
  const deployed = await node.deploy('kept', source('kept'))
  const file = join(node.dir, 'saved.backup')
  await done(asked(node, 'backup', file))
  await node.stop()
  const mine = join(node.dir, 'original')
  cpSync(node.dataDir, mine, { recursive: true })
  let broken = 0
  const mark = join(node.dataDir, '.restoring')
  for (const afterMs of [0, 0, 1, 2, 4, 8, 16, 32, 64, 128]) {
    wipe(node)
    const child = spawnFnd(node, ['restore', file, '--data', node.dataDir])
    // From the moment on in which it begins to write.
    while (!existsSync(mark) && child.exitCode === null) await Bun.sleep(1)
    await Bun.sleep(afterMs)
    child.kill('SIGKILL')
    await child.exited
    if (!existsSync(mark)) continue
    broken += 1
    await expect(node.start()).rejects.toThrow(/run fnd restore again/)
    await done(fnd(node, 'restore', file, '--data', node.dataDir))
    await node.start()
    await until(async () => (await status(node)).role === 'leader', 'it leads', patienceMs)
    expect(await callOf(node, deployed.id)).toBe('200 kept')
    await node.stop()
  }
  expect(broken).toBeGreaterThan(0)
})

test('a large backup does not go through memory, however slowly it is read', async () => {
  await using node = await Fnd.start({ FND_SPARE_WORKERS: '0' })
  for (const name of ['one', 'two']) {
    const blob = Buffer.concat([randomBytes(mib), Buffer.alloc(149 * mib)]).toString('latin1')
    await node.deploy(name, { program: '#!/bin/sh\n', files: { blob } })
  }
  // What the deploys took is garbage of another process.
  await node.stop()
  await node.start()
  await until(async () => (await status(node)).role === 'leader', 'it leads', patienceMs)
  const rss = rssBytes(node.pid)
  let peak = rss
  const response = await node.request('GET', '/fnd/v1/backup')
  let bytes = 0
  let seen = 0
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length
    if (bytes < 32 * mib) await Bun.sleep(1)
    if (bytes - seen < 4 * mib) continue
    seen = bytes
    peak = Math.max(peak, rssBytes(node.pid))
  }
  expect(bytes).toBeGreaterThan(300 * mib)
  expect(peak - rss).toBeLessThan(100 * mib)
  // Whoever goes away in the middle, or never begins to read, leaves no copy behind.
  const left = new AbortController()
  const headers = { authorization: `Bearer ${node.token}` }
  const broken = await fetch(`${node.url}/fnd/v1/backup`, { headers, signal: left.signal })
  await broken.body?.getReader().read()
  const snapshots = () => readdirSync(join(node.dataDir, 'store', 'snapshots'))
  expect(snapshots()).toHaveLength(1)
  left.abort()
  await node.request('HEAD', '/fnd/v1/backup')
  await until(() => snapshots().length === 0, 'the copies are removed', patienceMs)
})

test('code that is lost is told of, and the rest is saved and restored through pipes', async () => {
  await using node = await Fnd.start()
  await node.deploy('lost', source('lost'))
  const kept = await node.deploy('kept', source('kept'))
  const { image } = await node.api(
    'GET',
    `/v2/fns/${(await node.deploy('also', source('gone'))).id}`,
  )
  await node.stop()
  const hash = String(image).slice('bundle:'.length)
  for (const name of [hash, `${hash}.tar`]) {
    rmSync(join(node.dataDir, 'bundles', name), { recursive: true })
  }
  await node.start()
  const variables = { ...node.environment, FND_URL: node.url, FND_TOKEN: node.token }
  const piped = Bun.spawn(['sh', '-c', '"$0" backup - | "$0" restore - --data piped', binary], {
    env: variables,
    cwd: node.dir,
    stdout: 'ignore',
    stderr: 'pipe',
  })
  const said = await new Response(piped.stderr).text()
  expect({ code: await piped.exited, said }).toMatchObject({ code: 0 })
  expect(said).toContain('no node has the code of some functions')
  expect(said).toContain(`bundle:${hash}`)
  await node.stop()
  wipe(node)
  renameSync(join(node.dir, 'piped'), node.dataDir)
  await node.start()
  expect(await callOf(node, kept.id)).toBe('200 kept')
})

/** A filesystem of its own, as data directories often have. */
function mounted(dir: string, bytes: number): Disposable {
  mkdirSync(dir, { recursive: true })
  const mount = Bun.spawnSync(['mount', '-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', dir])
  if (mount.exitCode !== 0) throw new Error(`mount: ${mount.stderr}`)
  return { [Symbol.dispose]: () => void Bun.spawnSync(['umount', '-l', dir]) }
}

// Only root may mount. CI is root, and the runner counts a skip as a failure.
test.if(process.getuid?.() === 0)('a full disk is told, and nothing is left on it', async () => {
  await using node = new Fnd()
  using _disk = mounted(node.dataDir, 256 * mib)
  await node.start()
  const deployed = await node.deploy('kept', source('kept'))
  const config = { text: 'x'.repeat(mib / 2) }
  for (let at = 0; at < 16; at += 1) {
    await node.api('POST', '/v2/apps', { name: `large-${at}`, config })
  }
  const file = join(node.dir, 'saved.backup')
  const snapshots = () => readdirSync(join(node.dataDir, 'store', 'snapshots'))

  // Where the copy of the state would lie.
  const { bavail, bsize } = statfsSync(node.dataDir)
  const filler = join(node.dataDir, 'filler')
  writeFileSync(filler, Buffer.alloc(bavail * bsize - 4 * mib))
  const full = await asked(node, 'backup', file)
  expect(full.code).toBe(1)
  expect(full.text).toContain('The data directory is out of space: a copy of the state needs')
  expect([existsSync(file), existsSync(`${file}.part`), snapshots()]).toEqual([false, false, []])
  rmSync(filler)
  await done(asked(node, 'backup', file))
  expect(await callOf(node, deployed.id)).toBe('200 kept')

  // Where the backup is saved, and where it is restored.
  const small = join(node.dir, 'small')
  {
    using _small = mounted(small, 4 * mib)
    const cut = await asked(node, 'backup', join(small, 'cut.backup'))
    expect(cut.code).toBe(1)
    expect(cut.text).toContain('no space is left for')
    expect(readdirSync(small)).toEqual([])
    // The node learns from a broken connection that nobody wants the rest.
    while (snapshots().length > 0) await Bun.sleep(10)
    for (const bytes of [4 * mib, statSync(file).size - mib]) {
      Bun.spawnSync(['mount', '-o', `remount,size=${bytes}`, small])
      const refused = await fnd(node, 'restore', file, '--data', small)
      expect(refused.code).toBe(1)
      expect(refused.text).toContain('out of space')
      expect(readdirSync(small)).toEqual([])
    }
    Bun.spawnSync(['mount', '-o', `remount,size=${64 * mib}`, small])
    await done(fnd(node, 'restore', file, '--data', small))
  }
})

for (const who of ['leader', 'follower'] as const) {
  test(`a ${who} that leaves ends its calls, and is told why it cannot come back`, async () => {
    await using cluster = await LocalCluster.start(3)
    const member = String(cluster.node(1).environment.FND_PEER_LISTEN)
    await using fourth = await Fnd.start({ FND_JOIN: member, FND_PEER_LISTEN: '127.0.0.1:0' })
    const slow = 'export default async () => { await Bun.sleep(3000); return "done" }'
    const deployed = await cluster.node(0).deploy('slow', { source: slow })
    await cluster.agrees()
    const leader = await leaderOf(cluster)
    const leaving = who === 'leader' ? leader : cluster.nodes.find(node => node !== leader)
    if (leaving === undefined) throw new Error('a cluster has followers')
    const rest = [...cluster.nodes.filter(node => node !== leaving), fourth]
    const id = await idOf(leaving)
    const calls = Array.from({ length: 3 }, () => callOf(leaving, deployed.id))
    const busy = async () => (await leaving.describe(deployed.id)).busy > 0
    await until(busy, 'calls run', patienceMs)
    const process = leaving.process
    await done(asked(leaving, 'leave'))
    expect(await process.exited).toBe(0)
    expect(await Promise.all(calls)).toEqual(calls.map(() => '200 done'))

    for (const node of rest) {
      const isOut = async () => !(await votersOf(node)).includes(id)
      await until(isOut, 'it is out', patienceMs)
      await until(
        async () => (await votersOf(node)).length % 2 === 1,
        'the number is odd',
        patienceMs,
      )
      await node.api('POST', '/v2/apps', { name: `after-${rest.indexOf(node)}` })
    }
    // Its directory is of no use any more, and fnd says so.
    const started = leaving.start()
    await started.catch(() => undefined)
    expect(await leaving.process.exited).toBe(1)
    expect(leaving.logText()).toContain(`Node ${id} was removed from the cluster`)
    expect(leaving.logText()).toContain('empty its data directory and start it with --join')
    expect(await votersOf(rest[0] as Fnd)).not.toContain(id)
    wipe(leaving)
    await leaving.start(binary, ['--join', String(rest[0]?.environment.FND_PEER_LISTEN)])
    expect(await idOf(leaving)).not.toBe(id)
    const isServing = async () => (await callOf(leaving, deployed.id)) === '200 done'
    await until(isServing, 'it serves as a new node', patienceMs)
  })
}
