/** What operators can ask of any node, and what the leader does of its own accord. */
import { expect, test } from 'bun:test'
import type { ErrorCode } from '../../src/errors.ts'
import { eventually, World } from './members-world.ts'

async function worldOf(count: number): Promise<World> {
  const world = new World()
  for (let id = 1; id <= count; id++) world.add(id)
  const wanted = count % 2 === 0 ? count - 1 : count
  await eventually(() => world.conf.voters.length === wanted)
  return world
}

async function codeOf(work: Promise<unknown>): Promise<ErrorCode | 'none'> {
  return work.then(
    () => 'none' as const,
    (error: { code: ErrorCode }) => error.code,
  )
}

test('nodes that joined become voters, an odd number of them', async () => {
  await using world = await worldOf(4)
  expect(world.conf).toMatchObject({ voters: [1, 2, 3], learners: [4] })
  const status = await world.seat(2).members.status()
  expect(status).toMatchObject({
    health: 'healthy',
    role: 'voter',
    leaderId: 1,
    leaderName: 'node1',
    voters: [1, 2, 3],
    learners: [4],
    votersAlive: 3,
    quorum: 2,
    warnings: [],
  })
})

test('any node tells of all, with what only the leader knows', async () => {
  await using world = await worldOf(4)
  world.lags.set(3, 5000)
  const { seenBy, leaderId, nodes } = await world.seat(2).members.nodes()
  expect({ seenBy, leaderId }).toEqual({ seenBy: 1, leaderId: 1 })
  expect(nodes.map(({ id, role, health, lag }) => [id, role, health, lag])).toEqual([
    [1, 'leader', 'up', 0],
    [2, 'voter', 'up', 0],
    [3, 'voter', 'slow', 5000],
    [4, 'learner', 'up', 0],
  ])
})

test('a node that is cut off still answers, and says what is wrong', async () => {
  await using world = await worldOf(3)
  world.down.add(3)
  const { members } = world.seat(3)
  await eventually(async () => (await members.status()).health === 'no-quorum')
  const status = await members.status()
  expect(status).toMatchObject({ leaderId: undefined, votersAlive: 1, quorum: 2 })
  expect(status.warnings[0]).toMatchObject({ code: 'no-quorum' })
  expect(status.warnings[0]?.message).toContain('1 of 3 voters can be reached')
  expect(status.warnings[0]?.hint).toContain('node1 (node 1, 10.0.0.1:8081)')
  expect((await members.nodes()).seenBy).toBe(3)
  expect(await codeOf(members.promote(2))).toBe('no-quorum')
  expect(await codeOf(world.seat(3).forwarder.propose({ type: 'app.delete', id: 'a' }))).toBe(
    'no-quorum',
  )
  // The others see one down, and go on.
  await eventually(async () => (await world.seat(1).members.status()).warnings.length > 0)
  const rest = await world.seat(1).members.status()
  expect(rest.health).toBe('degraded')
  expect(rest.warnings.map(warning => warning.code)).toEqual(['voter-down', 'no-spare'])
})

test('a dead voter is replaced by a learner', async () => {
  await using world = await worldOf(4)
  world.down.add(2)
  await eventually(() => world.conf.voters.includes(4))
  expect(world.conf).toMatchObject({ voters: [1, 3, 4], learners: [2] })
})

test('leadership is handed over, from whichever node it is asked', async () => {
  await using world = await worldOf(3)
  expect(await world.seat(3).members.transfer(2)).toBe(2)
  expect(world.leader).toBe(2)
  world.lags.set(1, 3)
  expect(await world.seat(3).members.transfer(undefined)).toBe(3)
  world.lostTransfers = 3
  expect(await world.seat(3).members.transfer(1)).toBe(1)
  expect(await world.seat(3).members.transfer(3)).toBe(3)
  expect(await codeOf(world.seat(1).members.transfer(3))).toBe('node-is-leader')
  expect(await codeOf(world.seat(1).members.transfer(9))).toBe('node-not-found')
})

test('a voter that does not take leadership is left for another, if none was named', async () => {
  await using world = await worldOf(5)
  for (const id of [2, 3, 4]) world.unwilling.add(id)
  expect(await world.seat(3).members.transfer(undefined)).toBe(5)
  expect(world.asked).toEqual([2, 3, 4, 5])
  world.unwilling.add(1)
  expect(await codeOf(world.seat(3).members.transfer(1))).toBe('transfer-failed')
  expect(world.asked).toEqual([2, 3, 4, 5, 1])
  // Each of them in turn, until it is given up.
  expect(await codeOf(world.seat(3).members.transfer(undefined))).toBe('transfer-failed')
  expect(world.asked.slice(5, 10)).toEqual([2, 3, 4, 1, 2])
  expect(world.leader).toBe(5)
})

test('promote and demote swap two nodes, and refuse what cannot be', async () => {
  await using world = await worldOf(4)
  await world.seat(2).members.promote(4)
  expect(world.conf.voters).toEqual([1, 2, 4])
  await eventually(async () => (await codeOf(world.seat(3).members.demote(4))) === 'none')
  expect(world.conf.voters).toEqual([1, 2, 3])
  expect(await codeOf(world.seat(2).members.demote(1))).toBe('node-is-leader')
  expect(await codeOf(world.seat(2).members.promote(2))).toBe('node-is-voter')
})

test('a drained leader hands over, and undrain takes it back in', async () => {
  await using world = await worldOf(3)
  await world.seat(2).members.drain(1)
  await eventually(() => world.leader !== 1)
  expect(world.conf.voters).toEqual([1, 2, 3])
  await world.seat(2).members.undrain(1)
  expect(world.rows.map(row => row.state)).toEqual(['active', 'active', 'active'])
})

test('the leader leaves: it hands over, is taken out, and ends', async () => {
  await using world = await worldOf(4)
  await world.seat(1).members.leave()
  await eventually(() => world.out.length > 0)
  expect(world.out).toEqual([1])
  expect(world.rows.map(row => row.id)).toEqual([2, 3, 4])
  expect(world.conf).toMatchObject({ voters: [2, 3, 4], learners: [] })
})

test('a node that is removed ends by itself', async () => {
  await using world = await worldOf(3)
  await world.seat(2).members.remove(3, false)
  await eventually(() => world.out.includes(3))
  expect(world.rows.map(row => row.id)).toEqual([1, 2])
  expect(world.conf.voters).toEqual([1, 2])
})

test('a node that cannot be reached is removed by force only', async () => {
  await using world = await worldOf(3)
  world.down.add(3)
  await eventually(async () => {
    const { nodes } = await world.seat(1).members.nodes()
    return nodes[2]?.health === 'down'
  })
  expect(await codeOf(world.seat(2).members.remove(3, false))).toBe('node-unreachable')
  await world.seat(2).members.remove(3, true)
  await eventually(() => world.rows.length === 2)
  expect(world.conf.voters).toEqual([1, 2])
  expect(await codeOf(world.seat(2).members.remove(3, true))).toBe('node-not-found')
})

test('the last node does not leave', async () => {
  await using world = await worldOf(1)
  expect(await codeOf(world.seat(1).members.leave())).toBe('last-node')
  expect(await codeOf(world.seat(1).members.remove(1, true))).toBe('last-node')
})

test('a node that waits to join is approved by way of any node', async () => {
  await using world = await worldOf(3)
  world.waiting.set('ab:cd', { name: 'new' })
  const { members } = world.seat(2)
  expect(await members.pending()).toMatchObject([{ fingerprint: 'ab:cd', name: 'new' }])
  expect(await members.approve('ab:cd')).toBe(9)
  expect(await codeOf(members.approve('ab:cd'))).toBe('join-not-found')
  expect((await members.mintToken(5)).token).toBe('fnd-2')
})

test('the version of commands follows the oldest node', async () => {
  await using world = await worldOf(3)
  world.rows = world.rows.map(row => ({ ...row, commandVersion: row.id === 2 ? 4 : 5 }))
  await eventually(() => world.commandVersion === 4)
})

test('what no node asks is refused', async () => {
  await using world = await worldOf(1)
  const call = world.seat(1).calls.cluster
  for (const head of [null, 1, {}, { op: 'x' }, { op: 'approve' }, { op: 'row', id: 'a' }]) {
    const answer = call?.({ from: 2, method: 'cluster', head }, new Uint8Array())
    expect(await codeOf(answer ?? Promise.resolve())).toBe('peer-method-unknown')
  }
})

test('who is heard and cannot be sent to is no voter', async () => {
  await using world = await worldOf(1)
  world.deaf.add(2).add(3)
  world.add(2)
  world.add(3)
  await eventually(() => world.conf.learners.length === 2)
  await Bun.sleep(1500)
  expect(world.conf.voters).toEqual([1])
  const { nodes } = await world.seat(1).members.nodes()
  expect(nodes.map(({ health }) => health)).toEqual(['up', 'down', 'down'])
  world.deaf.clear()
  await eventually(() => world.conf.voters.length === 3)
})
