import { afterEach, describe, expect, test } from 'bun:test'
import { X509Certificate } from 'node:crypto'
import { peerNameOf } from '../../src/cluster/identity.ts'
import { joinCluster } from '../../src/cluster/join-client.ts'
import { mintToken } from '../../src/cluster/token.ts'
import { FndError } from '../../src/errors.ts'
import {
  firstAuthority,
  type JoinMember,
  joinOptions,
  type MemberSettings,
  startMember,
} from './join-harness.ts'

const running: JoinMember[] = []

afterEach(() => {
  for (const member of running.splice(0)) member.stop()
})

async function member(settings: MemberSettings = {}): Promise<JoinMember> {
  const started = await startMember(settings)
  running.push(started)
  return started
}

async function refusalOf(promise: Promise<unknown>): Promise<FndError> {
  const error = await promise.then(
    () => undefined,
    cause => cause,
  )
  expect(error).toBeInstanceOf(FndError)
  return error as FndError
}

const inAnHour = () => Date.now() + 3_600_000

describe('a node joins', () => {
  test('with a token, and gets all that makes a member', async () => {
    const first = await member()
    const token = mintToken(first.authority.pair, inAnHour())
    const result = await joinCluster(joinOptions([first.peers.port], { token }))
    expect(result.clusterId).toBe('test')
    expect(result.nodeId).toBe(11)
    expect(result.adminToken).toBe('admin')
    expect(Buffer.from(result.secretsKey, 'base64')).toEqual(Buffer.from([1, 2, 255]))
    expect(result.nodes).toEqual([{ id: 1 }])
    expect(result.authority).toEqual(first.authority.pair)
    const certificate = new X509Certificate(result.certificate)
    expect(peerNameOf(certificate)).toEqual({ clusterId: 'test', nodeId: 11 })
    const { token: _token, ...request } = first.requests[0] ?? { token: '' }
    expect(request).toMatchObject({ uuid: 'u-1', name: 'second', address: '127.0.0.1:8091' })
  })

  test('from this machine without one', async () => {
    const first = await member()
    const result = await joinCluster(joinOptions([first.peers.port]))
    expect(result.nodeId).toBe(11)
  })

  test('by way of a member that is not the leader', async () => {
    const leader = await member()
    const follower = await member({ nodeId: 2, authority: leader.authority })
    follower.leader = { kind: 'other', address: leader.peers.address }
    const result = await joinCluster(joinOptions([follower.peers.port]))
    expect(result.nodeId).toBe(11)
    expect(follower.requests).toEqual([])
    // What the follower vouched for reached the leader as a token.
    expect(leader.requests[0]?.token).toStartWith('fnd-')
  })

  test('once there is a leader', async () => {
    const first = await member()
    first.leader = { kind: 'none' }
    const joining = joinCluster(joinOptions([first.peers.port]))
    await Bun.sleep(300)
    first.leader = { kind: 'self' }
    expect((await joining).nodeId).toBe(11)
  })

  test('though the first address leads nowhere', async () => {
    const first = await member()
    const gone = await member()
    gone.stop()
    const options = joinOptions([gone.peers.port, first.peers.port])
    expect((await joinCluster(options)).nodeId).toBe(11)
    expect(options.steps[0]).toMatchObject({ kind: 'trying', reason: 'nothing listens there' })
  })

  test('though the leader failed to commit at first', async () => {
    let tries = 0
    const propose = async () => {
      if (tries++ === 0) throw new FndError('write-overload')
      return { nodeId: 5, nodes: [] }
    }
    const first = await member({ join: { propose } })
    expect((await joinCluster(joinOptions([first.peers.port]))).nodeId).toBe(5)
  })
})

describe('a node is turned away', () => {
  test('with a token of another cluster, before it said anything', async () => {
    const first = await member()
    const other = await firstAuthority('other')
    const token = mintToken(other.pair, inAnHour())
    const error = await refusalOf(joinCluster(joinOptions([first.peers.port], { token })))
    expect(error.code).toBe('join-refused')
    expect(error.message).toContain('of another cluster than the join token')
    expect(first.requests).toEqual([])
  })

  test('with a token that expired, was changed, or is none', async () => {
    const first = await member()
    const { port } = first.peers
    const expired = mintToken(first.authority.pair, Date.now() - 1000)
    const good = mintToken(first.authority.pair, inAnHour())
    const [hash, expiry, mac = ''] = good.split('.')
    const later = (Number.parseInt(expiry ?? '', 36) + 1).toString(36)
    const flipped = mac.startsWith('A') ? `B${mac.slice(1)}` : `A${mac.slice(1)}`
    const cases = [
      [expired, 'expired at'],
      [`${hash}.${later}.${mac}`, 'was changed or cut'],
      [`${hash}.${expiry}.${flipped}`, 'was changed or cut'],
      ['fnd-x', 'not a join token'],
    ] as const
    for (const [token, sentence] of cases) {
      const error = await refusalOf(joinCluster(joinOptions([port], { token })))
      expect(error.code).toBe('join-refused')
      expect(error.message).toContain(sentence)
    }
    expect(first.requests).toEqual([])
  })

  test('when its clock is wrong', async () => {
    const first = await member()
    const token = mintToken(first.authority.pair, inAnHour())
    for (const [shiftMs, word] of [
      [45_000, 'ahead of'],
      [-45_000, 'behind'],
    ] as const) {
      const wallMs = () => Date.now() + shiftMs
      const error = await refusalOf(joinCluster(joinOptions([first.peers.port], { token, wallMs })))
      expect(error.message).toMatch(new RegExp(`clock is 4\\d s ${word}.*Synchronize`))
    }
  })

  test('by the words of the cluster', async () => {
    const propose = async () => {
      throw new FndError('app-exists', { detail: 'x' })
    }
    const first = await member({ join: { propose } })
    const error = await refusalOf(joinCluster(joinOptions([first.peers.port])))
    expect(error.message).toBe('The cluster refused this node: App already exists: x.')
  })

  test('at the HTTP port, with the reason', async () => {
    const server = Bun.serve({ port: 0, fetch: () => new Response('') })
    const error = await refusalOf(joinCluster(joinOptions([server.port ?? 0])))
    expect(error.code).toBe('join-refused')
    expect(error.message).toContain('perhaps its HTTP port')
    await server.stop(true)
  })

  test('with a request that is wrong, naming the field', async () => {
    const first = await member()
    const error = await refusalOf(joinCluster(joinOptions([first.peers.port], { name: 'a\nb' })))
    expect(error.message).toContain('name is not 1 to 255 printable characters')
  })

  test('when nobody answers', async () => {
    const gone = await member()
    gone.stop()
    const options = joinOptions([gone.peers.port], { patienceMs: 300 })
    const error = await refusalOf(joinCluster(options))
    expect(error.code).toBe('join-unreachable')
    expect(error.message).toContain('nothing listens there')
  })

  test('when it is given up', async () => {
    const first = await member()
    first.leader = { kind: 'none' }
    const controller = new AbortController()
    const joining = joinCluster(joinOptions([first.peers.port], { signal: controller.signal }))
    const outcome = joining.then(
      () => 'joined',
      error => error,
    )
    controller.abort(new Error('stopped'))
    expect(((await outcome) as Error).message).toBe('stopped')
  })
})

test('approving somebody who does not wait is an error', async () => {
  const first = await member()
  await expect(first.server.approve('nobody')).rejects.toThrow('No node with this fingerprint')
})
