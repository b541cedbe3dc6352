/** Bundles over the connections that nodes have: mutual TLS on loopback, real directories. */
import { afterEach, expect, test } from 'bun:test'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import pino from 'pino'
import { BundleServer } from '../../src/cluster/bundle-serve.ts'
import { BundleSpread } from '../../src/cluster/bundle-spread.ts'
import { makeAuthority } from '../../src/cluster/certificates.ts'
import { FndError } from '../../src/errors.ts'
import { Bundles } from '../../src/store/bundles.ts'
import { temporaryDir } from '../store/sample.ts'
import { confOf, limits, sample } from './bundle-world.ts'
import { introduce, isConnectedToAll, startPeer, stopAll, type TestPeer, until } from './harness.ts'

const cleanups: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

async function startNodes(count: number) {
  const dir = temporaryDir()
  cleanups.push(() => dir[Symbol.dispose]())
  const authority = await makeAuthority('test', Date.now())
  const conf = confOf(Array.from({ length: count }, (_, at) => at + 1))
  const nodes = await Promise.all(
    conf.voters.map(async id => {
      const path = join(dir.path, String(id))
      const bundles = new Bundles(path)
      const server = new BundleServer(bundles)
      const peer = await startPeer({ authority, nodeId: id, handlers: server.handlers })
      const spread = new BundleSpread({
        bundles,
        peers: peer.peers,
        view: () => ({ self: id, conf }),
        referenced: () => new Set(),
        log: pino({ level: 'silent' }),
        timing: { quorumMs: 3000, retryMs: 20 },
      })
      return { id, path, bundles, server, spread, peer }
    }),
  )
  cleanups.push(async () => {
    for (const { spread } of nodes) await spread[Symbol.asyncDispose]()
    for (const { server } of nodes) await server[Symbol.asyncDispose]()
    stopAll(nodes.map(({ peer }) => peer))
  })
  const peers: TestPeer[] = nodes.map(({ peer }) => peer)
  introduce(peers)
  await until(() => peers.every(isConnectedToAll), 'connections')
  const node = (id: number) => {
    const found = nodes[id - 1]
    if (found === undefined) throw new Error(`there is no node ${id}`)
    return found
  }
  return { node, nodes }
}

test('a large bundle goes to a majority and to whoever misses it, whole', async () => {
  const { node, nodes } = await startNodes(3)
  const contents = new Uint8Array(6_000_000)
  for (let at = 0; at < contents.length; at += 1) contents[at] = at * 31 + (at >>> 8)
  const { hash, stream, tar } = await sample('a', [['large', contents]])
  await node(1).spread.put(hash, stream(), limits)
  const others = () => [node(2), node(3)].filter(({ bundles }) => bundles.keep(hash))
  expect(others().length).toBeGreaterThan(0)
  await until(() => others().length === 2, 'all voters')
  const kept: Uint8Array[] = []
  for await (const chunk of node(3).bundles.tar(hash)?.chunks ?? []) kept.push(chunk)
  expect(Buffer.concat(kept).equals(tar)).toBe(true)
  const second = await sample('b', [['large', contents]])
  await node(2).bundles.put(second.hash, second.stream(), limits)
  const bundle = await node(1).spread.ensure(second.hash)
  expect(bundle).toBe(node(1).bundles.get(second.hash) ?? bundle)
  expect(nodes.flatMap(({ peer }) => peer.bugs)).toEqual([])
}, 60_000)

test('refusals and absences come back as what they are', async () => {
  const { node, nodes } = await startNodes(3)
  const { hash, stream } = await sample('a')
  const code = (promise: Promise<unknown>) =>
    promise.then(
      () => 'ok',
      error => (error instanceof FndError ? error.code : String(error)),
    )
  expect(await code(node(1).spread.ensure(hash))).toBe('bundle-not-found')
  node(3).peer.peers.stop()
  expect(await code(node(1).spread.ensure(hash))).toBe('bundle-unreachable')
  await node(2).bundles.put(hash, stream(), limits)
  expect(await code(node(1).spread.ensure(hash))).toBe('ok')
  expect(await code(node(1).spread.put(hash, stream(), limits))).toBe('ok')
  node(2).peer.peers.stop()
  const other = await sample('b')
  expect(await code(node(1).spread.put(other.hash, other.stream(), limits))).toBe('no-quorum')
  expect(nodes.flatMap(({ peer }) => peer.bugs)).toEqual([])
}, 60_000)

test('a peer that goes away in the middle of an upload leaves nothing at the other', async () => {
  const { node } = await startNodes(2)
  const { hash, tar } = await sample('a', [['large', new Uint8Array(5_000_000)]])
  const sender = node(1).peer.peers
  let isHalf = false
  async function* half() {
    yield tar.subarray(0, 2_000_000)
    isHalf = true
    await new Promise(() => undefined)
  }
  const upload = sender.upload(2, 'bundle.put', { hash, bytes: tar.length }, half()).then(
    () => 'ok',
    () => 'failed',
  )
  await until(() => isHalf, 'half of it to leave')
  sender.stop()
  const { path } = node(2)
  await until(() => readdirSync(path).length === 0, 'what was received to go')
  expect(await Promise.race([upload, Bun.sleep(10)])).not.toBe('ok')
}, 60_000)
