/** A naive cluster: it does at once what the autopilot asks for, and nothing else. */
import {
  type Action,
  type AutopilotSettings,
  type AutopilotView,
  type NodeHealth,
  plan,
} from '../../src/cluster/autopilot.ts'
import type { ConfState, SingleChange } from '../../src/raft/types.ts'
import type { Node, NodeState } from '../../src/store/objects.ts'

export interface Given {
  readonly voters: readonly number[]
  readonly learners?: readonly number[]
  /** Rows 1 to n. */
  readonly rows: number
  readonly leader?: number
  readonly votersMax?: number
  readonly states?: Readonly<Record<number, NodeState>>
  readonly health?: Readonly<Record<number, Partial<NodeHealth>>>
  readonly commandVersions?: Readonly<Record<number, number>>
  readonly isBusy?: boolean
}

export const settings: AutopilotSettings = {
  votersMax: 5,
  voterDeadAfterMs: 60_000,
  stableForMs: 2000,
  lagMax: 1000,
}

export const fine: NodeHealth = { silentMs: 40, healthyForMs: 60_000, lag: 0 }

export function rowOf(id: number, state: NodeState = 'active', commandVersion = 3): Node {
  return {
    id,
    uuid: `uuid-${id}`,
    name: `node${id}`,
    peerAddress: `10.0.0.${id}:8081`,
    apiUrl: `http://10.0.0.${id}:8080`,
    version: '0.1.0',
    commandVersion,
    state,
    joinedMs: 1000 * id,
  }
}

export function viewOf(given: Given): AutopilotView {
  const ids = Array.from({ length: given.rows }, (_, at) => at + 1)
  const health = new Map<number, NodeHealth>()
  for (const id of ids) health.set(id, { ...fine, ...given.health?.[id] })
  const learners = given.learners ?? []
  return {
    leaderId: given.leader ?? 1,
    rows: ids.map(id => rowOf(id, given.states?.[id], given.commandVersions?.[id])),
    confState: {
      voters: [...given.voters],
      votersOutgoing: [],
      learners: [...learners],
      learnersNext: [],
      autoLeave: false,
    },
    isBusy: given.isBusy ?? false,
    health,
    commandVersion: 3,
    settings: { ...settings, votersMax: given.votersMax ?? settings.votersMax },
  }
}

export function changed(conf: ConfState, changes: readonly SingleChange[]): ConfState {
  const voters = new Set(conf.voters)
  const learners = new Set(conf.learners)
  for (const { type, nodeId } of changes) {
    voters.delete(nodeId)
    learners.delete(nodeId)
    if (type === 'add-voter') voters.add(nodeId)
    if (type === 'add-learner') learners.add(nodeId)
  }
  const sorted = (ids: ReadonlySet<number>) => [...ids].sort((a, b) => a - b)
  return { ...conf, voters: sorted(voters), learners: sorted(learners) }
}

export function done(view: AutopilotView, action: Action): AutopilotView {
  switch (action.type) {
    case 'change':
      return { ...view, confState: changed(view.confState, action.change.changes) }
    case 'transfer':
      return { ...view, leaderId: action.to }
    case 'remove-row':
      return { ...view, rows: view.rows.filter(row => row.id !== action.id) }
    case 'raise-version':
      return { ...view, commandVersion: action.version }
  }
}

export function textOf({ confState, leaderId }: AutopilotView): string {
  const voters = confState.voters.map(id => (id === leaderId ? `*${id}` : `${id}`)).join(',')
  return confState.learners.length === 0 ? voters : `${voters}+${confState.learners.join(',')}`
}

export interface Settled {
  readonly view: AutopilotView
  readonly text: string
  readonly rowIds: readonly number[]
  readonly steps: Action[]
}

/** Plays until nothing is left to do. Throws when there is no end. */
export function settle(given: Given): Settled {
  return settleView(viewOf(given))
}

export function settleView(
  start: AutopilotView,
  onStep: (before: AutopilotView, action: Action, after: AutopilotView) => void = () => {},
): Settled {
  let view = start
  const steps: Action[] = []
  // Each row is added, moved and removed once, and the leader changes twice.
  const stepsMax = 4 * (start.rows.length + start.confState.voters.length) + 8
  for (;;) {
    const action = plan(view)
    if (action === undefined) break
    const after = done(view, action)
    onStep(view, action, after)
    view = after
    steps.push(action)
    if (steps.length > stepsMax) throw new Error(`no end: ${JSON.stringify(steps.slice(-6))}`)
  }
  return { view, text: textOf(view), rowIds: view.rows.map(row => row.id), steps }
}
