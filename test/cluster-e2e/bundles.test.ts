/** Code that was deployed through one node runs on all, whatever becomes of that one. */
import { expect, test } from 'bun:test'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Fnd, until } from '../e2e/fnd.ts'
import { LocalCluster, patienceMs } from './local-cluster.ts'

const source = (text: string) => `export default () => ${JSON.stringify(text)}`
const bundlesOf = (node: Fnd) => join(node.dataDir, 'bundles')
const holds = (node: Fnd, image: string) =>
  existsSync(join(bundlesOf(node), image.slice('bundle:'.length)))

async function answerOf(node: Fnd, fnId: string): Promise<string> {
  const answer = await fetch(`${node.url}/invoke/${fnId}`, { method: 'POST' })
  return `${answer.status} ${await answer.text()}`
}

async function isThere(node: Fnd, fnId: string): Promise<void> {
  const sees = async () => (await node.request('GET', `/v2/fns/${fnId}`)).ok
  await until(sees, 'the function is known', patienceMs)
}

test('a deploy survives the node that took it, at once', async () => {
  await using cluster = await LocalCluster.start(3)
  const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)]
  const image = await first.upload({ source: source('kept') })
  expect([second, third].filter(node => holds(node, image)).length).toBeGreaterThan(0)
  const deployed = await first.create('kept', image)
  await first.stop('SIGKILL')
  for (const node of [second, third]) {
    await isThere(node, deployed.id)
    expect(await answerOf(node, deployed.id)).toBe('200 kept')
  }
}, 120_000)

test('a node that lost its bundles has them again', async () => {
  await using cluster = await LocalCluster.start(3)
  const [first, second] = [cluster.node(0), cluster.node(1)]
  const deployed = await first.deploy('lost', { source: source('found') })
  await isThere(second, deployed.id)
  await second.stop()
  rmSync(bundlesOf(second), { recursive: true })
  await second.start()
  await isThere(second, deployed.id)
  const calls = Array.from({ length: 20 }, () => answerOf(second, deployed.id))
  expect(new Set(await Promise.all(calls))).toEqual(new Set(['200 found']))
  const names = readdirSync(bundlesOf(second)).filter(name => name.endsWith('.tar'))
  expect(names).toHaveLength(1)
  expect(await second.metric('fnd_bundles_fetched_total')).toBe(1)
}, 120_000)

test('without a majority a deploy is refused, and calls go on', async () => {
  await using cluster = await LocalCluster.start(3)
  const [first, second, third] = [cluster.node(0), cluster.node(1), cluster.node(2)]
  const deployed = await first.deploy('calm', { source: source('calm') })
  await isThere(third, deployed.id)
  await first.stop('SIGKILL')
  await second.stop('SIGKILL')
  await expect(third.upload({ source: source('refused') })).rejects.toThrow(
    /upload: 503 .*1 of 3 voters have it and 2 are needed/,
  )
  expect(await answerOf(third, deployed.id)).toBe('200 calm')
}, 120_000)
