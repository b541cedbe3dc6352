/** The table is that of distribution/reference (its normalize_test.go), where it applies. */
import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import {
  fullName,
  isDomain,
  isReference,
  parseReference,
} from '../../../src/exec/docker/reference.ts'
import { seeded } from '../../seed.ts'

const hex = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

describe('what is a reference', () => {
  test.each([
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['ada/hello', 'docker.io/ada/hello:latest'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['index.docker.io/ada/hello:1', 'docker.io/ada/hello:1'],
    ['docker/docker', 'docker.io/docker/docker:latest'],
    ['127.0.0.1:5000/ada/hello:1', '127.0.0.1:5000/ada/hello:1'],
    ['localhost/hello', 'localhost/hello:latest'],
    ['localhost:5000/hello', 'localhost:5000/hello:latest'],
    ['registry.example/a/b/c', 'registry.example/a/b/c:latest'],
    ['[::1]:5000/hello:2', '[::1]:5000/hello:2'],
    ['Registry/hello', 'Registry/hello:latest'],
    ['a__b/c.d-e--f', 'docker.io/a__b/c.d-e--f:latest'],
    [`hello@sha256:${hex}`, `docker.io/library/hello@sha256:${hex}`],
    [`r.example:443/hello:1@sha256:${hex}`, `r.example:443/hello@sha256:${hex}`],
    // No daemon takes these for the start of an id.
    ['3f57d9401f8d', 'docker.io/library/3f57d9401f8d:latest'],
    [`sha256:${hex}`, `docker.io/library/sha256:${hex}`],
  ])('%s', (text, name) => {
    const reference = parseReference(text)
    expect(reference && fullName(reference)).toBe(name)
  })

  test.each([
    '',
    'Hello',
    'ada/Hello',
    'hello:',
    ':1',
    'hello:1:2',
    'hello:-1',
    `hello:${'a'.repeat(129)}`,
    '/hello',
    'hello/',
    'a//b',
    'a/-b',
    'a..b/c',
    'hello@',
    'hello@sha256:abc',
    `hello@sha256:${hex.toUpperCase()}`,
    `hello@md5:${hex}`,
    `hello@sha256:${hex}@sha256:${hex}`,
    hex,
    'https://registry.example/hello',
    'docker://hello',
    `bundle:sha256-${hex}`,
    'bundle:hello',
    'hello world',
    'hello\n',
    'hello:1\n',
    'ä/hello',
    `a/${'b'.repeat(256)}`,
  ])('not %j', text => {
    expect(isReference(text)).toBe(false)
  })
})

test('a full name means itself', () => {
  const part = fc.stringMatching(/^[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?$/)
  const domain = fc.option(fc.constantFrom('localhost', 'r.example', '10.0.0.1:5000', 'A'))
  const tag = fc.option(fc.stringMatching(/^\w[\w.-]{0,20}$/))
  const digest = fc.option(fc.constant(`sha256:${hex}`))
  fc.assert(
    fc.property(domain, fc.array(part, { minLength: 1, maxLength: 3 }), tag, digest, (...given) => {
      const [host, path, name, pin] = given
      const text =
        (host === null ? '' : `${host}/`) +
        path.join('/') +
        (name === null ? '' : `:${name}`) +
        (pin === null ? '' : `@${pin}`)
      const parsed = parseReference(text)
      // The first part of a path that looks like a host is one, and may be no valid one.
      if (parsed === undefined) return fc.pre(false)
      const full = fullName(parsed)
      const again = parseReference(full)
      expect(again && fullName(again)).toBe(full)
    }),
    seeded(500),
  )
})

test('arbitrary text is told from references without harm', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 300 }), text => {
      const parsed = parseReference(text)
      if (parsed !== undefined) expect(isReference(fullName(parsed))).toBe(true)
    }),
    seeded(500),
  )
})

test('hosts of registries', () => {
  for (const host of ['docker.io', 'localhost:5000', '[::1]:5000', 'a-b.example']) {
    expect([host, isDomain(host)]).toEqual([host, true])
  }
  for (const host of ['', 'a b', 'a/b', 'https://a', 'a:b', '-a', 'a..b', 'a\n']) {
    expect([host, isDomain(host)]).toEqual([host, false])
  }
})
