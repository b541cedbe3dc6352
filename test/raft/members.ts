/** Members of a group for tests of the core: a memory log each, and a network without delay. */
import { decodeConfChange, emptyConf } from '../../src/raft/confchange.ts'
import { RaftCore } from '../../src/raft/core.ts'
import { message } from '../../src/raft/role-state.ts'
import type {
  ConfState,
  CoreConfig,
  Entry,
  HardState,
  Message,
  MessageType,
  NodeId,
  ReadState,
  Snapshot,
} from '../../src/raft/types.ts'
import { MemoryLog } from './memory-log.ts'

/** A small generator of our own (mulberry32), so that a seed decides everything. */
export function randomOf(seed: number): (n: number) => number {
  let state = seed >>> 0
  return n => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * n)
  }
}

export interface MemberOptions extends Partial<CoreConfig> {
  readonly id: NodeId
  readonly voters?: readonly NodeId[]
  readonly learners?: readonly NodeId[]
  readonly conf?: ConfState
  readonly hardState?: HardState
  /** Terms of the entries 1, 2, … that are in the log at the start. */
  readonly terms?: readonly number[]
  readonly base?: Snapshot
  readonly applied?: number
  readonly log?: MemoryLog
}

export const electionTick = 10

const text = new TextEncoder()

export function bytesOf(words: string): Uint8Array {
  return text.encode(words)
}

export function entry(index: number, term: number, words = ''): Entry {
  return { index, term, kind: 'normal', bytes: bytesOf(words) }
}

export function to(
  id: NodeId,
  type: MessageType,
  fields: Partial<Omit<Message, 'type' | 'to'>> = {},
): Message {
  return message(type, fields.from ?? 0, id, fields)
}

function configOf(options: MemberOptions): CoreConfig {
  const { id } = options
  return {
    id,
    electionTick: options.electionTick ?? electionTick,
    heartbeatTick: options.heartbeatTick ?? 1,
    preVote: options.preVote ?? false,
    checkQuorum: options.checkQuorum ?? false,
    stepDownOnRemoval: options.stepDownOnRemoval ?? true,
    inflightMax: options.inflightMax ?? 256,
    inflightBytesMax: options.inflightBytesMax ?? Number.POSITIVE_INFINITY,
    messageBytesMax: options.messageBytesMax ?? Number.POSITIVE_INFINITY,
    committedBytesMax: options.committedBytesMax ?? Number.POSITIVE_INFINITY,
    uncommittedBytesMax: options.uncommittedBytesMax ?? Number.POSITIVE_INFINITY,
    random: options.random ?? randomOf(id),
  }
}

/** One core with a driver that does everything at once. */
export class Member {
  readonly id: NodeId
  core: RaftCore
  readonly log: MemoryLog
  hard: HardState
  conf: ConfState
  readonly applied: Entry[] = []
  readonly reads: ReadState[] = []
  readonly #config: CoreConfig
  #appliedIndex: number

  constructor(options: MemberOptions) {
    this.id = options.id
    this.#config = configOf(options)
    this.log = options.log ?? new MemoryLog(options.base)
    const entries = (options.terms ?? []).map((term, at) => entry(at + 1, term))
    this.log.persist({ snapshot: undefined, entries })
    const commit = options.base?.index ?? 0
    this.hard = options.hardState ?? { term: options.terms?.at(-1) ?? 0, vote: 0, commit }
    const { voters = [], learners = [] } = options
    this.conf = options.conf ?? options.base?.confState ?? { ...emptyConf, voters, learners }
    this.#appliedIndex = options.applied ?? commit
    this.core = this.#newCore()
  }

  #newCore(): RaftCore {
    const initial = { hardState: this.hard, confState: this.conf, applied: this.#appliedIndex }
    return new RaftCore(this.#config, this.log, initial)
  }

  /** As after a crash: what was not persisted is gone. */
  restart(): void {
    this.core = this.#newCore()
  }

  get role() {
    return this.core.role
  }

  get appliedIndex(): number {
    return this.#appliedIndex
  }

  /** Words of the applied entries that have any. */
  get words(): string[] {
    return this.applied
      .filter(({ kind, bytes }) => kind === 'normal' && bytes.length > 0)
      .map(({ bytes }) => new TextDecoder().decode(bytes))
  }

  /** Handles one Ready; what it sends is returned. Undefined: there is none. */
  handle(): Message[] | undefined {
    const ready = this.core.ready()
    if (ready === undefined) return undefined
    this.log.persist(ready)
    this.hard = ready.hard ?? this.hard
    if (ready.snapshot !== undefined) {
      this.#appliedIndex = ready.snapshot.index
      this.conf = ready.snapshot.confState
    }
    for (const committed of ready.committed) {
      if (committed.kind !== 'normal') {
        this.conf = this.core.applyConf(decodeConfChange(committed.bytes))
      }
      this.applied.push(committed)
      this.#appliedIndex = committed.index
    }
    this.reads.push(...ready.reads)
    this.core.advance()
    return [...ready.messages, ...ready.answers]
  }

  /** Handles Readys until there is none. */
  settle(): Message[] {
    const sent: Message[] = []
    for (let batch = this.handle(); batch !== undefined; batch = this.handle()) sent.push(...batch)
    return sent
  }

  step(received: Message): Message[] {
    this.core.step(received)
    return this.settle()
  }

  tick(times = 1): Message[] {
    const sent: Message[] = []
    for (let at = 0; at < times; at++) {
      this.core.tick()
      sent.push(...this.settle())
    }
    return sent
  }

  propose(words: string): Message[] {
    this.core.propose([bytesOf(words)])
    return this.settle()
  }

  /** Becomes leader with the votes of all other voters; returns what it sends as leader. */
  lead(): Message[] {
    this.core.campaign()
    const sent = this.settle()
    for (const { type, to: voter, term } of sent) {
      const answer = type === 'MsgPreVote' ? 'MsgPreVoteResp' : 'MsgVoteResp'
      sent.push(...this.step(to(this.id, answer, { from: voter, term })))
      if (this.role === 'leader') break
    }
    return sent.filter(({ type }) => type === 'MsgApp')
  }

  /** Makes everything in its log committed and applied, by the acknowledgement of these voters. */
  acknowledge(voters: readonly NodeId[], index = this.core.lastIndex): Message[] {
    const { term } = this.core
    return voters.flatMap(from => this.step(to(this.id, 'MsgAppResp', { from, term, index })))
  }

  snapshotHere(): Snapshot {
    const index = this.#appliedIndex
    const term = this.log.term(index) ?? 0
    return { index, term, confState: this.conf, data: '' }
  }

  /** Applied entries leave the log; a snapshot takes their place. */
  compact(): void {
    this.log.newest = this.snapshotHere()
    this.log.compact(this.#appliedIndex)
  }
}

/** Members and what is between them. */
export class Group {
  readonly members = new Map<NodeId, Member>()
  /** Everything that was delivered. */
  readonly delivered: Message[] = []
  #passes: (sent: Message) => boolean = () => true

  constructor(members: Iterable<Member>) {
    for (const member of members) this.members.set(member.id, member)
  }

  /** Members 1 to `size`, all voters. */
  static of(size: number, options: Partial<MemberOptions> = {}): Group {
    const voters = Array.from({ length: size }, (_, at) => at + 1)
    return new Group(voters.map(id => new Member({ id, voters, ...options })))
  }

  at(id: NodeId): Member {
    const member = this.members.get(id)
    if (member === undefined) throw new Error(`there is no member ${id}`)
    return member
  }

  /** Only what `passes` gets through from here on. */
  filter(passes: (sent: Message) => boolean): void {
    this.#passes = passes
  }

  heal(): void {
    this.#passes = () => true
  }

  isolate(...ids: NodeId[]): void {
    this.filter(({ from, to: id }) => !ids.includes(from) && !ids.includes(id))
  }

  cut(one: NodeId, other: NodeId): void {
    this.filter(
      sent =>
        !(sent.from === one && sent.to === other) && !(sent.from === other && sent.to === one),
    )
  }

  /** Delivers these, and what follows from them, until all is quiet. */
  run(sent: readonly Message[] = []): void {
    const queue = [...sent]
    for (const member of this.members.values()) queue.push(...member.settle())
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const receiver = this.members.get(next.to)
      if (receiver === undefined || !this.#passes(next)) continue
      this.delivered.push(next)
      queue.push(...receiver.step(next))
    }
  }

  campaign(id: NodeId): void {
    this.at(id).core.campaign()
    this.run()
  }

  propose(id: NodeId, words: string): void {
    this.at(id).core.propose([bytesOf(words)])
    this.run()
  }

  /** Ticks of one member; what it sends is delivered after each. */
  tick(id: NodeId, times = 1): void {
    for (let at = 0; at < times; at++) {
      this.at(id).core.tick()
      this.run()
    }
  }

  get roles(): string[] {
    return [...this.members.values()].map(({ role }) => role)
  }

  get terms(): number[] {
    return [...this.members.values()].map(({ core }) => core.term)
  }
}
