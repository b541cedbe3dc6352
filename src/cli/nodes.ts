import type { Command } from 'commander'
import type { FndClient } from './client.ts'
import { CliError } from './failure.ts'
import { nearNames } from './near.ts'
import { examples } from './options.ts'
import { type Host, runs, type Session } from './session.ts'
import { formatTable } from './table.ts'

export interface WireNode {
  readonly id: number
  readonly name: string
  readonly role: string
  readonly state: string
  readonly health: string
  readonly address: string
  readonly version: string
  readonly lag: number | null
  readonly rtt_ms: number | null
}

export interface WireNodes {
  readonly seen_by: number
  readonly leader_id: number | null
  readonly items: readonly WireNode[]
}

interface WirePending {
  readonly fingerprint: string
  readonly name: string
  readonly address: string
  readonly remote_address: string
  readonly version: string
  readonly asked_at: string
}

export function addNodes(program: Command, host: Host): void {
  const nodes = program
    .command('nodes')
    .alias('node')
    .description('the nodes of the cluster; without more words, list them')
  examples(nodes, [
    ['fnd nodes', 'who they are, and how they are'],
    ['fnd nodes drain n2', 'before work on it; then undrain'],
    ['fnd nodes rm n3', 'take it out for good'],
    ['fnd nodes approve ab12-cd34', 'let a node in that came without a token'],
  ])
  addList(nodes, host)
  addRemove(nodes, host)
  const wishes = [
    ['drain', 'no new calls, no leadership and, if possible, no vote for a node', 'drained'],
    ['undrain', 'end that', 'takes calls again'],
    ['promote', 'make a node a voter, in the place of another', 'is a voter'],
    ['demote', 'make a voter a learner; another node takes its place', 'is a learner'],
  ] as const
  for (const wish of wishes) addWish(nodes, host, wish)
  addTransfer(nodes, host)
  addPending(nodes, host)
  addApprove(nodes, host)
}

export async function listNodes(client: FndClient): Promise<WireNodes> {
  return (await client.json('GET', '/fnd/v1/nodes')) as WireNodes
}

function addList(nodes: Command, host: Host): void {
  const command = nodes
    .command('list', { isDefault: true })
    .alias('ls')
    .description('list the nodes')
    .action(
      runs(host, async session => {
        const found = await listNodes(session.client)
        await session.print(found, () => nodesText(found))
      }),
    )
  examples(command, [
    ['fnd nodes', 'as a table'],
    ['fnd nodes list --json', 'for scripts'],
  ])
}

function nodesText({ items, seen_by: seenBy, leader_id: leaderId }: WireNodes): string {
  const table = formatTable(
    ['ID', 'NAME', 'ROLE', 'STATE', 'HEALTH', 'LAG', 'RTT', 'VERSION', 'ADDRESS'],
    items.map(node => [
      String(node.id),
      node.name,
      node.role,
      node.state,
      node.health,
      node.lag === null ? '-' : String(node.lag),
      node.rtt_ms === null ? '-' : `${node.rtt_ms.toFixed(1)} ms`,
      node.version,
      node.address,
    ]),
  )
  // Without the leader's view, what is missing in the table has a reason.
  if (leaderId === seenBy) return table
  return `${table}\n\nas node ${seenBy} sees it; ${
    leaderId === null ? 'it knows no leader' : `the leader, node ${leaderId}, did not answer`
  }`
}

/** By name or id. Names need not be unique; then the ids tell. */
export async function mustNode(client: FndClient, word: string): Promise<WireNode> {
  const { items } = await listNodes(client)
  const byId = items.find(node => String(node.id) === word)
  if (byId !== undefined) return byId
  const named = items.filter(node => node.name === word)
  if (named.length > 1) {
    throw new CliError('usage', `${named.length} nodes are named ${word}`, {
      hint: `give the id: ${named.map(node => node.id).join(' or ')}`,
    })
  }
  const [found] = named
  if (found !== undefined) return found
  const near = nearNames(
    word,
    items.map(node => node.name),
  )
  throw new CliError('not-found', `there is no node ${word}`, {
    hint: near.length > 0 ? `did you mean ${near.join(' or ')}?` : 'see: fnd nodes',
  })
}

function addWish(
  nodes: Command,
  host: Host,
  [name, description, done]: readonly [string, string, string],
): void {
  const command = nodes
    .command(name)
    .description(description)
    .argument('<node>', 'its name or id')
    .action(
      runs(host, async (session, word: string) => {
        const { id } = await mustNode(session.client, word)
        const node = (await session.client.json('POST', `/fnd/v1/nodes/${id}/${name}`)) as WireNode
        await session.print(node, () => `node ${node.name} (${id}) ${done}`)
      }),
    )
  examples(command, [[`fnd nodes ${name} n2`, 'by name, or by id']])
}

interface RemoveOptions {
  readonly force?: boolean
  readonly wait?: boolean
}

function addRemove(nodes: Command, host: Host): void {
  const command = nodes
    .command('rm')
    .alias('remove')
    .description('take a node out of the cluster for good')
    .argument('<node>', 'its name or id')
    .option('--force', 'though it cannot be reached, and so cannot end its calls')
    .option('--no-wait', 'do not wait until it is out')
    .action(
      runs(host, async (session, word: string, options: RemoveOptions) => {
        const { client } = session
        const { id, name } = await mustNode(client, word)
        const query = options.force === true ? '?force=true' : ''
        const node = await client.json('DELETE', `/fnd/v1/nodes/${id}${query}`)
        if (options.wait === false) {
          return session.print(node, () => `node ${name} (${id}) is on its way out`)
        }
        await untilOut(session, id, name)
        await session.print({ removed: id }, () => `removed node ${name} (${id})`)
      }),
    )
  examples(command, [
    ['fnd nodes rm n3', 'it ends its calls first'],
    ['fnd nodes rm --force n3', 'it is lost; to come back it needs an empty data directory'],
  ])
}

const outTimeoutMs = 60_000

async function untilOut({ client, terminal }: Session, id: number, name: string): Promise<void> {
  const endMs = performance.now() + outTimeoutMs
  for (;;) {
    const { items } = await listNodes(client)
    const node = items.find(one => one.id === id)
    if (node === undefined) return
    if (performance.now() > endMs) {
      throw new CliError('failed', `node ${name} is still ${node.role} and ${node.state}`, {
        hint: 'it goes on; what it waits for says: fnd status',
      })
    }
    terminal.progress(`node ${name}: ${node.role}, ${node.state}`)
    await Bun.sleep(250)
  }
}

function addTransfer(nodes: Command, host: Host): void {
  const command = nodes
    .command('transfer')
    .description('hand the leadership over')
    .argument('[node]', 'its name or id; default: the voter that is most up to date')
    .action(
      runs(host, async (session, word: string | undefined) => {
        const { client } = session
        const body = word === undefined ? {} : { to: (await mustNode(client, word)).id }
        const path = '/fnd/v1/nodes/transfer'
        const answer = (await client.json('POST', path, body)) as { leader_id: number }
        await session.print(answer, () => `node ${answer.leader_id} leads`)
      }),
    )
  examples(command, [
    ['fnd nodes transfer', 'to whoever fits best'],
    ['fnd nodes transfer n2', 'to this one'],
  ])
}

function addPending(nodes: Command, host: Host): void {
  const command = nodes
    .command('pending')
    .description('list the nodes that wait to join without a token')
    .action(
      runs(host, async session => {
        const path = '/fnd/v1/nodes/pending'
        const { items } = (await session.client.json('GET', path)) as { items: WirePending[] }
        await session.print(items, () =>
          items.length === 0
            ? 'no node waits; with a token they need not: fnd token'
            : formatTable(
                ['FINGERPRINT', 'NAME', 'ADDRESS', 'FROM', 'VERSION', 'SINCE'],
                items.map(one => [
                  one.fingerprint,
                  one.name,
                  one.address,
                  one.remote_address,
                  one.version,
                  one.asked_at,
                ]),
              ),
        )
      }),
    )
  examples(command, [['fnd nodes pending', 'compare the fingerprint with what the node prints']])
}

function addApprove(nodes: Command, host: Host): void {
  const command = nodes
    .command('approve')
    .description('let a node in that waits to join')
    .argument('<fingerprint>', 'as the node itself prints it')
    .action(
      runs(host, async (session, fingerprint: string) => {
        const path = '/fnd/v1/nodes/approve'
        const answer = (await session.client.json('POST', path, { fingerprint })) as {
          node_id: number
        }
        await session.print(answer, () => `node ${answer.node_id} joins`)
      }),
    )
  examples(command, [['fnd nodes approve ab12-cd34', 'at once']])
}
