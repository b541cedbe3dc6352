/** Nodes come, move, are wiped, go and are lost: on machines of their own. */
import { afterEach, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { seed } from '../watch/seed.ts'
import { Cluster, type Member, until } from './member.ts'

setDefaultTimeout(180_000)
let cluster: Cluster | undefined
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]()
  cluster = undefined
})

async function started(count: number, env: Record<string, string> = {}): Promise<Cluster> {
  cluster = await Cluster.start(count, seed, env)
  return cluster
}

async function bare(count: number, env: Record<string, string> = {}): Promise<Cluster> {
  cluster = await Cluster.bare(count, seed, env)
  await cluster.first.start()
  cluster.first.login()
  return cluster
}

async function put(member: Member, name: string): Promise<void> {
  await member.api('POST', '/v2/apps', { name })
}

async function names(member: Member, consistency = 'linear'): Promise<string[]> {
  const headers = { 'fnd-consistency': consistency }
  const answer = await member.ask('GET', '/v2/apps?per_page=100', { headers })
  if (answer?.status !== 200) throw new Error(`${member.name}: ${JSON.stringify(answer?.body)}`)
  return (answer.body.items as { name: string }[]).map(({ name }) => name).sort()
}

interface NodeRow {
  readonly id: number
  readonly name: string
  readonly role: string
  readonly state: string
  readonly health: string
}

async function nodes(member: Member): Promise<NodeRow[]> {
  const { code, stdout, stderr } = await member.cli('nodes', '--json')
  if (code !== 0) throw new Error(`fnd nodes: ${stderr}`)
  return JSON.parse(stdout).items
}

async function idOf(member: Member): Promise<number> {
  const status = await member.status()
  if (status === undefined) throw new Error(`${member.name} has no status`)
  return status.node_id
}

const votersOf = async (member: Member) => (await member.status())?.cluster.voters ?? []

/** Deploys a function that answers with its body; the path to call it. */
async function deploy(member: Member): Promise<string> {
  const file = join(member.machine.dir, 'echo.ts')
  const source = `export default { fetch: async request => new Response(await request.text()) }`
  writeFileSync(member.machine.outside(file), source)
  const { code, stdout, stderr } = await member.cli('deploy', file, '--app', 'known', '--json')
  if (code !== 0) throw new Error(`fnd deploy: ${stderr}`)
  return new URL(JSON.parse(stdout).invoke_url).pathname
}

async function call(member: Member, path: string): Promise<string> {
  const response = await fetch(member.url + path, { method: 'POST', body: 'echoed' })
  return `${response.status} ${await response.text()}`
}

describe('a cluster grows', () => {
  test('from one voter to three, five and seven, by --join alone', async () => {
    const grown = await bare(7, { FND_VOTERS: '7' })
    for (const [at, member] of grown.members.entries()) {
      if (at > 0) await grown.join(member)
      await put(member, `app-${at}`)
      const isOdd = at % 2 === 0
      if (!isOdd) continue
      const voters = at + 1
      await until(
        async () => (await votersOf(member)).length === voters,
        `${voters} of ${voters} nodes vote`,
      )
    }
    await grown.whole()
    for (const member of grown.members) {
      expect(await names(member)).toEqual(Array.from({ length: 7 }, (_, at) => `app-${at}`))
    }
    await grown.agree()
  })

  test('a fourth node does not vote, and serves like the others', async () => {
    const grown = await started(3)
    const fourth = await grown.add()
    const path = await deploy(grown.first)
    await grown.join(fourth)
    const id = await idOf(fourth)
    const isLearner = async () => (await fourth.status())?.cluster.learners.includes(id) === true
    await until(isLearner, 'the fourth is a learner')
    expect(await call(fourth, path)).toBe('200 echoed')
    await put(fourth, 'through-a-learner')
    expect(await names(fourth)).toContain('through-a-learner')
    expect(await votersOf(grown.first)).not.toContain(id)
  })

  test('a learner takes the place of a voter that stays away', async () => {
    const grown = await started(3, { FND_VOTER_DEAD_AFTER: '3s' })
    const fourth = await grown.add()
    await grown.join(fourth)
    const id = await idOf(fourth)
    const leader = await grown.waitForLeader()
    const victim = grown.members.find(member => member !== leader && member !== fourth)
    await victim?.kill()
    // While the configuration is joint, both halves are told.
    await until(async () => {
      const voters = await votersOf(leader)
      return voters.includes(id) && voters.length === 3
    }, 'the fourth votes in its place')
    // It comes back as a learner.
    await victim?.start()
    await until(async () => (await nodes(leader)).length === 4, 'all four are known')
    expect(await votersOf(leader)).toHaveLength(3)
  })
})

describe('who may join', () => {
  test('without a token a node from elsewhere waits until it is approved', async () => {
    const guarded = await bare(2)
    const [first, second] = guarded.members as [Member, Member]
    second.spawn(['--join', first.peerAddress])
    const fingerprint = await until(
      () => /fnd nodes approve (\S+?)["\\\s]/.exec(second.logText())?.[1],
      'the waiting node says what to do',
    )
    await Bun.sleep(500)
    expect(await nodes(first)).toHaveLength(1)
    const { code, stderr } = await first.cli('nodes', 'approve', fingerprint)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    await until(async () => (await nodes(first)).length === 2, 'it is taken in')
    await until(async () => (await second.ask('GET', '/healthz'))?.status === 200, 'it answers')
    second.login()
    await guarded.led(second)
    await put(second, 'approved')
    expect(await names(first)).toEqual(['approved'])
  })

  test('a token of another cluster is refused with a sentence', async () => {
    const here = await bare(2)
    await using there = await Cluster.bare(1, seed + 1)
    await there.first.start()
    there.first.login()
    const [, second] = here.members
    second?.spawn(['--join', here.first.peerAddress, '--join-token', await there.joinToken()])
    expect(await second?.exited).not.toBe(0)
    expect(second?.logText()).toMatch(/token/)
    expect(second?.logText()).toMatch(/another cluster|certificate|authority/)
    expect(await nodes(here.first)).toHaveLength(1)
  })

  test('a forged token is refused', async () => {
    const here = await bare(2)
    const token = await here.joinToken()
    const forged = token.slice(0, -4) + (token.endsWith('AAAA') ? 'BBBB' : 'AAAA')
    const [, second] = here.members
    second?.spawn(['--join', here.first.peerAddress, '--join-token', forged])
    expect(await second?.exited).not.toBe(0)
    expect(second?.logText()).toMatch(/token/)
    expect(await nodes(here.first)).toHaveLength(1)
  })

  test('an advertised loopback address is refused to a machine elsewhere', async () => {
    const here = await bare(2)
    const [, second] = here.members
    const token = await here.joinToken()
    const flags = ['--join', here.first.peerAddress, '--join-token', token]
    second?.spawn([...flags, '--advertise', '127.0.0.1'])
    expect(await second?.exited).not.toBe(0)
    expect(second?.logText()).toMatch(/--advertise/)
    expect(await nodes(here.first)).toHaveLength(1)
  })
})

describe('a node comes back', () => {
  test('at another address, without editing anything', async () => {
    const moved = await started(3)
    const leader = await moved.waitForLeader()
    const mover = moved.members.find(member => member !== leader)
    if (mover === undefined) throw new Error('a cluster has followers')
    const id = await idOf(mover)
    await mover.stop()
    const network = mover.machine.address.split('.').slice(0, 3).join('.')
    mover.machine.readdress(`${network}.${100 + mover.machine.index}`)
    await mover.start()
    await moved.whole()
    expect(await idOf(mover)).toBe(id)
    await put(mover, 'moved')
    for (const member of moved.members) expect(await names(member)).toEqual(['moved'])
    // Also when all others have to be found anew at once.
    for (const member of moved.members) await member.kill()
    for (const member of moved.members) member.spawn()
    await moved.whole()
    await moved.agree()
  })

  test('with an empty disk, as a new one, and the old one is forgotten', async () => {
    const wiped = await started(3)
    await put(wiped.first, 'kept')
    const leader = await wiped.waitForLeader()
    const victim = wiped.members.find(member => member !== leader)
    if (victim === undefined) throw new Error('a cluster has followers')
    const old = await idOf(victim)
    await victim.kill()
    victim.wipe()
    await wiped.join(victim)
    await wiped.whole()
    expect(await idOf(victim)).not.toBe(old)
    expect(await names(victim)).toEqual(['kept'])
    await until(async () => (await nodes(leader)).every(({ id }) => id !== old), 'it is forgotten')
    expect(await nodes(leader)).toHaveLength(3)
    await wiped.agree()
  })
})

describe('a node goes', () => {
  test('fnd leave hands over, removes itself and ends', async () => {
    const left = await started(3)
    const leader = await left.waitForLeader()
    const id = await idOf(leader)
    const { code, stderr } = await leader.cli('leave')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(await leader.exited).toBe(0)
    const rest = left.members.filter(member => member !== leader)
    await until(async () => {
      const rows = await nodes(rest[0] as Member)
      return rows.every(row => row.id !== id)
    }, 'it is forgotten')
    await put(rest[0] as Member, 'after')
    expect(await names(rest[1] as Member)).toEqual(['after'])
    // It does not come back by itself.
    leader.spawn()
    await leader.exited
    expect(leader.logText()).toMatch(/was removed from the cluster|out of the cluster/)
  })

  test('leadership goes to another voter when the first one stands still', async () => {
    const three = await started(3)
    const leader = await three.waitForLeader()
    const followers = three.members.filter(member => member !== leader)
    const ids = await Promise.all(followers.map(idOf))
    // With equal logs the smaller id is asked first; it is not known yet that it does not answer.
    const frozen = followers[ids.indexOf(Math.min(...ids))] as Member
    frozen.signal('SIGSTOP')
    const answer = await leader.ask('POST', '/fnd/v1/nodes/transfer', { body: {} })
    frozen.signal('SIGCONT')
    expect({ status: answer?.status, leader: answer?.body.leader_id }).toEqual({
      status: 200,
      leader: Math.max(...ids),
    })
  })

  test('a leader that is stopped hands over first: nobody waits for an election', async () => {
    const electionMs = 4000
    const three = await started(3, { FND_ELECTION_TIMEOUT: `${electionMs}ms` })
    const leader = await three.waitForLeader()
    const stoppedMs = performance.now()
    expect(await leader.stop()).toBe(0)
    const next = await three.waitForLeader()
    expect(next).not.toBe(leader)
    await put(next, 'after')
    // Whoever waits for one does so for the whole of it, but for a heartbeat.
    expect(performance.now() - stoppedMs).toBeLessThan(electionMs / 2)
  })

  test('fnd nodes rm takes out a dead one, transfer moves the leadership', async () => {
    const shrunk = await started(3)
    const [first, second, third] = shrunk.members as [Member, Member, Member]
    const to = await idOf(second)
    if ((await shrunk.leader()) !== second) {
      const moved = await first.cli('nodes', 'transfer', String(to))
      expect({ code: moved.code, stderr: moved.stderr }).toEqual({ code: 0, stderr: '' })
    }
    expect(await shrunk.leader()).toBe(second)
    const dead = await idOf(third)
    await third.kill()
    const isDown = async () =>
      (await nodes(second)).some(({ id, health }) => id === dead && health === 'down')
    await until(isDown, 'it is known to be down')
    // A leader that just began to lead gives everybody some time.
    await Bun.sleep(1500)
    await until(isDown, 'it is still known to be down')
    const refused = await second.cli('nodes', 'rm', String(dead))
    expect(refused.code).not.toBe(0)
    expect(refused.stderr).toMatch(/force/)
    const removed = await second.cli('nodes', 'rm', '--force', String(dead))
    expect({ code: removed.code, stderr: removed.stderr }).toEqual({ code: 0, stderr: '' })
    await until(async () => (await nodes(second)).length === 2, 'two are left')
    await put(first, 'after')
    third.spawn()
    await third.exited
    expect(third.logText()).toMatch(/was removed from the cluster/)
  })
})

describe('without a quorum', () => {
  test('changes get 503 and Retry-After with the reason, known functions are called', async () => {
    const halved = await started(3)
    const path = await deploy(halved.first)
    const [survivor, ...rest] = halved.members as [Member, Member, Member]
    expect(await call(survivor, path)).toBe('200 echoed')
    for (const member of rest) await member.kill()
    let tries = 0
    const refused = await until(async () => {
      // A leader that does not know yet takes it, and cannot say what came of it.
      const body = { name: `lonely-${++tries}` }
      const answer = await survivor.ask('POST', '/v2/apps', { body })
      return answer?.code === 'no-quorum' && answer
    }, 'a change is refused for want of a quorum')
    expect(refused.status).toBe(503)
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(refused.body.message).toMatch(/1 of 3/)
    for (let i = 0; i < 5; i += 1) expect(await call(survivor, path)).toBe('200 echoed')
    expect(await names(survivor, 'local')).toEqual(['known'])
    const linear = await survivor.ask('GET', '/v2/apps')
    expect(linear?.status).toBe(503)
    // A restart alone does not lose the function either.
    await survivor.kill()
    await survivor.start()
    expect(await call(survivor, path)).toBe('200 echoed')
    for (const member of rest) member.spawn()
    await halved.whole()
    expect(await names(survivor)).not.toContain(`lonely-${tries}`)
  })

  test('fnd recover makes a cluster of what is left, and says what may be lost', async () => {
    const lost = await started(3)
    await put(lost.first, 'kept')
    await lost.agree()
    const [survivor, ...rest] = lost.members as [Member, Member, Member]
    for (const member of lost.members) await member.kill()
    const warned = await survivor.run(['recover', '--data', survivor.dataDir])
    expect(warned.code).not.toBe(0)
    expect(warned.stderr + warned.stdout).toMatch(/lost/)
    const recovered = await survivor.run(['recover', '--data', survivor.dataDir, '--yes'])
    expect({ code: recovered.code, stderr: recovered.stderr }).toMatchObject({ code: 0 })
    await survivor.start()
    expect(await names(survivor)).toEqual(['kept'])
    await put(survivor, 'after')
    // What was not there belongs to the old cluster, and is told so.
    const [second, third] = rest as [Member, Member]
    second.spawn()
    await until(
      () => /Two clusters meet/.test(second.logText()),
      'the old member says that its cluster is gone',
    )
    await second.kill()
    for (const member of [second, third]) {
      member.wipe()
      const { stdout } = await survivor.cli('token')
      const token = /fnd-[\w-]+\.\w+\.[\w-]+/.exec(stdout)?.[0] ?? ''
      await member.start(['--join', survivor.peerAddress, '--join-token', token])
      member.login()
    }
    await lost.whole()
    await lost.agree()
    expect(await names(third)).toEqual(['after', 'kept'])
  })
})

describe('backup', () => {
  test('of a running cluster is restored to a new one', async () => {
    const source = await started(3)
    const path = await deploy(source.first)
    await put(source.first, 'before')
    const file = join(source.first.machine.dir, 'backup.tar')
    const backup = await source.first.cli('backup', file)
    expect({ code: backup.code, stderr: backup.stderr }).toMatchObject({ code: 0 })
    await put(source.first, 'after')
    for (const member of source.members) {
      await member.kill()
      member.wipe()
    }
    const restored = await source.first.run(['restore', file, '--data', source.first.dataDir])
    expect({ code: restored.code, stderr: restored.stderr }).toMatchObject({ code: 0 })
    await source.first.start()
    source.first.login()
    expect(await names(source.first)).toEqual(['before', 'known'])
    expect(await call(source.first, path)).toBe('200 echoed')
  })
})
