/**
 * Changes of the membership: one voter at a time, or any number through a joint configuration
 * (thesis 4.3, etcd's V2 rules). Pure functions from a configuration to the next.
 */
import { assert } from '../errors.ts'
import { Progress, type WindowLimits } from './progress.ts'
import type { ConfChange, ConfState, NodeId, SingleChange } from './types.ts'

export type ProgressMap = ReadonlyMap<NodeId, Progress>

/** A configuration and what is known about each of its members. */
export interface Tracker {
  readonly conf: ConfState
  /** In ascending order of ids, so that iteration never depends on history. */
  readonly progress: ProgressMap
}

export type ConfRefusal =
  | 'already-joint'
  | 'no-voters'
  | 'not-joint'
  | 'simple-while-joint'
  | 'several-voters'
  | 'removed-all-voters'

export type Changed =
  | { readonly ok: true; readonly tracker: Tracker }
  | { readonly ok: false; readonly reason: ConfRefusal }

export const emptyConf: ConfState = {
  voters: [],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
}

const ascending = (ids: Iterable<NodeId>): NodeId[] => [...ids].sort((a, b) => a - b)

export function isJoint(conf: ConfState): boolean {
  return conf.votersOutgoing.length > 0
}

/** A voter of either half. */
export function isVoter(conf: ConfState, id: NodeId): boolean {
  return conf.voters.includes(id) || conf.votersOutgoing.includes(id)
}

export function isLearner(conf: ConfState, id: NodeId): boolean {
  return conf.learners.includes(id)
}

export function isMember(conf: ConfState, id: NodeId): boolean {
  return isVoter(conf, id) || isLearner(conf, id) || conf.learnersNext.includes(id)
}

/** Ids of the voters of both halves, ascending. */
export function votersOf(conf: ConfState): readonly NodeId[] {
  if (!isJoint(conf)) return conf.voters
  return ascending(new Set([...conf.voters, ...conf.votersOutgoing]))
}

/** The tracker of a configuration out of a snapshot or the state machine. */
export function trackerOf(conf: ConfState, lastIndex: number, limits: WindowLimits): Tracker {
  const draft = new Draft({ conf: emptyConf, progress: new Map() }, lastIndex, limits)
  for (const id of votersOf(conf)) draft.ensure(id)
  for (const id of conf.learners) draft.ensure(id)
  return draft.finish({
    voters: ascending(conf.voters),
    votersOutgoing: ascending(conf.votersOutgoing),
    learners: ascending(conf.learners),
    learnersNext: ascending(conf.learnersNext),
    autoLeave: conf.autoLeave,
  })
}

/** Copies of the sets of a configuration, in which a change takes shape. */
class Draft {
  readonly voters: Set<NodeId>
  readonly outgoing: Set<NodeId>
  readonly learners: Set<NodeId>
  readonly learnersNext: Set<NodeId>
  readonly #progress: Map<NodeId, Progress>
  readonly #lastIndex: number
  readonly #limits: WindowLimits

  constructor({ conf, progress }: Tracker, lastIndex: number, limits: WindowLimits) {
    this.voters = new Set(conf.voters)
    this.outgoing = new Set(conf.votersOutgoing)
    this.learners = new Set(conf.learners)
    this.learnersNext = new Set(conf.learnersNext)
    this.#progress = new Map(progress)
    this.#lastIndex = lastIndex
    this.#limits = limits
  }

  ensure(id: NodeId): void {
    if (this.#progress.has(id)) return
    // Taken for active, so that a check of the quorum does not fail before it could answer.
    this.#progress.set(id, new Progress(id, Math.max(1, this.#lastIndex), this.#limits, true))
  }

  apply(changes: readonly SingleChange[]): ConfRefusal | undefined {
    for (const { type, nodeId } of changes) {
      if (nodeId === 0) continue
      if (type === 'add-voter') this.#addVoter(nodeId)
      else if (type === 'add-learner') this.#addLearner(nodeId)
      else if (type === 'remove') this.#remove(nodeId)
    }
    return this.voters.size === 0 ? 'removed-all-voters' : undefined
  }

  #addVoter(id: NodeId): void {
    this.ensure(id)
    this.learners.delete(id)
    this.learnersNext.delete(id)
    this.voters.add(id)
  }

  #addLearner(id: NodeId): void {
    if (this.learners.has(id)) return
    this.ensure(id)
    this.voters.delete(id)
    this.learnersNext.delete(id)
    // An outgoing voter goes on voting until the joint configuration is left.
    if (this.outgoing.has(id)) this.learnersNext.add(id)
    else this.learners.add(id)
  }

  #remove(id: NodeId): void {
    this.voters.delete(id)
    this.learners.delete(id)
    this.learnersNext.delete(id)
    if (!this.outgoing.has(id)) this.#progress.delete(id)
  }

  leave(): void {
    for (const id of this.learnersNext) this.learners.add(id)
    this.learnersNext.clear()
    for (const id of this.outgoing) {
      if (!this.voters.has(id) && !this.learners.has(id)) this.#progress.delete(id)
    }
    this.outgoing.clear()
  }

  conf(autoLeave: boolean): ConfState {
    return {
      voters: ascending(this.voters),
      votersOutgoing: ascending(this.outgoing),
      learners: ascending(this.learners),
      learnersNext: ascending(this.learnersNext),
      autoLeave,
    }
  }

  /** Members of both configurations keep their Progress, untouched: the change may be a trial. */
  finish(conf: ConfState): Tracker {
    const progress = new Map([...this.#progress].sort(([a], [b]) => a - b))
    for (const id of conf.learners) assert(!isVoter(conf, id), 'no learner is a voter')
    for (const id of conf.learnersNext) {
      assert(conf.votersOutgoing.includes(id), 'who will be a learner is an outgoing voter')
    }
    return { conf, progress }
  }
}

function refused(reason: ConfRefusal): Changed {
  return { ok: false, reason }
}

/** Changes at most one voter, and any number of learners. */
export function simple(
  tracker: Tracker,
  changes: readonly SingleChange[],
  lastIndex: number,
  limits: WindowLimits,
): Changed {
  const { conf } = tracker
  if (isJoint(conf)) return refused('simple-while-joint')
  const draft = new Draft(tracker, lastIndex, limits)
  const refusal = draft.apply(changes)
  if (refusal !== undefined) return refused(refusal)
  const before = new Set(conf.voters)
  if (before.symmetricDifference(draft.voters).size > 1) return refused('several-voters')
  return { ok: true, tracker: draft.finish(draft.conf(conf.autoLeave)) }
}

/** The present voters become the outgoing half; `changes` make the incoming one. */
export function enterJoint(
  tracker: Tracker,
  changes: readonly SingleChange[],
  autoLeave: boolean,
  lastIndex: number,
  limits: WindowLimits,
): Changed {
  const { conf, progress } = tracker
  if (isJoint(conf)) return refused('already-joint')
  if (conf.voters.length === 0) return refused('no-voters')
  const joint = { conf: { ...conf, votersOutgoing: conf.voters }, progress }
  const draft = new Draft(joint, lastIndex, limits)
  const refusal = draft.apply(changes)
  if (refusal !== undefined) return refused(refusal)
  return { ok: true, tracker: draft.finish(draft.conf(autoLeave)) }
}

export function leaveJoint(tracker: Tracker, lastIndex: number, limits: WindowLimits): Changed {
  if (!isJoint(tracker.conf)) return refused('not-joint')
  const draft = new Draft(tracker, lastIndex, limits)
  draft.leave()
  return { ok: true, tracker: draft.finish(draft.conf(false)) }
}

/** Whether the change ends a joint configuration. */
export function isLeave(change: ConfChange): boolean {
  return change.transition === 'auto' && change.changes.length === 0
}

/** By etcd's V2 rules: leave, enter joint, or simple. */
export function applyChange(
  tracker: Tracker,
  change: ConfChange,
  lastIndex: number,
  limits: WindowLimits,
): Changed {
  const { transition, changes } = change
  if (isLeave(change)) return leaveJoint(tracker, lastIndex, limits)
  if (transition !== 'auto' || changes.length > 1) {
    return enterJoint(tracker, changes, transition !== 'explicit', lastIndex, limits)
  }
  return simple(tracker, changes, lastIndex, limits)
}

const version = 1
const transitions = ['auto', 'implicit', 'explicit'] as const
const types = ['add-voter', 'add-learner', 'remove', 'update'] as const
const headerBytes = 2
const changeBytes = 7

/** Bytes of a `conf` or `conf-v2` entry: version, transition, then type and id of each change. */
export function encodeConfChange(change: ConfChange): Uint8Array {
  const bytes = new Uint8Array(headerBytes + changeBytes * change.changes.length)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, version)
  view.setUint8(1, transitions.indexOf(change.transition))
  change.changes.forEach(({ type, nodeId }, at) => {
    assert(Number.isInteger(nodeId) && nodeId >= 0 && nodeId < 2 ** 48, 'an id is a small integer')
    const offset = headerBytes + changeBytes * at
    view.setUint8(offset, types.indexOf(type))
    view.setUint16(offset + 1, Math.floor(nodeId / 2 ** 32))
    view.setUint32(offset + 3, nodeId % 2 ** 32)
  })
  return bytes
}

/** Undefined when the bytes are no change that this version of fnd knows. */
export function readConfChange(bytes: Uint8Array): ConfChange | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const rest = bytes.length - headerBytes
  if (rest < 0 || rest % changeBytes !== 0 || view.getUint8(0) !== version) return undefined
  const transition = transitions[view.getUint8(1)]
  if (transition === undefined) return undefined
  const changes: SingleChange[] = []
  for (let offset = headerBytes; offset < bytes.length; offset += changeBytes) {
    const type = types[view.getUint8(offset)]
    if (type === undefined) return undefined
    const nodeId = view.getUint16(offset + 1) * 2 ** 32 + view.getUint32(offset + 3)
    changes.push({ type, nodeId })
  }
  return { transition, changes }
}

/** The change of a committed entry: a leader admits none that cannot be read. */
export function decodeConfChange(bytes: Uint8Array): ConfChange {
  const change = readConfChange(bytes)
  assert(change !== undefined, 'a committed change of the configuration can be read')
  return change
}
