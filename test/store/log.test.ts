import { describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import { open } from 'lmdb'
import type { LogWrite } from '../../src/raft/ports.ts'
import { LogTree } from '../../src/store/log-tree.ts'
import {
  copyLog,
  entriesFrom,
  openLog,
  openSmallLog,
  temporaryDir,
  withFive,
  writeLog,
} from './sample.ts'

/** First and last index of each segment that is in LMDB. */
async function segmentsIn(dir: string): Promise<[number, number][]> {
  const path = join(dir, 'log.mdb')
  const root = open({ path, noSubdir: true, overlappingSync: false })
  const keys = [...root.getKeys({ start: [0, 0], end: [1e9, 0] })]
  await root.close()
  return keys as [number, number][]
}

function openTree(dir: string): Promise<LogTree> {
  const identity = () => ({ clusterId: '', nodeId: 0, uuid: '' })
  return LogTree.open({ dir, identity })
}

describe('the log', () => {
  test('gives back what was written, after a restart too', async () => {
    using dir = temporaryDir()
    await withFive(dir.path)
    const log = await openLog(dir.path)
    expect([log.firstIndex, log.lastIndex]).toEqual([1, 5])
    expect(log.read(2, 1e6)).toEqual(entriesFrom(2, 4))
    expect(log.read(2, 29).map(entry => entry.index)).toEqual([2, 3])
    expect(log.read(2, 1).map(entry => entry.index)).toEqual([2])
    expect(log.read(6, 1e6)).toEqual([])
    await log.close()
  })

  test('takes short writes home together, and is cut and dropped amid that', async () => {
    using dir = temporaryDir()
    let log = await openSmallLog(dir.path)
    for (let index = 1; index <= 500; index++) {
      await writeLog(log, { entries: entriesFrom(index, 1) })
      expect(log.read(Math.max(1, index - 40), 1e6).at(-1)?.index).toBe(index)
    }
    expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 500))
    await log.close()
    // One for each file of the journal that was full, and one at the end.
    expect((await segmentsIn(dir.path)).length).toBeGreaterThan(10)
    expect((await segmentsIn(dir.path)).length).toBeLessThanOrEqual(500 / 31 + 1)

    log = await openSmallLog(dir.path)
    expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 500))
    // Another leader's entries, then old ones leave by whole segments.
    await writeLog(log, { entries: entriesFrom(400, 2, 10, 2) })
    const kept = [...entriesFrom(1, 399), ...entriesFrom(400, 2, 10, 2)]
    expect(log.read(1, 1e6)).toEqual(kept)
    await writeLog(log, { dropThrough: 100 })
    expect(log.firstIndex).toBe(1)
    await log.close()
    log = await openSmallLog(dir.path)
    const { hardState, firstIndex } = log
    expect(firstIndex).toBeGreaterThan(50)
    expect(firstIndex).toBeLessThanOrEqual(101)
    expect(log.read(firstIndex, 1e6)).toEqual(kept.slice(firstIndex - 1))
    await log.close()
    log = await openSmallLog(dir.path)
    expect([log.hardState, log.firstIndex, log.lastIndex]).toEqual([hardState, firstIndex, 401])
    expect(log.hardState.term).toBe(2)
    await log.close()
  })

  test('keeps kinds, empty entries, hard state, identity and the name of a snapshot', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    const kinds = ['normal', 'conf', 'conf-v2'] as const
    const entries = kinds.map((kind, at) => ({
      index: at + 8,
      term: 3,
      kind,
      bytes: new Uint8Array(at),
    }))
    const hardState = { term: 4, vote: 2, commit: 9 }
    await writeLog(log, { entries, hardState, reset: { index: 7, term: 2, data: 'name' } })
    await log.close()
    const again = await openLog(dir.path)
    expect(again.read(8, 1e6)).toEqual(entries)
    expect(again.hardState).toEqual(hardState)
    expect(again.identity).toEqual({ clusterId: 'c', nodeId: 1, uuid: 'u' })
    expect([6, 7, 8, 10, 11].map(index => again.term(index))).toEqual([
      undefined,
      2,
      3,
      3,
      undefined,
    ])
    expect(again.installing).toBe('name')
    await writeLog(again, { isInstalled: true })
    expect(again.installing).toBe('')
    await again.close()
  })

  test('lives beside databases of other parts in the same environment', async () => {
    using dir = temporaryDir()
    const names = ['0', 'a', 'entr', 'queue', 'zzz']
    const openOthers = () => {
      const path = join(dir.path, 'log.mdb')
      const root = open<Uint8Array, string>({ path, noSubdir: true, overlappingSync: false })
      const encoding = 'string' as const
      return { root, others: names.map(name => root.openDB<string, number>(name, { encoding })) }
    }
    const first = openOthers()
    for (const other of first.others) await other.put(1, 'theirs')
    await first.root.close()
    await withFive(dir.path)
    const again = openOthers()
    expect(again.others.map(other => other.get(1))).toEqual(names.map(() => 'theirs'))
    await again.root.close()
    const log = await openLog(dir.path)
    expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 5))
    await log.close()
  })

  test('is read as it was until a write is done, also what that write removes', async () => {
    using dir = temporaryDir()
    const log = await openSmallLog(dir.path)
    for (let last = 5; last <= 150; last += 5) {
      const hardState = { term: 1, vote: 1, commit: last }
      // So much goes home at once, and is read from LMDB's file then.
      const entries = entriesFrom(last - 4, 5, 60_000)
      const written = writeLog(log, { entries, hardState, dropThrough: last - 40 })
      // Meanwhile the transaction is over, and nobody was told.
      await new Promise(setImmediate)
      Bun.sleepSync(15)
      if (last > 5) expect(log.read(log.firstIndex, 1).length).toBe(1)
      await written
    }
    expect(log.firstIndex).toBeGreaterThan(90)
    await log.close()
  })

  test('is read as it was while what it holds goes home and old entries leave', async () => {
    using dir = temporaryDir()
    const log = await openSmallLog(dir.path)
    const firsts = new Set<number>()
    for (let index = 1; index <= 400; index++) {
      const hardState = { term: 1, vote: 1, commit: index }
      const dropThrough = Math.max(0, index - 60)
      const written = writeLog(log, { entries: entriesFrom(index, 1), hardState, dropThrough })
      for (let turn = 0; turn < 3; turn++) {
        const { firstIndex, lastIndex } = log
        const held = entriesFrom(firstIndex, lastIndex - firstIndex + 1)
        expect(log.read(firstIndex, 1e6)).toEqual(held)
        firsts.add(firstIndex)
        await new Promise(setImmediate)
      }
      await written
    }
    expect(firsts.size).toBeGreaterThan(5)
    await log.close()
  })

  test('drops nothing that the hard state on the disk has not committed', async () => {
    using dir = temporaryDir()
    const log = await openSmallLog(dir.path)
    // At home, but not known to be committed; then the journal gets full.
    const kept = { term: 1, vote: 1, commit: 0 }
    await writeLog(log, { entries: entriesFrom(1, 5, 2000), hardState: kept })
    for (let write = 0; write < 31; write++) await writeLog(log, {})
    const hardState = { term: 1, vote: 1, commit: 5 }
    await writeLog(log, { entries: entriesFrom(6, 1), hardState, dropThrough: 5 })
    for (let settled = 0, attempt = 0; settled < 31; attempt++) {
      expect(attempt).toBeLessThan(1000)
      await Bun.sleep(2)
      using crashed = temporaryDir()
      copyLog(dir.path, crashed.path)
      const tree = await openTree(crashed.path)
      expect(tree.firstIndex - 1).toBeLessThanOrEqual(tree.hardState.commit)
      settled = tree.settled ?? 0
      await tree.close()
    }
    await log.close()
    const again = await openSmallLog(dir.path)
    expect([again.firstIndex, again.hardState]).toEqual([6, hardState])
    await again.close()
  })

  test('an empty log knows where it is', async () => {
    using dir = temporaryDir()
    await withFive(dir.path)
    const log = await openLog(dir.path)
    const hardState = { term: 2, vote: 0, commit: 5 }
    await writeLog(log, { hardState, reset: { index: 20, term: 2, data: 's' } })
    await log.close()
    const again = await openLog(dir.path)
    expect([again.firstIndex, again.lastIndex, again.term(20)]).toEqual([21, 20, 2])
    await writeLog(again, { entries: entriesFrom(21, 2, 10, 2) })
    await again.close()
    const emptied = await openLog(dir.path)
    await writeLog(emptied, { dropThrough: 22 })
    await emptied.close()
    const empty = await openLog(dir.path)
    expect([empty.firstIndex, empty.lastIndex, empty.term(22)]).toEqual([23, 22, 2])
    await writeLog(empty, { entries: entriesFrom(23, 1, 10, 2) })
    expect(empty.read(23, 1e6)).toEqual(entriesFrom(23, 1, 10, 2))
    await empty.close()
  })

  test('drops old entries by whole segments', async () => {
    using dir = temporaryDir()
    /** Old entries leave with what goes home, as at a close. */
    const writeHome = async (write: Partial<LogWrite>) => {
      const log = await openLog(dir.path)
      await writeLog(log, write)
      await log.close()
      return [log.firstIndex, log.lastIndex]
    }
    await writeHome({ entries: entriesFrom(1, 5) })
    await writeHome({ entries: entriesFrom(6, 5) })
    expect(await writeHome({ entries: entriesFrom(11, 1), dropThrough: 8 })).toEqual([6, 11])
    const log = await openLog(dir.path)
    for (let first = 12; first < 30_000; first += 1000) {
      await writeLog(log, { entries: entriesFrom(first, 1000, 1) })
    }
    await log.close()
    expect(await writeHome({ dropThrough: 29_000 })).toEqual([28_012, 30_011])
  })

  test('calls back in a later turn', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    let isSameTurn = true
    const done = new Promise<boolean>(resolve => {
      const { hardState } = log
      log.write({ entries: [], hardState, dropThrough: 0 }, () => resolve(isSameTurn))
      isSameTurn = false
    })
    expect(await done).toBe(false)
    await log.close()
  })

  const refused: [string, Partial<LogWrite>, RegExp][] = [
    ['a gap', { entries: entriesFrom(7, 1) }, /without gaps/],
    ['a gap inside', { entries: [...entriesFrom(6, 1), ...entriesFrom(8, 1)] }, /without gaps/],
    ['what is committed', { entries: entriesFrom(3, 1, 1, 9) }, /never overwritten/],
    ['a term that falls', { entries: entriesFrom(6, 1, 1, 0) }, /terms never fall/],
    ['a lower term', { hardState: { term: 0, vote: 1, commit: 3 } }, /no term, commit or vote/],
    ['a lower commit', { hardState: { term: 1, vote: 1, commit: 2 } }, /no term, commit or vote/],
    ['a second vote', { hardState: { term: 1, vote: 2, commit: 3 } }, /no term, commit or vote/],
    ['a snapshot of long ago', { reset: { index: 2, term: 1, data: 's' } }, /no snapshot undoes/],
  ]
  test.each(refused)('does not write %s', async (_, write, truth) => {
    using dir = temporaryDir()
    await withFive(dir.path)
    const log = await openLog(dir.path)
    await writeLog(log, { hardState: { term: 1, vote: 1, commit: 3 } })
    expect(() => {
      const { hardState } = log
      log.write({ entries: [], hardState, dropThrough: 0, ...write }, () => undefined)
    }).toThrow(truth)
    await log.close()
  })

  test.each([
    ['into the journal', 10],
    ['home at once', 5000],
  ])('is closed after the write that is under way, %s', async (_, length) => {
    using dir = temporaryDir()
    const log = await openSmallLog(dir.path)
    await writeLog(log, { entries: entriesFrom(1, 1) })
    const written = writeLog(log, { entries: entriesFrom(2, 1, length) })
    await log.close()
    await written
    const again = await openSmallLog(dir.path)
    expect(again.read(1, 1e6)).toEqual([...entriesFrom(1, 1), ...entriesFrom(2, 1, length)])
    await again.close()
  })

  test('takes one write at a time', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    const first = writeLog(log, { entries: entriesFrom(1, 1) })
    await expect(writeLog(log, { entries: entriesFrom(2, 1) })).rejects.toThrow(
      /one write at a time/,
    )
    await first
    await log.close()
  })
})
