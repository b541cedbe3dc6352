import { describe, expect, test } from 'bun:test'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { FndError } from '../../src/errors.ts'
import { Bundles } from '../../src/store/bundles.ts'
import { entryPath, parseManifest } from '../../src/store/manifest.ts'
import { seeded } from '../seed.ts'
import { type Item, inPieces, manifest, nameOf, tarOf } from './bundle-tars.ts'
import { temporaryDir } from './sample.ts'

const limits = { bytesMax: 8_000_000, filesMax: 100 }
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => 'ok',
    error => (error instanceof FndError ? error.code : String(error)),
  )

const message = (promise: Promise<unknown>) =>
  promise.then(
    () => 'ok',
    error => (error as Error).message,
  )

describe('a bundle', () => {
  test('is unpacked as it was packed, read-only', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const large = new Uint8Array(300_000).fill(7)
    const tar = await tarOf([
      [{ name: 'lib/', type: 'directory' }],
      [{ name: './lib/deep/tool', mode: 0o755 }, large],
      ['empty', ''],
    ])
    const hash = nameOf(tar)
    const bundle = await bundles.put(hash, inPieces(tar), limits)
    expect(bundle).toEqual({
      dir: join(dir.path, hash),
      manifest: { version: 1, kind: 'module', entry: 'main.js' },
    })
    const mode = (path: string) => (statSync(join(bundle.dir, path)).mode & 0o7777).toString(8)
    expect(['', 'lib', 'lib/deep', 'lib/deep/tool', 'main.js', 'empty'].map(mode)).toEqual([
      '755',
      '755',
      '755',
      '555',
      '444',
      '444',
    ])
    expect(Uint8Array.from(readFileSync(join(bundle.dir, 'lib/deep/tool')))).toEqual(large)
    expect(statSync(join(bundle.dir, 'empty')).size).toBe(0)
    expect(readdirSync(dir.path).sort()).toEqual([hash, `${hash}.tar`])
    expect(bundles.get(hash)).toBe(bundle)
    expect(new Bundles(dir.path).get(hash)).toEqual(bundle)
    expect(bundles.list()).toEqual([hash])
  })

  test('is the same whoever puts it, and how often', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const tar = await tarOf([])
    const hash = nameOf(tar)
    const puts = Array.from({ length: 8 }, (_, at) =>
      bundles.put(hash, inPieces(tar, 100 + at), limits),
    )
    const dirs = (await Promise.all(puts)).map(bundle => bundle.dir)
    expect(new Set(dirs).size).toBe(1)
    expect(readdirSync(dir.path).sort()).toEqual([hash, `${hash}.tar`])
    async function* unread() {
      yield new Uint8Array()
      throw new Error('this stream is not read')
    }
    expect((await bundles.put(hash, unread(), limits)).dir).toBe(dirs[0] as string)
  })

  test('that is not there is undefined', () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    for (const hash of ['', '..', '../x', `sha256-${'0'.repeat(64)}`, `sha256-${'0'.repeat(63)}`]) {
      expect(bundles.get(hash)).toBeUndefined()
    }
  })

  test('of a program says so, and the program must be executable', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const given = { version: 1, kind: 'program', entry: './bin/run', concurrency: 4, x: 1 }
    const base: Item[] = [['fnd.json', JSON.stringify(given)]]
    const good = await tarOf([[{ name: 'bin/run', mode: 0o755 }, '#!']], base)
    const { manifest: read } = await bundles.put(nameOf(good), inPieces(good), limits)
    expect(read).toEqual({ version: 1, kind: 'program', entry: 'bin/run', concurrency: 4 })
    const bad = await tarOf([['bin/run', '#!']], base)
    expect(await message(bundles.put(nameOf(bad), inPieces(bad), limits))).toMatch(/not executable/)
  })
})

const hostile: [string, Item[], string][] = [
  ['a path that climbs', [['../evil', 'x']], 'bundle-invalid'],
  ['a path that climbs inside', [['a/../../evil', 'x']], 'bundle-invalid'],
  ['a path with dots that stays inside', [['a/../b', 'x']], 'bundle-invalid'],
  ['an absolute path', [['/etc/evil', 'x']], 'bundle-invalid'],
  ['a directory that climbs', [[{ name: '../d', type: 'directory' }]], 'bundle-invalid'],
  [
    'a symbolic link',
    [[{ name: 'l', type: 'symlink', linkname: '/etc/passwd' }]],
    'bundle-invalid',
  ],
  ['a hard link', [[{ name: 'l', type: 'link', linkname: 'main.js' }]], 'bundle-invalid'],
  [
    'a device',
    [[{ name: 'd', type: 'character-device', devmajor: 1, devminor: 3 }]],
    'bundle-invalid',
  ],
  [
    'a block device',
    [[{ name: 'd', type: 'block-device', devmajor: 8, devminor: 0 }]],
    'bundle-invalid',
  ],
  ['a fifo', [[{ name: 'f', type: 'fifo' }]], 'bundle-invalid'],
  ['a file that is there twice', [['main.js', 'other']], 'bundle-invalid'],
  ['a file below a file', [['main.js/x', 'x']], 'bundle-invalid'],
  ['a directory in place of a file', [[{ name: 'main.js', type: 'directory' }]], 'bundle-invalid'],
  [
    'a file in place of a directory',
    [
      ['a/b', 'x'],
      ['a', 'x'],
    ],
    'bundle-invalid',
  ],
  ['a backslash', [['a\\b', 'x']], 'bundle-invalid'],
  ['a name that is too long', [['x'.repeat(300), 'x']], 'bundle-invalid'],
  ['a path that is too deep', [[`${'d/'.repeat(40)}f`, 'x']], 'bundle-invalid'],
  ['the root as a file', [['./', 'x']], 'bundle-invalid'],
  [
    'too many files',
    Array.from({ length: 101 }, (_, at): Item => [`f${at}`, 'x']),
    'bundle-too-large',
  ],
  [
    'too many directories',
    Array.from({ length: 60 }, (_, at): Item => [`${at}/a/b`, 'x']),
    'bundle-too-large',
  ],
  ['too many bytes', [['big', new Uint8Array(9_000_000)]], 'bundle-too-large'],
]

describe('hostile tars', () => {
  test.each(hostile)('%s is refused and leaves nothing', async (_, items, expected) => {
    using dir = temporaryDir()
    const inner = join(dir.path, 'bundles')
    const bundles = new Bundles(inner)
    const tar = await tarOf(items)
    expect(await code(bundles.put(nameOf(tar), inPieces(tar, 50_000), limits))).toBe(expected)
    expect(readdirSync(inner)).toEqual([])
    expect(readdirSync(dir.path)).toEqual(['bundles'])
  })

  test('the wrong hash is refused', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const tar = await tarOf([])
    const wrong = `sha256-${'0'.repeat(64)}`
    expect(await code(bundles.put(wrong, inPieces(tar), limits))).toBe('bundle-hash-mismatch')
    expect(await code(bundles.put('sha256-XYZ', inPieces(tar), limits))).toBe('bundle-hash-invalid')
    expect(await code(bundles.put('../x', inPieces(tar), limits))).toBe('bundle-hash-invalid')
    expect(readdirSync(dir.path)).toEqual([])
  })

  test('an extended header of many megabytes is not taken into memory', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const header = Buffer.from((await tarOf([['x', '']], [])).subarray(0, 512))
    // A pax header that claims seven million bytes.
    header.write('x', 156)
    header.write((7_000_000).toString(8).padStart(11, '0'), 124)
    header.fill(' ', 148, 156)
    const sum = header.reduce((total, byte) => total + byte, 0)
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
    const tar = Uint8Array.from(Buffer.concat([header, Buffer.alloc(7_000_000, '9')]))
    let read = 0
    async function* counted() {
      for await (const piece of inPieces(tar, 100_000)) {
        read += piece.length
        yield piece
      }
    }
    const put = bundles.put(nameOf(tar), counted(), limits)
    expect(await message(put)).toMatch(/too much besides files/)
    expect(read).toBeLessThan(5_000_000)
  })

  test('a tar that is cut short, and things that are no tar, are refused', async () => {
    const tar = await tarOf([['large', new Uint8Array(5000)]])
    const inputs = fc.oneof(
      fc.uint8Array({ maxLength: 3000 }),
      fc.integer({ min: 0, max: 6500 }).map(length => tar.slice(0, length)),
      fc.tuple(fc.nat(2000), fc.nat(255)).map(([at, byte]) => {
        const changed = tar.slice()
        changed[at] = byte
        return changed
      }),
    )
    await fc.assert(
      fc.asyncProperty(inputs, fc.integer({ min: 1, max: 2000 }), async (input, piece) => {
        using dir = temporaryDir()
        const bundles = new Bundles(dir.path)
        const result = await code(bundles.put(nameOf(input), inPieces(input, piece), limits))
        // One byte of contents may change and still be a good tar of another hash.
        expect(['ok', 'bundle-invalid', 'bundle-too-large']).toContain(result)
        const left = result === 'ok' ? [nameOf(input), `${nameOf(input)}.tar`] : []
        expect(readdirSync(dir.path).sort()).toEqual(left)
      }),
      seeded(60),
    )
  })

  test('a stream that breaks is passed on, and leaves nothing', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const tar = await tarOf([])
    async function* broken() {
      yield tar.subarray(0, 700)
      throw new FndError('client-gone')
    }
    expect(await code(bundles.put(nameOf(tar), broken(), limits))).toBe('client-gone')
    expect(readdirSync(dir.path)).toEqual([])
  })
})

const manifests: [string, Item[], RegExp][] = [
  ['missing', [['main.js', 'x']], /fnd.json is missing/],
  ['in a folder only', [['a/fnd.json', manifest]], /fnd.json is missing/],
  ['no JSON', [['fnd.json', '{']], /not JSON/],
  ['an array', [['fnd.json', '[]']], /not a JSON object/],
  ['of a later version', [['fnd.json', '{"version":2}']], /version must be 1/],
  ['of an unknown kind', [['fnd.json', '{"version":1,"kind":"x"}']], /kind must be/],
  ['without an entry', [['fnd.json', '{"version":1,"kind":"module"}']], /entry must be/],
  [
    'with an entry that climbs',
    [['fnd.json', '{"version":1,"kind":"module","entry":"../x"}']],
    /entry must be/,
  ],
  ['with an entry that is not there', [['fnd.json', manifest]], /entry main.js is missing/],
  [
    'with an entry that is a directory',
    [['fnd.json', manifest], [{ name: 'main.js/', type: 'directory' }]],
    /entry main.js is missing/,
  ],
  ['too large', [['fnd.json', `${' '.repeat(70_000)}${manifest}`]], /too large/],
]

describe('the manifest', () => {
  test.each(manifests)('%s is refused', async (_, items, expected) => {
    using dir = temporaryDir()
    const tar = await tarOf(items, [])
    const bundles = new Bundles(dir.path)
    expect(await message(bundles.put(nameOf(tar), inPieces(tar), limits))).toMatch(expected)
    expect(readdirSync(dir.path)).toEqual([])
  })

  test.each([0, -1, 1.5, '2', null, 1e9])('concurrency %p is refused', concurrency => {
    const text = JSON.stringify({ version: 1, kind: 'module', entry: 'a', concurrency })
    expect(() => parseManifest(text)).toThrow(/concurrency must be/)
  })

  test('a path has one spelling and stays inside', () => {
    const name = fc.array(fc.constantFrom('.', '..', 'a', 'b c', '', 'é', '\\', '\0'), {
      maxLength: 6,
    })
    fc.assert(
      fc.property(name, parts => {
        const path = entryPath(parts.join('/'))
        if (path === undefined) return
        expect(join('/root', path).startsWith('/root')).toBe(true)
        expect(entryPath(path)).toBe(path)
      }),
      seeded(),
    )
  })
})

async function bytesOf(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  for await (const chunk of chunks) parts.push(chunk)
  return Uint8Array.from(Buffer.concat(parts))
}

describe('the tar', () => {
  test('is kept as it came, for fnd alone', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const tar = await tarOf([['large', new Uint8Array(700_000).fill(3)]])
    const hash = nameOf(tar)
    expect(bundles.tar(hash)).toBeUndefined()
    await bundles.put(hash, inPieces(tar, 777), limits)
    const kept = bundles.tar(hash)
    expect(kept?.bytes).toBe(tar.length)
    if (kept !== undefined) expect(await bytesOf(kept.chunks)).toEqual(tar)
    expect(statSync(join(dir.path, `${hash}.tar`)).mode & 0o777).toBe(0o600)
    for (const name of ['', '../x', `${hash}.tar`]) expect(bundles.tar(name)).toBeUndefined()
  })

  test('that an older fnd did not keep is had back by another put', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const tar = await tarOf([])
    const hash = nameOf(tar)
    await bundles.put(hash, inPieces(tar), limits)
    rmSync(join(dir.path, `${hash}.tar`))
    expect(await bundles.confirm(hash)).toBe(false)
    expect(bundles.get(hash)).toBeDefined()
    await bundles.put(hash, inPieces(tar), limits)
    expect(await bundles.confirm(hash)).toBe(true)
    expect(readdirSync(dir.path).sort()).toEqual([hash, `${hash}.tar`])
  })

  test('without its bundle is removed at the next start', () => {
    using dir = temporaryDir()
    const orphan = join(dir.path, `sha256-${'0'.repeat(64)}.tar`)
    writeFileSync(orphan, 'x')
    const bundles = new Bundles(dir.path)
    expect(existsSync(orphan)).toBe(false)
    expect(bundles.list()).toEqual([])
  })
})

test('a large bundle passes through in little memory, twice written and read once', async () => {
  using dir = temporaryDir()
  const program = join(import.meta.dir, 'fixtures/large-bundle.ts')
  const child = Bun.spawn([process.execPath, program, dir.path], { stdout: 'pipe' })
  const { bytes, grownMib } = JSON.parse(await new Response(child.stdout).text())
  expect(await child.exited).toBe(0)
  expect(bytes).toBeGreaterThan(200 * 1024 * 1024)
  expect(grownMib).toBeLessThan(100)
}, 60_000)

test('who listens is told of what is new, and of nothing else', async () => {
  using dir = temporaryDir()
  const bundles = new Bundles(dir.path)
  const told: string[] = []
  const stop = bundles.onStored(hash => told.push(hash))
  const tar = await tarOf([])
  await bundles.put(nameOf(tar), inPieces(tar), limits)
  await bundles.put(nameOf(tar), inPieces(tar), limits)
  expect(told).toEqual([nameOf(tar)])
  stop()
  const other = await tarOf([['b', 'b']])
  await bundles.put(nameOf(other), inPieces(other), limits)
  expect(told).toHaveLength(1)
})

describe('garbage', () => {
  test('what nobody refers to and is old enough goes', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const hashes: string[] = []
    for (const name of ['a', 'b', 'c']) {
      const tar = await tarOf([[name, name]])
      hashes.push(nameOf(tar))
      await bundles.put(nameOf(tar), inPieces(tar), limits)
    }
    const [a = '', b = '', c = ''] = hashes
    const old = new Date(Date.now() - 3_600_000)
    for (const hash of [a, b]) utimesSync(join(dir.path, hash), old, old)
    expect(await bundles.collect(new Set([a]), 60_000)).toEqual([b])
    expect(bundles.get(b)).toBeUndefined()
    expect(bundles.list()).toEqual([a, c].sort())
    expect(readdirSync(dir.path).sort()).toEqual([a, `${a}.tar`, c, `${c}.tar`].sort())
  })

  test('another put makes a bundle young again', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const tar = await tarOf([])
    const hash = nameOf(tar)
    await bundles.put(hash, inPieces(tar), limits)
    const old = new Date(Date.now() - 3_600_000)
    utimesSync(join(dir.path, hash), old, old)
    await bundles.put(hash, inPieces(tar), limits)
    expect(await bundles.collect(new Set(), 60_000)).toEqual([])
  })

  test('being asked for makes a bundle young again: somebody counts on it', async () => {
    using dir = temporaryDir()
    const bundles = new Bundles(dir.path)
    const tar = await tarOf([])
    const hash = nameOf(tar)
    await bundles.put(hash, inPieces(tar), limits)
    const old = new Date(Date.now() - 3_600_000)
    utimesSync(join(dir.path, hash), old, old)
    expect(bundles.keep(hash)).toBe(true)
    expect(await bundles.collect(new Set(), 60_000)).toEqual([])
    utimesSync(join(dir.path, hash), old, old)
    expect(await bundles.collect(new Set(), 60_000)).toEqual([hash])
    expect(bundles.keep(hash)).toBe(false)
    expect(bundles.tar(hash)).toBeUndefined()
  })

  test('what a killed process left is removed at the next start', async () => {
    using dir = temporaryDir()
    const left = join(dir.path, '.tmp-0123', 'sub')
    mkdirSync(left, { recursive: true })
    writeFileSync(join(left, 'file'), 'x')
    chmodSync(join(left, 'file'), 0o444)
    const bundles = new Bundles(dir.path)
    await bundles[Symbol.asyncDispose]()
    expect(existsSync(join(dir.path, '.tmp-0123'))).toBe(false)
  })
})
