import { describe, expect, test } from 'bun:test'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { open } from 'lmdb'
import { FndError } from '../../src/errors.ts'
import type { LogWrite } from '../../src/raft/ports.ts'
import { entriesFrom, openLog, temporaryDir, withFive, writeLog } from './sample.ts'

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

  test('merges what came in short writes, and is cut and dropped amid that', async () => {
    using dir = temporaryDir()
    const keys = async () => {
      const path = join(dir.path, 'log.mdb')
      const root = open({ path, noSubdir: true, overlappingSync: false })
      const count = [...root.getKeys({ start: [0, 0], end: [1e9, 0] })].length
      await root.close()
      return count
    }
    let log = await openLog(dir.path)
    for (let index = 1; index <= 500; index++) {
      await writeLog(log, { entries: entriesFrom(index, 1) })
      expect(log.read(Math.max(1, index - 40), 1e6).at(-1)?.index).toBe(index)
    }
    expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 500))
    await log.close()
    expect(await keys()).toBeLessThan(500 / 32 + 32)

    log = await openLog(dir.path)
    expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 500))
    // Another leader's entries, then old ones leave by whole segments.
    await writeLog(log, { entries: entriesFrom(400, 2, 10, 2) })
    const kept = [...entriesFrom(1, 399), ...entriesFrom(400, 2, 10, 2)]
    expect(log.read(1, 1e6)).toEqual(kept)
    await writeLog(log, { dropThrough: 100 })
    expect(log.firstIndex).toBeGreaterThan(50)
    expect(log.firstIndex).toBeLessThanOrEqual(101)
    expect(log.read(log.firstIndex, 1e6)).toEqual(kept.slice(log.firstIndex - 1))
    const { hardState, firstIndex } = log
    await log.close()
    log = await openLog(dir.path)
    expect([log.hardState, log.firstIndex, log.lastIndex]).toEqual([hardState, firstIndex, 401])
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
    const log = await openLog(dir.path)
    for (let last = 5; last <= 150; last += 5) {
      const hardState = { term: 1, vote: 1, commit: last }
      // More than the log keeps in memory, so that the first are read from the file.
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
    await writeLog(again, { dropThrough: 22 })
    expect([again.firstIndex, again.lastIndex, again.term(22)]).toEqual([23, 22, 2])
    await again.close()
  })

  test('drops old entries by whole writes, in steps', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await writeLog(log, { entries: entriesFrom(1, 5) })
    await writeLog(log, { entries: entriesFrom(6, 5) })
    await writeLog(log, { entries: entriesFrom(11, 1), dropThrough: 8 })
    expect([log.firstIndex, log.lastIndex]).toEqual([6, 11])
    for (let first = 12; first < 6000; first += 1000) {
      await writeLog(log, { entries: entriesFrom(first, 1000) })
    }
    await writeLog(log, { dropThrough: 5000 })
    expect(log.firstIndex).toBe(1012)
    await writeLog(log, { dropThrough: 5000 })
    expect(log.firstIndex).toBe(3012)
    await log.close()
  })

  test('drops entries of one write that are very many', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await writeLog(log, { entries: entriesFrom(1, 9500, 0) })
    while (log.firstIndex < 9001) {
      const before = log.firstIndex
      await writeLog(log, { dropThrough: 9400 })
      expect(log.firstIndex).toBeGreaterThan(before)
    }
    expect(log.read(9001, 1e6)).toHaveLength(500)
    await log.close()
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

describe('no room', () => {
  test('below the reserve nothing is written', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await log.close()
    const full = await openLog(dir.path, Number.MAX_SAFE_INTEGER)
    await expect(writeLog(full, { entries: entriesFrom(1, 1) })).rejects.toThrow(FndError)
    expect(full.lastIndex).toBe(0)
    // A vote must still be possible.
    await writeLog(full, { hardState: { term: 7, vote: 3, commit: 0 } })
    expect(full.hardState.vote).toBe(3)
    await full.close()
  })

  const canMount = spawnSync('sh', ['-c', 'd=$(mktemp -d) && mount -t tmpfs none $d && umount $d'])
  test.skipIf(canMount.status !== 0)(
    'a full disk refuses the append, keeps what was there, and heals (needs mount)',
    async () => {
      using dir = temporaryDir()
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', dir.path])
      try {
        const log = await openLog(dir.path)
        await writeLog(log, { entries: entriesFrom(1, 5) })
        writeFileSync(join(dir.path, 'ballast'), new Uint8Array(600_000))
        await expect(writeLog(log, { entries: entriesFrom(6, 50, 10_000) })).rejects.toMatchObject({
          code: 'disk-full',
        })
        await expect(writeLog(log, { entries: entriesFrom(6, 1, 500_000) })).rejects.toMatchObject({
          code: 'disk-full',
        })
        expect(log.lastIndex).toBe(5)
        expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 5))
        rmSync(join(dir.path, 'ballast'))
        await writeLog(log, { entries: entriesFrom(6, 20, 10_000) })
        await log.close()
        const again = await openLog(dir.path)
        expect(again.lastIndex).toBe(25)
        await again.close()
      } finally {
        execFileSync('umount', ['-l', dir.path])
      }
    },
  )
})

const strace = (...args: string[]) =>
  spawnSync('strace', ['-f', '-qq', ...args], { encoding: 'utf8', timeout: 30_000 })
const canTrace = strace('-o', '/dev/null', 'true').status === 0
const program = join(import.meta.dir, 'fixtures', 'appender.ts')

describe('what reaches the disk (needs strace)', () => {
  test.skipIf(!canTrace)('an append resolves after the pages and the meta page are synced', () => {
    using dir = temporaryDir()
    const trace = join(dir.path, 'trace')
    const data = join(dir.path, 'data')
    mkdirSync(data)
    strace(
      '-e',
      'trace=fdatasync,pwrite64,pwritev,write,openat',
      '-o',
      trace,
      process.execPath,
      program,
      data,
    )
    const lines = readFileSync(trace, 'utf8').split('\n')
    const metaFd = lines
      .map(line => /log\.mdb", O_WRONLY\|O_DSYNC.* = (\d+)$/.exec(line)?.[1])
      .find(Boolean)
    expect(metaFd).toBeDefined()
    const events = lines.flatMap(line => {
      if (line.includes('acknowledged')) return 'ack'
      // A call that another thread interrupted is two lines; the second one ends it.
      if (/fdatasync.*= 0$/.test(line)) return 'sync'
      if (line.includes(`pwrite64(${metaFd},`)) return 'meta'
      return []
    })
    const acks = events.filter(event => event === 'ack').length
    expect(acks).toBe(12)
    const text = events.join(' ').slice(events.join(' ').indexOf('ack'))
    // Between one answer and the next: the pages are synced, then the meta page is written to a
    // descriptor that syncs each write.
    expect(text.split('ack').slice(1, -1)).toEqual(Array(11).fill(' sync meta '))
  })

  test.skipIf(!canTrace)('a failed fsync is final, whatever a later one says', () => {
    using dir = temporaryDir()
    const inject = 'inject=fdatasync:error=EIO:when=3+'
    const run = strace(
      '-e',
      'trace=fdatasync',
      '-e',
      inject,
      '-o',
      '/dev/null',
      process.execPath,
      program,
      dir.path,
    )
    expect(run.stdout).toMatch(/^(acknowledged \d+\n)*(refused store-failed\n)+$/)
    expect(run.stdout.match(/refused/g)?.length).toBeGreaterThanOrEqual(2)
  })
})
