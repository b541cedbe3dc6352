/**
 * Changes the configuration as an operator or the autopilot would, only wilder: learners, their
 * promotion, removals, replacements in one joint step, hand-overs, second changes before the first
 * is done. It never leaves a configuration in which lost nodes could be a majority.
 */
import type { ConfChange, CoreStatus, NodeId, SingleChange } from '../../src/raft/types.ts'
import type { Cluster } from './cluster.ts'
import type { Governor } from './governor.ts'
import type { SimNode } from './node.ts'
import type { Prng } from './prng.ts'

const nodesMax = 9

export class Operator implements Governor {
  readonly obstacle = undefined
  /** In peace it only mends: lost nodes are replaced and joint configurations left. */
  isPeaceful = false
  readonly #cluster: Cluster
  readonly #prng: Prng
  #target: number
  #openProposals = 0

  constructor(cluster: Cluster) {
    this.#cluster = cluster
    this.#prng = cluster.world.prng.fork()
    this.#target = cluster.options.firstNodes
    const { churn } = cluster.options
    this.#every(
      () => (churn.everyMs > 0 && !this.isPeaceful ? churn.everyMs : cluster.electionMs * 2),
      () => this.#act(),
    )
    if (churn.transferEveryMs > 0)
      this.#every(
        () => churn.transferEveryMs,
        () => this.#transfer(),
      )
  }

  /** Nothing that it asked for may still come to be logged. */
  get isIdle(): boolean {
    return this.#openProposals === 0
  }

  #every(meanMs: () => number, run: () => void): void {
    const { world } = this.#cluster
    world.after(this.#prng.exponential(meanMs()), () => {
      run()
      this.#every(meanMs, run)
    })
  }

  #act(): void {
    const { leader } = this.#cluster
    const status = leader?.member?.status()
    if (leader === undefined || status === undefined || leader.process?.isPaused === true) return
    this.#retire()
    const { churn } = this.#cluster.options
    const isHasty = !this.isPeaceful && this.#prng.chance(churn.hasty)
    if (!isHasty && this.#openProposals > 0) return
    const { confState } = status
    if (confState.votersOutgoing.length > 0) {
      // A joint configuration that was asked to stay is left by an empty change.
      if (!confState.autoLeave) this.#propose(leader, [], 'auto')
      return
    }
    const changes = this.#repair(status) ?? this.#wish(status)
    if (changes.length === 0) return
    const { explicitJoint } = churn
    const isExplicit = !this.isPeaceful && this.#prng.chance(explicitJoint)
    this.#propose(leader, changes, isExplicit ? this.#prng.pick(['explicit', 'implicit']) : 'auto')
  }

  #propose(
    leader: SimNode,
    changes: readonly SingleChange[],
    transition: ConfChange['transition'],
  ): void {
    const { member, process } = leader
    if (member === undefined || process === undefined) return
    const { world } = this.#cluster
    world.note('change', leader.id, changes.length)
    world.line(`change ${JSON.stringify(changes)} ${transition}`)
    world.count('branch: change of configuration proposed')
    this.#openProposals += 1
    let isOpen = true
    const end = () => {
      if (isOpen) this.#openProposals -= 1
      isOpen = false
    }
    process.dispatch(() => member.proposeConf({ transition, changes }, end))
    // A process that ended answers nothing; what it wrote is seen in its log.
    const watch = () => {
      if (process.isOver) end()
      else if (isOpen) world.after(this.#cluster.electionMs, watch)
    }
    watch()
  }

  /** What lost nodes make necessary; `undefined` when there are none. */
  #repair({ confState, progress }: CoreStatus): readonly SingleChange[] | undefined {
    const { voters, learners } = confState
    const lostLearner = learners.find(id => this.#cluster.isLost(id))
    if (lostLearner !== undefined) return [{ type: 'remove', nodeId: lostLearner }]
    const lost = voters.find(id => this.#cluster.isLost(id))
    if (lost === undefined) return undefined
    const [ready] = this.#ready(learners, progress)
    if (ready !== undefined) {
      this.#cluster.world.count('branch: lost voter replaced')
      return [
        { type: 'remove', nodeId: lost },
        { type: 'add-voter', nodeId: ready },
      ]
    }
    if (learners.length > 0) return []
    // Without a spare one the group shrinks: two voters with a lost one among them would be stuck.
    if (voters.length > 2 && !this.#prng.chance(0.3)) return this.#added()
    return this.#allowed({ voters }, [{ type: 'remove', nodeId: lost }])
  }

  #wish({ confState, progress, id: self }: CoreStatus): readonly SingleChange[] {
    const prng = this.#prng
    const { churn } = this.#cluster.options
    if (this.isPeaceful) return []
    if (churn.everyMs === 0)
      return confState.voters.length < this.#target ? this.#grow(confState, progress) : []
    if (prng.chance(0.1))
      this.#target = prng.pick([1, 3, 5, 7].filter(n => n <= churn.votersMax)) ?? 3
    const { voters, learners } = confState
    const ready = this.#ready(learners, progress)
    const [spare] = ready
    if (voters.length < this.#target) return this.#grow(confState, progress)
    if (voters.length > this.#target) {
      const isTwo = prng.chance(0.4) && voters.length > 3
      const victims = prng.shuffled(voters).slice(0, isTwo ? 2 : 1)
      // A leader that removes itself is the hardest case, so it is common.
      if (prng.chance(0.3) && !victims.includes(self)) victims[0] = self
      const type = prng.chance(0.3) ? 'add-learner' : 'remove'
      return this.#allowed(
        confState,
        victims.map(nodeId => ({ type, nodeId })),
      )
    }
    if (spare === undefined) return prng.chance(0.5) ? this.#added() : []
    if (prng.chance(0.2)) return [{ type: 'remove', nodeId: spare }]
    const victim = prng.pick(voters) ?? self
    return this.#allowed(confState, [
      { type: prng.chance(0.3) ? 'add-learner' : 'remove', nodeId: victim },
      { type: 'add-voter', nodeId: spare },
    ])
  }

  #grow(
    { voters, learners }: CoreStatus['confState'],
    progress: CoreStatus['progress'],
  ): readonly SingleChange[] {
    const ready = this.#ready(learners, progress)
    if (ready.length === 0) return learners.length < 2 ? this.#added() : []
    const count = this.#prng.between(1, Math.min(ready.length, this.#target - voters.length))
    return ready.slice(0, count).map(nodeId => ({ type: 'add-voter', nodeId }))
  }

  #ready(learners: readonly NodeId[], progress: CoreStatus['progress']): readonly NodeId[] {
    return learners.filter(id => isCaughtUp(progress, id) && !this.#cluster.isBad(id))
  }

  #added(): readonly SingleChange[] {
    const living = [...this.#cluster.nodes.keys()].filter(id => !this.#cluster.isLost(id))
    if (living.length >= nodesMax) return []
    const node = this.#cluster.add()
    const isWild = !this.isPeaceful && this.#prng.chance(0.1) && !this.#cluster.hasOpenChange
    return [{ type: isWild ? 'add-voter' : 'add-learner', nodeId: node.id }]
  }

  /** Lost nodes must stay a minority of the voters. */
  #allowed(
    { voters }: Pick<CoreStatus['confState'], 'voters'>,
    changes: readonly SingleChange[],
  ): readonly SingleChange[] {
    const after = new Set(voters)
    for (const { type, nodeId } of changes) {
      if (type === 'add-voter') after.add(nodeId)
      else after.delete(nodeId)
    }
    const lost = [...after].filter(id => this.#cluster.isBad(id)).length
    return after.size > 0 && lost * 2 < after.size ? changes : []
  }

  /** Nodes that were taken out stay on for a while, as they do not know it. */
  #retire(): void {
    const { checker, nodes, world, electionMs, isConfKnown } = this.#cluster
    const state = checker.confState
    if (state === undefined || !isConfKnown || this.#openProposals > 0) return
    const wanted = [
      ...state.voters,
      ...state.votersOutgoing,
      ...state.learners,
      ...state.learnersNext,
    ]
    for (const node of nodes.values()) {
      if (node.state === 'gone' || wanted.includes(node.id) || node.isRetiring) continue
      node.isRetiring = true
      world.after(this.#prng.exponential(electionMs * 5), () => {
        world.count('branch: removed node retired')
        if (node.state !== 'gone') node.vanish()
      })
    }
  }

  #transfer(): void {
    const { leader, nodes } = this.#cluster
    const member = leader?.member
    if (leader === undefined || member === undefined || this.isPeaceful) return
    const { voters, learners } = member.status().confState
    const to = this.#prng.pick([...voters, ...voters, ...voters, ...learners, ...nodes.keys()])
    this.#cluster.world.note('transfer', leader.id, to ?? 0)
    leader.process?.dispatch(() => member.transfer(to ?? leader.id))
  }
}

function isCaughtUp(progress: CoreStatus['progress'], id: NodeId): boolean {
  const last = Math.max(...[...progress.values()].map(({ match }) => match))
  const own = progress.get(id)
  return own !== undefined && own.state === 'replicate' && own.match + 20 >= last
}
