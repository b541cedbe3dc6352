import { expect, test } from 'bun:test'
import { Forwarder, type ForwardParts, restamped } from '../../src/cluster/forward.ts'
import { Freshness } from '../../src/cluster/fresh.ts'
import { FndError } from '../../src/errors.ts'
import { eventually, World } from './members-world.ts'

const command = { type: 'app.update', id: 'a', atMs: 5, patch: { config: { atMs: '1' } } } as const

test('a change at a follower is made by the leader, with its time', async () => {
  await using world = new World()
  world.add(1)
  world.add(2)
  expect(await world.seat(2).forwarder.propose(command)).toEqual({ ok: true, object: null })
  expect(world.commands).toEqual([{ by: 1, command: { ...command, atMs: 1_000_001 } }])
  await world.seat(1).forwarder.propose(command)
  expect(world.commands[1]).toEqual({ by: 1, command })
})

test('times are those of the command and its object, and no others', () => {
  const app = {
    id: 'a',
    name: 'a',
    config: { atMs: 'x' },
    annotations: {},
    syslogUrl: '',
    shape: '',
    createdMs: 1,
    updatedMs: 2,
  }
  expect(restamped({ type: 'app.create', app }, 9)).toEqual({
    type: 'app.create',
    app: { ...app, createdMs: 9, updatedMs: 9 },
  })
  expect(restamped({ type: 'app.delete', id: 'a' }, 9)).toEqual({ type: 'app.delete', id: 'a' })
  expect(restamped(command, 9)).toEqual({ ...command, atMs: 9 })
})

const quiet = {
  lead: 2,
  appliedIndex: 7,
  propose: () => Promise.reject(new FndError('no-leader')),
  tellCommit: () => undefined,
  onChange: () => () => undefined,
}

function forwarderOf(parts: Partial<ForwardParts>): Forwarder {
  return new Forwarder({
    nodeId: 1,
    member: quiet,
    peers: { call: () => Promise.reject(new FndError('peer-unreachable')) },
    nowMs: () => 0,
    electionTimeoutMs: 50,
    whyLeaderless: () => new FndError('no-leader'),
    ...parts,
  })
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (error: FndError) => error.code,
  )
}

test('errors say whether asking again is safe', async () => {
  expect(await codeOf(forwarderOf({}).propose(command))).toBe('no-leader')
  const failing = (code: 'peer-outcome-unknown' | 'app-not-found' | 'write-overload') => ({
    peers: { call: () => Promise.reject(new FndError(code)) },
  })
  expect(await codeOf(forwarderOf(failing('peer-outcome-unknown')).propose(command))).toBe(
    'outcome-unknown',
  )
  expect(await codeOf(forwarderOf(failing('write-overload')).propose(command))).toBe(
    'write-overload',
  )
})

test('an election is waited for, a lost quorum is not', async () => {
  const listeners = new Set<() => void>()
  const member = {
    ...quiet,
    lead: 0,
    onChange: (listener: () => void) => {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
  }
  const answer = new TextEncoder().encode('{"ok":true,"object":null}')
  const peers = { call: async () => ({ head: { index: 3 }, body: answer }) }
  const forwarder = forwarderOf({ member, peers, electionTimeoutMs: 60_000 })
  const proposed = forwarder.propose(command)
  await eventually(() => listeners.size === 1)
  member.lead = 2
  for (const listener of [...listeners]) listener()
  expect(await proposed).toEqual({ ok: true, object: null })
  expect(listeners.size).toBe(0)

  const late = forwarderOf({ member: { ...quiet, lead: 0 }, electionTimeoutMs: 5 })
  expect(await codeOf(late.propose(command))).toBe('no-leader')
  const whyLeaderless = () => new FndError('no-quorum')
  const lost = forwarderOf({ member: { ...quiet, lead: 0 }, whyLeaderless })
  expect(await codeOf(lost.propose(command))).toBe('no-quorum')
})

test('a node that does not lead does not pass a change on a second time', async () => {
  const call = forwarderOf({}).calls.propose
  const body = new TextEncoder().encode(JSON.stringify(command))
  expect(
    await codeOf(call?.({ from: 3, method: 'propose', head: {} }, body) ?? Promise.resolve()),
  ).toBe('no-leader')
})

test('what is no command is refused before it is logged', async () => {
  const call = forwarderOf({ nodeId: 2 }).calls.propose
  const version = { type: 'cluster.version', version: 99 }
  const wrong = ['', '{', 'null', '[]', '{"type":"app.create"}', JSON.stringify(version)]
  for (const text of wrong) {
    const body = new TextEncoder().encode(text)
    const answer = call?.({ from: 3, method: 'propose', head: {} }, body) ?? Promise.resolve()
    expect([text, await codeOf(answer)]).toEqual([text, 'invalid-field'])
  }
})

test('a linear read asks again until it is confirmed, or no majority can be reached', async () => {
  let asked = 0
  const member = {
    appliedIndex: 7,
    onChange: () => () => undefined,
    read: (done: (isConfirmed: boolean) => void) => {
      asked += 1
      // The first question is lost, the second is refused by a leader that was deposed.
      if (asked > 1) done(asked > 2)
    },
  }
  const parts = { member, electionTimeoutMs: 20, whyLeaderless: () => new FndError('no-leader') }
  await new Freshness(parts).linear()
  expect(asked).toBe(3)
  const never = { ...member, read: (done: (isConfirmed: boolean) => void) => done(false) }
  const whyLeaderless = () => new FndError('no-quorum')
  expect(await codeOf(new Freshness({ ...parts, member: never, whyLeaderless }).linear())).toBe(
    'no-quorum',
  )
})

test('a read of at least an index waits for it', async () => {
  await using world = new World()
  world.add(1)
  const member = {
    get appliedIndex() {
      return world.index
    },
    onChange: (listener: () => void) => {
      waiting.add(listener)
      return () => void waiting.delete(listener)
    },
    read: () => undefined,
  }
  const waiting = new Set<() => void>()
  const fresh = new Freshness({
    member,
    electionTimeoutMs: 100,
    whyLeaderless: () => new FndError('no-leader'),
  })
  await fresh.atLeast(world.index)
  const later = fresh.atLeast(world.index + 2)
  world.index += 2
  for (const listener of [...waiting]) listener()
  await later
  expect(waiting.size).toBe(0)
  expect(await codeOf(fresh.atLeast(Number.MAX_SAFE_INTEGER))).toBe('not-fresh')
  expect(waiting.size).toBe(0)
}, 60_000)
