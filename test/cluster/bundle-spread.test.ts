import { describe, expect, test } from 'bun:test'
import { readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isOnMajority } from '../../src/cluster/bundle-round.ts'
import { FndError } from '../../src/errors.ts'
import { confOf, limits, sample, until, World } from './bundle-world.ts'

const failure = (promise: Promise<unknown>): Promise<FndError | undefined> =>
  promise.then(
    () => undefined,
    error => {
      if (error instanceof FndError) return error
      throw error
    },
  )

describe('a deploy', () => {
  test('is answered when a majority of the voters has it; the others get it behind', async () => {
    await using world = new World(confOf([1, 2, 3], { learners: [4, 5] }), 5)
    const { hash, stream, tar } = await sample('a')
    world.net.link(1, 3, { kind: 'hangs', afterBytes: 100 })
    await world.member(1).spread.put(hash, stream(), limits)
    expect(world.holders(hash)).toContain(2)
    expect(world.holders(hash)).not.toContain(3)
    await until('the learners have it', () => world.holders(hash).length === 4)
    expect(world.holders(hash)).toEqual([1, 2, 4, 5])
    const kept = readFileSync(join(world.member(4).dir, `${hash}.tar`))
    expect(Uint8Array.from(kept)).toEqual(tar)
  })

  test('of one node asks nobody', async () => {
    await using world = new World(confOf([1]), 1)
    const { hash, stream } = await sample('a')
    await world.member(1).spread.put(hash, stream(), limits)
    expect(await world.member(1).spread.confirm(hash)).toBe(true)
    expect(world.net.log).toEqual([])
  })

  test('through a learner counts the voters only', async () => {
    await using world = new World(confOf([1, 2, 3], { learners: [4] }), 4, { quorumMs: 1000 })
    const { hash, stream } = await sample('a')
    world.net.isolate(2)
    world.net.isolate(3)
    const error = await failure(world.member(4).spread.put(hash, stream(), limits))
    expect(error).toMatchObject({ code: 'no-quorum', status: 503, retryAfterS: 5 })
    expect(error?.detail).toContain('1 of 3 voters have it and 2 are needed')
    expect(world.holders(hash)).toEqual([1, 4])
  })

  test('without a majority says so and why, and goes on from there when sent again', async () => {
    await using world = new World(confOf([1, 2, 3]), 3, { quorumMs: 1000 })
    const { hash, stream } = await sample('a')
    world.net.isolate(2)
    world.net.isolate(3)
    const { spread } = world.member(1)
    const error = await failure(spread.put(hash, stream(), limits))
    expect(error?.code).toBe('no-quorum')
    expect(error?.detail).toContain('1 of 3 voters have it and 2 are needed')
    expect(error?.detail).toContain('node 3: node 3 cannot be reached')
    expect((await failure(spread.confirm(hash)))?.code).toBe('no-quorum')
    world.net.isolate(3, { kind: 'good' })
    expect(await spread.confirm(hash)).toBe(true)
    expect(world.holders(hash)).toEqual([1, 3])
  })

  test('waits for a voter that comes while it waits', async () => {
    await using world = new World(confOf([1, 2, 3]), 3)
    const { hash, stream } = await sample('a')
    world.net.isolate(2)
    world.net.isolate(3)
    const put = world.member(1).spread.put(hash, stream(), limits)
    await until('it was tried twice', () => world.net.log.length > 4)
    expect(await Promise.race([put.then(() => 'done'), Bun.sleep(5)])).toBeUndefined()
    world.net.isolate(2, { kind: 'good' })
    await put
    expect(world.holders(hash)).toEqual([1, 2])
  })

  test('of a joint configuration needs both majorities', async () => {
    const conf = confOf([1, 2, 3], { votersOutgoing: [1, 4, 5] })
    await using world = new World(conf, 5, { quorumMs: 1000 })
    const { hash, stream } = await sample('a')
    world.net.isolate(4)
    world.net.isolate(5)
    const error = await failure(world.member(1).spread.put(hash, stream(), limits))
    expect(error?.detail).toContain('3 of 3 voters have it and 2 are needed, 1 of 3 voters')
    world.net.isolate(5, { kind: 'good' })
    expect(await world.member(1).spread.confirm(hash)).toBe(true)
  })

  test('does not send what the others have', async () => {
    await using world = new World(confOf([1, 2, 3]), 3)
    const { hash, stream } = await sample('a')
    for (const { bundles } of world.members) await bundles.put(hash, stream(), limits)
    await world.member(1).spread.put(hash, stream(), limits)
    expect(world.net.log.filter(line => line.includes('bundle.put'))).toEqual([])
  })

  test('of the same bundle twice at once sends it once', async () => {
    await using world = new World(confOf([1, 2, 3]), 3)
    const { hash, stream } = await sample('a')
    const { spread, bundles } = world.member(1)
    await bundles.put(hash, stream(), limits)
    await Promise.all([spread.put(hash, stream(), limits), spread.confirm(hash)])
    expect(world.net.log.filter(line => line === '1>2 bundle.put').length).toBeLessThan(2)
  })

  test('is not helped by a voter that gets it broken', async () => {
    await using world = new World(confOf([1, 2, 3]), 3, { quorumMs: 1000 })
    const { hash, stream } = await sample('a')
    world.net.isolate(3)
    for (const link of [
      { kind: 'cuts', afterBytes: 700 },
      { kind: 'spoils', at: 520 },
    ] as const) {
      world.net.link(1, 2, link)
      const error = await failure(world.member(1).spread.put(hash, stream(), limits))
      expect(error?.code).toBe('no-quorum')
      expect(world.holders(hash)).toEqual([1])
    }
    world.net.link(1, 2, { kind: 'good' })
    expect(await world.member(1).spread.confirm(hash)).toBe(true)
  })

  test('without voters, as before a joiner is fed, has no majority', () => {
    expect(isOnMajority({ voters: [], votersOutgoing: [] }, new Set([1]))).toBe(false)
  })
})

describe('collecting', () => {
  test('leaves what another node counts on just now', async () => {
    await using world = new World(confOf([1, 2, 3]), 3)
    const { hash, stream } = await sample('a')
    const second = world.member(2)
    await second.bundles.put(hash, stream(), limits)
    const old = new Date(Date.now() - 7_200_000)
    utimesSync(join(second.dir, hash), old, old)
    await world.member(1).spread.put(hash, stream(), limits)
    expect(await second.bundles.collect(new Set(), 3_600_000)).toEqual([])
  })
})

describe('what is missing', () => {
  test('is nowhere: every node was asked', async () => {
    await using world = new World(confOf([1, 2, 3]), 3)
    const { hash } = await sample('a')
    const error = await failure(world.member(1).spread.ensure(hash))
    expect(error?.code).toBe('bundle-not-found')
    expect(world.net.log).toEqual(['1>2 bundle.get', '1>3 bundle.get'])
  })

  test('is fetched from the nearest node that can be reached and has it', async () => {
    await using world = new World(confOf([1, 2, 3]), 4)
    const { hash, stream } = await sample('a')
    for (const id of [2, 3, 4]) await world.member(id).bundles.put(hash, stream(), limits)
    world.net.setRtt(1, 2, 30)
    world.net.setRtt(1, 3, 1)
    world.net.isolate(4)
    await world.member(1).spread.ensure(hash)
    expect(world.net.log).toEqual(['1>3 bundle.get'])
    expect(world.holders(hash)).toEqual([1, 2, 3, 4])
  })

  test('is fetched once for however many calls, and for each bundle by itself', async () => {
    await using world = new World(confOf([1, 2]), 2)
    const samples = await Promise.all(['a', 'b', 'c', 'd', 'e', 'f', 'g'].map(text => sample(text)))
    for (const { hash, stream } of samples) {
      await world.member(2).bundles.put(hash, stream(), limits)
    }
    const { spread } = world.member(1)
    const calls = [...samples, ...samples].map(({ hash }) => spread.ensure(hash))
    await Promise.all(calls)
    expect(world.net.log).toHaveLength(samples.length)
    expect(spread.stats).toMatchObject({ fetchedTotal: samples.length, missing: 0 })
  })

  test('comes from another node when one is cut off, gives other bytes, or hangs', async () => {
    await using world = new World(confOf([1, 2, 3, 4, 5]), 5, { stallMs: 20 })
    const { hash, stream } = await sample('a', [['large', new Uint8Array(300_000)]])
    for (const id of [2, 3, 4, 5]) await world.member(id).bundles.put(hash, stream(), limits)
    for (const id of [2, 3, 4, 5]) world.net.setRtt(1, id, id)
    world.net.link(2, 1, { kind: 'cuts', afterBytes: 1000 })
    world.net.link(3, 1, { kind: 'spoils', at: 1537 })
    world.net.link(4, 1, { kind: 'hangs', afterBytes: 1000 })
    await world.member(1).spread.ensure(hash)
    expect(world.net.log.map(line => line.slice(0, 3))).toEqual(['1>2', '1>3', '1>4', '1>5'])
    expect(world.member(1).spread.stats).toMatchObject({ fetchFailuresTotal: 3, fetchedTotal: 1 })
  })

  test('may be with a node that cannot be reached: then later may help', async () => {
    await using world = new World(confOf([1, 2, 3]), 3)
    const { hash, stream } = await sample('a')
    await world.member(3).bundles.put(hash, stream(), limits)
    world.net.isolate(3)
    const error = await failure(world.member(1).spread.ensure(hash))
    expect(error).toMatchObject({ code: 'bundle-unreachable', status: 503, retryAfterS: 5 })
    expect(error?.detail).toBe('node 3: node 3 cannot be reached')
    world.net.isolate(3, { kind: 'good' })
    await world.member(1).spread.ensure(hash)
  })

  test('and damaged at every holder says what each sent', async () => {
    await using world = new World(confOf([1, 2]), 2)
    const { hash, stream } = await sample('a')
    await world.member(2).bundles.put(hash, stream(), limits)
    writeFileSync(join(world.member(2).dir, `${hash}.tar`), 'other bytes')
    const error = await failure(world.member(1).spread.ensure(hash))
    expect(error?.code).toBe('bundle-unreachable')
    expect(error?.detail).toMatch(/node 2: .*tar/)
  })

  test('and unpacked by an older fnd that kept no tar is not there for others', async () => {
    await using world = new World(confOf([1, 2]), 2)
    const { hash, stream } = await sample('a')
    await world.member(2).bundles.put(hash, stream(), limits)
    rmSync(join(world.member(2).dir, `${hash}.tar`))
    expect((await failure(world.member(1).spread.ensure(hash)))?.code).toBe('bundle-not-found')
    expect(await world.member(2).spread.confirm(hash)).toBe(false)
  })

  test('is fetched ahead, and tried again for as long as a function refers to it', async () => {
    await using world = new World(confOf([1, 2]), 2, { aheadRetryMs: 5 })
    const { hash, stream } = await sample('a')
    const { hash: dropped } = await sample('b')
    const { spread, bundles, referenced } = world.member(1)
    referenced.add(hash)
    spread.want(hash)
    spread.want(dropped)
    await until('both failed', () => world.net.log.length >= 2)
    await until('the other is forgotten', () => spread.stats.missing === 1)
    await world.member(2).bundles.put(hash, stream(), limits)
    await until('it is here', () => bundles.get(hash) !== undefined)
    await until('nothing is missing', () => spread.stats.missing === 0)
    expect(world.net.log.filter(line => line.includes('get')).length).toBeGreaterThan(2)
  })

  test('goes before what is fetched ahead when a call waits for it', async () => {
    await using world = new World(confOf([1, 2]), 2)
    const samples = await Promise.all([...'abcdefgh'].map(text => sample(text)))
    const { spread } = world.member(1)
    for (const { hash, stream } of samples) {
      await world.member(2).bundles.put(hash, stream(), limits)
    }
    for (const { hash } of samples) spread.want(hash)
    const last = samples.at(-1)?.hash ?? ''
    await spread.ensure(last)
    await until('all were asked for', () => world.net.heads.length === samples.length)
    // Four were under way when the call came.
    expect(world.net.heads.findIndex(head => (head as { hash: string }).hash === last)).toBe(4)
  })

  test('ends when the node stops, with a peer that hangs', async () => {
    const world = new World(confOf([1, 2]), 2)
    const { hash, stream } = await sample('a')
    await world.member(2).bundles.put(hash, stream(), limits)
    world.net.link(2, 1, { kind: 'hangs', afterBytes: 100 })
    const waiting = failure(world.member(1).spread.ensure(hash))
    await until('it was asked for', () => world.net.log.length > 0)
    await Bun.sleep(10)
    await world[Symbol.asyncDispose]()
    expect((await waiting)?.code).toBe('shutting-down')
    expect((await failure(world.member(1).spread.ensure(hash)))?.code).toBe('shutting-down')
  })
})

test('requests without a hash or a size are refused', async () => {
  await using world = new World(confOf([1, 2]), 2)
  const peers = world.net.peersOf(1)
  const none = (async function* () {
    yield new Uint8Array()
  })()
  expect((await failure(peers.call(2, 'bundle.has', {})))?.code).toBe('bundle-hash-invalid')
  expect((await failure(peers.download(2, 'bundle.get', null)))?.code).toBe('bundle-hash-invalid')
  const head = { hash: `sha256-${'0'.repeat(64)}`, bytes: -1 }
  expect((await failure(peers.upload(2, 'bundle.put', head, none)))?.code).toBe('invalid-field')
})
