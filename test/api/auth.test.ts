import { afterEach, beforeEach, expect, test } from 'bun:test'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ensureAdminToken } from '../../src/api/auth.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-auth-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

test('the first start makes a token of 32 bytes that only its user may read', () => {
  const token = ensureAdminToken(dir)
  expect(Buffer.from(token, 'base64url')).toHaveLength(32)
  expect(readFileSync(join(dir, 'admin.token'), 'utf8')).toBe(`${token}\n`)
  expect(statSync(join(dir, 'admin.token')).mode & 0o777).toBe(0o600)
  expect(readdirSync(dir)).toEqual(['admin.token'])
})

test('later starts keep it, whoever wrote it', () => {
  const token = ensureAdminToken(dir)
  expect(ensureAdminToken(dir)).toBe(token)
  writeFileSync(join(dir, 'admin.token'), 'set by the operator\n'.replaceAll(' ', '-'))
  expect(ensureAdminToken(dir)).toBe('set-by-the-operator')
})

test('an unusable token stops the start, and the message says what to do', () => {
  for (const text of ['', 'short\n', 'with spaces in the middle of it']) {
    writeFileSync(join(dir, 'admin.token'), text)
    expect(() => ensureAdminToken(dir)).toThrow(/admin\.token holds no usable token.*Remove it/)
  }
})
