/** Who is turned away by real sockets, and with which sentence. */
import { afterEach, beforeAll, describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import type { AuthorityPair } from '../../src/cluster/certificates.ts'
import { makeAuthority } from '../../src/cluster/certificates.ts'
import { type Dialed, dial, type Self } from '../../src/cluster/connection.ts'
import { frameHeadBytes, frameKinds, makeFrame } from '../../src/cluster/frames.ts'
import { type Hello, protocolMax, protocolMin } from '../../src/cluster/hello.ts'
import { type Credentials, connectTls, type Link } from '../../src/cluster/transport.ts'
import { encodeMessages } from '../../src/raft/wire.ts'
import { seeded } from '../seed.ts'
import {
  credentialsOf,
  messageTo,
  type PeerSettings,
  startPeer,
  type TestPeer,
  until,
} from './harness.ts'

let authority: AuthorityPair
let stranger: AuthorityPair
let running: TestPeer[] = []

beforeAll(async () => {
  authority = await makeAuthority('test', Date.now())
  stranger = await makeAuthority('test', Date.now())
})

afterEach(() => {
  for (const { peers } of running) peers.stop()
  running = []
})

async function start(settings: Partial<PeerSettings> = {}): Promise<TestPeer> {
  const peer = await startPeer({ authority, nodeId: 1, ...settings })
  running.push(peer)
  return peer
}

interface Caller {
  readonly credentials?: Credentials
  readonly hello?: Partial<Hello>
  readonly nodeId?: number
  readonly purpose?: 'raft' | 'calls' | 'stream'
}

/** Says hello as node 2, or as what is told. */
async function callAs(peer: TestPeer, caller: Caller = {}): Promise<Dialed> {
  const credentials = caller.credentials ?? (await credentialsOf(authority, 'test', 2))
  const self: Self = {
    credentials: () => credentials,
    wallMs: () => Date.now(),
    hello: () => ({
      ...{ protocolMin, protocolMax, clusterId: 'test', nodeId: 2, groupId: 1 },
      ...{ incarnation: 'x', commandVersion: 2, version: '0.1.0', address: '127.0.0.1:9' },
      ...caller.hello,
    }),
  }
  const { nodeId = 1, purpose = 'raft' } = caller
  const onReady = (link: Link) => {
    link.end = { frame: () => undefined, closed: () => undefined }
  }
  return await dial(self, { address: peer.peers.address, nodeId, purpose, onReady })
}

function reasonOf(dialed: Dialed): string {
  expect(dialed.ok).toBe(false)
  return dialed.ok ? '' : dialed.reason
}

describe('a node that calls is refused', () => {
  test('not when all is right', async () => {
    const peer = await start()
    const dialed = await callAs(peer)
    expect(dialed.ok && dialed.hello.nodeId).toBe(1)
    expect(peer.hellos[0]?.nodeId).toBe(2)
  })

  test('with a certificate that names the cluster, but is by another authority', async () => {
    const peer = await start()
    const credentials = {
      ...(await credentialsOf(stranger, 'test', 2)),
      authority: authority.certificate,
    }
    const reason = reasonOf(await callAs(peer, { credentials }))
    expect(reason).toContain('its authority did not sign it')
    expect(peer.refused[0]?.code).toBe('wrong-cluster')
    expect(peer.hellos).toEqual([])
  })

  test('without a certificate', async () => {
    const peer = await start()
    const credentials = {
      ...{ authority: authority.certificate, certificate: undefined, key: undefined },
    }
    expect(reasonOf(await callAs(peer, { credentials }))).toContain('joins first: start it with')
    expect(peer.refused[0]?.code).toBe('no-certificate')
  })

  test('also after this node has renewed its own certificate', async () => {
    const peer = await start()
    await peer.peers.renew(await credentialsOf(authority, 'test', 1))
    expect((await callAs(peer)).ok).toBe(true)
    const credentials = {
      ...(await credentialsOf(stranger, 'test', 2)),
      authority: authority.certificate,
    }
    expect(reasonOf(await callAs(peer, { credentials }))).toContain('its authority did not sign it')
    expect(peer.refused[0]?.code).toBe('wrong-cluster')
  })

  test('with a certificate that has expired', async () => {
    const peer = await start()
    const credentials = await credentialsOf(authority, 'test', 2, -1000)
    expect(reasonOf(await callAs(peer, { credentials }))).toContain('out of date')
  })

  test('with the certificate of another node', async () => {
    const peer = await start()
    const dialed = await callAs(peer, { hello: { nodeId: 3 } })
    expect(reasonOf(dialed)).toContain('certificate is that of node 2')
  })

  test('with the certificate of this node: its data directory was copied', async () => {
    const peer = await start()
    const credentials = await credentialsOf(authority, 'test', 1)
    const dialed = await callAs(peer, { credentials, hello: { nodeId: 1 } })
    expect(reasonOf(dialed)).toContain('Both ends are node 1')
  })

  test('when it says that it is of another cluster, or has a certificate of one', async () => {
    const peer = await start()
    const said = await callAs(peer, { hello: { clusterId: 'other' } })
    // Our own judgement of the welcome is the same: whichever comes first.
    expect(reasonOf(said)).toContain('Two clusters meet here')
    const other = await makeAuthority('other', Date.now())
    const credentials = {
      ...(await credentialsOf(other, 'other', 2)),
      authority: authority.certificate,
    }
    expect(reasonOf(await callAs(peer, { credentials }))).toContain('Clusters do not merge')
  })

  test('when it speaks too old or too new a protocol', async () => {
    const peer = await start()
    const old = { protocolMin: 0, protocolMax: protocolMin - 1, version: '0.0.9' }
    expect(reasonOf(await callAs(peer, { hello: old }))).toBe(
      'fnd 0.0.9 of node 2 is too old to speak with fnd 0.1.0 of node 1: upgrade node 2.',
    )
    const young = { protocolMin: protocolMax + 1, protocolMax: protocolMax + 2, version: '9.0.0' }
    expect(reasonOf(await callAs(peer, { hello: young }))).toEndWith('upgrade node 1.')
  })

  test('when it is of another group', async () => {
    const peer = await start()
    expect(reasonOf(await callAs(peer, { hello: { groupId: 2 } }))).toContain('knows group 1 only')
  })

  test('when it is no member any more, in the words of the node', async () => {
    const message = 'Node 2 was removed from the cluster. Empty its data directory and join again.'
    const peer = await start({ events: { admit: () => ({ code: 'not-member', message }) } })
    const dialed = await callAs(peer)
    expect(dialed).toEqual({
      ok: false,
      reason: message,
      refusal: { code: 'not-member', message },
    })
  })

  test('when it sends messages instead of a hello', async () => {
    const joiners: Link[] = []
    const second = await start({ nodeId: 3, events: { joiner: link => joiners.push(link) } })
    const credentials = { authority: undefined, certificate: undefined, key: undefined }
    const { host, port } = { host: '127.0.0.1', port: second.peers.port }
    const options = { host, port, credentials, timeoutMs: 5000, check: () => undefined }
    const connected = await connectTls(options)
    if (!connected.ok) throw new Error(connected.reason)
    connected.link.write(makeFrame(frameKinds.messages, encodeMessages([messageTo(3, 1)])))
    await until(() => !connected.link.isOpen)
    expect([...second.received, ...joiners]).toEqual([])
  })
})

describe('a node that is called is refused', () => {
  test('when its certificate is by another authority, before it sees ours', async () => {
    const peer = await start({ credentials: await credentialsOf(stranger, 'test', 1) })
    expect(reasonOf(await callAs(peer))).toContain('its authority did not sign it')
    expect([...peer.refused, ...peer.hellos]).toEqual([])
  })

  test('when it is of another cluster', async () => {
    const other = await makeAuthority('other', Date.now())
    const peer = await start({ authority: other, clusterId: 'other' })
    expect(reasonOf(await callAs(peer))).toContain('Two clusters meet here, test and other')
    expect([...peer.refused, ...peer.hellos]).toEqual([])
  })

  test('when it is another node than the one that was meant', async () => {
    const peer = await start()
    expect(reasonOf(await callAs(peer, { nodeId: 4 }))).toContain(
      'node 1 answers there, not node 4',
    )
    expect(peer.hellos).toEqual([])
  })

  test('when it is an HTTP port', async () => {
    const server = Bun.serve({ port: 0, fetch: () => new Response('') })
    const peer = { peers: { address: `127.0.0.1:${server.port}` } } as TestPeer
    expect(reasonOf(await callAs(peer))).toContain('perhaps its HTTP port')
    await server.stop(true)
  })
})

describe('bytes that are no protocol', () => {
  async function connected(peer: TestPeer): Promise<Link> {
    const credentials = await credentialsOf(authority, 'test', 2)
    const { port } = peer.peers
    const options = { host: '127.0.0.1', port, credentials, timeoutMs: 5000 }
    const outcome = await connectTls({ ...options, check: () => undefined })
    if (!outcome.ok) throw new Error(outcome.reason)
    return outcome.link
  }

  test('before the hello end the connection and nothing else', async () => {
    const peer = await start()
    const hurt = async (bytes: Uint8Array) => {
      const link = await connected(peer)
      link.write(bytes)
      link.close()
      await until(() => !link.isOpen)
    }
    const huge = new Uint8Array([0xff, 0xff, 0xff, 0x7f, frameKinds.hello])
    await hurt(huge)
    await hurt(huge.subarray(0, 3))
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), hurt), seeded(30))
    expect((await callAs(peer)).ok).toBe(true)
    expect(peer.bugs).toEqual([])
  })

  test('after it, too', async () => {
    const peer = await start()
    const purposes = ['raft', 'calls', 'stream'] as const
    const kinds = Object.values(frameKinds)
    const hurt = async (purpose: (typeof purposes)[number], bytes: Uint8Array) => {
      const dialed = await callAs(peer, { purpose })
      if (!dialed.ok) throw new Error(dialed.reason)
      dialed.link.write(bytes)
      dialed.link.close()
      await until(() => !dialed.link.isOpen)
    }
    const frame = fc
      .tuple(fc.constantFrom(...kinds), fc.uint8Array({ maxLength: 100 }))
      .map(([kind, payload]) => makeFrame(kind, payload))
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 200 }), frame)
    await fc.assert(fc.asyncProperty(fc.constantFrom(...purposes), bytes, hurt), seeded(40))
    expect((await callAs(peer)).ok).toBe(true)
    expect(peer.bugs).toEqual([])
  })

  test('in a batch of messages end the connection', async () => {
    const peer = await start()
    const dialed = await callAs(peer)
    if (!dialed.ok) throw new Error(dialed.reason)
    const frame = makeFrame(frameKinds.messages, encodeMessages([messageTo(1, 1)]))
    frame[frame.length - 1] = 99
    dialed.link.write(frame)
    await until(() => !dialed.link.isOpen)
    expect(frame.length).toBeGreaterThan(frameHeadBytes)
    expect(peer.received).toEqual([])
  })

  test('without TLS end the connection', async () => {
    const peer = await start()
    let isClosed = false
    await Bun.connect({
      hostname: '127.0.0.1',
      port: peer.peers.port,
      socket: {
        open: socket => {
          socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
        },
        data: () => undefined,
        close: () => {
          isClosed = true
        },
      },
    })
    await until(() => isClosed)
    expect((await callAs(peer)).ok).toBe(true)
  })

  test('or none at all: connections that say nothing keep nobody out', async () => {
    const peer = await start()
    let closed = 0
    const open = () =>
      Bun.connect({
        ...{ hostname: '127.0.0.1', port: peer.peers.port },
        socket: {
          data: () => undefined,
          close: () => {
            closed++
          },
        },
      })
    const silent = await Promise.all(Array.from({ length: 400 }, open))
    await until(() => closed === 400 - 256, 'the oldest to go')
    expect((await callAs(peer)).ok).toBe(true)
    expect(closed).toBe(400 - 255)
    for (const socket of silent) socket.end()
  })
})
