/** Our core against etcd's golden files: the same decisions, message by message (PROTOCOL.md). */
import { expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** Resolves with what the harness printed; a failing directive is in it. */
async function run(tier: number): Promise<string> {
  const harness = join(import.meta.dir, 'run.mjs')
  const shim = join(import.meta.dir, 'shim.ts')
  const args = [harness, '--tier', String(tier), '--', process.execPath, shim]
  const { stdout } = await promisify(execFile)('node', args).catch(error => error)
  return stdout
}

test.each([
  [0, 'quorums and changes of the configuration', 185],
  [1, 'elections, replication, flow control and snapshots', 259],
  [2, 'membership, joint consensus, learners and transfer', 143],
])(
  'tier %p: %s',
  async (tier, _, count) => {
    const printed = await run(tier)
    const differences = printed.split('\n').filter(line => !/: (\d+)\/\1$/.test(line))
    expect(differences.slice(2)).toEqual([
      `conformance: ${count} of ${count} directives, 0 skipped`,
      '',
    ])
  },
  60_000,
)
