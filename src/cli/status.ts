import type { Command } from 'commander'
import { CliError } from './failure.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'
import { formatFields, printable } from './table.ts'

interface WireWarning {
  readonly code: string
  readonly message: string
  readonly hint: string
}

interface WireCluster {
  readonly health: 'healthy' | 'degraded' | 'no-quorum'
  readonly id: string
  readonly node_id: number
  readonly name: string
  readonly role: string
  readonly state: string
  readonly term: number
  readonly leader_id: number | null
  readonly leader_name: string | null
  readonly voters: readonly number[]
  readonly learners: readonly number[]
  readonly is_joint: boolean
  readonly voters_alive: number
  readonly quorum: number
  readonly commit_index: number
  readonly applied_index: number
  readonly last_index: number
  readonly warnings: readonly WireWarning[]
}

export interface WireStatus {
  readonly version?: string
  readonly calls_running?: number
  readonly calls_waiting?: number
  readonly instances?: number
  readonly memory_mb_used?: number
  readonly memory_mb_available?: number
  readonly cluster: WireCluster
}

export function addStatus(program: Command, host: Host): void {
  const command = program
    .command('status')
    .description('the state of the cluster and of the asked node, and what to do about it')
    .action(
      runs(host, async session => {
        const { client } = session
        const status = (await client.json('GET', '/fnd/v1/status')) as WireStatus
        await session.print(status, () => statusText(status, client.url))
        const { health, warnings } = status.cluster
        if (health === 'no-quorum') throw new CliError('no-quorum', 'nothing can be changed')
        if (health === 'degraded') {
          throw new CliError('degraded', `it works, with ${countOf(warnings.length, 'warning')}`)
        }
      }),
    )
  examples(command, [
    ['fnd status', 'on one screen; the exit code says whether all is well'],
    ['fnd status --url http://10.0.0.2:8080', 'as another node sees it'],
    ['fnd status --json', 'for scripts'],
  ])
}

function countOf(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`
}

function statusText(status: WireStatus, url: string): string {
  const { cluster } = status
  const leader =
    cluster.leader_id === null
      ? 'none is known'
      : `${cluster.leader_name ?? '?'} (node ${cluster.leader_id}), term ${cluster.term}`
  const voters = cluster.voters.length
  const pending = cluster.commit_index - cluster.applied_index
  const lines = [
    ['cluster', `${cluster.health} (${cluster.id})`],
    ['leader', leader],
    ['quorum', `${cluster.voters_alive} of ${voters} alive, ${cluster.quorum} needed`],
    [
      'nodes',
      `${countOf(voters, 'voter')}, ${countOf(cluster.learners.length, 'learner')}` +
        (cluster.is_joint ? ', changing' : ''),
    ],
    [
      'this node',
      `${cluster.name} (node ${cluster.node_id}): ${cluster.role}, ${cluster.state}, ` +
        `fnd ${status.version ?? '?'} at ${url}`,
    ],
    [
      'log',
      `applied ${cluster.applied_index}, ${pending} committed and not applied, ` +
        `last ${cluster.last_index}`,
    ],
    [
      'calls',
      `${status.calls_running ?? 0} running, ${status.calls_waiting ?? 0} waiting, ` +
        `${countOf(status.instances ?? 0, 'instance')}, ` +
        `${status.memory_mb_used ?? 0} MB used, ${status.memory_mb_available ?? 0} MB free`,
    ],
  ] as const
  const warnings = cluster.warnings.flatMap(({ message, hint }) => [
    `  ${printable(message)}`,
    `        → ${printable(hint)}`,
  ])
  return [
    formatFields(lines),
    ...(warnings.length === 0 ? [] : ['', 'Warnings:', ...warnings]),
  ].join('\n')
}
