/** What is not as it should be, in words for an operator who was woken by it: and what to do. */
import { majority } from './autopilot.ts'
import type { ClusterHealth, NodeReport, Warning } from './control.ts'

export interface Findings {
  readonly selfId: number
  readonly leaderId: number | undefined
  /** Of both halves while the configuration is joint. */
  readonly voters: readonly number[]
  readonly votersOutgoing: readonly number[]
  readonly nodes: readonly NodeReport[]
  readonly votersMax: number
  /** Entries that are committed and not applied here. */
  readonly backlog: number
  /** There is no room on the disk of this node. */
  readonly isStarved: boolean
}

export interface Advice {
  readonly health: ClusterHealth
  readonly votersAlive: number
  /** Alive voters that are needed. */
  readonly quorum: number
  readonly warnings: readonly Warning[]
}

/** More than NTP leaves, and enough to confuse whoever reads the logs of two nodes side by side. */
const skewMsMax = 2000
const backlogMax = 10_000

export function advise(findings: Findings): Advice {
  const { voters, votersOutgoing, nodes } = findings
  const byId = new Map(nodes.map(node => [node.id, node]))
  const isAlive = (id: number) => {
    const health = byId.get(id)?.health
    return id === findings.selfId || health === 'up' || health === 'slow'
  }
  const alive = voters.filter(isAlive)
  const quorum = majority(voters.length)
  const hasQuorum =
    alive.length >= quorum &&
    votersOutgoing.filter(isAlive).length >=
      (votersOutgoing.length === 0 ? 0 : majority(votersOutgoing.length))
  const silent = voters.filter(id => !isAlive(id)).map(id => nameOf(byId.get(id), id))
  const warnings = [
    ...ofQuorum(findings, hasQuorum, alive.length, silent),
    ...nodes.flatMap(node => ofNode(node, findings, hasQuorum)),
    ...ofNumbers(findings, hasQuorum, alive.length, silent.length),
  ]
  return {
    health: !hasQuorum ? 'no-quorum' : warnings.length > 0 ? 'degraded' : 'healthy',
    votersAlive: alive.length,
    quorum,
    warnings,
  }
}

function nameOf(node: NodeReport | undefined, id: number): string {
  return node === undefined ? `node ${id}` : `${node.name} (node ${id}, ${node.peerAddress})`
}

function ofQuorum(
  { leaderId, voters }: Findings,
  hasQuorum: boolean,
  alive: number,
  silent: readonly string[],
): Warning[] {
  if (!hasQuorum) {
    return [
      {
        code: 'no-quorum',
        message:
          `${alive} of ${voters.length} voters can be reached from here, ` +
          `${majority(voters.length)} are needed`,
        hint:
          'nothing can be changed until then; calls of known functions go on. Bring back ' +
          `${listed(silent)}; only if they are lost for good, stop this node and run: ` +
          'fnd recover --data <its data directory>',
      },
    ]
  }
  if (leaderId !== undefined) return []
  return [
    {
      code: 'no-leader',
      message: 'no leader is known here, though a majority can be reached',
      hint: 'wait for the election; if it does not end within seconds, read the logs of all voters',
    },
  ]
}

function ofNode(node: NodeReport, { selfId }: Findings, hasQuorum: boolean): Warning[] {
  const who = nameOf(node, node.id)
  const isVoter = node.role === 'voter' || node.role === 'leader'
  const found: Warning[] = []
  if (node.state === 'replaced') {
    found.push({
      code: 'node-replaced',
      message: `${who} was wiped and joined anew; its old self keeps a seat until that is caught up`,
      hint: 'wait; or add a node',
    })
  } else if (node.state === 'leaving') {
    found.push({
      code: 'node-leaving',
      message: `${who} is being taken out${isVoter ? ', and still a voter' : ''}`,
      hint: 'if this stays, a majority would be lost with it: bring another node back, or add one',
    })
  } else if (node.health === 'down') {
    found.push({
      code: isVoter ? 'voter-down' : 'node-down',
      message: `${who} cannot be reached${node.problem === undefined ? '' : `: ${node.problem}`}`,
      // To remove it takes a majority too.
      hint: hasQuorum
        ? `start fnd there; if it is lost for good: fnd nodes rm --force ${node.id}`
        : 'start fnd there',
    })
  } else if (node.health === 'slow') {
    found.push({
      code: 'node-behind',
      message: `${who} is ${node.lag ?? 'many'} entries behind`,
      hint: 'wait while it catches up; if it does not, look at its disk and its network',
    })
  }
  if (node.skewMs !== undefined && Math.abs(node.skewMs) > skewMsMax && node.id !== selfId) {
    const seconds = (Math.abs(node.skewMs) / 1000).toFixed(1)
    found.push({
      code: 'clock-skew',
      message: `the clock of ${who} is ${seconds} s ${node.skewMs > 0 ? 'ahead' : 'behind'}`,
      hint: 'run an NTP client on every node',
    })
  }
  return found
}

function ofNumbers(
  { nodes, voters, votersMax, backlog, isStarved }: Findings,
  hasQuorum: boolean,
  alive: number,
  silent: number,
): Warning[] {
  const found: Warning[] = []
  const spare = alive - majority(voters.length)
  const hint = 'add a node: fnd token prints how'
  if (hasQuorum && voters.length > 1 && spare === 0) {
    found.push({
      code: 'no-spare',
      message:
        voters.length === 2
          ? 'with two voters, the loss of either stops all changes'
          : `the loss of one more voter stops all changes (${silent} cannot be reached)`,
      hint: voters.length === 2 ? hint : `bring back those that are down, or ${hint}`,
    })
  }
  if (hasQuorum && voters.length === 1 && nodes.length > 1 && votersMax > 1) {
    found.push({
      code: 'one-voter',
      message: `one voter for ${nodes.length} nodes: what it acknowledged is on its disk alone`,
      hint: nodes.length === 2 ? hint : 'wait until the others have caught up',
    })
  }
  if (isStarved) {
    found.push({
      code: 'disk-full',
      message: 'the data directory of this node is out of space: it keeps no changes',
      hint: 'make room there; it goes on by itself',
    })
  }
  if (backlog > backlogMax) {
    found.push({
      code: 'apply-backlog',
      message: `${backlog} changes are committed and not applied here`,
      hint: 'wait; if the number grows, look at the disk of this node',
    })
  }
  return found
}

function listed(names: readonly string[]): string {
  return names.length === 0 ? 'the voters that are down' : names.join(', ')
}
