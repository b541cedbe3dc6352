/**
 * What must hold at every moment, whatever fails, seen over the whole cluster and over time: the
 * checker remembers what was ever said, written and applied, since most broken promises show only
 * against the past. Names are those of the Raft paper (figure 3) and thesis.
 */
import { isMember } from '../../src/raft/confchange.ts'
import type { CommittedEntry, LogWrite } from '../../src/raft/ports.ts'
import type { ConfState, CoreStatus, Entry, Message, NodeId, Role } from '../../src/raft/types.ts'
import type { SimDisk } from './disk.ts'
import { type LogImage, lastIndexOf, termOf } from './image.ts'
import type { World } from './world.ts'

/** What the checker sees of a node, past ones included. */
export interface CheckedNode {
  readonly id: NodeId
  readonly disk: SimDisk
  /** As applied, and as before the event that runs. */
  readonly confStates: readonly ConfState[]
  /** What its core knows to be committed. */
  readonly commit: number
  readonly appliedIndex: number
  readonly role: Role | undefined
}

export class Checker {
  readonly #world: World
  readonly #nodes: ReadonlyMap<NodeId, CheckedNode>
  /** By index. */
  readonly committed: (Entry | undefined)[] = [undefined]
  readonly #leaders = new Map<number, NodeId>()
  readonly #leaderTerms = new Map<NodeId, number>()
  /** Terms of leaders whose log was compared with what was committed before. */
  readonly #complete = new Set<number>()
  readonly #votes = new Map<string, NodeId>()
  /** Terms in which somebody stood for election. */
  readonly #terms = new Set<number>([0])
  /** By term and member: how far it was known to hold the leader's log. */
  readonly #matches = new Map<number, Map<NodeId, number>>()
  /** Index and term name an entry, and with it all before it (Log Matching). */
  readonly #entries = new Map<number, { readonly entry: Entry; previousTerm: number | undefined }>()
  readonly #hashes = new Map<number, string>()
  readonly #confs = new Map<number, string>()
  #lastConf: { readonly index: number; readonly state: ConfState } | undefined

  constructor(world: World, nodes: ReadonlyMap<NodeId, CheckedNode>, firstConf: ConfState) {
    this.#world = world
    this.#nodes = nodes
    this.#lastConf = { index: 0, state: firstConf }
  }

  get committedIndex(): number {
    return this.committed.length - 1
  }

  get confState(): ConfState | undefined {
    return this.#lastConf?.state
  }

  /** It knows the newest configuration to be committed, and will after a loss of power. */
  knowsConfState({ disk }: CheckedNode): boolean {
    const { log, floor } = disk
    return Math.max(log.hardState.commit, floor.index) >= (this.#lastConf?.index ?? 0)
  }

  // What a node says of itself.

  role(id: NodeId, role: Role, term: number): void {
    if (role !== 'leader') {
      // It may have counted a majority in the same event in which it gave up.
      const node = this.#nodes.get(id)
      if (node !== undefined) this.counted(node)
      this.#leaderTerms.delete(id)
      return
    }
    this.#leads(id, term)
    this.#leaderTerms.set(id, term)
  }

  ended(id: NodeId): void {
    this.#leaderTerms.delete(id)
  }

  #leads(id: NodeId, term: number): void {
    const other = this.#leaders.get(term)
    if (other === undefined) this.#leaders.set(term, id)
    else if (other !== id) this.#world.fail(`term ${term} has two leaders, ${other} and ${id}`)
  }

  // The log.

  write(node: CheckedNode, write: LogWrite, before: LogImage): void {
    this.#checkHardState(node, write, before)
    const base = write.reset?.index ?? before.baseIndex
    const end = write.reset?.index ?? lastIndexOf(before)
    const [first] = write.entries
    if (first !== undefined) this.#checkAppended(node, write, before, base, end)
    if (write.reset !== undefined && write.reset.index <= before.hardState.commit) {
      this.#fail(node, `a snapshot at ${write.reset.index} took the place of committed entries`)
    }
    const isSafe = write.reset !== undefined || write.dropThrough <= node.disk.floor.index
    if (!isSafe && write.dropThrough > before.baseIndex) {
      this.#fail(node, `drops ${write.dropThrough}, durably applied is ${node.disk.floor.index}`)
    }
    if (write.hardState.commit > this.committedIndex) this.#learn(node, write.hardState.commit)
  }

  #checkHardState(node: CheckedNode, { hardState }: LogWrite, { hardState: old }: LogImage): void {
    if (hardState.term < old.term)
      this.#fail(node, `term goes from ${old.term} to ${hardState.term}`)
    if (hardState.term === old.term && old.vote !== 0 && hardState.vote !== old.vote) {
      this.#fail(node, `vote of term ${old.term} goes from ${old.vote} to ${hardState.vote}`)
    }
    if (hardState.vote === node.id) this.#terms.add(hardState.term)
    // A term begins with a candidate; a pre-vote is about one that nobody entered (thesis §9.6).
    if (!this.#terms.has(hardState.term)) {
      this.#fail(node, `enters term ${hardState.term}, in which nobody stood for election`)
    }
    if (hardState.commit < old.commit) {
      this.#fail(node, `commit goes from ${old.commit} to ${hardState.commit}`)
    }
  }

  #checkAppended(
    node: CheckedNode,
    write: LogWrite,
    before: LogImage,
    base: number,
    end: number,
  ): void {
    const [first] = write.entries
    if (first === undefined) return
    if (first.index <= base || first.index > end + 1) {
      this.#fail(node, `appends ${first.index} to a log of ${base + 1} to ${end}`)
    }
    const floor = Math.max(before.hardState.commit, node.disk.floor.index)
    if (first.index <= floor && write.reset === undefined) {
      this.#fail(node, `overwrites ${first.index}, although ${floor} is committed`)
    }
    let previousTerm =
      first.index === write.reset?.index ? write.reset.term : termOf(before, first.index - 1)
    if (write.reset !== undefined && first.index === base + 1) previousTerm = write.reset.term
    let index = first.index
    for (const entry of write.entries) {
      if (entry.index !== index) this.#fail(node, `appends ${entry.index} where ${index} is due`)
      if (previousTerm !== undefined && entry.term < previousTerm) {
        this.#fail(node, `appends term ${entry.term} at ${index} after term ${previousTerm}`)
      }
      this.#entry(node, entry, previousTerm)
      previousTerm = entry.term
      index += 1
    }
    if (write.entries.some(({ kind }) => kind !== 'normal'))
      this.#checkOneChange(node, write, before)
    this.#checkCompleteness(node, write, before)
  }

  /** Log Matching: the same index and term, so the same entry after the same entry. */
  #entry(node: CheckedNode, entry: Entry, previousTerm: number | undefined): void {
    const key = entry.index * 0x100_0000 + entry.term
    const known = this.#entries.get(key)
    if (known === undefined) {
      this.#entries.set(key, { entry, previousTerm })
      return
    }
    known.previousTerm ??= previousTerm
    const isSame =
      known.entry === entry ||
      (known.entry.kind === entry.kind && Buffer.compare(known.entry.bytes, entry.bytes) === 0)
    if (!isSame) this.#fail(node, `has another entry ${entry.index} of term ${entry.term}`)
    if (previousTerm !== undefined && known.previousTerm !== previousTerm) {
      this.#fail(
        node,
        `has ${entry.index} of term ${entry.term} after term ${previousTerm}, elsewhere it is ` +
          `after ${known.previousTerm}`,
      )
    }
  }

  /** A leader waits for a change of the configuration before it begins the next (thesis §4.1). */
  #checkOneChange(node: CheckedNode, write: LogWrite, before: LogImage): void {
    const firstIndex = write.entries[0]?.index ?? 0
    const kept = write.reset === undefined ? before.entries : []
    const open = [...kept.filter(({ index }) => index < firstIndex), ...write.entries]
      .filter(({ index, kind }) => kind !== 'normal' && index > this.committedIndex)
      .map(({ index }) => index)
    if (open.length > 1) this.#fail(node, `has changes of the configuration at ${open.join()}`)
  }

  /** Leader Completeness, when the first entry of a leader's own term is written. */
  #checkCompleteness(node: CheckedNode, write: LogWrite, before: LogImage): void {
    const term = this.#leaderTerms.get(node.id)
    if (term === undefined || this.#complete.has(term)) return
    if (write.entries.every(entry => entry.term !== term)) return
    this.#complete.add(term)
    const firstIndex = write.entries[0]?.index ?? 0
    for (let index = before.baseIndex + 1; index <= this.committedIndex; index++) {
      const expected = this.committed[index]?.term ?? 0
      if (expected >= term) return
      const own =
        index < firstIndex ? termOf(before, index) : write.entries[index - firstIndex]?.term
      if (own !== expected) {
        this.#fail(node, `leads term ${term} without ${index} of term ${expected}: has ${own}`)
      }
    }
  }

  // Messages.

  send(node: CheckedNode, message: Message): void {
    const { type, term, to, index, reject } = message
    if (message.from !== node.id) this.#fail(node, `sends as ${message.from}`)
    if (type === 'MsgVote' || type === 'MsgPreVote') this.#checkCandidate(node)
    if (type === 'MsgVote') this.#vote(node, term, node.id)
    else if (type === 'MsgVoteResp' && !reject) this.#checkVote(node, term, to)
    else if (type === 'MsgAppResp' && !reject) this.#checkAck(node, term, index)
    else if (type === 'MsgApp' || type === 'MsgHeartbeat') {
      this.#leads(node.id, term)
      // It may say so in its messages before it tells its role.
      this.#leaderTerms.set(node.id, term)
      let previousTerm: number | undefined = message.logTerm
      for (const entry of message.entries) {
        this.#entry(node, entry, previousTerm)
        previousTerm = entry.term
      }
      if (message.commit > this.committedIndex) this.#learn(node, message.commit)
    }
  }

  /** Who decides is not known while a change of that is committed and not applied (raft.md §3). */
  #checkCandidate(node: CheckedNode): void {
    // A request may leave when its election is void, since it waits for the disk.
    if (node.role !== 'candidate' && node.role !== 'pre-candidate') return
    // What its disk has may be an entry of an earlier term, whose replacement is being written.
    for (let index = node.appliedIndex + 1; index <= node.commit; index++) {
      const entry = this.committed[index]
      if (entry !== undefined && entry.kind !== 'normal') {
        this.#fail(node, `stands for election with the change at ${index} not applied`)
      }
    }
  }

  #vote(node: CheckedNode, term: number, candidate: NodeId): void {
    const key = `${node.id}/${term}`
    const earlier = this.#votes.get(key)
    if (earlier === undefined) this.#votes.set(key, candidate)
    else if (earlier !== candidate) {
      this.#fail(node, `votes for ${earlier} and for ${candidate} in term ${term}`)
    }
  }

  #checkVote(node: CheckedNode, term: number, candidate: NodeId): void {
    this.#vote(node, term, candidate)
    const { hardState } = node.disk.log
    const isKept =
      hardState.term > term || (hardState.term === term && hardState.vote === candidate)
    if (!isKept) this.#fail(node, `tells its vote of term ${term} before it is on the disk`)
  }

  #checkAck(node: CheckedNode, term: number, index: number): void {
    const { log } = node.disk
    if (log.hardState.term < term) this.#fail(node, `answers in term ${term}, which is not durable`)
    // In a later term its leader may have replaced the entry before it came to the disk. Then
    // nobody counts on this answer: a majority that kept the entry would not have elected it.
    if (lastIndexOf(log) < index && log.hardState.term === term) {
      this.#fail(node, `acknowledges ${index}, on the disk is ${lastIndexOf(log)}`)
    }
  }

  /** What a leader believes of the others. */
  progress(node: CheckedNode, { term, progress }: CoreStatus): void {
    const matches = this.#matches.get(term) ?? new Map<NodeId, number>()
    this.#matches.set(term, matches)
    for (const [peer, { match, next }] of progress) {
      if (next <= match) this.#fail(node, `would send ${next} to ${peer}, which holds ${match}`)
      const known = matches.get(peer) ?? 0
      if (match < known) this.#fail(node, `forgets that ${peer} holds ${known}, down to ${match}`)
      matches.set(peer, match)
      const held = this.#nodes.get(peer)?.disk.log
      // A leader of a later term may have replaced it since.
      if (held === undefined || held.hardState.term > term || held.baseIndex >= match) continue
      const [own, other] = [termOf(node.disk.log, match), termOf(held, match)]
      if (other === undefined || (own !== undefined && own !== other)) {
        this.#fail(node, `counts on ${match} of term ${own} at ${peer}, which has term ${other}`)
      }
    }
  }

  // What is committed.

  /** A leader may have counted a majority. */
  counted(node: CheckedNode): void {
    if (!this.#leaderTerms.has(node.id) || node.commit <= this.committedIndex) return
    this.#learn(node, node.commit)
  }

  /**
   * Somebody says that `told` is committed. Only a leader may be the first to know, and what it
   * counts is the newest such entry, of its own term; what is before goes with it (paper §5.4.2).
   */
  #learn(node: CheckedNode, told: number): void {
    const index = Math.max(told, node.commit)
    const term = this.#leaderTerms.get(node.id)
    if (term === undefined) this.#fail(node, `knows of commit ${index} before any leader`)
    const holders = (ids: readonly NodeId[]) =>
      ids.flatMap(id => {
        const log = this.#nodes.get(id)?.disk.log
        if (log === undefined) return []
        return termOf(log, index) === term || log.baseIndex >= index ? [log] : []
      })
    const isQuorum = ({ voters, votersOutgoing }: ConfState) =>
      [voters, votersOutgoing].every(
        ids => ids.length === 0 || holders(ids).length > ids.length / 2,
      )
    if (!node.confStates.some(isQuorum)) {
      const all = node.confStates.map(conf => JSON.stringify(conf)).join(' or ')
      this.#fail(node, `commits ${index} of term ${term} without a durable majority of ${all}`)
    }
    const from = this.committedIndex + 1
    const log = holders([...this.#nodes.keys()]).find(({ baseIndex }) => baseIndex < from)
    if (log === undefined) this.#fail(node, `commits ${index}, which nobody holds in full`)
    for (let at = from; at <= index; at++) this.committed.push(log.entries[at - log.baseIndex - 1])
  }

  // The state machine.

  apply(node: CheckedNode, entry: CommittedEntry): void {
    const { index } = entry
    if (index > this.committedIndex) this.#learn(node, index)
    const expected = this.committed[index]
    if (expected?.term !== entry.term || Buffer.compare(expected.bytes, entry.bytes) !== 0) {
      this.#fail(node, `applies another entry ${index} of term ${entry.term} than was committed`)
    }
    const { disk } = node
    if (lastIndexOf(disk.log) < index) this.#fail(node, `applies ${index} before it is on its disk`)
    if (entry.kind !== 'normal') this.#conf(node, index, entry.confState)
  }

  /** State Machine Safety: at one index all have one state. */
  state(node: CheckedNode, index: number, hash: string): void {
    const known = this.#hashes.get(index)
    if (known === undefined) this.#hashes.set(index, hash)
    else if (known !== hash) this.#fail(node, `has another state at ${index}`)
  }

  #conf(node: CheckedNode, index: number, state: ConfState | undefined): void {
    if (state === undefined) this.#fail(node, `applies a change at ${index} without its outcome`)
    this.#forgetRemoved(node.id, state)
    const text = JSON.stringify(state)
    const known = this.#confs.get(index)
    if (known !== undefined) {
      if (known !== text) this.#fail(node, `comes to ${text} at ${index}, elsewhere it is ${known}`)
      return
    }
    this.#confs.set(index, text)
    const last = this.#lastConf
    if (last !== undefined && last.index < index) {
      const fault = transitionFault(last.state, state)
      if (fault !== undefined)
        this.#fail(node, `${fault}: ${JSON.stringify(last.state)} to ${text}`)
      this.#lastConf = { index, state }
      if (state.votersOutgoing.length > 0) this.#world.count('branch: joint configuration')
      else this.#world.count('branch: simple configuration')
    }
  }

  /**
   * Whoever was taken out and comes back begins anew, for a leader that has applied that: others
   * may do so before it, as they may have the change on the disk before it.
   */
  #forgetRemoved(id: NodeId, state: ConfState): void {
    const matches = this.#matches.get(this.#leaderTerms.get(id) ?? 0)
    for (const peer of matches?.keys() ?? []) {
      if (!isMember(state, peer)) matches?.delete(peer)
    }
  }

  // Clients.

  /** A linear read that began when `committedIndex` was known sees at least that. */
  read(id: NodeId, committedIndex: number, appliedIndex: number): void {
    if (appliedIndex >= committedIndex) return
    this.#world.fail(
      `node ${id} confirmed a read at ${appliedIndex}, although ${committedIndex} was committed ` +
        'when it began',
    )
  }

  acknowledged(id: NodeId, index: number, bytes: Uint8Array): void {
    const entry = this.committed[index]
    if (entry !== undefined && Buffer.compare(entry.bytes, bytes) === 0) return
    this.#world.fail(`node ${id} acknowledged what is not the committed entry ${index}`)
  }

  #fail(node: CheckedNode, text: string): never {
    this.#world.fail(`node ${node.id} ${text}`)
  }
}

/** Two configurations in a row must share a majority: one voter differs, or it is a joint step. */
function transitionFault(from: ConfState, to: ConfState): string | undefined {
  const isJoint = (state: ConfState) => state.votersOutgoing.length > 0
  if (isJoint(from)) {
    if (isJoint(to)) return 'a change within a joint configuration'
    return `${from.voters}` === `${to.voters}` ? undefined : 'leaving joint changed the voters'
  }
  if (isJoint(to)) {
    return `${from.voters}` === `${to.votersOutgoing}` ? undefined : 'joint from other voters'
  }
  const isNew = to.voters.filter(id => !from.voters.includes(id)).length
  const isGone = from.voters.filter(id => !to.voters.includes(id)).length
  return isNew + isGone > 1 ? 'a simple step of several voters' : undefined
}
