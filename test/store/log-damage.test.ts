/** What a log does with a file that is not what it wrote. */
import { describe, expect, test } from 'bun:test'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { open } from 'lmdb'
import { StartError } from '../../src/errors.ts'
import { encodeHard, encodeRecord, type LogKey } from '../../src/store/log-records.ts'
import { canTrace, strace } from './fixtures/strace.ts'
import { entriesFrom, openLog, temporaryDir, withFive, writeLog } from './sample.ts'

const opener = join(import.meta.dir, 'fixtures', 'opener.ts')

/** First index of a segment, or the name of another record. */
type Key = number | string

/** Changes the records behind the log's back. */
async function tamper(dir: string, change: (records: Map<Key, Uint8Array>) => void): Promise<void> {
  const root = open<Uint8Array, LogKey>({
    path: join(dir, 'log.mdb'),
    encoding: 'binary',
    noSubdir: true,
    overlappingSync: false,
  })
  const records = new Map<Key, Uint8Array>()
  for (const { key, value } of root.getRange()) {
    records.set(typeof key === 'string' ? key : key[0], Uint8Array.from(value))
  }
  const before = new Set(records.keys())
  change(records)
  const keyOf = (key: Key): LogKey => (typeof key === 'number' ? [key, key] : key)
  await root.batch(() => {
    for (const key of before) if (!records.has(key)) void root.remove(keyOf(key))
    for (const [key, value] of records) void root.put(keyOf(key), value)
  })
  await root.close()
}

describe('damage', () => {
  const flip = (key: Key, at: number) => (records: Map<Key, Uint8Array>) => {
    const record = records.get(key)
    if (record === undefined) throw new Error('no such record')
    record[at] = (record[at] ?? 0) ^ 0x10
  }
  test.each([
    ['a byte of the contents', flip(3, 70)],
    ['a byte of the index', flip(3, 9)],
    ['a byte of the hard state', flip(3, 30)],
    ['a byte of the term', flip(3, 54)],
    ['a byte of the kind', flip(3, 60)],
    ['a byte of the checksum', flip(3, 5)],
    ['the last entry', flip(5, 70)],
    ['a record cut short', (records: Map<Key, Uint8Array>) => records.set(3, new Uint8Array(7))],
    [
      'a record of another place',
      (records: Map<Key, Uint8Array>) => records.set(3, records.get(4) ?? new Uint8Array()),
    ],
  ])('%s is found on reading', async (_, change) => {
    using dir = temporaryDir()
    await withFive(dir.path)
    await tamper(dir.path, records => void change(records))
    const reading = async () => {
      await using stack = new AsyncDisposableStack()
      const log = await openLog(dir.path)
      stack.defer(() => log.close())
      return log.read(1, 1e6)
    }
    await expect(reading()).rejects.toBeInstanceOf(StartError)
    await expect(reading()).rejects.toThrow(/entry [35].*join the cluster as a new node/)
  })

  test.each([
    ['in the middle', 3, 3, 3],
    ['at the front', 1, 1, 1],
    ['at the end, where it was committed', 5, 5, 5],
  ])('a record that is missing %s is found on opening', async (_, key, first, last) => {
    using dir = temporaryDir()
    await withFive(dir.path)
    const log = await openLog(dir.path)
    await writeLog(log, { hardState: { term: 1, vote: 1, commit: 5 } })
    await log.close()
    await tamper(dir.path, records => void records.delete(key))
    const lacks = `lacks entries between ${first} and ${last}`
    await expect(openLog(dir.path)).rejects.toThrow(new RegExp(`${lacks}.*new node`))
  })

  test.each(['hard', 'base', 'identity'])('of %s is found on opening', async name => {
    using dir = temporaryDir()
    await withFive(dir.path)
    await tamper(dir.path, flip(name, 10))
    await expect(openLog(dir.path)).rejects.toThrow(new RegExp(`record of ${name}.*new node`))
    await tamper(dir.path, records => void records.delete(name))
    await expect(openLog(dir.path)).rejects.toThrow(/lacks its hard state or identity.*new node/)
  })

  test.each([
    ['another vote', { term: 1, vote: 2, commit: 0 }],
    ['a later term, but an earlier commit', { term: 2, vote: 1, commit: 0 }],
  ])('%s than the last segment says is found on opening', async (_, hardState) => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await writeLog(log, { entries: entriesFrom(1, 2) })
    await writeLog(log, { entries: entriesFrom(3, 1), hardState: { term: 1, vote: 1, commit: 2 } })
    await log.close()
    await tamper(
      dir.path,
      records => void records.set('hard', encodeHard({ hardState, settled: undefined })),
    )
    await expect(openLog(dir.path)).rejects.toThrow(/hard states contradict.*new node/)
  })

  test('a file that is something else is refused', async () => {
    using dir = temporaryDir()
    writeFileSync(join(dir.path, 'log.mdb'), 'not an environment'.repeat(1000))
    await expect(openLog(dir.path)).rejects.toThrow(/is not an LMDB environment.*damaged/)
  })
})

describe('a log that is cut short', () => {
  test.each([1, 4096, 8192, 10_000, 3 * 4096, 40_000])('to %d bytes is refused', async size => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await writeLog(log, { entries: entriesFrom(1, 50, 1000) })
    await log.close()
    truncateSync(join(dir.path, 'log.mdb'), size)
    const reading = async () => {
      const again = await openLog(dir.path)
      const entries = again.read(1, 1e6)
      return entries.length
    }
    await expect(reading()).rejects.toBeInstanceOf(StartError)
  })
})

describe('a log of the time before clusters', () => {
  test.each([
    ['whole', 1],
    ['truncated', 700],
  ])('that is %s is converted, once', async (_, first) => {
    using dir = temporaryDir()
    const count = 600
    const old = openOld(dir.path)
    await old.root.batch(() => {
      for (const entry of entriesFrom(first, count, 1000)) {
        void old.entries.put(entry.index, encodeRecord(entry))
      }
      void old.meta.put('hard', oldHardState(first + count - 1))
    })
    await old.root.close()
    for (const _round of [1, 2]) {
      const log = await openLog(dir.path)
      const { identity, hardState, firstIndex, lastIndex } = log
      expect(identity).toEqual({ clusterId: 'old', nodeId: 1, uuid: 'its-uuid' })
      expect(hardState).toEqual({ term: 1, vote: 1, commit: first + count - 1 })
      expect([firstIndex, lastIndex]).toEqual([first, first + count - 1])
      expect(log.term(first - 1)).toBe(first === 1 ? 0 : 1)
      expect(log.read(first, 1e9)).toEqual(entriesFrom(first, count, 1000))
      await log.close()
    }
  })

  test('with a damaged record is refused, and left as it is', async () => {
    using dir = temporaryDir()
    const old = openOld(dir.path)
    await old.root.batch(() => {
      for (const entry of entriesFrom(1, 5)) {
        const record = encodeRecord(entry)
        if (entry.index === 3) record[30] = 99
        void old.entries.put(entry.index, record)
      }
      void old.meta.put('hard', oldHardState(5))
    })
    await old.root.close()
    await expect(openLog(dir.path)).rejects.toThrow(/entry 3.*new node/)
    const again = openOld(dir.path)
    expect([...again.entries.getKeys()]).toEqual([1, 2, 3, 4, 5])
    await again.root.close()
  })

  test.skipIf(!canTrace)(
    'is converted in one step: a process killed at any write leaves the old or the new',
    async () => {
      let killed = 0
      for (let nth = 1; ; nth++) {
        using dir = temporaryDir()
        const old = openOld(dir.path)
        await old.root.batch(() => {
          for (const entry of entriesFrom(1, 20, 1000)) {
            void old.entries.put(entry.index, encodeRecord(entry))
          }
          void old.meta.put('hard', oldHardState(20))
        })
        await old.root.close()
        const calls = 'pwrite64,pwritev'
        const run = strace(
          ...['-e', `trace=${calls}`, '-e', `inject=${calls}:signal=KILL:when=${nth}`],
          ...['-o', '/dev/null', process.execPath, opener, dir.path],
        )
        const log = await openLog(dir.path)
        expect(log.read(1, 1e9)).toEqual(entriesFrom(1, 20, 1000))
        expect(log.hardState).toEqual({ term: 1, vote: 1, commit: 20 })
        await log.close()
        if (run.status === 0) break
        killed += 1
      }
      // At least at the pages and at the meta page.
      expect(killed).toBeGreaterThanOrEqual(2)
    },
    60_000,
  )

  const openOld = (dir: string) => {
    const path = join(dir, 'log.mdb')
    const root = open<Uint8Array, string>({ path, noSubdir: true, overlappingSync: false })
    const entries = root.openDB<Uint8Array, number>('entries', { encoding: 'binary' })
    return { root, entries, meta: root.openDB<Uint8Array, string>('meta', { encoding: 'binary' }) }
  }
  const oldHardState = (commitIndex: number) => {
    const own = { term: 1, vote: 'its-uuid', commitIndex, clusterId: 'old', nodeId: 'its-uuid' }
    const bytes = new TextEncoder().encode(JSON.stringify(own))
    return encodeRecord({ index: 0, term: 1, bytes })
  }
})
