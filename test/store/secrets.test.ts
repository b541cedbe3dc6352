import { expect, test } from 'bun:test'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { SecretBox } from '../../src/store/secrets.ts'
import { seeded } from '../seed.ts'
import { temporaryDir } from './sample.ts'

test('any secret opens again, for its owner only, also after a restart', () => {
  using dir = temporaryDir()
  const box = new SecretBox(dir.path)
  const again = new SecretBox(dir.path)
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string(), fc.string(), (secret, owner, other) => {
      const sealed = box.seal(secret, owner)
      expect(again.open(sealed, owner)).toBe(secret.toWellFormed())
      if (owner.toWellFormed() !== other.toWellFormed()) {
        expect(again.open(sealed, other)).toBeUndefined()
      }
    }),
    seeded(50),
  )
})

test('what was changed does not open, wherever the change is', () => {
  using dir = temporaryDir()
  const box = new SecretBox(dir.path)
  const sealed = box.seal('secret', 'owner')
  const bytes = Buffer.from(sealed.slice(3), 'base64url')
  for (let at = 0; at < bytes.length; at++) {
    const changed = Buffer.from(bytes)
    changed[at] = (changed[at] ?? 0) ^ 1
    expect(box.open(`v1.${changed.toString('base64url')}`, 'owner')).toBeUndefined()
  }
  for (const text of ['', 'v1.', 'v2.aaaa', sealed.slice(0, 20)]) {
    expect(box.open(text, 'owner')).toBeUndefined()
  }
})

test('the same secret is sealed differently each time, and has one fingerprint here', () => {
  using dir = temporaryDir()
  using other = temporaryDir()
  const box = new SecretBox(dir.path)
  expect(box.seal('secret', 'owner')).not.toBe(box.seal('secret', 'owner'))
  expect(box.fingerprint('secret')).toBe(new SecretBox(dir.path).fingerprint('secret'))
  expect(box.fingerprint('secret')).not.toBe(box.fingerprint('secrets'))
  expect(new SecretBox(other.path).fingerprint('secret')).not.toBe(box.fingerprint('secret'))
})

test('the key is made at the first use, for its owner alone; a damaged one is refused', () => {
  using dir = temporaryDir()
  const path = join(dir.path, 'secrets.key')
  const box = new SecretBox(dir.path)
  expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined()
  box.seal('secret', 'owner')
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(readFileSync(path, 'utf8')).not.toContain('secret')
  writeFileSync(path, 'short')
  expect(() => new SecretBox(dir.path).seal('secret', 'owner')).toThrow(/secrets.key/)
})
