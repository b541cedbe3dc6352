/** From this version of fnd to the next, node by node, while the cluster works. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { commandVersion } from '../../src/store/codec.ts'
import { type Fnd, until } from '../e2e/fnd.ts'
import { LocalCluster, patienceMs } from './local-cluster.ts'

const dir = mkdtempSync(join(tmpdir(), 'fnd-next-'))
const next = join(dir, 'fnd')
const root = join(import.meta.dir, '../..')

beforeAll(() => {
  const flags = ['--command-version', String(commandVersion + 1), '--outfile', next]
  const built = Bun.spawnSync([process.execPath, join(root, 'build.ts'), ...flags])
  if (built.exitCode !== 0) throw new Error(built.stderr.toString())
}, 120_000)

afterAll(() => rmSync(dir, { recursive: true, force: true }))

const source = 'export default () => "answer"'

/** Changes go through each node, and each sees those of the others. */
async function works({ nodes }: LocalCluster, when: string): Promise<void> {
  for (const [at, node] of nodes.entries()) {
    const deployed = await node.deploy(`f${at}`, { source }, { app: `${when}-${at}` })
    for (const other of nodes) {
      const isThere = async () => (await other.request('GET', `/v2/fns/${deployed.id}`)).ok
      await until(isThere, 'a function is on every node', patienceMs)
      const answer = await fetch(`${other.url}/invoke/${deployed.id}`, { method: 'POST' })
      expect(await answer.text()).toBe('answer')
    }
  }
}

const note = (node: Fnd) => node.request('POST', '/fnd/v1/cluster/note', { text: 'hello' })

/** What `node` says once it knows that the nodes of `upgraded` are: they announce it themselves. */
async function refusal(node: Fnd, upgraded: readonly number[]): Promise<string> {
  const isKnown = async () => {
    const message = await refusalNow(node)
    return upgraded.every(id => !message.includes(`node ${id} `))
  }
  await until(isKnown, 'the versions of the nodes are known', patienceMs)
  return refusalNow(node)
}

async function refusalNow(node: Fnd): Promise<string> {
  const answer = await note(node)
  const { code, message } = (await answer.json()) as { code: string; message: string }
  expect({ status: answer.status, code }).toEqual({ status: 409, code: 'upgrade-pending' })
  return message
}

test('a cluster goes to the next version, and uses it when the last node is there', async () => {
  await using cluster = await LocalCluster.start(3)
  const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)]
  await works(cluster, 'old')
  expect((await note(first)).status).toBe(404)

  await cluster.restart(2, next)
  await works(cluster, 'one')
  expect(await refusal(third, [3])).toMatch(/node 1 .*node 2 /)

  // Also while the one that leads is of the next version.
  await cluster.restart(1, next)
  await cluster.restart(0)
  await works(cluster, 'two')
  for (const node of [second, third]) {
    expect(await refusal(node, [2, 3])).toContain('node 1 ')
  }

  await cluster.restart(0, next)
  for (const node of cluster.nodes) {
    await until(async () => (await note(node)).status === 204, 'the command is taken', patienceMs)
  }
  await works(cluster, 'new')
  await cluster.agrees()

  // There is no way back: the old version does not guess what the new one wrote.
  await third.stop()
  await expect(third.start()).rejects.toThrow(/used by a newer fnd/)
}, 300_000)
