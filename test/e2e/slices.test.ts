/** The event loop has a short slice while changes are written; functions never have. */
import { expect, test } from 'bun:test'
import { sliceOf } from '../exec/slice-of.ts'
import { descendants, Fnd, until } from './fnd.ts'

test('changes shorten the slice for their time only, and for the server only', async () => {
  await using fnd = new Fnd()
  await fnd.start()
  const shortNs = 100_000
  await until(() => sliceOf(fnd.pid) > shortNs, 'the slice is the usual one')
  const seen: number[] = []
  for (let round = 0; round < 20 && !seen.includes(shortNs); round++) {
    await fnd.deploy(`hello${round}`, { source: 'export default { fetch: () => new Response() }' })
    seen.push(sliceOf(fnd.pid))
  }
  expect(seen).toContain(shortNs)
  for (const pid of descendants(fnd.pid)) expect(sliceOf(pid)).toBeGreaterThan(shortNs)
  await until(() => sliceOf(fnd.pid) > shortNs, 'the slice is as it was')
})
