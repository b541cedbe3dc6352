/** What an operator is told, case by case. */
import { describe, expect, test } from 'bun:test'
import { advise, type Findings } from '../../src/cluster/advice.ts'
import type { NodeReport } from '../../src/cluster/control.ts'

function node(id: number, fields: Partial<NodeReport> = {}): NodeReport {
  return {
    id,
    uuid: `u${id}`,
    name: `n${id}`,
    role: id === 1 ? 'leader' : 'voter',
    state: 'active',
    health: 'up',
    peerAddress: `10.0.0.${id}:8081`,
    apiUrl: '',
    version: '1',
    commandVersion: 1,
    joinedMs: 0,
    lag: 0,
    rttMs: 1,
    silentMs: 1,
    problem: undefined,
    skewMs: 0,
    ...fields,
  }
}

function findings(nodes: readonly NodeReport[], fields: Partial<Findings> = {}): Findings {
  return {
    selfId: 1,
    leaderId: 1,
    voters: nodes.filter(one => one.role !== 'learner').map(one => one.id),
    votersOutgoing: [],
    nodes,
    votersMax: 5,
    backlog: 0,
    isStarved: false,
    ...fields,
  }
}

const codes = (found: Findings) => advise(found).warnings.map(warning => warning.code)

test('all is well with one node, three, and four', () => {
  for (const nodes of [
    [node(1)],
    [node(1), node(2), node(3)],
    [node(1), node(2), node(3), node(4, { role: 'learner' })],
  ]) {
    expect(advise(findings(nodes))).toMatchObject({ health: 'healthy', warnings: [] })
  }
})

describe('without a majority', () => {
  const lost = findings([node(1), node(2, { health: 'down' }), node(3, { health: 'down' })], {
    leaderId: undefined,
  })

  test('the first thing said is how many are missing, and what to do', () => {
    const { health, votersAlive, quorum, warnings } = advise(lost)
    expect({ health, votersAlive, quorum }).toEqual({
      health: 'no-quorum',
      votersAlive: 1,
      quorum: 2,
    })
    expect(warnings[0]?.message).toBe('1 of 3 voters can be reached from here, 2 are needed')
    expect(warnings[0]?.hint).toContain('n2 (node 2, 10.0.0.2:8081), n3 (node 3, 10.0.0.3:8081)')
    expect(warnings[0]?.hint).toContain('fnd recover')
  })

  test('nothing is advised that would take a majority', () => {
    for (const { hint } of advise(lost).warnings) expect(hint).not.toContain('nodes rm')
  })

  test('a joint configuration needs both its majorities', () => {
    const nodes = [node(1), node(2, { health: 'down' }), node(3, { health: 'down' }), node(4)]
    const joint = { voters: [1, 4], votersOutgoing: [1, 2, 3] }
    expect(advise(findings(nodes, joint)).health).toBe('no-quorum')
  })
})

describe('with a majority', () => {
  test('a voter that is down, and that no other may be lost', () => {
    const down = node(3, { health: 'down', problem: 'connection refused' })
    const { health, warnings } = advise(findings([node(1), node(2), down]))
    expect(health).toBe('degraded')
    expect(warnings.map(warning => warning.code)).toEqual(['voter-down', 'no-spare'])
    expect(warnings[0]?.message).toContain('cannot be reached: connection refused')
    expect(warnings[0]?.hint).toContain('fnd nodes rm --force 3')
  })

  test('a learner that is down costs no spare', () => {
    const nodes = [node(1), node(2), node(3), node(4, { role: 'learner', health: 'down' })]
    expect(codes(findings(nodes))).toEqual(['node-down'])
  })

  test.each([
    ['slow', { health: 'slow', lag: 90_000 }, 'node-behind'],
    ['leaving', { state: 'leaving' }, 'node-leaving'],
    ['replaced', { state: 'replaced', health: 'down' }, 'node-replaced'],
    ['ahead in time', { skewMs: 5000 }, 'clock-skew'],
    ['behind in time', { skewMs: -5000 }, 'clock-skew'],
  ] satisfies [string, Partial<NodeReport>, string][])('a node that is %s', (_, fields, code) => {
    const nodes = [node(1), node(2), node(3), node(4, { role: 'learner', ...fields })]
    expect(codes(findings(nodes))).toEqual([code])
  })

  test('a drained node is as its operator wants it', () => {
    expect(codes(findings([node(1), node(2), node(3, { state: 'draining' })]))).toEqual([])
  })

  test('two voters, and one voter of several nodes', () => {
    expect(codes(findings([node(1), node(2)]))).toEqual(['no-spare'])
    const learner = node(2, { role: 'learner' })
    expect(codes(findings([node(1), learner]))).toEqual(['one-voter'])
    expect(codes(findings([node(1), learner], { votersMax: 1 }))).toEqual([])
  })

  test('an election, and changes that pile up', () => {
    const three = [node(1), node(2), node(3)]
    expect(codes(findings(three, { leaderId: undefined }))).toEqual(['no-leader'])
    expect(codes(findings(three, { backlog: 50_000 }))).toEqual(['apply-backlog'])
    expect(codes(findings(three, { isStarved: true }))).toEqual(['disk-full'])
  })
})
