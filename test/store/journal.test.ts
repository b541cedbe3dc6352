/** The journal's files, beside the log in LMDB: kills, damage, and logs that had no journal yet. */
import { describe, expect, test } from 'bun:test'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { open } from 'lmdb'
import { StartError } from '../../src/errors.ts'
import { encodeSectors, sectorBytes, sectorRoom } from '../../src/store/journal-sectors.ts'
import {
  baseRecord,
  decodeRecord,
  encodeHard,
  encodeSegment,
  encodeTurn,
  keyOf,
  type LogKey,
  type Segment,
  textRecord,
} from '../../src/store/log-records.ts'
import { seeded } from '../seed.ts'
import { mixedEntries } from './fixtures/mixed.ts'
import { callsIn, canTrace, strace } from './fixtures/strace.ts'
import {
  copyLog,
  entriesFrom,
  openLog,
  openSmallLog,
  outputUntilKilled,
  smallJournal,
  temporaryDir,
  writeLog,
} from './sample.ts'

/** What the journal's write of this number is on the disk. */
function sectorsOf(number: number, turn: Segment): Uint8Array {
  const room = sectorRoom(new Uint8Array(64 * 1024))
  return encodeSectors({ number, bytes: encodeTurn(turn) }, room)
}

const fixture = (name: string) => join(import.meta.dir, 'fixtures', `${name}.ts`)
const files = ['log-0.journal', 'log-1.journal'] as const

/** Runs the writer, kills it some time after its first write, returns what it acknowledged last. */
async function writeAndKill(dir: string, forMs: number): Promise<number> {
  const text = await outputUntilKilled([fixture('writer'), dir], forMs)
  return Number(text.split('\n').at(-2))
}

/** Returns the last index. */
async function mustHoldMixed(dir: string, acknowledged: number): Promise<number> {
  const log = await openSmallLog(dir)
  const { firstIndex, lastIndex, hardState } = log
  expect(lastIndex).toBeGreaterThanOrEqual(acknowledged)
  // Of one write more than it told of, at the most.
  expect(lastIndex).toBeLessThanOrEqual(acknowledged + 3)
  if (lastIndex > 0) expect(hardState).toMatchObject({ term: 1, vote: 1 })
  expect(hardState.commit).toBeGreaterThanOrEqual(acknowledged - 3)
  const held = log.read(firstIndex, 1e9)
  expect(held).toEqual(mixedEntries(firstIndex, lastIndex - firstIndex + 1))
  await log.close()
  return lastIndex
}

describe('killed', () => {
  test('at any moment it gives back all that was acknowledged', async () => {
    using dir = temporaryDir()
    const moments = fc.sample(fc.integer({ min: 0, max: 200 }), { ...seeded(), numRuns: 12 })
    let last = 0
    for (const forMs of moments) {
      const acknowledged = await writeAndKill(dir.path, forMs)
      expect(acknowledged).toBeGreaterThan(last)
      // Copied before it is opened, so that what a kill leaves is opened twice.
      using copy = temporaryDir()
      copyLog(dir.path, copy.path)
      await mustHoldMixed(copy.path, acknowledged)
      last = await mustHoldMixed(dir.path, acknowledged)
    }
    expect(last).toBeGreaterThan(200)
  }, 60_000)

  test.skipIf(!canTrace)(
    'at any call that writes it gives back all that was acknowledged (needs strace)',
    async () => {
      const calls = 'pwrite64,pwritev,fdatasync'
      const steps = [
        1,
        2,
        3,
        4,
        ...fc.sample(fc.integer({ min: 5, max: 60 }), { ...seeded(), numRuns: 12 }),
      ]
      let acknowledged = 0
      for (const nth of steps) {
        using dir = temporaryDir()
        await (await openSmallLog(dir.path)).close()
        const inject = ['-e', `trace=${calls}`, '-e', `inject=${calls}:signal=KILL:when=${nth}`]
        const run = strace(
          ...inject,
          '-o',
          '/dev/null',
          process.execPath,
          fixture('writer'),
          dir.path,
        )
        expect(run.signal === 'SIGKILL' || run.status === 137).toBe(true)
        const last = Number(run.stdout.split('\n').at(-2) ?? 0)
        await mustHoldMixed(dir.path, last)
        acknowledged += last
      }
      expect(acknowledged).toBeGreaterThan(100)
    },
    60_000,
  )
})

describe('what a kill left', () => {
  test.skipIf(!canTrace)(
    'is flushed before it goes home, for which there may be no room (needs strace)',
    async () => {
      using dir = temporaryDir()
      await crashedLog(dir.path)
      const trace = join(dir.path, 'trace')
      const args = ['-y', '-e', 'trace=fdatasync,pwrite64,pwritev', '-o', trace]
      const run = strace(...args, process.execPath, fixture('opener'), dir.path, `${smallJournal}`)
      expect(run.status).toBe(0)
      const calls = callsIn(readFileSync(trace, 'utf8'))
      const home = calls.findIndex(call => call.args.includes('/log.mdb>'))
      expect(home).toBeGreaterThan(0)
      const flushed = calls.slice(0, home).filter(({ name }) => name === 'fdatasync')
      expect(flushed.map(({ result }) => result)).toEqual(['0', '0'])
      for (const name of files) {
        expect(flushed.some(({ args }) => args.includes(`/${name}>`))).toBe(true)
      }
    },
  )
})

/**
 * As a kill leaves it: 40 writes of an entry each. The first 31 fill a file and are home, or about
 * to be; the others are in the second file.
 */
async function crashedLog(dir: string): Promise<void> {
  using own = temporaryDir()
  const log = await openSmallLog(own.path)
  for (let index = 1; index <= 40; index++) await writeLog(log, { entries: entriesFrom(index, 1) })
  copyLog(own.path, dir)
  await log.close()
}

describe('a file of the journal', () => {
  test.each([
    ['missing', (path: string) => rmSync(path), /cannot be read \(.*ENOENT.*new node/],
    ['empty', (path: string) => truncateSync(path, 0), /has 0 bytes, and not 16384.*new node/],
    ['cut short', (path: string) => truncateSync(path, 16_000), /has 16000 bytes, and not 16384/],
    ['longer', (path: string) => truncateSync(path, 16_896), /has 16896 bytes, and not 16384/],
  ])('that is %s is refused', async (_, damage, reason) => {
    for (const name of files) {
      using dir = temporaryDir()
      await crashedLog(dir.path)
      damage(join(dir.path, name))
      await expect(openSmallLog(dir.path)).rejects.toThrow(reason)
      await expect(openSmallLog(dir.path)).rejects.toBeInstanceOf(StartError)
    }
  })

  test('of another length than is asked for is refused, and left as it is', async () => {
    using dir = temporaryDir()
    await crashedLog(dir.path)
    await expect(openLog(dir.path)).rejects.toThrow(/has 16384 bytes, and not 2097152/)
    const log = await openSmallLog(dir.path)
    expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 40))
    await log.close()
  })

  test('with a bit flipped in any sector of what is not home is refused', async () => {
    using dir = temporaryDir()
    await crashedLog(dir.path)
    const path = join(dir.path, 'log-1.journal')
    const good = readFileSync(path)
    for (let sector = 0; sector < 9; sector++) {
      const bad = Uint8Array.from(good)
      const at = sector * sectorBytes + ((sector * 61) % sectorBytes)
      bad[at] = (bad[at] ?? 0) ^ 0x08
      writeFileSync(path, bad)
      await expect(openSmallLog(dir.path)).rejects.toThrow(/has a damaged sector.*new node/)
    }
    writeFileSync(path, good)
    const log = await openSmallLog(dir.path)
    expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 40))
    await log.close()
  })

  test('of which a sector in the middle was lost is refused', async () => {
    using dir = temporaryDir()
    await crashedLog(dir.path)
    const path = join(dir.path, 'log-1.journal')
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.fill(0, 3 * sectorBytes, 4 * sectorBytes))
    await expect(openSmallLog(dir.path)).rejects.toThrow(/lacks write 35, but holds write 40/)
  })

  test('that was refused is not held open', async () => {
    using dir = temporaryDir()
    await crashedLog(dir.path)
    await contradict(dir.path, { entries: entriesFrom(50, 1), hardState: free })
    const descriptors = () => readdirSync('/proc/self/fd').length
    await expect(openSmallLog(dir.path)).rejects.toThrow(StartError)
    const before = descriptors()
    for (let nth = 0; nth < 10; nth++) {
      await expect(openSmallLog(dir.path)).rejects.toThrow(StartError)
    }
    expect(descriptors()).toBeLessThan(before + 10)
  })
})

const free = { term: 1, vote: 0, commit: 0 }

/** Puts a write behind the last one, as whole as any. */
async function contradict(dir: string, turn: Segment): Promise<void> {
  const path = join(dir, 'log-1.journal')
  const journal = readFileSync(path)
  journal.set(sectorsOf(41, turn), 9 * sectorBytes)
  writeFileSync(path, journal)
}

describe('a journal of another log', () => {
  test('whose log is an earlier copy is refused once it was written over', async () => {
    using dir = temporaryDir()
    using earlier = temporaryDir()
    using crashed = temporaryDir()
    const log = await openSmallLog(dir.path)
    await writeLog(log, { entries: entriesFrom(1, 3) })
    copyLog(dir.path, earlier.path)
    for (let index = 4; index <= 100; index++) {
      await writeLog(log, { entries: entriesFrom(index, 1) })
    }
    copyLog(dir.path, crashed.path)
    await log.close()
    copyFileSync(join(earlier.path, 'log.mdb'), join(crashed.path, 'log.mdb'))
    await expect(openSmallLog(crashed.path)).rejects.toThrow(/lacks write 1, but holds.*new node/)
    // With its own it opens.
    const own = await openSmallLog(earlier.path)
    expect(own.read(1, 1e6)).toEqual(entriesFrom(1, 3))
    await own.close()
  })

  const turns: [string, Segment, RegExp][] = [
    ['has a gap', { entries: entriesFrom(42, 1), hardState: free }, /lacks entries between 41 and/],
    [
      'takes the term back',
      { entries: [], hardState: { term: 0, vote: 0, commit: 0 } },
      /journal contradicts the log.*new node/,
    ],
    [
      'commits what is not there',
      { entries: [], hardState: { term: 1, vote: 0, commit: 41 } },
      /lacks entries between 41 and 41/,
    ],
  ]
  test.each(turns)('that %s is refused', async (_, turn, reason) => {
    using dir = temporaryDir()
    await crashedLog(dir.path)
    await contradict(dir.path, turn)
    await expect(openSmallLog(dir.path)).rejects.toThrow(reason)
  })

  test('that votes twice, or replaces what is committed, is refused', async () => {
    for (const second of [
      { entries: [], hardState: { term: 3, vote: 1, commit: 40 } },
      { entries: entriesFrom(40, 1, 10, 3), hardState: { term: 3, vote: 2, commit: 40 } },
    ]) {
      using dir = temporaryDir()
      await crashedLog(dir.path)
      await contradict(dir.path, { entries: [], hardState: { term: 3, vote: 2, commit: 40 } })
      const path = join(dir.path, 'log-1.journal')
      const journal = readFileSync(path)
      journal.set(sectorsOf(42, second), 10 * sectorBytes)
      writeFileSync(path, journal)
      await expect(openSmallLog(dir.path)).rejects.toThrow(/journal contradicts the log/)
    }
  })
})

const newest = { term: 4, vote: 2, commit: 9 }

/** A log as the versions before the journal left it: the newest hard state is in its last entry. */
async function withoutJournal(dir: string): Promise<void> {
  const root = open<Uint8Array, LogKey>({
    path: join(dir, 'log.mdb'),
    encoding: 'binary',
    noSubdir: true,
    overlappingSync: false,
  })
  const identity = JSON.stringify({ clusterId: 'old', nodeId: 2, uuid: 'u' })
  await root.batch(() => {
    void root.put('identity', textRecord(identity))
    void root.put('base', baseRecord({ index: 0, term: 0 }))
    const hardState = { term: 1, vote: 0, commit: 2 }
    void root.put('hard', encodeHard({ hardState, settled: undefined }))
    for (let index = 1; index <= 10; index++) {
      const entries = entriesFrom(index, 1, 100, index < 10 ? 1 : 4)
      const own = index < 10 ? { term: 1, vote: 0, commit: index - 1 } : newest
      void root.put(keyOf(entries), encodeSegment(entries, own))
    }
  })
  await root.close()
}

async function mustBeUpgraded(dir: string): Promise<void> {
  for (const _start of [1, 2]) {
    const log = await openLog(dir)
    expect(log.identity).toEqual({ clusterId: 'old', nodeId: 2, uuid: 'u' })
    expect(log.hardState).toEqual(newest)
    expect(log.read(1, 1e6)).toEqual([...entriesFrom(1, 9, 100), ...entriesFrom(10, 1, 100, 4)])
    await log.close()
  }
}

async function hardRecordIn(dir: string): Promise<Uint8Array> {
  const path = join(dir, 'log.mdb')
  const root = open<Uint8Array, LogKey>({ path, encoding: 'binary', noSubdir: true })
  const record = Uint8Array.from(root.get('hard') ?? [])
  await root.close()
  return record
}

describe('a log that had no journal', () => {
  test('gets one, and keeps all, its newest hard state included', async () => {
    using dir = temporaryDir()
    await withoutJournal(dir.path)
    expect((await hardRecordIn(dir.path))[0]).toBe(1)
    await mustBeUpgraded(dir.path)
    for (const name of files) expect(existsSync(join(dir.path, name))).toBe(true)
    const log = await openLog(dir.path)
    await writeLog(log, { entries: entriesFrom(11, 1, 10, 4) })
    expect(log.lastIndex).toBe(11)
    await log.close()
  })

  test('is then refused by the versions that would not read its journal', async () => {
    using dir = temporaryDir()
    await withoutJournal(dir.path)
    const before = await hardRecordIn(dir.path)
    // These know version 1 alone.
    expect(decodeRecord(before, 'hard')).toMatchObject({ index: 2, term: 1 })
    await mustBeUpgraded(dir.path)
    const record = await hardRecordIn(dir.path)
    expect(record[0]).toBe(3)
    expect(() => decodeRecord(record, 'hard')).toThrow(/version 3.*Start the version of fnd that/)
  })

  const calls = 'write,pwrite64,pwritev,fsync,fdatasync,ftruncate'
  const killedAt = (nth: number, dir: string) =>
    strace(
      ...['-e', `trace=${calls}`, '-e', `inject=${calls}:signal=KILL:when=${nth}`],
      ...['-o', '/dev/null', process.execPath, fixture('opener'), dir],
    ).status !== 0

  test.skipIf(!canTrace)(
    'may be killed at any call while it gets one (needs strace)',
    async () => {
      let killed = 0
      for (let nth = 1; ; nth++) {
        using dir = temporaryDir()
        await withoutJournal(dir.path)
        const isKilled = killedAt(nth, dir.path)
        await mustBeUpgraded(dir.path)
        if (!isKilled) break
        killed += 1
      }
      // Two files and their flushes, LMDB's pages and its meta page.
      expect(killed).toBeGreaterThanOrEqual(6)
    },
    60_000,
  )

  test.skipIf(!canTrace)(
    'because it is new may be killed at any call (needs strace)',
    async () => {
      let killed = 0
      for (let nth = 1; ; nth++) {
        using dir = temporaryDir()
        const data = join(dir.path, 'store')
        mkdirSync(data)
        const isKilled = killedAt(nth, data)
        const log = await openLog(data)
        expect([log.identity.uuid, log.firstIndex, log.lastIndex]).toEqual(['u', 1, 0])
        expect(log.hardState).toEqual({ term: 0, vote: 0, commit: 0 })
        await writeLog(log, { entries: entriesFrom(1, 2) })
        await log.close()
        const again = await openLog(data)
        expect(again.read(1, 1e6)).toEqual(entriesFrom(1, 2))
        await again.close()
        if (!isKilled) break
        killed += 1
      }
      expect(killed).toBeGreaterThanOrEqual(8)
    },
    60_000,
  )
})
