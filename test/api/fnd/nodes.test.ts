/** The resources of a cluster: their shapes, their refusals, and that each wish arrives. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { ClusterFixture } from '../cluster-fixture.ts'
import { type Harness, openApi } from '../harness.ts'

const cluster = new ClusterFixture()
let api: Harness

beforeAll(async () => {
  api = await openApi({ cluster })
})
afterAll(() => api[Symbol.asyncDispose]())
beforeEach(() => {
  cluster.asked.length = 0
  cluster.states.clear()
  cluster.gone.clear()
  cluster.failure = undefined
  cluster.leaderId = 1
})

describe('nodes', () => {
  test('the list has everything of each, and null where nothing is known', async () => {
    const { status, body } = await api.call('GET', '/fnd/v1/nodes')
    expect(status).toBe(200)
    expect(body).toMatchObject({ seen_by: 1, leader_id: 1 })
    expect(body.items).toHaveLength(3)
    expect(body.items[1]).toEqual({
      id: 2,
      uuid: 'uuid-2',
      name: 'n2',
      role: 'voter',
      state: 'active',
      health: 'down',
      address: '10.0.0.2:8081',
      api_url: 'http://10.0.0.2:8080',
      version: '0.1.0',
      command_version: 3,
      lag: null,
      rtt_ms: 1.25,
      silent_ms: null,
      problem: 'connection refused',
      skew_ms: -3,
      joined_at: '2026-11-20T10:14:50.102Z',
    })
  })

  test('without a leader the list still answers', async () => {
    cluster.leaderId = undefined
    const { status, body } = await api.call('GET', '/fnd/v1/nodes')
    expect({ status, leader: body.leader_id }).toEqual({ status: 200, leader: null })
  })

  test('one node, by id', async () => {
    expect((await api.call('GET', '/fnd/v1/nodes/3')).body).toMatchObject({ id: 3, lag: 70_000 })
    for (const id of ['4', '0', '-1', 'n1', '1e0', '%ff', '99999999999999999999']) {
      const { status, body } = await api.call('GET', `/fnd/v1/nodes/${id}`)
      expect([id, status, body?.code]).toEqual([
        id,
        404,
        id === '%ff' ? body.code : 'node-not-found',
      ])
    }
  })

  test('wishes reach the cluster, and tell what became of the node', async () => {
    const wish = async (what: string) => (await api.call('POST', `/fnd/v1/nodes/2/${what}`)).body
    expect(await wish('drain')).toMatchObject({ id: 2, state: 'draining' })
    expect(await wish('undrain')).toMatchObject({ id: 2, state: 'active' })
    expect(await wish('promote')).toMatchObject({ id: 2, role: 'voter' })
    expect(await wish('demote')).toMatchObject({ id: 2 })
    expect(cluster.asked).toEqual(['drain 2', 'undrain 2', 'promote 2', 'demote 2'])
  })

  test('a body that nobody asked for does no harm, one that is no JSON is refused', async () => {
    expect((await api.call('POST', '/fnd/v1/nodes/2/drain', {})).status).toBe(200)
    expect((await api.call('POST', '/fnd/v1/nodes/2/drain', 'x')).body.code).toBe('invalid-json')
  })

  test('removal is accepted, by force only when told so', async () => {
    const { status, body } = await api.call('DELETE', '/fnd/v1/nodes/3')
    expect({ status, state: body.state }).toEqual({ status: 202, state: 'leaving' })
    await api.call('DELETE', '/fnd/v1/nodes/2?force=true')
    expect(cluster.asked).toEqual(['remove 3', 'remove 2 by force'])
    expect((await api.call('DELETE', '/fnd/v1/nodes/2?force=maybe')).body).toMatchObject({
      code: 'invalid-field',
      field: 'force',
    })
    expect((await api.call('DELETE', '/fnd/v1/nodes/9')).status).toBe(404)
  })

  test('refusals keep their status, and say when to ask again', async () => {
    const refusal = async (code: typeof cluster.failure) => {
      cluster.failure = code
      const { status, headers, body } = await api.call('POST', '/fnd/v1/nodes/3/promote')
      return [status, body.code, headers.get('retry-after')]
    }
    expect(await refusal('node-behind')).toEqual([409, 'node-behind', null])
    expect(await refusal('no-leader')).toEqual([503, 'no-leader', '1'])
    expect(await refusal('no-quorum')).toEqual([503, 'no-quorum', '5'])
    expect(await refusal('outcome-unknown')).toEqual([503, 'outcome-unknown', '1'])
  })

  test('leadership goes to whom it is wished to, or to whoever fits', async () => {
    const path = '/fnd/v1/nodes/transfer'
    expect((await api.call('POST', path, { to: 3 })).body).toEqual({ leader_id: 3 })
    expect((await api.call('POST', path)).body).toEqual({ leader_id: 2 })
    expect((await api.call('POST', path, {})).body).toEqual({ leader_id: 2 })
    expect(cluster.asked).toEqual(['transfer 3', 'transfer undefined', 'transfer undefined'])
    for (const to of ['3', 0, 1.5, -1, true]) {
      expect((await api.call('POST', path, { to })).body).toMatchObject({ field: 'to' })
    }
  })

  test('who waits to join, and who may', async () => {
    const waiting = await api.call('GET', '/fnd/v1/nodes/pending')
    const one = {
      fingerprint: 'ab12-cd34',
      name: 'n4',
      address: '10.0.0.4:8081',
      remote_address: '10.0.0.4',
      api_url: 'http://10.0.0.4:8080',
      version: '0.1.0',
      asked_at: '2026-11-20T10:14:50.102Z',
    }
    expect(waiting.body).toEqual({ items: [one] })
    const path = '/fnd/v1/nodes/approve'
    expect((await api.call('POST', path, { fingerprint: 'ab12-cd34' })).body).toEqual({
      node_id: 4,
    })
    expect((await api.call('POST', path, { fingerprint: 'zz' })).status).toBe(404)
    expect((await api.call('POST', path, {})).body).toMatchObject({ field: 'fingerprint' })
    expect((await api.call('POST', path, { fingerprint: 7 })).status).toBe(400)
  })
})

describe('tokens and leaving', () => {
  test('a token lives a day, or as long as is asked for', async () => {
    const made = await api.call('POST', '/fnd/v1/token')
    expect(made.body).toEqual({
      token: 'fnd-abc.1.def',
      expires_at: '2026-11-21T10:14:50.102Z',
      address: '10.0.0.1:8081',
    })
    await api.call('POST', '/fnd/v1/token', { ttl_s: 60 })
    expect(cluster.asked).toEqual(['token 86400000', 'token 60000'])
    for (const ttl of [59, 2_592_001, '60', 60.5]) {
      const { status, body } = await api.call('POST', '/fnd/v1/token', { ttl_s: ttl })
      expect([ttl, status, body.field]).toEqual([ttl, 400, 'ttl_s'])
    }
  })

  test('leaving is accepted, or refused by the last one', async () => {
    expect((await api.call('POST', '/fnd/v1/leave')).status).toBe(202)
    cluster.failure = 'last-node'
    expect((await api.call('POST', '/fnd/v1/leave')).body.code).toBe('last-node')
  })
})

test('status has the cluster as this node sees it', async () => {
  cluster.warnings = [{ code: 'voter-down', message: 'n2 cannot be reached', hint: 'start it' }]
  const { body } = await api.call('GET', '/fnd/v1/status')
  expect(body.cluster).toEqual({
    health: 'healthy',
    id: 'c-1',
    node_id: 1,
    name: 'n1',
    role: 'leader',
    state: 'active',
    term: 7,
    leader_id: 1,
    leader_name: 'n1',
    voters: [1, 2],
    learners: [3],
    is_joint: false,
    voters_alive: 1,
    quorum: 2,
    commit_index: 120,
    applied_index: 119,
    last_index: 121,
    command_version: 3,
    warnings: [{ code: 'voter-down', message: 'n2 cannot be reached', hint: 'start it' }],
  })
})

test('strangers get nowhere', async () => {
  const routes = [
    ['GET', '/fnd/v1/nodes'],
    ['GET', '/fnd/v1/nodes/1'],
    ['DELETE', '/fnd/v1/nodes/1'],
    ['POST', '/fnd/v1/nodes/1/drain'],
    ['POST', '/fnd/v1/nodes/transfer'],
    ['GET', '/fnd/v1/nodes/pending'],
    ['POST', '/fnd/v1/token'],
    ['POST', '/fnd/v1/leave'],
    ['GET', '/fnd/v1/backup'],
  ] as const
  for (const [method, path] of routes) {
    const { status } = await api.call(method, path, undefined, { isAnonymous: true })
    expect([method, path, status]).toEqual([method, path, 401])
  }
  expect(cluster.asked).toEqual([])
})
