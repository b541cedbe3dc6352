/**
 * Membership as the product decides it: the real `plan` on whoever believes to lead, over rows that
 * people change: nodes join, leave, drain and come back, and lost ones are given up. It must lead
 * to an odd number of living voters, and never into a configuration that cannot elect.
 */
import { type Action, type AutopilotView, plan } from '../../src/cluster/autopilot.ts'
import { HealthBook } from '../../src/cluster/health.ts'
import type { NodeId } from '../../src/raft/types.ts'
import { commandVersion } from '../../src/store/codec.ts'
import type { Node, NodeState } from '../../src/store/objects.ts'
import type { Cluster } from './cluster.ts'
import type { Governor } from './governor.ts'
import type { SimNode } from './node.ts'
import type { Prng } from './prng.ts'

const nodesMax = 8

/** What one process knows for its looks. */
interface Pilot {
  readonly book: HealthBook
  readonly process: SimNode['process']
  wasLeader: boolean
  isStepOpen: boolean
}

export class Autopilot implements Governor {
  isPeaceful = false
  readonly #cluster: Cluster
  readonly #prng: Prng
  readonly #rows = new Map<NodeId, Node>()
  readonly #pilots = new Map<NodeId, Pilot>()

  constructor(cluster: Cluster) {
    this.#cluster = cluster
    this.#prng = cluster.world.prng.fork()
    for (const id of cluster.nodes.keys()) this.#rows.set(id, rowOf(id))
    while (this.#rows.size < cluster.options.firstNodes) this.#join()
    const { electionMs } = cluster
    const { everyMs } = cluster.options.churn
    this.#every(electionMs / 2, () => this.#look())
    this.#every(Math.max(everyMs, electionMs * 4), () => this.#people())
    this.#every(electionMs, () => this.#retire())
  }

  get isIdle(): boolean {
    const isSettled = [...this.#rows.values()].every(({ state }) => state === 'active')
    return isSettled && ![...this.#pilots.values()].some(({ isStepOpen }) => isStepOpen)
  }

  /** The voters that there should be when all nodes live. */
  get obstacle(): string | undefined {
    const { voters = [], learners = [] } = this.#cluster.checker.confState ?? {}
    const most = Math.min(this.#rows.size, this.#cluster.options.churn.votersMax)
    const wanted = most % 2 === 0 ? most - 1 : most
    // Of two voters none is taken out: a change would then be on one disk alone.
    const isRight = voters.length === wanted || (this.#rows.size === 2 && voters.length === 2)
    if (!isRight) return `${voters.length} voters instead of ${wanted}`
    const isEachIn = [...this.#rows.keys()].every(id => [...voters, ...learners].includes(id))
    return isEachIn ? undefined : 'a node is not a member yet'
  }

  #every(meanMs: number, run: () => void): void {
    this.#cluster.world.after(this.#prng.exponential(meanMs), () => {
      run()
      this.#every(meanMs, run)
    })
  }

  // What people do.

  #people(): void {
    const prng = this.#prng
    const lost = [...this.#rows.keys()].filter(id => this.#cluster.isLost(id))
    for (const id of lost) {
      // They have to be told that it does not come back; its successor takes its seat before that.
      if (this.isPeaceful || prng.chance(0.5)) this.#set(id, 'leaving')
    }
    const living = [...this.#rows.values()].filter(({ id }) => !this.#cluster.isLost(id))
    if (lost.length > 0 && living.length < nodesMax && prng.chance(0.7)) return this.#join()
    if (this.isPeaceful) {
      for (const { id, state } of living) if (state === 'draining') this.#set(id, 'active')
      return
    }
    if (lost.length > 0) return
    const row = prng.pick(living)
    if (row === undefined) return
    if (row.state === 'draining') this.#set(row.id, 'active')
    else if (living.length < nodesMax && prng.chance(0.4)) this.#join()
    else if (row.state === 'active' && living.length > 2) {
      this.#set(row.id, prng.pick(['draining', 'leaving']))
    }
  }

  #join(): void {
    const { id } = this.#cluster.add()
    this.#rows.set(id, rowOf(id))
    this.#cluster.world.count('autopilot: node joins')
  }

  #set(id: NodeId, state: NodeState): void {
    const row = this.#rows.get(id)
    if (row === undefined || row.state === state) return
    this.#rows.set(id, { ...row, state })
    this.#cluster.world.count(`autopilot: node is ${state}`)
    this.#cluster.world.line(`node ${id} is ${state}`)
  }

  // What leaders do.

  #look(): void {
    for (const node of this.#cluster.up) node.process?.dispatch(() => this.#lookOf(node))
  }

  #lookOf(node: SimNode): void {
    const { member, process } = node
    if (member === undefined) return
    let pilot = this.#pilots.get(node.id)
    const { world, electionMs } = this.#cluster
    if (pilot === undefined || pilot.process !== process) {
      const book = new HealthBook(electionMs * 2)
      pilot = { book, process, wasLeader: false, isStepOpen: false }
      this.#pilots.set(node.id, pilot)
    }
    const isLeader = member.role === 'leader'
    if (isLeader && !pilot.wasLeader) pilot.book.restart(world.nowMs)
    pilot.wasLeader = isLeader
    const others = [...this.#rows.keys()].filter(id => id !== node.id)
    const heard = others.map(id => [id, this.#cluster.heardMs(node.id, id)] as const)
    pilot.book.sample(new Map(heard), world.nowMs)
    if (!isLeader || pilot.isStepOpen) return
    const action = plan(this.#view(node, pilot))
    if (action !== undefined) this.#carryOut(node, pilot, action)
  }

  #view(node: SimNode, { book }: Pilot): AutopilotView {
    const status = node.member?.status()
    const { world, electionMs, options } = this.#cluster
    if (status === undefined) throw new Error('only a node that runs looks')
    const lagOf = (id: NodeId) => status.commit - (status.progress.get(id)?.match ?? -1e9)
    const ids = [...this.#rows.keys()].filter(id => id !== node.id)
    return {
      leaderId: node.id,
      rows: [...this.#rows.values()],
      confState: status.confState,
      isBusy: status.transferee !== 0,
      health: new Map(ids.map(id => [id, book.of(id, Math.max(0, lagOf(id)), world.nowMs)])),
      commandVersion,
      settings: {
        votersMax: options.churn.votersMax,
        voterDeadAfterMs: electionMs * 10,
        stableForMs: electionMs * 2,
        lagMax: 50,
      },
    }
  }

  #carryOut(node: SimNode, pilot: Pilot, action: Action): void {
    const { world } = this.#cluster
    world.count(`autopilot: ${action.type}`)
    world.line(`autopilot of ${node.id}: ${action.reason}`)
    if (action.type === 'transfer') node.member?.transfer(action.to)
    else if (action.type === 'remove-row') this.#rows.delete(action.id)
    else if (action.type === 'change') {
      pilot.isStepOpen = true
      node.member?.proposeConf(action.change, () => {
        pilot.isStepOpen = false
      })
    }
  }

  /** As people do it: who has no row any more is switched off when the others know for good. */
  #retire(): void {
    const { nodes, isConfKnown, checker, world } = this.#cluster
    const { voters = [], learners = [] } = checker.confState ?? {}
    for (const node of nodes.values()) {
      const isWanted = this.#rows.has(node.id) || [...voters, ...learners].includes(node.id)
      if (isWanted || node.state === 'gone' || !isConfKnown) continue
      world.count('branch: removed node retired')
      node.vanish()
    }
  }
}

function rowOf(id: NodeId): Node {
  return {
    id,
    uuid: `${id}`,
    name: `n${id}`,
    peerAddress: `n${id}:8081`,
    apiUrl: `http://n${id}:8080`,
    version: '1',
    commandVersion,
    state: 'active',
    joinedMs: 0,
  }
}
