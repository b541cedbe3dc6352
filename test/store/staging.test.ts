import { describe, expect, test } from 'bun:test'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { StateDb } from '../../src/store/db.ts'
import {
  contentsOf,
  frameBytesAim,
  frameBytesMax,
  framesOf,
} from '../../src/store/snapshot-frames.ts'
import type { TakenSnapshot } from '../../src/store/snapshots.ts'
import { Staging } from '../../src/store/staging.ts'
import { seeded } from '../seed.ts'
import { anApp, entryOf, snapshotOf, temporaryDir } from './sample.ts'

const invalid = { code: 'snapshot-invalid' }

/** A snapshot of a few frames, and a place to receive it. */
async function prepared(dir: string) {
  const database = join(dir, 'state.db')
  using db = new StateDb(database)
  const config = { text: 'x'.repeat(50_000) }
  for (let index = 1; index <= 50; index++) {
    db.apply([entryOf(index, { type: 'app.create', app: anApp(`${index}`, { config }) })])
  }
  const taken = await snapshotOf(db, database, join(dir, 'snapshots'))
  expect(taken.bytes).toBeGreaterThan(2 * frameBytesMax)
  const stagedDir = join(dir, 'staged')
  return { taken, stagedDir, staging: newStaging(stagedDir) }
}

function newStaging(dir: string, keep = '', freeBytesMin = 0): Staging {
  return new Staging({ dir, keep, freeBytesMin })
}

async function* all(...chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks
}

async function collected(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/** As many whole frames as there are, then the connection breaks. */
async function* broken(taken: TakenSnapshot, frames: number): AsyncGenerator<Uint8Array> {
  let count = 0
  for await (const frame of framesOf(taken.path, 0)) {
    if (count === frames) {
      yield frame.subarray(0, 1000)
      throw new Error('the connection broke')
    }
    yield frame
    count += 1
  }
}

describe('receiving a snapshot', () => {
  test('leaves it under its name, whole', async () => {
    using dir = temporaryDir()
    const { taken, staging, stagedDir } = await prepared(dir.path)
    expect(staging.receivedBytes(taken.name)).toBe(0)
    const snapshot = await staging.receive(taken, 0, framesOf(taken.path, 0))
    const { index, term, confState, name } = taken
    expect(snapshot).toEqual({ index, term, confState, data: name })
    expect(readFileSync(join(stagedDir, name))).toEqual(readFileSync(taken.path))
    expect(staging.receivedBytes(name)).toBe(taken.bytes)
    // Once more is no work.
    expect(await staging.receive(taken, taken.bytes, all())).toEqual(snapshot)
  })

  test('goes on where the connection broke', async () => {
    using dir = temporaryDir()
    const { taken, staging } = await prepared(dir.path)
    await expect(staging.receive(taken, 0, broken(taken, 2))).rejects.toThrow('connection broke')
    const received = staging.receivedBytes(taken.name)
    expect(received).toBe(2 * frameBytesAim)
    await expect(staging.receive(taken, 0, framesOf(taken.path, 0))).rejects.toMatchObject(invalid)
    await staging.receive(taken, received, framesOf(taken.path, received))
    expect(staging.receivedBytes(taken.name)).toBe(taken.bytes)
  })

  test('refuses what is not what it is called, and begins anew', async () => {
    using dir = temporaryDir()
    const { taken, staging, stagedDir } = await prepared(dir.path)
    const swapped = { ...taken, name: taken.name.replace(/-\d+-/, '-99-') }
    await expect(staging.receive(swapped, 0, framesOf(taken.path, 0))).rejects.toThrow(/index/)
    const bytes = readFileSync(taken.path)
    bytes[bytes.length >> 1] = 255 ^ (bytes[bytes.length >> 1] ?? 0)
    writeFileSync(join(dir.path, 'other'), bytes)
    const other = framesOf(join(dir.path, 'other'), 0)
    await expect(staging.receive(taken, 0, other)).rejects.toThrow(/its hash/)
    expect(readdirSync(stagedDir)).toEqual([])
    await staging.receive(taken, 0, framesOf(taken.path, 0))
  })

  test('refuses too much, too little, and another at the same time', async () => {
    using dir = temporaryDir()
    const { taken, staging } = await prepared(dir.path)
    const short = { name: taken.name, bytes: taken.bytes - 1 }
    await expect(staging.receive(short, 0, framesOf(taken.path, 0))).rejects.toThrow(/too long/)
    const received = staging.receivedBytes(taken.name)
    await expect(staging.receive(taken, received, all())).rejects.toThrow(/ of \d+ bytes/)
    const receiving = staging.receive(taken, received, framesOf(taken.path, received))
    const second = staging.receive(taken, 0, framesOf(taken.path, 0))
    await expect(second).rejects.toMatchObject({ code: 'write-overload' })
    await receiving
  })

  test('refuses what there is no room for', async () => {
    using dir = temporaryDir()
    const { taken, stagedDir } = await prepared(dir.path)
    const full = newStaging(stagedDir, '', Number.MAX_SAFE_INTEGER)
    const refused = full.receive(taken, 0, framesOf(taken.path, 0))
    await expect(refused).rejects.toMatchObject({ code: 'disk-full' })
  })

  test('forgets the parts of senders that gave up', async () => {
    using dir = temporaryDir()
    const { taken, staging, stagedDir } = await prepared(dir.path)
    const other = `1-1-${'0'.repeat(64)}`
    await expect(
      staging.receive({ name: other, bytes: 1e9 }, 0, broken(taken, 1)),
    ).rejects.toThrow()
    expect(readdirSync(stagedDir)).toEqual([`${other}.part`])
    await staging.receive(taken, 0, framesOf(taken.path, 0))
    expect(readdirSync(stagedDir)).toEqual([taken.name])
  })

  test('after a start everything is gone but what is being installed', () => {
    using dir = temporaryDir()
    const stagedDir = join(dir.path, 'staged')
    mkdirSync(stagedDir)
    for (const name of ['a', 'b', 'b.part']) writeFileSync(join(stagedDir, name), 'x')
    newStaging(stagedDir, 'b')
    expect(readdirSync(stagedDir)).toEqual(['b'])
  })
})

const receiver = join(import.meta.dir, 'fixtures', 'receiver.ts')
const strace = (...args: string[]) =>
  spawnSync('strace', ['-f', '-qq', ...args], { encoding: 'utf8', timeout: 60_000 })
const canTrace = strace('-o', '/dev/null', 'true').status === 0

describe('a process that dies while it receives (needs strace)', () => {
  const calls = 'unlink,unlinkat,rename,renameat,renameat2,fsync,fdatasync,write,pwrite64'

  test.skipIf(!canTrace)(
    'at any step has either nothing or all of it under the name',
    async () => {
      using dir = temporaryDir()
      const { taken } = await prepared(dir.path)
      const path = join(dir.path, taken.name)
      renameSync(taken.path, path)
      const seen = new Set<boolean>()
      for (let step = 1, isDone = false; !isDone; step++) {
        expect(step).toBeLessThan(200)
        const own = join(dir.path, `step-${step}`)
        mkdirSync(own)
        const inject = `inject=${calls}:signal=KILL:when=${step}`
        const run = strace('-o', '/dev/null', '-e', inject, process.execPath, receiver, own, path)
        isDone = run.status === 0
        const whole = join(own, 'staged', taken.name)
        seen.add(existsSync(whole))
        if (existsSync(whole)) expect(sha256Of(whole)).toBe(taken.sha256)
        const again = spawnSync(process.execPath, [receiver, own, path, taken.name], {
          encoding: 'utf8',
        })
        expect([again.stdout, again.stderr]).toEqual([`staged ${taken.name}\n`, ''])
        expect(readdirSync(join(own, 'staged'))).toEqual([taken.name])
        rmSync(own, { recursive: true })
      }
      expect(seen.size).toBe(2)
    },
    120_000,
  )

  test.skipIf(!canTrace)('has it on the disk before it has its name', async () => {
    using dir = temporaryDir()
    const { taken } = await prepared(dir.path)
    const path = join(dir.path, taken.name)
    renameSync(taken.path, path)
    const trace = join(dir.path, 'trace')
    const wanted = 'trace=rename,renameat,renameat2,fsync,fdatasync,write,pwrite64'
    strace('-y', '-o', trace, '-e', wanted, process.execPath, receiver, dir.path, path)
    const steps = readFileSync(trace, 'utf8')
      .split('\n')
      .flatMap(line => {
        if (/fsync\(\d+<[^>]*\.part>/.test(line)) return 'sync file'
        if (/write(64)?\(\d+<[^>]*\.part>/.test(line)) return 'write'
        if (/rename\w*\(.*\.part"/.test(line)) return 'rename'
        if (/fsync\(\d+<[^>]*\/staged>/.test(line)) return 'sync dir'
        if (/write\(1<.*staged/.test(line)) return 'answer'
        return []
      })
    expect(steps.slice(0, 2)).toEqual(['write', 'write'])
    expect(steps.filter(step => step !== 'write')).toEqual([
      'sync file',
      'rename',
      'sync dir',
      'answer',
    ])
    expect(steps.lastIndexOf('write')).toBeLessThan(steps.indexOf('sync file'))
  })
})

function sha256Of(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

describe('frames', () => {
  test('come through however they are cut', async () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'file')
    const sizes = fc.array(fc.integer({ min: 1, max: 700_000 }), { minLength: 1, maxLength: 9 })
    await fc.assert(
      fc.asyncProperty(fc.nat(3 * frameBytesMax), sizes, fc.nat(), async (length, cuts, skip) => {
        writeFileSync(path, Buffer.alloc(length, 'some contents'))
        const from = skip % (length + 1)
        const sent = await collected(framesOf(path, from))
        async function* cut(): AsyncGenerator<Uint8Array> {
          for (let at = 0, nth = 0; at < sent.length; nth++) {
            const size = cuts[nth % cuts.length] ?? 1
            yield sent.subarray(at, at + size)
            at += size
          }
        }
        expect((await collected(contentsOf(cut()))).equals(readFileSync(path).subarray(from))).toBe(
          true,
        )
      }),
      seeded(30),
    )
  })

  test('that are damaged are refused wherever it is', async () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'file')
    writeFileSync(path, Buffer.alloc(3000, 'some contents'))
    const sent = await collected(framesOf(path, 0))
    for (let at = 0; at < sent.length; at += 7) {
      const bad = Buffer.from(sent)
      bad[at] = (bad[at] ?? 0) ^ 4
      await expect(collected(contentsOf(all(bad)))).rejects.toMatchObject(invalid)
    }
    const cut = sent.subarray(0, -1)
    await expect(collected(contentsOf(all(cut)))).rejects.toMatchObject(invalid)
    await expect(collected(contentsOf(all(Buffer.alloc(8))))).rejects.toMatchObject(invalid)
  })

  test('of a file that shrinks on the way are fewer', async () => {
    using dir = temporaryDir()
    const path = join(dir.path, 'file')
    writeFileSync(path, Buffer.alloc(2 * frameBytesAim))
    const frames = framesOf(path, 0)
    await frames.next()
    truncateSync(path, frameBytesAim)
    expect((await frames.next()).done).toBe(true)
    expect(statSync(path).size).toBe(frameBytesAim)
  })
})
