import { afterEach, describe, expect, test } from 'bun:test'
import type { PeerHandlers } from '../../src/cluster/types.ts'
import { FndError } from '../../src/errors.ts'
import { startCluster, stopAll, type TestPeer, until } from './harness.ts'

let running: readonly TestPeer[] = []

afterEach(() => {
  stopAll(running)
  running = []
})

async function pair(handlers: Partial<PeerHandlers>): Promise<readonly [TestPeer, TestPeer]> {
  const { all } = await startCluster(2, { handlers })
  running = all
  return all as unknown as readonly [TestPeer, TestPeer]
}

async function failureOf(promise: Promise<unknown>): Promise<FndError> {
  const error = await promise.then(
    () => undefined,
    cause => cause,
  )
  expect(error).toBeInstanceOf(FndError)
  return error as FndError
}

const mib = 1024 * 1024

/** How much is on its way at most: made by the one side, and not yet taken by the other. */
class Flow {
  made = 0
  taken = 0
  most = 0
  isLeft = false

  async *source(bytes: number, chunkBytes = 300_000): AsyncGenerator<Uint8Array> {
    try {
      while (this.made < bytes) {
        const chunk = new Uint8Array(Math.min(chunkBytes, bytes - this.made)).fill(this.made % 251)
        this.made += chunk.length
        yield chunk
        // A source that never waits for anything would not let timers run.
        await Bun.sleep(0)
      }
    } finally {
      this.isLeft = true
    }
  }

  take(chunk: Uint8Array): void {
    this.taken += chunk.length
    this.most = Math.max(this.most, this.made - this.taken)
  }
}

async function hashOf(body: AsyncIterable<Uint8Array>): Promise<string> {
  const hasher = new Bun.CryptoHasher('sha256')
  for await (const chunk of body) hasher.update(chunk)
  return hasher.digest('hex')
}

/** What the kernels of both ends and both buffers hold together, generously. */
const onItsWayMax = 24 * mib

describe('downloads', () => {
  test('bring everything, once and in order', async () => {
    const flow = new Flow()
    const [first] = await pair({
      downloads: {
        file: async ({ from, head }) => ({ head: { from, head }, body: flow.source(5 * mib) }),
      },
    })
    const { head, body } = await first.peers.download(2, 'file', { name: 'x' })
    expect(head).toEqual({ from: 1, head: { name: 'x' } })
    expect(await hashOf(body)).toBe(await hashOf(new Flow().source(5 * mib)))
    expect(flow.isLeft).toBe(true)
  })

  test('of 200 MB wait for a slow reader, who may pause for long', async () => {
    const flow = new Flow()
    const [first] = await pair({
      downloads: { file: async () => ({ head: null, body: flow.source(200e6) }) },
    })
    const { body } = await first.peers.download(2, 'file', {})
    let chunks = 0
    for await (const chunk of body) {
      flow.take(chunk)
      if (chunks === 0) {
        // Until the sender can send no more: then it has stopped making.
        let made = -1
        while (made !== flow.made) {
          made = flow.made
          await Bun.sleep(200)
        }
        expect(flow.made).toBeLessThan(onItsWayMax)
      }
      if (++chunks % 20 === 0) await Bun.sleep(1)
    }
    expect(flow.taken).toBe(200e6)
    expect(flow.most).toBeLessThan(onItsWayMax)
  }, 60_000)

  test('whose reader leaves stop', async () => {
    const flow = new Flow()
    const [first] = await pair({
      downloads: { file: async () => ({ head: null, body: flow.source(1e12) }) },
    })
    const { body } = await first.peers.download(2, 'file', {})
    for await (const chunk of body) {
      flow.take(chunk)
      if (flow.taken > mib) break
    }
    await until(() => flow.isLeft, 'the source to be left')
  })

  test('that fail before or while they are sent, say why', async () => {
    const [first, second] = await pair({
      downloads: {
        none: async () => {
          throw new FndError('bundle-not-found', { detail: 'sha256-1' })
        },
        half: async () => ({
          head: null,
          body: (async function* () {
            yield new Uint8Array(1000)
            throw new FndError('disk-full')
          })(),
        }),
        bug: async () => ({
          head: null,
          // biome-ignore lint/correctness/useYield: it fails before it has anything to give
          body: (async function* (): AsyncGenerator<Uint8Array> {
            throw new TypeError('a bug')
          })(),
        }),
      },
    })
    const none = await failureOf(first.peers.download(2, 'none', {}))
    expect([none.code, none.detail]).toEqual(['bundle-not-found', 'sha256-1'])
    const half = await first.peers.download(2, 'half', {})
    expect((await failureOf(hashOf(half.body))).code).toBe('disk-full')
    const bug = await first.peers.download(2, 'bug', {})
    expect((await failureOf(hashOf(bug.body))).code).toBe('internal')
    expect(second.bugs.map(String)).toEqual(['TypeError: a bug'])
    expect((await failureOf(first.peers.download(2, 'other', {}))).code).toBe('peer-method-unknown')
  })

  test('that are cut short throw', async () => {
    const [first, second] = await pair({
      downloads: { file: async () => ({ head: null, body: new Flow().source(1e12) }) },
    })
    const { body } = await first.peers.download(2, 'file', {})
    const reading = failureOf(hashOf(body))
    await Bun.sleep(20)
    second.peers.stop()
    expect((await reading).code).toBe('peer-outcome-unknown')
  })
})

describe('uploads', () => {
  test('bring everything, and the answer back', async () => {
    const [first] = await pair({
      uploads: { file: async ({ head }, body) => ({ head, hash: await hashOf(body) }) },
    })
    const answer = await first.peers.upload(2, 'file', 'h', new Flow().source(5 * mib))
    expect(answer).toEqual({ head: 'h', hash: await hashOf(new Flow().source(5 * mib)) })
    const empty = await first.peers.upload(2, 'file', 'h', new Flow().source(0))
    expect(empty).toEqual({ head: 'h', hash: await hashOf(new Flow().source(0)) })
  })

  test('wait for a slow reader', async () => {
    const flow = new Flow()
    const [first] = await pair({
      uploads: {
        file: async (_call, body) => {
          let chunks = 0
          for await (const chunk of body) {
            flow.take(chunk)
            if (++chunks % 10 === 0) await Bun.sleep(1)
          }
          return flow.taken
        },
      },
    })
    expect(await first.peers.upload(2, 'file', {}, flow.source(60e6))).toBe(60e6)
    expect(flow.most).toBeLessThan(onItsWayMax)
  }, 60_000)

  test('that the reader does not want whole end with its answer or its error', async () => {
    const flows = [new Flow(), new Flow(), new Flow()] as const
    const [first] = await pair({
      uploads: {
        enough: async (_call, body) => {
          for await (const chunk of body) if (chunk.length > 0) return 'enough'
          return 'all'
        },
        full: async (_call, body) => {
          for await (const chunk of body) if (chunk.length > 0) throw new FndError('disk-full')
          return 'all'
        },
        unread: async () => {
          throw new FndError('bundle-too-large')
        },
      },
    })
    expect(await first.peers.upload(2, 'enough', {}, flows[0].source(1e12))).toBe('enough')
    const full = await failureOf(first.peers.upload(2, 'full', {}, flows[1].source(1e12)))
    expect(full.code).toBe('disk-full')
    const unread = await failureOf(first.peers.upload(2, 'unread', {}, flows[2].source(1e12)))
    expect(unread.code).toBe('bundle-too-large')
    await until(() => flows.every(({ isLeft }) => isLeft), 'the sources to be left')
  })

  test('whose source fails end, at the reader too', async () => {
    let outcome: unknown
    const [first] = await pair({
      uploads: {
        file: async (_call, body) => {
          outcome = await failureOf(hashOf(body)).then(({ code }) => code)
          return null
        },
      },
    })
    const source = (async function* () {
      yield new Uint8Array(1000)
      throw new RangeError('the source failed')
    })()
    await expect(first.peers.upload(2, 'file', {}, source)).rejects.toThrow('the source failed')
    await until(() => outcome === 'peer-outcome-unknown', 'the reader to hear of it')
  })

  test('do not hold up messages and calls', async () => {
    const [first, second] = await pair({
      calls: { ping: async () => ({ head: 'pong' }) },
      uploads: {
        file: async (_call, body) => {
          let bytes = 0
          for await (const chunk of body) bytes += chunk.length
          return bytes
        },
      },
    })
    const upload = first.peers.upload(2, 'file', {}, new Flow().source(50e6))
    let slowestMs = 0
    for (let at = 0; at < 50; at++) {
      const startedMs = performance.now()
      expect((await first.peers.call(2, 'ping', {})).head).toBe('pong')
      slowestMs = Math.max(slowestMs, performance.now() - startedMs)
    }
    expect(await upload).toBe(50e6)
    expect(slowestMs).toBeLessThan(5000)
    expect(second.bugs).toEqual([])
  }, 60_000)
})
