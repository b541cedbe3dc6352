import { afterEach, describe, expect, test } from 'bun:test'
import { FndError } from '../../src/errors.ts'
import { messageTo, startCluster, stopAll, type TestPeer, until } from './harness.ts'

let running: readonly TestPeer[] = []

afterEach(() => {
  stopAll(running)
  running = []
})

type Pair = readonly [TestPeer, TestPeer]

async function pair(settings: Parameters<typeof startCluster>[1] = {}): Promise<Pair> {
  const { all } = await startCluster(2, settings)
  running = all
  return all as unknown as Pair
}

async function failureOf(promise: Promise<unknown>): Promise<FndError> {
  const error = await promise.then(
    () => undefined,
    cause => cause,
  )
  expect(error).toBeInstanceOf(FndError)
  return error as FndError
}

describe('messages', () => {
  test('arrive in order, a thousand of them', async () => {
    const [first, second] = await pair()
    for (let index = 1; index <= 1000; index++) {
      first.peers.send([messageTo(2, index)])
      if (index % 7 === 0) await Bun.sleep(0)
    }
    await until(() => second.received.length === 1000)
    expect(second.received.map(({ message }) => message.index)).toEqual(
      Array.from({ length: 1000 }, (_, at) => at + 1),
    )
    expect(second.received[41]).toEqual({ from: 1, message: messageTo(2, 42) })
  })

  test('states tell of a connection and its round trip', async () => {
    const [first] = await pair()
    await until(() => first.peers.states()[0]?.rttMs !== undefined)
    const [state] = first.peers.states()
    expect(state?.isConnected).toBe(true)
    expect(state?.version).toBe('0.1.0')
    expect(Math.abs(state?.skewMs ?? 1e9)).toBeLessThan(5000)
  })
})

describe('calls', () => {
  const calls = {
    echo: async ({ from, head }: { from: number; head: unknown }, body: Uint8Array) => ({
      head: { from, head },
      body: new Uint8Array(body),
    }),
    fail: async () => {
      throw new FndError('app-not-found', { detail: 'shop', field: 'app' })
    },
  }

  test('bring head and body there and back', async () => {
    const [first] = await pair({ handlers: { calls } })
    const body = crypto.getRandomValues(new Uint8Array(60_000))
    const answer = await first.peers.call(2, 'echo', { x: [1, 'ü'] }, { body })
    expect(answer.head).toEqual({ from: 1, head: { x: [1, 'ü'] } })
    expect(Buffer.compare(answer.body, body)).toBe(0)
  })

  test('an error arrives as what it was', async () => {
    const [first] = await pair({ handlers: { calls } })
    const error = await failureOf(first.peers.call(2, 'fail', {}))
    expect([error.code, error.detail, error.field]).toEqual(['app-not-found', 'shop', 'app'])
  })
})
