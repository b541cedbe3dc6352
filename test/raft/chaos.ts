/**
 * A group of cores under a driver that is slow, a network that loses, doubles and delays, and
 * crashes that lose what was not flushed. Checks safety after every step.
 */
import { decodeConfChange, emptyConf } from '../../src/raft/confchange.ts'
import { RaftCore } from '../../src/raft/core.ts'
import type {
  ConfChange,
  ConfState,
  CoreConfig,
  Entry,
  HardState,
  Message,
  NodeId,
  Ready,
  Snapshot,
} from '../../src/raft/types.ts'
import { bytesOf, randomOf } from './members.ts'
import { MemoryLog } from './memory-log.ts'

interface Host {
  readonly id: NodeId
  readonly log: MemoryLog
  /** As a restart finds it. */
  hard: HardState
  conf: ConfState
  applied: number
  core: RaftCore
  /** Being written, or written and not applied. */
  writing: Ready | undefined
  applying: Ready | undefined
  /** Read → the commit index that it must reach. */
  reads: Map<number, number>
  /** As of the last check. */
  commit: number
}

export class Chaos {
  readonly random: (n: number) => number
  readonly hosts: Host[] = []
  readonly #config: Omit<CoreConfig, 'id'>
  #net: Message[] = []
  /** Index → term and bytes, of what somebody applied. */
  readonly #decided = new Map<number, string>()
  readonly #leaders = new Map<number, NodeId>()
  readonly #votes = new Map<string, NodeId>()
  #isolated = new Set<NodeId>()
  #commitMax = 0
  #proposals = 0
  isFaulty = true
  readonly counts = { elections: 0, reads: 0, ended: 0, snapshots: 0, confs: 0, crashes: 0 }

  constructor(seed: number) {
    this.random = randomOf(seed)
    const { random } = this
    this.#config = {
      electionTick: 10,
      heartbeatTick: 1 + random(2),
      preVote: random(8) > 0,
      checkQuorum: random(8) > 0,
      stepDownOnRemoval: random(2) === 0,
      inflightMax: 1 + random(8),
      inflightBytesMax: [100, 1000, Number.POSITIVE_INFINITY][random(3)] ?? 100,
      messageBytesMax: [0, 100, Number.POSITIVE_INFINITY][random(3)] ?? 0,
      committedBytesMax: [0, 100, Number.POSITIVE_INFINITY][random(3)] ?? 0,
      uncommittedBytesMax: 500,
      random,
    }
    const voters = random(2) === 0 ? [1] : [1, 2, 3]
    for (let id = 1; id <= 5; id++) {
      const hard = { term: 0, vote: 0, commit: 0 }
      const conf = { ...emptyConf, voters }
      const log = new MemoryLog()
      const core = this.#coreOf({ id, log, hard, conf, applied: 0 })
      const idle = { writing: undefined, applying: undefined, reads: new Map(), commit: 0 }
      this.hosts.push({ id, log, hard, conf, applied: 0, core, ...idle })
    }
  }

  #coreOf({
    id,
    log,
    hard,
    conf,
    applied,
  }: Pick<Host, 'id' | 'log' | 'hard' | 'conf' | 'applied'>) {
    const initial = { hardState: hard, confState: conf, applied }
    return new RaftCore({ id, ...this.#config }, log, initial)
  }

  #any<Item>(items: readonly Item[]): Item {
    const item = items[this.random(items.length)]
    if (item === undefined) throw new Error('nothing to choose from')
    return item
  }

  fault(words: string): never {
    throw new Error(`safety: ${words}`)
  }

  step(): void {
    const { random } = this
    const host = this.#any(this.hosts)
    const dice = random(100)
    if (dice < 40) this.#deliver()
    else if (dice < 65) this.#drive(host)
    else if (dice < 83) host.core.tick()
    else if (dice < 86) this.#send(host.core.takeMessages())
    else if (dice < 92)
      host.core.propose([bytesOf(`${this.#proposals++} ${'x'.repeat(random(60))}`)])
    else if (dice < 95) this.#read(host)
    else if (dice < 96) this.#compact(host)
    else if (dice < 97) this.#reconfigure(host)
    else if (this.isFaulty) this.#fail(host)
    for (const each of this.hosts) this.#check(each)
  }

  #fail(host: Host): void {
    const { random } = this
    const dice = random(7)
    if (dice === 0 && random(3) === 0) this.#crash(host)
    else if (dice === 1) host.core.transferLeader(1 + random(5))
    else if (dice === 2) host.core.reportUnreachable(1 + random(5))
    else if (dice === 3) host.core.campaign()
    else if (dice === 4) this.#isolated = new Set([this.#any(this.hosts).id])
    else this.#isolated.clear()
  }

  heal(): void {
    this.isFaulty = false
    this.#isolated.clear()
  }

  #send(messages: readonly Message[]): void {
    for (const message of messages) {
      if (message.from === message.to) this.fault('a message to oneself')
      this.#net.push(message)
    }
  }

  /** The oldest mostly, so that links are almost in order. */
  #deliver(): void {
    const { random } = this
    const net = this.#net
    if (net.length === 0) return
    const at = this.isFaulty && random(3) === 0 ? random(net.length) : 0
    const message = net[at]
    if (message === undefined) return
    const isDoubled = this.isFaulty && random(20) === 0
    if (!isDoubled) net.splice(at, 1)
    const isCut = this.#isolated.has(message.from) || this.#isolated.has(message.to)
    const isLost = isCut || (this.isFaulty && random(20) === 0)
    const host = this.hosts.find(({ id }) => id === message.to)
    if (message.type === 'MsgSnap') this.#transport(message, isLost)
    else if (!isLost) host?.core.step(message)
    if (host !== undefined) this.#check(host)
  }

  /** The content of a snapshot is made when it is sent, so it may be of a later index. */
  #transport(message: Message, isLost: boolean): void {
    const [sender, receiver] = [message.from, message.to].map(id =>
      this.hosts.find(host => host.id === id),
    )
    const snapshot = sender && this.#snapshotOf(sender)
    const isOk = !isLost && snapshot !== undefined
    if (isOk) receiver?.core.step({ ...message, snapshot })
    if (isOk) this.counts.snapshots += 1
    sender?.core.reportSnapshot(message.to, isOk)
  }

  #snapshotOf({ log, applied, conf }: Host): Snapshot | undefined {
    const term = log.term(applied)
    return term === undefined ? undefined : { index: applied, term, confState: conf, data: '' }
  }

  /** One duty of a Ready at a time. */
  #drive(host: Host): void {
    if (host.writing !== undefined) this.#write(host, host.writing)
    else if (host.applying !== undefined) this.#apply(host, host.applying)
    else {
      host.writing = host.core.ready()
      if (host.writing !== undefined) this.#send(host.writing.messages)
    }
  }

  #write(host: Host, ready: Ready): void {
    const { entries, snapshot, hard, mustSync } = ready
    if (snapshot !== undefined) {
      host.applied = snapshot.index
      host.conf = snapshot.confState
    }
    host.log.persist(ready)
    // A commit index alone may be lost.
    if (hard !== undefined && (mustSync || this.random(2) === 0)) host.hard = hard
    if (entries.length > 0 && !mustSync) this.fault('entries that are not flushed')
    for (const { type, to, term, reject } of ready.answers) {
      if (type === 'MsgVoteResp' && !reject) this.#voted(host, term, to)
    }
    this.#send(ready.answers)
    host.writing = undefined
    host.applying = ready
  }

  #voted(host: Host, term: number, candidate: NodeId): void {
    const key = `${host.id} in ${term}`
    const before = this.#votes.get(key) ?? candidate
    if (before !== candidate) this.fault(`${key} votes for ${before} and ${candidate}`)
    this.#votes.set(key, candidate)
  }

  #apply(host: Host, ready: Ready): void {
    for (const entry of ready.committed) {
      if (entry.index !== host.applied + 1) this.fault('entries are applied in order, once')
      if (host.log.term(entry.index) !== entry.term) this.fault('what is applied is persisted')
      this.#decide(entry)
      if (entry.kind !== 'normal') {
        host.conf = host.core.applyConf(decodeConfChange(entry.bytes))
        this.counts.confs += 1
      }
      host.applied = entry.index
    }
    for (const { read, index } of ready.reads) this.#served(host, read, index)
    host.applying = undefined
    host.core.advance()
  }

  #decide({ index, term, kind, bytes }: Entry): void {
    const words = `${term} ${kind} ${new TextDecoder('latin1').decode(bytes)}`
    const before = this.#decided.get(index) ?? words
    if (before !== words) this.fault(`entry ${index} is ${before} and ${words}`)
    this.#decided.set(index, words)
  }

  #read(host: Host): void {
    const read = host.core.readIndex()
    if (read !== undefined) host.reads.set(read, this.#commitMax)
  }

  #served(host: Host, read: number, index: number | undefined): void {
    const needed = host.reads.get(read)
    if (needed === undefined) this.fault('a read that nobody asked for')
    host.reads.delete(read)
    if (index === undefined) this.counts.ended += 1
    else {
      this.counts.reads += 1
      if (index < needed) this.fault(`a read at ${index}, asked when ${needed} was committed`)
    }
  }

  #compact(host: Host): void {
    const { log, applied } = host
    const index = applied - this.random(4)
    if (index < log.firstIndex) return
    log.newest = this.#snapshotOf(host)
    log.compact(index)
  }

  #reconfigure(host: Host): void {
    const { random } = this
    if (host.core.role !== 'leader') return
    const isLeaving = host.core.status().confState.votersOutgoing.length > 0
    const types = ['add-voter', 'add-voter', 'add-learner', 'remove'] as const
    const count = isLeaving ? 0 : 1 + random(3)
    const changes = Array.from({ length: count }, () => ({
      type: this.#any(types),
      nodeId: 1 + random(5),
    }))
    const transition = count > 0 && random(4) === 0 ? 'explicit' : 'auto'
    const change: ConfChange = { transition, changes }
    host.core.proposeConf('conf-v2', change)
  }

  #crash(host: Host): void {
    this.counts.crashes += 1
    host.writing = undefined
    host.applying = undefined
    host.reads.clear()
    host.commit = 0
    host.core = this.#coreOf(host)
  }

  #check(host: Host): void {
    const { core } = host
    if (core.role === 'leader') {
      const before = this.#leaders.get(core.term)
      if (before === undefined) this.counts.elections += 1
      if ((before ?? host.id) !== host.id) this.fault(`two leaders in term ${core.term}`)
      this.#leaders.set(core.term, host.id)
      if (core.commit > host.commit) this.#checkDurable(host)
    }
    if (core.commit < host.commit) this.fault('the commit index went back')
    host.commit = core.commit
    this.#commitMax = Math.max(this.#commitMax, core.commit)
  }

  /** What a leader commits is on the disks of a majority, of both halves. */
  #checkDurable({ core }: Host): void {
    const { confState, commit, term } = core.status()
    const holds = (id: NodeId) => {
      const log = this.hosts.find(host => host.id === id)?.log
      if (log === undefined) return false
      return log.firstIndex > commit || (log.term(commit) ?? 0) === term
    }
    for (const half of [confState.voters, confState.votersOutgoing]) {
      const count = half.filter(holds).length
      if (half.length > 0 && count * 2 <= half.length) this.fault(`${commit} is not durable`)
    }
  }

  /** Without faults, everybody gets there: a leader, equal logs, answered reads. */
  settle(): void {
    this.heal()
    for (let round = 0; round < 400; round++) {
      if (round % 40 === 20) this.#renew()
      for (const host of this.hosts) host.core.tick()
      for (let at = 0; at < 30; at++) {
        for (const host of this.hosts) {
          for (let duty = 0; duty < 4; duty++) {
            this.#drive(host)
            this.#check(host)
          }
        }
        const count = this.#net.length
        for (let each = 0; each < count; each++) this.#deliver()
      }
    }
  }

  /** A proposal and the end of a joint configuration, by who leads. */
  #renew(): void {
    const leader = this.leader
    if (leader === undefined) return
    leader.core.propose([bytesOf('renewed')])
    if (leader.core.status().confState.votersOutgoing.length === 0) return
    leader.core.proposeConf('conf-v2', { transition: 'auto', changes: [] })
  }

  /** Without these rules a member that was removed and does not know it may disturb for ever. */
  get isLive(): boolean {
    return this.#config.preVote && this.#config.checkQuorum
  }

  /** Of the highest term. */
  get leader(): Host | undefined {
    const leaders = this.hosts.filter(({ core }) => core.role === 'leader')
    return leaders.sort((a, b) => b.core.term - a.core.term)[0]
  }
}
