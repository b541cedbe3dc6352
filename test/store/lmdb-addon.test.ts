import { expect, test } from 'bun:test'
import { join } from 'node:path'
import { temporaryDir } from './sample.ts'

test('lmdb reads into a small buffer, and longer records whole', () => {
  using dir = temporaryDir()
  const sizes = ['10', '65512', '65513', '200000', '8388608', '65536', '5']
  const fixture = join(import.meta.dir, 'fixtures', 'small-buffer.ts')
  const run = Bun.spawnSync([process.execPath, fixture, dir.path, ...sizes])
  expect(run.stderr.toString()).toBe('')
  const told = JSON.parse(run.stdout.toString())
  expect(told).toEqual({ byteLength: 65536, isUsed: true, sizes, alike: sizes.map(() => true) })
})
