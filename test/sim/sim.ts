/**
 * One seed: a cluster under faults and load; then the faults end, and it must come to rest, serve,
 * and have kept all that it promised.
 */
import { Autopilot } from './autopilot.ts'
import { Cluster } from './cluster.ts'
import type { Governor } from './governor.ts'
import { lastIndexOf } from './image.ts'
import { describeVerdict } from './linearizability.ts'
import { Nemesis } from './nemesis.ts'
import type { SimNode } from './node.ts'
import { Operator } from './operator.ts'
import { optionsFrom, type SimOptions } from './options.ts'
import { Prng } from './prng.ts'
import { chainFaults, checkRegisters } from './registers.ts'
import { Workload } from './workload.ts'
import { World } from './world.ts'

const noBytes = new Uint8Array()

export interface SimResult {
  readonly seed: number
  /** `undefined`: every promise was kept. */
  readonly failure: string | undefined
  readonly traceHash: string
  readonly steps: number
  readonly virtualMs: number
  readonly counts: ReadonlyMap<string, number>
  /** The end of the trace, if it was asked for. */
  readonly lines: readonly string[]
}

export interface SimRequest {
  readonly seed: number
  readonly isVerbose?: boolean
  /** Changes what was drawn from the seed. */
  readonly adjust?: (options: SimOptions) => SimOptions
}

export function simulate({ seed, isVerbose = false, adjust }: SimRequest): SimResult {
  const drawn = optionsFrom(new Prng(seed))
  const simulation = new Simulation(seed, adjust?.(drawn) ?? drawn, isVerbose)
  let failure: string | undefined
  try {
    simulation.run()
  } catch (error) {
    const { name, message, stack = '' } = simulation.world.violation ?? (error as Error)
    const isOurs = name === 'Violation'
    simulation.world.line(simulation.describe())
    failure = isOurs ? message : `${name}: ${message}\n${stack.split('\n').slice(1, 6).join('\n')}`
  }
  simulation[Symbol.dispose]()
  const { world } = simulation
  return {
    seed,
    failure,
    traceHash: world.traceHash,
    steps: world.steps,
    virtualMs: world.nowMs,
    counts: world.counts,
    lines: world.lines,
  }
}

class Simulation implements Disposable {
  readonly world: World
  readonly #options: SimOptions
  readonly #cluster: Cluster
  readonly #operator: Governor
  readonly #nemesis: Nemesis
  readonly #workload: Workload
  #isMajorityOnly = false

  constructor(seed: number, options: SimOptions, isVerbose: boolean) {
    this.world = new World(seed, isVerbose)
    this.#options = options
    this.world.line(JSON.stringify(options))
    this.#cluster = new Cluster(this.world, options)
    this.#operator = options.churn.isAutopilot
      ? new Autopilot(this.#cluster)
      : new Operator(this.#cluster)
    this.#nemesis = new Nemesis(this.#cluster, this.#operator)
    this.#workload = new Workload(this.#cluster)
  }

  run(): void {
    const { electionMs } = this.#cluster
    this.#runFor(this.#options.faultsMs)
    const core = this.#heal()
    this.#runFor(electionMs * 10)
    this.#workload.isOver = true
    this.#await('rest', () => this.#unrest(core()))
    this.#serve(core())
    this.#await('rest after the last requests', () => this.#unrest(core()))
    this.#judge(core())
  }

  [Symbol.dispose](): void {
    this.#cluster[Symbol.dispose]()
  }

  describe(): string {
    return this.#cluster.describe()
  }

  #runFor(ms: number): void {
    this.world.runUntil(this.world.nowMs + ms, () => {
      if (this.world.violation !== undefined) throw this.world.violation
    })
  }

  #await(what: string, obstacle: () => string | undefined): void {
    const { electionMs } = this.#cluster
    // A write that was slow when the faults ended is still under way; the rest is quick.
    const untilMs = this.world.nowMs + this.#options.disk.slowMaxMs + 60 * electionMs
    for (;;) {
      const found = obstacle()
      if (found === undefined) return
      if (this.world.nowMs > untilMs) this.world.fail(`never came to ${what}: ${found}`)
      this.#runFor(electionMs)
    }
  }

  /** Ends the faults. Returns the nodes that must work from then on. */
  #heal(): () => readonly SimNode[] {
    const cluster = this.#cluster
    const { world, net, nodes, options } = cluster
    world.line('heal')
    world.note('heal')
    this.#nemesis.isOver = true
    this.#operator.isPeaceful = true
    cluster.options = {
      ...options,
      disk: { ...options.disk, latencyMs: 0.5, slow: 0, error: 0 },
      crash: { ...options.crash, failpoint: 0 },
    }
    net.calm()
    const down = this.#keptDown()
    for (const node of nodes.values()) {
      node.disk.fullUntilMs = 0
      node.disk.lowUntilMs = 0
      node.disk.closedUntilMs = 0
      if (node.state !== 'broken') node.disk.mend()
      node.clock.rate = 1
      node.process?.resume()
      if (down.includes(node)) {
        node.isKeptDown = true
        node.crash('power')
      } else if (node.state === 'down') node.start()
    }
    this.#isMajorityOnly = down.length > 0
    if (down.length > 0) world.count('heal: a majority')
    else world.count('heal: all')
    return () => {
      const state = cluster.checker.confState
      const ids = [...(state?.voters ?? []), ...(state?.learners ?? [])]
      const members = ids.flatMap(id => nodes.get(id) ?? [])
      return down.length === 0 ? members : members.filter(node => !down.includes(node))
    }
  }

  /** Nodes that the rest must do without: fewer than half of the voters. */
  #keptDown(): readonly SimNode[] {
    const cluster = this.#cluster
    const { checker, nodes } = cluster
    const state = checker.confState
    const isSettled =
      state !== undefined &&
      state.votersOutgoing.length === 0 &&
      cluster.isConfKnown &&
      this.#operator.isIdle &&
      ![...nodes.values()].some(({ disk }) => disk.isDamaged)
    if (this.#options.heal === 'all' || !isSettled) return []
    const members = [...state.voters, ...state.learners]
    if (members.some(id => cluster.isLost(id))) return []
    const count = Math.floor((state.voters.length - 1) / 2)
    const ids = [...this.world.prng.shuffled(state.voters).slice(0, count), ...state.learners]
    return ids.flatMap(id => nodes.get(id) ?? [])
  }

  /** What is still missing; `undefined` when all nodes stand at the same end of the same log. */
  #unrest(core: readonly SimNode[]): string | undefined {
    const { leader, checker } = this.#cluster
    if (!this.#workload.isIdle) return 'clients without an answer'
    const status = leader?.member?.status()
    if (leader === undefined || status === undefined) return 'no leader'
    if (status.confState.votersOutgoing.length > 0) return 'a joint configuration'
    const lost = core.find(({ id }) => this.#cluster.isLost(id))
    if (lost !== undefined) return `node ${lost.id} is lost and still a member`
    for (const node of core) {
      const { member, machine } = node
      if (member === undefined || machine === undefined) return `node ${node.id} is down`
      if (member.lead !== leader.id) return `node ${node.id} follows ${member.lead}`
      if (machine.appliedIndex !== status.lastIndex) {
        return `node ${node.id} applied ${machine.appliedIndex} of ${status.lastIndex}`
      }
      const progress = status.progress.get(node.id)
      if (progress === undefined || progress.match !== status.lastIndex) {
        return `node ${node.id} is at ${JSON.stringify(progress)} for its leader`
      }
      if (node !== leader && progress.state !== 'replicate') {
        return `node ${node.id} is in ${progress.state}`
      }
    }
    if (checker.committedIndex !== status.lastIndex) return 'not all is committed'
    return this.#isMajorityOnly ? undefined : this.#operator.obstacle
  }

  /** Each node answers a write and a linear read. */
  #serve(core: readonly SimNode[]): void {
    let isOpen = 0
    for (const node of core) {
      for (const kind of ['write', 'read'] as const) {
        isOpen += 1
        const ask = () =>
          this.#workload.once(kind, node, this.#cluster.electionMs * 20, isOk => {
            if (isOk) isOpen -= 1
            else this.world.after(this.#cluster.electionMs, ask)
          })
        ask()
      }
    }
    this.#await('answers', () => (isOpen === 0 ? undefined : `${isOpen} requests are open`))
  }

  #judge(core: readonly SimNode[]): void {
    const { checker } = this.#cluster
    const [first] = core
    for (const node of core) {
      const isSame =
        node.machine?.inner.hash === first?.machine?.inner.hash &&
        lastIndexOf(node.disk.log) === checker.committedIndex
      if (!isSame) this.world.fail(`node ${node.id} ends in another state than node ${first?.id}`)
    }
    const textOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1')
    const applied = new Set(checker.committed.map(entry => textOf(entry?.bytes ?? noBytes)))
    for (const request of this.#workload.refused) {
      if (applied.has(textOf(this.#cluster.encode(request)))) {
        this.world.fail(`${JSON.stringify(request)} was refused and yet applied`)
      }
    }
    const { history } = this.#workload
    const [fault] = chainFaults(history)
    if (fault !== undefined) this.world.fail(`clients saw: ${fault}`)
    const verdict = checkRegisters(history)
    if (verdict.kind === 'violation') this.world.fail(describeVerdict(verdict))
    this.world.count(`histories: ${verdict.kind}`)
  }
}
