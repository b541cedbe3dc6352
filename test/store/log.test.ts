import { describe, expect, test } from 'bun:test'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { open } from 'lmdb'
import { FndError, StartError } from '../../src/errors.ts'
import { LmdbLog } from '../../src/store/log.ts'
import { temporaryDir } from './sample.ts'

const identity = () => ({ clusterId: 'c', nodeId: 'n' })
const openLog = (dir: string, freeBytesMin = 0) => LmdbLog.open({ dir, identity, freeBytesMin })

function entriesFrom(first: number, count: number, length = 10) {
  return Array.from({ length: count }, (_, at) => ({
    index: first + at,
    term: 1,
    bytes: new Uint8Array(length).fill(first + at),
  }))
}

async function write(log: LmdbLog, first: number, count: number, length?: number): Promise<void> {
  const entries = entriesFrom(first, count, length)
  await log.append({ entries, hardState: log.hardState, dropThrough: 0 })
}

async function withFive(dir: string): Promise<void> {
  const log = await openLog(dir)
  await write(log, 1, 5)
  await log.close()
}

/** Changes the records behind the log's back. */
async function tamper(
  dir: string,
  change: (records: Map<number, Uint8Array>) => void,
): Promise<void> {
  const root = open<Uint8Array, string>({
    path: join(dir, 'log.mdb'),
    noSubdir: true,
    overlappingSync: false,
  })
  const db = root.openDB<Uint8Array, number>('entries', { encoding: 'binary' })
  const records = new Map<number, Uint8Array>()
  for (const { key, value } of db.getRange()) records.set(key, Uint8Array.from(value))
  change(records)
  await root.batch(() => {
    for (const key of [...db.getKeys()]) if (!records.has(key)) void db.remove(key)
    for (const [key, value] of records) void db.put(key, value)
  })
  await root.close()
}

describe('the log', () => {
  test('gives back what was appended, after a restart too', async () => {
    using dir = temporaryDir()
    await withFive(dir.path)
    const log = await openLog(dir.path)
    expect([log.firstIndex, log.lastIndex]).toEqual([1, 5])
    expect(log.read(2, 1e6)).toEqual(entriesFrom(2, 4))
    expect(log.read(2, 11).map(entry => entry.index)).toEqual([2, 3])
    expect(log.read(2, 1).map(entry => entry.index)).toEqual([2])
    await log.close()
  })

  test('drops old entries with an append, but never the last', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await write(log, 1, 5)
    await log.append({ entries: entriesFrom(6, 1), hardState: log.hardState, dropThrough: 3 })
    expect([log.firstIndex, log.lastIndex]).toEqual([4, 6])
    await log.append({ entries: [], hardState: log.hardState, dropThrough: 99 })
    expect([log.firstIndex, log.lastIndex]).toEqual([6, 6])
    await log.close()
    const again = await openLog(dir.path)
    expect(again.read(6, 1)).toEqual(entriesFrom(6, 1))
    await again.close()
  })

  test('refuses to append across a gap', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await expect(write(log, 2, 1)).rejects.toThrow(/without gaps/)
    await log.close()
  })
})

describe('damage', () => {
  const flip = (key: number, at: number) => (records: Map<number, Uint8Array>) => {
    const record = records.get(key)
    if (record === undefined) throw new Error('no such record')
    record[at] = (record[at] ?? 0) ^ 0x10
  }
  test.each([
    ['a byte of the contents', flip(3, 30)],
    ['a byte of the index', flip(3, 9)],
    ['a byte of the term', flip(3, 20)],
    ['a byte of the checksum', flip(3, 5)],
    ['a record cut short', (records: Map<number, Uint8Array>) => records.set(3, new Uint8Array(7))],
    [
      'a record of another place',
      (records: Map<number, Uint8Array>) => records.set(3, records.get(4) ?? new Uint8Array()),
    ],
  ])('%s is found on reading', async (_, change) => {
    using dir = temporaryDir()
    await withFive(dir.path)
    await tamper(dir.path, records => void change(records))
    const log = await openLog(dir.path)
    expect(() => log.read(1, 1e6)).toThrow(/entry 3.*(Restore|join)/)
    await log.close()
  })

  test('a missing record is found on opening', async () => {
    using dir = temporaryDir()
    await withFive(dir.path)
    await tamper(dir.path, records => void records.delete(3))
    await expect(openLog(dir.path)).rejects.toThrow(/lacks entries between 1 and 5/)
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
    await write(log, 1, 50, 1000)
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

describe('no room', () => {
  test('below the reserve nothing is written', async () => {
    using dir = temporaryDir()
    const log = await openLog(dir.path)
    await log.close()
    const full = await openLog(dir.path, Number.MAX_SAFE_INTEGER)
    await expect(write(full, 1, 1)).rejects.toThrow(FndError)
    expect(full.lastIndex).toBe(0)
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
        await write(log, 1, 5)
        writeFileSync(join(dir.path, 'ballast'), new Uint8Array(600_000))
        await expect(write(log, 6, 50, 10_000)).rejects.toMatchObject({ code: 'disk-full' })
        expect(log.lastIndex).toBe(5)
        expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 5))
        rmSync(join(dir.path, 'ballast'))
        await write(log, 6, 20, 10_000)
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
