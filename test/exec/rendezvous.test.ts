import { afterEach, beforeEach, expect, test } from 'bun:test'
import { chmodSync, closeSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { meet, openRendezvous } from '../../src/exec/rendezvous.ts'

let dir = ''
let fd = -1

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-meet-'))
  fd = openRendezvous(dir) ?? -1
})

afterEach(() => {
  closeSync(fd)
  chmodSync(dir, 0o700)
  rmSync(dir, { recursive: true })
})

const refused: readonly (readonly [string, string, RegExp])[] = [
  ['a name longer than any file has', 'a'.repeat(300), /cannot be opened: ENAMETOOLONG/],
  ['itself', 'lsnr.sock', /not a socket/],
  ['nothing', 'absent', /points to nothing/],
  ['its parent', '..', /outside/],
  ['a file elsewhere', '/etc/passwd', /outside/],
]

test.each(refused)('refuses a link to %s', (_, target, reason) => {
  symlinkSync(target, join(dir, 'lsnr.sock'))
  const meeting = meet(fd)
  expect(meeting.kind === 'refused' && meeting.reason).toMatch(reason)
})

test('refuses what is not a socket', () => {
  writeFileSync(join(dir, 'lsnr.sock'), '')
  expect(meet(fd).kind).toBe('refused')
})

test('sees nothing in a directory that is closed to everybody, or empty', () => {
  expect(meet(fd).kind).toBe('absent')
  chmodSync(dir, 0)
  expect(meet(fd).kind).toBe('absent')
})
