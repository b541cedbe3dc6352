/** Makes things fail, at the times and in the ways that the options of the seed say. */
import type { NodeId } from '../../src/raft/types.ts'
import type { Cluster } from './cluster.ts'
import type { Governor } from './governor.ts'
import type { SimNode } from './node.ts'
import type { Prng } from './prng.ts'

export class Nemesis {
  isOver = false
  readonly #cluster: Cluster
  readonly #operator: Governor
  readonly #prng: Prng

  constructor(cluster: Cluster, operator: Governor) {
    this.#cluster = cluster
    this.#operator = operator
    this.#prng = cluster.world.prng.fork()
    const { net, disk, crash, clock } = cluster.options
    this.#every(crash.everyMs, () => this.#crash())
    this.#every(crash.blackoutEveryMs, () => this.#blackout())
    this.#every(clock.pauseEveryMs, () => this.#pause())
    this.#every(clock.drift > 0 ? cluster.electionMs * 10 : 0, () => this.#drift())
    this.#every(net.partitionEveryMs, () => this.#partition())
    this.#every(net.clogEveryMs, () => this.#clog())
    this.#every(disk.fullEveryMs, () => this.#fill())
    this.#every(disk.damageEveryMs, () => this.#damage())
    this.#every(disk.wipeEveryMs, () => this.#wipe())
  }

  #every(meanMs: number, run: () => void): void {
    if (meanMs === 0) return
    this.#cluster.world.after(this.#prng.exponential(meanMs), () => {
      if (this.isOver) return
      run()
      this.#every(meanMs, run)
    })
  }

  /** Often the leader, where most is at stake. */
  #victim(): SimNode | undefined {
    const { leader, up } = this.#cluster
    return this.#prng.chance(0.3) && leader !== undefined ? leader : this.#prng.pick(up)
  }

  #crash(): void {
    const { power } = this.#cluster.options.crash
    const isStop = this.#prng.chance(0.15)
    const kind = isStop ? 'stop' : this.#prng.chance(power) ? 'power' : 'kill'
    this.#victim()?.crash(kind)
  }

  #blackout(): void {
    this.#cluster.world.count('fault: blackout')
    for (const node of this.#cluster.up) node.crash('power')
  }

  #pause(): void {
    const process = this.#victim()?.process
    if (process === undefined || process.isPaused) return
    this.#cluster.world.count('fault: pause')
    process.pause()
    const { pauseMs } = this.#cluster.options.clock
    this.#cluster.world.after(this.#prng.exponential(pauseMs), () => process.resume())
  }

  #drift(): void {
    const { drift } = this.#cluster.options.clock
    const node = this.#prng.pick(this.#cluster.up)
    if (node !== undefined) node.clock.rate = 1 + (this.#prng.real() * 2 - 1) * drift
  }

  #partition(): void {
    const { world, net, options } = this.#cluster
    const cuts = this.#cuts()
    const apply = () => {
      for (const [from, to] of cuts) net.cut(from, to)
    }
    apply()
    let leftMs = this.#prng.exponential(options.net.partitionMs)
    if (this.#prng.chance(options.net.flap)) {
      world.count('fault: flapping')
      for (let count = this.#prng.between(3, 10); count > 0; count--) {
        const atMs = this.#prng.real() * leftMs
        world.after(atMs, () => net.mend())
        world.after(atMs + this.#prng.exponential(this.#cluster.electionMs / 4), () => {
          if (!this.isOver) apply()
        })
      }
      leftMs *= 1.5
    }
    world.after(leftMs, () => net.mend())
  }

  /** Directions of links, by one of the classic shapes. */
  #cuts(): readonly (readonly [NodeId, NodeId])[] {
    const prng = this.#prng
    const { world, leader, up } = this.#cluster
    const ids = prng.shuffled(up.map(({ id }) => id))
    const shape = prng.pick(['one', 'leader', 'halves', 'one way', 'bridge', 'links'])
    world.count(`fault: partition, ${shape}`)
    const half = ids.slice(0, Math.ceil(ids.length / 2))
    const inside: readonly NodeId[] =
      shape === 'leader' && leader !== undefined
        ? [leader.id]
        : shape === 'one'
          ? ids.slice(0, 1)
          : half
    const pairs = ids.flatMap(from => ids.map(to => [from, to] as const))
    if (shape === 'links') return pairs.filter(() => prng.chance(0.3))
    const [bridge] = shape === 'bridge' ? half : []
    const isCrossing = ([from, to]: readonly [NodeId, NodeId]) =>
      inside.includes(from) !== inside.includes(to) && from !== bridge && to !== bridge
    const crossing = pairs.filter(isCrossing)
    const isOut = prng.chance(0.5)
    return shape === 'one way'
      ? crossing.filter(([from]) => inside.includes(from) === isOut)
      : crossing
  }

  #clog(): void {
    const { world, net, up, electionMs } = this.#cluster
    const [from, to] = [this.#prng.pick(up), this.#prng.pick(up)]
    if (from === undefined || to === undefined) return
    world.count('fault: link clogged')
    net.clog(from.id, to.id, this.#prng.exponential(electionMs * 2))
  }

  #fill(): void {
    const node = this.#victim()
    if (node === undefined) return
    const { world, options } = this.#cluster
    const untilMs = () => world.nowMs + this.#prng.exponential(options.disk.fullMs)
    world.count('fault: disk full')
    if (this.#prng.chance(0.2)) {
      node.disk.closedUntilMs = untilMs()
      return
    }
    node.disk.lowUntilMs = untilMs()
    if (this.#prng.chance(0.7)) node.disk.fullUntilMs = untilMs()
  }

  #damage(): void {
    const node = this.#victim()
    if (node === undefined || !this.#mayLose(node)) return
    const { journal, records } = node.disk
    const prng = this.#prng
    if (prng.chance(0.5)) {
      this.#cluster.world.count(`fault: sector damaged, ${journal.damage(prng, records.settled)}`)
    } else this.#cluster.world.count(`fault: record damaged, ${records.damage(prng)}`)
    // A start reads what a member that runs has in memory.
    if (this.#prng.chance(0.5)) node.crash('kill')
  }

  #wipe(): void {
    const node = this.#victim()
    if (node === undefined || !this.#mayLose(node)) return
    this.#cluster.world.count('fault: disk lost')
    node.vanish()
  }

  /** No more nodes are lost than a majority can do without (TigerBeetle's fault atlas). */
  #mayLose(node: SimNode): boolean {
    const { checker, isConfKnown } = this.#cluster
    const { confState } = checker
    if (confState === undefined || !isConfKnown || !this.#operator.isIdle) return false
    if (confState.votersOutgoing.length > 0) return false
    const isBad = (id: NodeId) => id === node.id || this.#cluster.isBad(id)
    return confState.voters.filter(isBad).length * 2 < confState.voters.length
  }
}
