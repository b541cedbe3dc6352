/** What differs between one machine and two: approval, and addresses that lead nowhere. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { mintToken } from '../../src/cluster/token.ts'
import { credentialsOf, until } from './harness.ts'
import { type JoinMember, joinOptions, type MemberSettings, startMember } from './join-harness.ts'
import { makeMachine, type OtherMachine, type Remote, runThere } from './other-machine.ts'

let machine: OtherMachine
let running: JoinMember[] = []
let remotes: Remote[] = []

beforeAll(() => {
  machine = makeMachine()
})

afterAll(() => machine.remove())

afterEach(() => {
  for (const member of running) member.stop()
  for (const remote of remotes) remote.kill()
  running = []
  remotes = []
})

async function member(settings: MemberSettings = {}): Promise<JoinMember> {
  const advertise = (port: number) => `${machine.ourAddress}:${port}`
  const peer = { host: '0.0.0.0', advertise, ...settings.peer }
  const started = await startMember({ ...settings, peer })
  running.push(started)
  return started
}

function joinThere(port: number, more: Parameters<typeof joinOptions>[1] = {}): Remote {
  const { steps: _steps, ...options } = joinOptions([], {
    targets: [{ host: machine.ourAddress, port }],
    ...{ address: `${machine.theirAddress}:8081`, ...more },
  })
  const remote = runThere(machine, { kind: 'join', options })
  remotes.push(remote)
  return remote
}

async function dialThere(of: JoinMember, own: string) {
  const credentials = await credentialsOf(of.authority.pair, 'test', 2)
  const address = `${machine.ourAddress}:${of.peers.port}`
  return await runThere(machine, { kind: 'dial', address, own, credentials }).done
}

const sentence = (node: string, wrong: string, right: string) =>
  `To other machines ${node} advertises ${wrong}, where they do not reach it. ` +
  `Start it with an address of its network, for example --advertise ${right}.`

describe('from another machine, without a token', () => {
  test('a node waits until its fingerprint is approved', async () => {
    const first = await member()
    const remote = joinThere(first.peers.port)
    await until(() => first.server.pending().length === 1)
    const [pending] = first.server.pending()
    expect(pending).toMatchObject({
      ...{ name: 'second', address: `${machine.theirAddress}:8081` },
      remoteAddress: machine.theirAddress,
    })
    expect(pending?.fingerprint).toMatch(/^([0-9a-f]{4}-){4}[0-9a-f]{4}$/)
    await until(() => remote.lines.length === 1)
    expect(remote.lines[0]).toMatchObject({
      step: { kind: 'waiting', fingerprint: pending?.fingerprint ?? '' },
    })
    expect(first.requests).toEqual([])
    expect(await first.server.approve(pending?.fingerprint.toUpperCase() ?? '')).toBe(11)
    expect(await remote.done).toMatchObject({ kind: 'joined', result: { nodeId: 11 } })
    expect(first.server.pending()).toEqual([])
  })

  test('a node is turned away by an operator', async () => {
    const first = await member()
    const remote = joinThere(first.peers.port)
    await until(() => first.server.pending().length === 1)
    first.server.refuse(first.server.pending()[0]?.fingerprint ?? '')
    expect(await remote.done).toMatchObject({
      ...{ kind: 'failed', code: 'join-refused' },
      message: expect.stringContaining('An operator of the cluster turned this node away'),
    })
  })

  test('a node does not wait for ever', async () => {
    const first = await member({ join: { pendingLifeMs: 100 } })
    const last = await joinThere(first.peers.port).done
    expect(last).toMatchObject({ message: expect.stringContaining('Nobody approved this node') })
    expect(first.server.pending()).toEqual([])
  })

  test('a node that goes away waits no longer', async () => {
    const first = await member()
    const remote = joinThere(first.peers.port)
    await until(() => first.server.pending().length === 1)
    remote.kill()
    await until(() => first.server.pending().length === 0)
  })

  test('a node goes on waiting at the next leader, with the same fingerprint', async () => {
    const first = await member()
    const second = await member({ nodeId: 2, authority: first.authority })
    const remote = joinThere(first.peers.port)
    await until(() => first.server.pending().length === 1)
    const [before] = first.server.pending()
    first.leader = { kind: 'other', address: second.peers.address }
    await until(() => second.server.pending().length === 1)
    const [after] = second.server.pending()
    expect(after?.fingerprint).toBe(before?.fingerprint ?? '')
    await second.server.approve(after?.fingerprint ?? '')
    expect((await remote.done)?.kind).toBe('joined')
    expect([first.requests.length, second.requests.length]).toEqual([0, 1])
  })

  test('one machine cannot fill the list', async () => {
    const first = await member()
    const many = Array.from({ length: 9 }, () => joinThere(first.peers.port))
    await until(() => many.some(({ lines }) => lines.some(({ kind }) => kind === 'failed')))
    await until(() => first.server.pending().length === 8)
    const failed = many.flatMap(({ lines }) => lines).find(({ kind }) => kind === 'failed')
    expect(failed).toMatchObject({ message: expect.stringContaining('Use a token') })
  }, 30_000)
})

test('with a token, a node on another machine joins at once', async () => {
  const first = await member()
  const token = mintToken(first.authority.pair, Date.now() + 60_000)
  expect(await joinThere(first.peers.port, { token }).done).toMatchObject({ kind: 'joined' })
})

describe('a loopback address', () => {
  test('of a joining node is refused', async () => {
    const first = await member()
    const token = mintToken(first.authority.pair, Date.now() + 60_000)
    const last = await joinThere(first.peers.port, { token, address: '127.0.0.1:8081' }).done
    const words = sentence('the joining node', '127.0.0.1:8081', machine.theirAddress)
    expect(last).toMatchObject({ kind: 'failed', message: expect.stringContaining(words) })
  })

  test('of the member is refused when another machine joins', async () => {
    const first = await member({ peer: { advertise: port => `127.0.0.1:${port}` } })
    const token = mintToken(first.authority.pair, Date.now() + 60_000)
    const last = await joinThere(first.peers.port, { token }).done
    const words = sentence('node 1', first.peers.address, machine.ourAddress)
    expect(last).toMatchObject({ kind: 'failed', message: expect.stringContaining(words) })
  })

  test('of either member is refused between members', async () => {
    const good = await member()
    const there = `${machine.theirAddress}:8081`
    expect(await dialThere(good, there)).toMatchObject({ ok: true })
    expect(await dialThere(good, 'localhost:8081')).toMatchObject({
      reason: sentence('node 2', 'localhost:8081', machine.theirAddress),
    })
    const bad = await member({ peer: { advertise: port => `127.0.0.1:${port}` } })
    expect(await dialThere(bad, there)).toMatchObject({
      reason: sentence('node 1', bad.peers.address, machine.ourAddress),
    })
  })

  test('is fine on one machine, whichever of its addresses is called', async () => {
    const first = await member()
    const peer = { advertise: (port: number) => `127.0.0.1:${port}` }
    const second = await member({ nodeId: 2, authority: first.authority, peer })
    second.peers.setMembers([{ id: 1, address: first.peers.address }])
    await until(() => second.peers.states()[0]?.isConnected === true)
    expect(first.refused).toEqual([])
  })
})

test('a peer whose cable was pulled is told to be silent, and found again', async () => {
  const first = await member()
  const credentials = await credentialsOf(first.authority.pair, 'test', 2)
  const remote = runThere(machine, { kind: 'serve', address: machine.theirAddress, credentials })
  remotes.push(remote)
  await until(() => remote.lines.length === 1)
  const [line] = remote.lines
  const port = line?.kind === 'listening' ? line.port : 0
  first.peers.setMembers([{ id: 2, address: `${machine.theirAddress}:${port}` }])
  const isConnected = () => first.peers.states()[0]?.isConnected === true
  await until(isConnected)
  machine.cable('down')
  await until(() => !isConnected())
  expect(first.problems.at(-1)?.reason).toBe('it has gone silent')
  expect(first.unreachable).toContain(2)
  const tries = first.unreachable.length
  await until(() => first.unreachable.length > tries)
  machine.cable('up')
  await until(isConnected)
}, 60_000)
