/** The nodes of one simulation, the network between them, and what all of them see. */
import type { Message, NodeId, Role } from '../../src/raft/types.ts'
import { Checker } from './check.ts'
import { SimDisk } from './disk.ts'
import { emptyImage, encodeRequest, KvMachine, type MachineImage, type Request } from './machine.ts'
import { SimNet } from './net.ts'
import { SimNode } from './node.ts'
import type { SimOptions } from './options.ts'
import type { Prng } from './prng.ts'
import { SnapshotCarrier } from './snapshots.ts'
import { encodeAsCommand, StateDbFiles } from './state-db-machine.ts'
import type { World } from './world.ts'

export class Cluster implements Disposable {
  readonly world: World
  readonly prng: Prng
  readonly net: SimNet
  readonly checker: Checker
  /** Also those that are gone. */
  readonly nodes = new Map<NodeId, SimNode>()
  options: SimOptions
  readonly #snapshots: SnapshotCarrier
  readonly #first: MachineImage
  readonly #files: StateDbFiles | undefined
  readonly #heardMs = new Map<string, number>()
  #lastId = 0

  constructor(world: World, options: SimOptions) {
    this.world = world
    this.options = options
    this.prng = world.prng.fork()
    this.net = new SimNet(world, world.prng.fork(), options.net, message => this.#deliver(message))
    const count = options.isBootstrapped ? options.firstNodes : 1
    const voters = Array.from({ length: count }, (_, at) => at + 1)
    const nobody = { votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }
    const confState = { voters, ...nobody }
    this.#files = options.machine === 'state-db' ? new StateDbFiles() : undefined
    this.#first = this.#files?.firstImage(confState, keysOf(options)) ?? emptyImage(confState)
    this.checker = new Checker(world, this.nodes, this.#first.confState)
    this.#snapshots = new SnapshotCarrier(world, world.prng.fork(), this.net, this.nodes)
    for (let at = 0; at < count; at++) this.add()
    this.#sample()
  }

  /** Counts states of leaders that no message shows. */
  #sample(): void {
    const { world, leader } = this
    for (const member of leader?.member?.status().progress.values() ?? []) {
      world.count(`branch: progress ${member.state}`)
      if (member.isInflightFull) world.count('branch: window of appends full')
      if (member.isPaused && member.state === 'probe') world.count('branch: probe waits')
    }
    world.after(this.electionMs / 3, () => this.#sample())
  }

  get electionMs(): number {
    return (this.options.limits.tickMs ?? 1) * (this.options.limits.electionTick ?? 1)
  }

  /** A new node with an empty disk and an id that nobody had. */
  add(): SimNode {
    this.#lastId += 1
    const disk = new SimDisk(
      { clusterId: 'simulated', uuid: `${this.#lastId}`, nodeId: this.#lastId },
      this.#first,
      this.options.disk.journalBytes,
    )
    const node = new SimNode(
      {
        world: this.world,
        checker: this.checker,
        options: () => this.options,
        makeMachine: image => this.#files?.make(image) ?? new KvMachine(image),
        network: sender => ({
          send: messages => {
            for (const message of messages) this.#send(sender, message)
          },
          sendSnapshot: (message, done) => this.#snapshots.send(sender, message, done),
        }),
      },
      disk,
      this.world.prng.fork(),
    )
    this.nodes.set(node.id, node)
    node.clock.rate = 1 + (this.prng.real() * 2 - 1) * this.options.clock.drift
    node.start()
    return node
  }

  encode(request: Request): Uint8Array {
    const { paddedBytes } = this.options.load
    return this.#files === undefined
      ? encodeRequest(request, paddedBytes)
      : encodeAsCommand(request)
  }

  [Symbol.dispose](): void {
    for (const { machine } of this.nodes.values()) machine?.inner.end()
    this.#files?.[Symbol.dispose]()
  }

  get up(): readonly SimNode[] {
    return [...this.nodes.values()].filter(({ state }) => state === 'up')
  }

  /** The node that leads, as far as anyone can tell: the leader of the highest term. */
  get leader(): SimNode | undefined {
    let found: { readonly node: SimNode; readonly term: number } | undefined
    for (const node of this.up) {
      if (node.member?.role !== 'leader') continue
      const { term } = node.member.status()
      if (found === undefined || term > found.term) found = { node, term }
    }
    return found?.node
  }

  /** When the one last heard the other. */
  heardMs(by: NodeId, from: NodeId): number | undefined {
    return this.#heardMs.get(`${by}/${from}`)
  }

  isLost(id: NodeId): boolean {
    const node = this.nodes.get(id)
    return node === undefined || node.state === 'gone' || node.state === 'broken'
  }

  /** It is lost, or will be once somebody reads its records. */
  isBad(id: NodeId): boolean {
    return this.isLost(id) || this.nodes.get(id)?.disk.isDamaged === true
  }

  /** In the log of some living node there is a change that may not be committed. */
  get hasOpenChange(): boolean {
    const { committedIndex } = this.checker
    return [...this.nodes.values()].some(
      ({ disk, state }) =>
        state !== 'gone' &&
        disk.log.entries.some(({ index, kind }) => kind !== 'normal' && index > committedIndex),
    )
  }

  /**
   * All living members of the newest configuration know it for good. Before that, those who were
   * taken out may be needed to elect a leader: a change counts once it is applied, not logged.
   */
  get isConfKnown(): boolean {
    const { checker, hasOpenChange, nodes } = this
    const state = checker.confState
    if (state === undefined || hasOpenChange) return false
    return [...state.voters, ...state.learners].every(id => {
      const node = nodes.get(id)
      return node === undefined || this.isLost(id) || checker.knowsConfState(node)
    })
  }

  /** One line for each node that is not gone. */
  describe(): string {
    const line = ({ id, state, disk, member, machine }: SimNode) => {
      const { hardState, baseIndex, entries } = disk.log
      const changes = entries.filter(({ kind }) => kind !== 'normal').map(({ index }) => index)
      const own = member?.status()
      const conf = machine?.confState ?? disk.floor.confState
      return (
        `  node ${id} ${state} ${own?.role} of term ${own?.term}, follows ${own?.lead}; applied ` +
        `${machine?.appliedIndex} of ${own?.commit} of ${own?.lastIndex}; disk: term ` +
        `${hardState.term}, vote ${hardState.vote}, commit ${hardState.commit}, log ` +
        `${baseIndex + 1} to ${baseIndex + entries.length}, changes at ${changes}; ` +
        `${JSON.stringify(conf)}; damaged ${disk.isDamaged}` +
        [...(own?.progress ?? [])].map(one => `\n    ${JSON.stringify(one)}`).join('')
      )
    }
    const nodes = [...this.nodes.values()].filter(({ state }) => state !== 'gone')
    const conf = JSON.stringify(this.checker.confState)
    return [`committed ${this.checker.committedIndex}, ${conf}`, ...nodes.map(line)].join('\n')
  }

  #send(sender: SimNode, message: Message): void {
    if (sender.process?.isOver !== false) return
    this.checker.send(sender, message)
    this.#count(sender, message)
    const { type, from, to, term, index, commit } = message
    this.world.note(`send ${type}`, from, to, term, index, commit, message.entries.length)
    this.net.send(message)
    // The transport tells when it has no connection.
    if (this.net.isCut(from, to) && this.prng.chance(0.1)) {
      const { process } = sender
      this.world.after(1, () => process?.dispatch(() => sender.member?.unreachable(to)))
    }
  }

  #deliver(message: Message): void {
    const { type, context } = message
    const receiver = this.nodes.get(message.to)
    if (type.includes('Vote') && receiver !== undefined && context > receiver.commit) {
      this.world.count('branch: election tells a commit')
    }
    this.#heardMs.set(`${message.to}/${message.from}`, this.world.nowMs)
    receiver?.receive(message)
  }

  /** Which branches of the core ran, as far as its messages tell. */
  #count(sender: SimNode, message: Message): void {
    const { type, reject, entries, commit, term } = message
    const { world } = this
    const role: Role | undefined = sender.member?.role
    if (type === 'MsgAppResp' && reject) world.count('branch: append rejected')
    else if (type === 'MsgPreVoteResp' && reject) world.count('branch: pre-vote rejected')
    else if (type === 'MsgVoteResp' && reject) world.count('branch: vote rejected')
    else if (type === 'MsgTimeoutNow') world.count('branch: leadership handed over')
    else if (type === 'MsgVote' && message.isTransfer) world.count('branch: vote by transfer')
    else if (type === 'MsgReadIndex') world.count('branch: read asked of the leader')
    else if (type === 'MsgApp' && entries.length > 0 && commit > 0) {
      const isOld = entries.some(entry => entry.term < term)
      if (isOld) world.count('branch: entries of earlier terms sent')
    } else if (type === 'MsgHeartbeat' && message.context > 0 && role === 'leader') {
      world.count('branch: heartbeat confirms reads')
    }
  }
}

/** Clients use these. */
export function keysOf({ load }: SimOptions): readonly string[] {
  return Array.from({ length: load.keys }, (_, at) => `k${at}`)
}
