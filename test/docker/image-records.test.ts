/** What is written down of images, on a disk that has no room for it. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ImageRecords } from '../../src/exec/docker/image-records.ts'

const dir = mkdtempSync(join(tmpdir(), 'fnd-records-'))
const run = (...command: string[]) => expect(Bun.spawnSync(command).exitCode).toBe(0)

beforeAll(() => run('mount', '-t', 'tmpfs', '-o', 'size=64k', 'fnd-test', dir))
afterAll(() => {
  run('umount', dir)
  rmdirSync(dir)
})

test('they stay as they were, and go on where there is room again', () => {
  const records = new ImageRecords(dir)
  const pull = { name: 'docker.io/library/a:1', grant: 'one', before: null }
  records.begin(pull)
  const before = readFileSync(join(dir, 'images.json'), 'utf8')
  const filler = join(dir, 'filler')
  writeFileSync(filler, Buffer.alloc(40 * 1024))
  const large = { ...pull, name: 'b'.repeat(40 * 1024) }
  expect(() => records.begin(large)).toThrow('ENOSPC')
  expect(records.pending).toEqual([pull])
  expect(readFileSync(join(dir, 'images.json'), 'utf8')).toBe(before)
  expect(new ImageRecords(dir).pending).toEqual([pull])
  rmSync(filler)
  records.end(pull, { id: 'sha256:a', name: pull.name, grant: 'one', bytes: 1, nowMs: 1 })
  expect(new ImageRecords(dir).isAllowed('sha256:a', undefined)).toBe(false)
})
