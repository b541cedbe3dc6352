/**
 * Our core behind the protocol of the conformance harness (PROTOCOL.md): JSON lines in, JSON lines
 * out. It translates words, and keeps the stable log of each node as the harness keeps its own.
 */
import { createInterface } from 'node:readline'
import {
  type Changed,
  type ConfRefusal,
  decodeConfChange,
  emptyConf,
  encodeConfChange,
  enterJoint,
  isLearner,
  leaveJoint,
  simple,
  type Tracker,
} from '../../../src/raft/confchange.ts'
import { RaftCore } from '../../../src/raft/core.ts'
import { committedIndex, voteResult } from '../../../src/raft/quorum.ts'
import type {
  ConfChange,
  ConfState,
  Entry,
  EntryKind,
  Message,
  NodeId,
  ProgressStatus,
  Ready,
  SingleChange,
  Snapshot,
} from '../../../src/raft/types.ts'
import { MemoryLog } from '../memory-log.ts'

/** Words of the protocol by ours. */
const kinds: Readonly<Record<EntryKind, string>> = {
  normal: 'EntryNormal',
  conf: 'EntryConfChange',
  'conf-v2': 'EntryConfChangeV2',
}
const changeTypes: Readonly<Record<SingleChange['type'], string>> = {
  'add-voter': 'ConfChangeAddNode',
  'add-learner': 'ConfChangeAddLearnerNode',
  remove: 'ConfChangeRemoveNode',
  update: 'ConfChangeUpdateNode',
}
const roles = {
  follower: 'StateFollower',
  'pre-candidate': 'StatePreCandidate',
  candidate: 'StateCandidate',
  leader: 'StateLeader',
} as const
const states = { probe: 'StateProbe', replicate: 'StateReplicate', snapshot: 'StateSnapshot' }
const votes = { won: 'VoteWon', lost: 'VoteLost', pending: 'VotePending' } as const
const refusals: Readonly<Record<ConfRefusal, string>> = {
  'already-joint': 'config is already joint',
  'no-voters': "can't make a zero-voter config joint",
  'not-joint': "can't leave a non-joint config",
  'simple-while-joint': "can't apply simple config change in joint config",
  'several-voters': 'more than one voter changed without entering joint config',
  'removed-all-voters': 'removed all voters',
}
const dropped = 'raft proposal dropped'
const stepErrors: Readonly<Record<string, string>> = {
  'not-known-peer': 'raft: cannot step as peer not found',
  'local-message': 'raft: cannot step raft local message',
}

function ourWord<Word extends string>(words: Readonly<Record<Word, string>>, theirs: string): Word {
  for (const word of Object.keys(words) as Word[]) if (words[word] === theirs) return word
  throw new Error(`unknown word ${theirs}`)
}

interface TheirChange {
  readonly type?: string
  readonly nodeId?: NodeId
  readonly transition?: ConfChange['transition']
  readonly changes?: readonly { readonly type: string; readonly nodeId: NodeId }[]
}

interface TheirEntry {
  readonly term?: number
  readonly index?: number
  readonly type: string
  readonly data?: string
  readonly change?: TheirChange
}

type TheirMessage = Partial<Omit<Message, 'entries'>> & {
  readonly entries?: readonly TheirEntry[]
}

interface TheirConfig {
  readonly electionTick: number
  readonly heartbeatTick: number
  readonly preVote?: boolean
  readonly checkQuorum?: boolean
  readonly stepDownOnRemoval?: boolean
  readonly disableConfChangeValidation?: boolean
  readonly maxInflightMsgs: number | null
  readonly maxCommittedSizePerReady: number | null
  readonly maxSizePerMsg: number | null
}

interface Request {
  readonly op: string
  readonly seq: number
  readonly id: NodeId
  readonly to: NodeId
  readonly peer: NodeId
  readonly ticks: number
  readonly index: number
  readonly lastIndex: number
  readonly type: string
  readonly data: string
  readonly autoLeave?: boolean
  readonly change: TheirChange
  readonly changes: readonly { readonly type: string; readonly nodeId: NodeId }[]
  readonly message: TheirMessage
  readonly config: TheirConfig
  readonly snapshot: Snapshot | null
  readonly incoming: readonly NodeId[]
  readonly outgoing?: readonly NodeId[]
  readonly acked: Readonly<Record<string, number>>
  readonly votes: Readonly<Record<string, boolean>>
}

const unlimited = { inflightMax: Number.POSITIVE_INFINITY, inflightBytesMax: Infinity }

function ourChanges(changes: Request['changes']): SingleChange[] {
  return changes.map(({ type, nodeId }) => ({ type: ourWord(changeTypes, type), nodeId }))
}

function ourChange(type: string, change: TheirChange | undefined): ConfChange {
  if (type === 'EntryConfChange') {
    const only = { type: change?.type ?? 'ConfChangeAddNode', nodeId: change?.nodeId ?? 0 }
    return { transition: 'auto', changes: ourChanges([only]) }
  }
  return {
    transition: change?.transition ?? 'auto',
    changes: ourChanges(change?.changes ?? []),
  }
}

function ourEntry({ term = 0, index = 0, type, data, change }: TheirEntry): Entry {
  const kind = ourWord(kinds, type)
  const bytes =
    kind === 'normal' ? new TextEncoder().encode(data) : encodeConfChange(ourChange(type, change))
  return { term, index, kind, bytes }
}

function theirEntry({ term, index, kind, bytes }: Entry): TheirEntry {
  const type = kinds[kind]
  if (kind === 'normal') return { term, index, type, data: new TextDecoder().decode(bytes) }
  const { transition, changes } = decodeConfChange(bytes)
  const singles = changes.map(change => ({ ...change, type: changeTypes[change.type] }))
  const change = kind === 'conf' ? singles[0] : { transition, changes: singles }
  return { term, index, type, ...(change === undefined ? {} : { change }) }
}

function ourMessage(theirs: TheirMessage): Message {
  if (theirs.type === undefined) throw new Error('a message has a type')
  return {
    type: theirs.type,
    from: theirs.from ?? 0,
    to: theirs.to ?? 0,
    term: theirs.term ?? 0,
    logTerm: theirs.logTerm ?? 0,
    index: theirs.index ?? 0,
    commit: theirs.commit ?? 0,
    entries: (theirs.entries ?? []).map(ourEntry),
    reject: theirs.reject ?? false,
    rejectHint: theirs.rejectHint ?? 0,
    snapshot: theirs.snapshot ? ourSnapshot(theirs.snapshot) : undefined,
    context: theirs.context ?? 0,
    isTransfer: theirs.isTransfer ?? false,
  }
}

function ourSnapshot({ index, term, confState, data }: Snapshot): Snapshot {
  return { index, term, data, confState: { ...emptyConf, ...confState } }
}

function theirMessage(ours: Message): object {
  return { ...ours, entries: ours.entries.map(theirEntry) }
}

function theirProgress(progress: ReadonlyMap<NodeId, ProgressStatus>): object {
  const all = [...progress].map(([id, member]) => {
    const { state, match, next, pendingSnapshot, inflight } = member
    const { isPaused, isRecentlyActive, isLearner, isInflightFull } = member
    const flags = { paused: isPaused, recentActive: isRecentlyActive, learner: isLearner }
    const numbers = { match, next, pendingSnapshot, inflight, inflightFull: isInflightFull }
    return [id, { state: states[state], ...numbers, ...flags }]
  })
  return Object.fromEntries(all)
}

function theirTracker({ conf, progress }: Tracker): object {
  const statuses = new Map(
    [...progress].map(([id, member]) => [id, member.status(isLearner(conf, id))]),
  )
  return { config: conf, progress: theirProgress(statuses) }
}

function theirReady(ready: Ready): object {
  return {
    soft: ready.soft && { lead: ready.soft.lead, state: roles[ready.soft.role] },
    hard: ready.hard,
    entries: ready.entries.map(theirEntry),
    snapshot: ready.snapshot,
    committed: ready.committed.map(theirEntry),
    messages: [...ready.messages, ...ready.answers].map(theirMessage),
    mustSync: ready.mustSync,
  }
}

class Node {
  readonly core: RaftCore
  readonly log: MemoryLog

  constructor(id: NodeId, config: TheirConfig, snapshot: Snapshot | null) {
    const base = snapshot === null ? undefined : ourSnapshot(snapshot)
    this.log = new MemoryLog(base)
    const index = base?.index ?? 0
    this.core = new RaftCore(
      {
        id,
        electionTick: config.electionTick,
        heartbeatTick: config.heartbeatTick,
        preVote: config.preVote ?? false,
        checkQuorum: config.checkQuorum ?? false,
        stepDownOnRemoval: config.stepDownOnRemoval ?? false,
        disableConfChangeValidation: config.disableConfChangeValidation ?? false,
        inflightMax: config.maxInflightMsgs ?? Number.POSITIVE_INFINITY,
        inflightBytesMax: Number.POSITIVE_INFINITY,
        messageBytesMax: config.maxSizePerMsg ?? Number.POSITIVE_INFINITY,
        committedBytesMax: config.maxCommittedSizePerReady ?? Number.POSITIVE_INFINITY,
        uncommittedBytesMax: Number.POSITIVE_INFINITY,
        random: n => Math.floor(Math.random() * n),
      },
      this.log,
      {
        hardState: { term: 0, vote: 0, commit: index },
        confState: base?.confState ?? emptyConf,
        applied: index,
      },
    )
  }

  /** The harness persists, applies and sends as soon as it has the answer. */
  ready(): object {
    const ready = this.core.ready()
    if (ready === undefined) return { ready: null }
    this.log.persist(ready)
    return { ready: theirReady(ready) }
  }
}

const nodes = new Map<NodeId, Node>()
let tracker: Tracker = { conf: emptyConf, progress: new Map() }

function reset(): object {
  nodes.clear()
  tracker = { conf: emptyConf, progress: new Map() }
  return {}
}

function takeChanged(changed: Changed): object {
  if (!changed.ok) return { error: refusals[changed.reason] }
  tracker = changed.tracker
  return theirTracker(tracker)
}

const pureOps: Readonly<Record<string, (request: Request) => object>> = {
  hello: () => ({ protocol: 1, name: 'fnd' }),
  reset,
  'quorum.committed': ({ incoming, outgoing, acked }) => {
    const index = committedIndex(incoming, outgoing ?? [], id => acked[id] ?? 0)
    return { index: index === Number.POSITIVE_INFINITY ? null : index }
  },
  'quorum.vote': request => {
    const { incoming, outgoing } = request
    return { result: votes[voteResult(incoming, outgoing ?? [], id => request.votes[id])] }
  },
  'confchange.simple': ({ changes, lastIndex }) =>
    takeChanged(simple(tracker, ourChanges(changes), lastIndex, unlimited)),
  'confchange.enterJoint': ({ changes, lastIndex, autoLeave = false }) =>
    takeChanged(enterJoint(tracker, ourChanges(changes), autoLeave, lastIndex, unlimited)),
  'confchange.leaveJoint': ({ lastIndex }) =>
    takeChanged(leaveJoint(tracker, lastIndex, unlimited)),
  new: ({ id, config, snapshot }) => {
    nodes.set(id, new Node(id, config, snapshot))
    return {}
  },
}

const nodeOps: Readonly<Record<string, (node: Node, request: Request) => object | undefined>> = {
  campaign: ({ core }) => void core.campaign(),
  tick: ({ core }) => void core.tick(),
  propose: ({ core }, { data }) =>
    core.propose([new TextEncoder().encode(data)]).ok ? {} : { error: dropped },
  proposeConf: ({ core }, { type, change }) => {
    const kind = ourWord(kinds, type)
    if (kind === 'normal') throw new Error('no kind of a change')
    return core.proposeConf(kind, ourChange(type, change)).ok ? {} : { error: dropped }
  },
  step: ({ core }, { message }) => {
    const refusal = core.step(ourMessage(message))
    return refusal === undefined ? {} : { error: stepErrors[refusal] ?? dropped }
  },
  transfer: ({ core }, { to }) => void core.transferLeader(to),
  unreachable: ({ core }, { peer }) => void core.reportUnreachable(peer),
  setRandomizedTimeout: ({ core }, { ticks }) => void core.setElectionTimeout(ticks),
  ready: node => node.ready(),
  applyConf: ({ core }, { type, change }) => {
    const confState: ConfState = core.applyConf(ourChange(type, change))
    return { confState }
  },
  snapshot: ({ log }, { snapshot }) => {
    if (snapshot !== null) log.newest = ourSnapshot(snapshot)
    return {}
  },
  compact: ({ log }, { index }) => void log.compact(index),
  advance: ({ core }) => void core.advance(),
  status: ({ core }) => {
    const { role, term, lead, vote, commit, applied, confState, progress } = core.status()
    const basics = { state: roles[role], term, lead, vote, commit, applied }
    return { ...basics, config: confState, progress: theirProgress(progress) }
  },
}

function handle(request: Request): object {
  const pure = pureOps[request.op]
  if (pure !== undefined) return pure(request)
  const operation = nodeOps[request.op]
  const node = nodes.get(request.id)
  if (operation === undefined || node === undefined) throw new Error(`cannot do ${request.op}`)
  return operation(node, request) ?? {}
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as Request
  let reply: object
  try {
    reply = handle(request)
  } catch (error) {
    console.error(error)
    reply = { error: (error as Error).message }
  }
  process.stdout.write(`${JSON.stringify({ seq: request.seq, ...reply })}\n`)
}
