/** What befalls a cluster in a round. `healed` undoes all of it. */
import type { Machine } from './hosts.ts'
import { type Cluster, type Member, until } from './member.ts'
import { cutLink, goodLink } from './switch.ts'

export interface Scene {
  readonly cluster: Cluster
  readonly leader: Member
  /** In an order drawn from the seed. */
  readonly others: readonly Member[]
  readonly random: () => number
}

type Fault = (scene: Scene) => void | Promise<void>

const machinesOf = (members: readonly Member[]): Machine[] => members.map(({ machine }) => machine)

/** As many as can be lost without losing the quorum. */
const minority = (count: number): number => Math.ceil(count / 2) - 1

function killed(members: readonly Member[]): Promise<unknown> {
  return Promise.all(members.map(member => member.kill()))
}

function parted(cluster: Cluster, side: readonly Member[]): void {
  const rest = cluster.members.filter(member => !side.includes(member))
  cluster.machines.part(machinesOf(side), machinesOf(rest))
}

/** Cuts one direction of all links of a machine. */
function cutOneWay({ cluster }: Scene, { machine }: Member, direction: 'in' | 'out'): void {
  for (const other of cluster.machines.all) {
    if (other === machine) continue
    if (direction === 'out') cluster.machines.link(machine, other, cutLink)
    else cluster.machines.link(other, machine, cutLink)
  }
}

async function wiped({ cluster }: Scene, member: Member): Promise<void> {
  await member.kill()
  member.wipe()
  await cluster.join(member)
}

export const faults = {
  'kill -9 of the leader': ({ leader }) => leader.kill(),
  'kill -9 of a follower': ({ others }) => others[0]?.kill(),
  'kill -9 of a minority with the leader': async ({ cluster, leader, others }) => {
    await killed([leader, ...others].slice(0, minority(cluster.members.length)))
  },
  'kill -9 of a majority': async ({ cluster, others }) => {
    await killed(others.slice(0, minority(cluster.members.length) + 1))
  },
  'kill -9 of all': async ({ cluster }) => {
    await killed(cluster.members)
  },
  'kill -9 again and again': async scene => {
    for (let i = 0; i < 4; i += 1) {
      const victim = (await scene.cluster.leader()) ?? scene.others[0]
      await victim?.kill()
      await Bun.sleep(200 + scene.random() * 600)
      victim?.spawn()
    }
  },
  'SIGSTOP of the leader': ({ leader }) => leader.signal('SIGSTOP'),
  'SIGSTOP of a follower': ({ others }) => others[0]?.signal('SIGSTOP'),
  'SIGSTOP of the leader, short and often': async ({ leader, random }) => {
    for (let i = 0; i < 6; i += 1) {
      leader.signal('SIGSTOP')
      await Bun.sleep(100 + random() * 700)
      leader.signal('SIGCONT')
      await Bun.sleep(100)
    }
  },
  'partition: the leader alone': ({ cluster, leader }) => parted(cluster, [leader]),
  'partition: a follower alone': ({ cluster, others }) => parted(cluster, others.slice(0, 1)),
  'partition: the leader in a minority': ({ cluster, leader, others }) => {
    parted(cluster, [leader, ...others].slice(0, minority(cluster.members.length)))
  },
  'partition: each alone': ({ cluster }) => cluster.machines.spoil(cutLink),
  'partition: one node sees both sides': ({ cluster, leader, others }) => {
    const [bridge, ...rest] = others
    if (bridge === undefined) return
    const half = [leader, ...rest].slice(0, Math.ceil(cluster.members.length / 2) - 1)
    const far = cluster.members.filter(member => member !== bridge && !half.includes(member))
    cluster.machines.part(machinesOf(half), machinesOf(far))
  },
  'partition that comes and goes': async ({ cluster, others, random }) => {
    for (let i = 0; i < 5; i += 1) {
      const victim = (await cluster.leader()) ?? others[0]
      if (victim !== undefined) parted(cluster, [victim])
      await Bun.sleep(200 + random() * 600)
      cluster.machines.spoil(goodLink)
      await Bun.sleep(random() * 400)
    }
  },
  'one way: nothing leaves the leader': scene => cutOneWay(scene, scene.leader, 'out'),
  'one way: nothing reaches the leader': scene => cutOneWay(scene, scene.leader, 'in'),
  'one way: nothing leaves a follower': scene => {
    if (scene.others[0] !== undefined) cutOneWay(scene, scene.others[0], 'out')
  },
  'loss of packets': ({ cluster, random }) => {
    cluster.machines.spoil({ ...goodLink, loss: 0.05 + 0.25 * random() })
  },
  'delay of packets': ({ cluster, random }) => {
    cluster.machines.spoil({ loss: 0, delayMs: 20 + 40 * random(), jitterMs: 40 })
  },
  'loss, delay and kill -9 of the leader': async ({ cluster, leader }) => {
    cluster.machines.spoil({ loss: 0.1, delayMs: 10, jitterMs: 30 })
    await Bun.sleep(300)
    await leader.kill()
  },
  'full disk of the leader': ({ leader }) => leader.machine.fillDisk(),
  'full disk of a follower': ({ others }) => others[0]?.machine.fillDisk(),
  'full disk of the leader and kill -9': async ({ leader }) => {
    leader.machine.fillDisk()
    await leader.kill()
    leader.spawn()
  },
  'transfer of the leadership': async ({ cluster, leader, random }) => {
    for (let i = 0; i < 3; i += 1) {
      await ((await cluster.leader()) ?? leader).cli('nodes', 'transfer')
      await Bun.sleep(random() * 300)
    }
  },
  'restart of all, one after the other': async ({ cluster }) => {
    for (const member of cluster.members) {
      await member.stop()
      await member.start()
    }
  },
  'leave of a node, which joins anew': async ({ cluster, leader, others, random }) => {
    const member = random() < 0.5 ? leader : (others[0] ?? leader)
    await member.cli('leave')
    await member.exited
    member.wipe()
    await cluster.join(member)
  },
  'wipe of a follower, which joins anew': async scene => {
    if (scene.others[0] !== undefined) await wiped(scene, scene.others[0])
  },
  'wipe of the leader, which joins anew': scene => wiped(scene, scene.leader),
} satisfies Record<string, Fault>

export type FaultName = keyof typeof faults
export const faultNames = Object.keys(faults) as FaultName[]

/** Ends every fault, and resolves when the cluster is whole again. */
export async function healed(cluster: Cluster): Promise<void> {
  cluster.machines.heal()
  for (const member of cluster.members) {
    if (member.isPaused) member.signal('SIGCONT')
    if (!member.isRunning) member.spawn()
  }
  await cluster.whole()
  await until(async () => {
    const answers = await Promise.all(
      cluster.members.map(member =>
        member.ask('GET', '/v2/apps?per_page=1', { headers: { 'fnd-consistency': 'linear' } }),
      ),
    )
    return answers.every(answer => answer?.status === 200)
  }, 'every node serves linear reads')
}
