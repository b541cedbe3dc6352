import { afterEach, describe, expect, test } from 'bun:test'
import { connectTls } from '../../src/cluster/transport.ts'
import { callBytesMax } from '../../src/cluster/types.ts'
import { FndError } from '../../src/errors.ts'
import {
  credentialsOf,
  introduce,
  isConnectedToAll,
  messageTo,
  startCluster,
  startPeer,
  stopAll,
  type TestPeer,
  until,
} from './harness.ts'

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

describe('a peer that is gone', () => {
  test('is told, and is found again at another address', async () => {
    const { authority, all } = await startCluster(2)
    const [first, second] = all as unknown as Pair
    running = [first]
    second.peers.stop()
    await until(() => first.peers.states()[0]?.isConnected === false)
    await until(() => first.unreachable.includes(2))
    first.peers.send([messageTo(2, 1)])
    expect(first.peers.states()[0]?.dropped).toBeGreaterThan(0)
    const again = await startPeer({ authority, nodeId: 2 })
    running = [first, again]
    // It knows where the first is, which learns from its hello where it is itself.
    again.peers.setMembers([{ id: 1, address: first.peers.address }])
    await until(() => first.peers.states()[0]?.isConnected === true)
    expect(first.peers.states()[0]?.address).toBe(again.peers.address)
    first.peers.send([messageTo(2, 2)])
    await until(() => again.received.length === 1)
    expect(first.problems[0]?.nodeId).toBe(2)
  })

  test('a call that was not sent says so, one that was says that it may have been', async () => {
    let isCalled = false
    const calls = {
      hang: () => {
        isCalled = true
        return new Promise<never>(() => undefined)
      },
    }
    const [first, second] = await pair({ handlers: { calls } })
    const late = await failureOf(first.peers.call(2, 'hang', {}, { timeoutMs: 50 }))
    expect(late.code).toBe('peer-outcome-unknown')
    const cut = first.peers.call(2, 'hang', {})
    isCalled = false
    await until(() => isCalled)
    second.peers.stop()
    expect((await failureOf(cut)).code).toBe('peer-outcome-unknown')
    const after = await failureOf(first.peers.call(2, 'hang', {}))
    expect(after.code).toBe('peer-unreachable')
    expect(after.retryAfterS).toBe(1)
    expect(after.message).toContain('node 2: nothing listens there')
    expect((await failureOf(first.peers.call(9, 'hang', {}))).message).toContain('not a member')
  })

  test('that was removed is not listened to any more', async () => {
    const [first, second] = await pair()
    first.peers.setMembers([])
    await until(() => second.unreachable.includes(1))
    second.peers.send([messageTo(1, 1)])
    expect(first.peers.states()).toEqual([])
    expect(first.received).toEqual([])
  })
})

test('a member that is first heard of by its hello is answered', async () => {
  const { authority, all } = await startCluster(1)
  const [second, first] = [await startPeer({ authority, nodeId: 2 }), all[0] as TestPeer]
  const met = await startPeer({
    ...{ authority, nodeId: 3 },
    events: { hello: (id, { address }) => met.peers.setMembers([{ id, address }]) },
  })
  running = [first, second, met]
  second.peers.setMembers([{ id: 3, address: met.peers.address }])
  await until(() => met.peers.states().some(({ id, isConnected }) => id === 2 && isConnected))
  expect(met.peers.states()[0]?.lastHeardMs).toBeGreaterThan(0)
  met.peers.send([messageTo(2, 1)])
  await until(() => second.received.length === 1)
})

describe('calls at their bounds', () => {
  const calls = {
    echo: async (_call: unknown, body: Uint8Array) => ({ head: null, body: new Uint8Array(body) }),
    bug: async () => {
      throw new TypeError('a bug')
    },
  }

  test('as large as allowed, many at a time, in both directions', async () => {
    const [first, second] = await pair({ handlers: { calls } })
    const body = new Uint8Array(callBytesMax).fill(7)
    const large = await first.peers.call(2, 'echo', {}, { body, timeoutMs: 60_000 })
    expect(Buffer.compare(large.body, body)).toBe(0)
    const answers = await Promise.all(
      Array.from({ length: 500 }, (_, at) => {
        const [from, to] = at % 2 === 0 ? ([first, 2] as const) : ([second, 1] as const)
        return from.peers.call(to, 'echo', {}, { body: new Uint8Array([at & 255]) })
      }),
    )
    expect(answers.map(answer => answer.body[0])).toEqual(
      Array.from({ length: 500 }, (_, at) => at & 255),
    )
    const tooLarge = new Uint8Array(callBytesMax + 100_000)
    const error = await failureOf(first.peers.call(2, 'echo', {}, { body: tooLarge }))
    expect(error.code).toBe('request-too-large')
  })

  test('unknown methods and bugs are answered', async () => {
    const [first, second] = await pair({ handlers: { calls } })
    const unknown = await failureOf(first.peers.call(2, 'toString', {}))
    expect([unknown.code, unknown.detail]).toEqual(['peer-method-unknown', 'toString'])
    expect((await failureOf(first.peers.call(2, 'bug', {}))).code).toBe('internal')
    expect(second.bugs.map(String)).toEqual(['TypeError: a bug'])
  })
})

test('clocks that differ are told once, and in the state', async () => {
  const { authority, all } = await startCluster(1)
  const second = await startPeer({ authority, nodeId: 2, wallMs: () => Date.now() + 60_000 })
  const first = all[0] as TestPeer
  running = [first, second]
  introduce(running)
  await until(() => running.every(isConnectedToAll))
  await until(() => first.skews.length === 1 && second.skews.length === 1)
  expect(Math.round((first.skews[0] ?? 0) / 10_000)).toBe(6)
  expect(Math.round((second.peers.states()[0]?.skewMs ?? 0) / 10_000)).toBe(-6)
})

test('certificates change while messages and calls go on', async () => {
  const calls = { ping: async () => ({ head: 'pong' }) }
  const { authority, all } = await startCluster(2, { handlers: { calls } })
  const [first, second] = all as unknown as Pair
  running = [first, second]
  let sent = 0
  const certificateSeen = async () => {
    const credentials = await credentialsOf(authority, 'test', 1)
    const options = { host: '127.0.0.1', port: second.peers.port, credentials, timeoutMs: 5000 }
    const outcome = await connectTls({ ...options, check: () => undefined })
    if (!outcome.ok) throw new Error(outcome.reason)
    const { peerCertificate } = outcome.link
    outcome.link.destroy()
    return peerCertificate?.toString()
  }
  const shown: (string | undefined)[] = [await certificateSeen()]
  for (let round = 0; round < 5; round++) {
    const renewal = credentialsOf(authority, 'test', 2).then(credentials =>
      second.peers.renew(credentials),
    )
    for (let burst = 0; burst < 20; burst++) {
      first.peers.send([messageTo(2, ++sent)])
      expect((await first.peers.call(2, 'ping', {})).head).toBe('pong')
    }
    await renewal
    shown.push(await certificateSeen())
  }
  await until(() => second.received.length === sent)
  expect(new Set(shown).size).toBe(6)
  expect([...first.unreachable, ...second.unreachable]).toEqual([])
  expect(first.peers.states()[0]?.dropped).toBe(0)
  // Connections from here on are made with the new ones, in both directions.
  second.peers.setMembers([])
  introduce(running)
  await until(() => running.every(isConnectedToAll))
})
