/** When what the log acknowledges is on the disk, and what it does when that fails or is full. */
import { describe, expect, test } from 'bun:test'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { FndError } from '../../src/errors.ts'
import type { LogWrite } from '../../src/raft/ports.ts'
import type { Entry } from '../../src/raft/types.ts'
import type { JournaledLog } from '../../src/store/log.ts'
import { type Call, callsIn, canTrace, strace } from './fixtures/strace.ts'
import { entriesFrom, openLog, openSmallLog, temporaryDir, writeLog } from './sample.ts'

/** Undefined when it was written. */
async function refusal(log: JournaledLog, write: Partial<LogWrite>): Promise<string | undefined> {
  try {
    await writeLog(log, write)
    return undefined
  } catch (error) {
    if (error instanceof FndError) return error.code
    throw error
  }
}

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
    'a full disk refuses what finds no room in the journal either, keeps the rest, and heals ' +
      '(needs mount)',
    async () => {
      using dir = temporaryDir()
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', dir.path])
      try {
        // Of which the reserve for votes is four sectors.
        const fileBytes = 64 * 1024
        const open = () => openLog(dir.path, 0, 1, fileBytes)
        let log = await open()
        await writeLog(log, { entries: entriesFrom(1, 5) })
        const ballast = fill(dir.path)
        const large = { entries: entriesFrom(6, 50, 10_000) }
        expect(await refusal(log, large)).toBe('disk-full')
        expect(log.lastIndex).toBe(5)
        expect(log.read(1, 1e6)).toEqual(entriesFrom(1, 5))

        const kept: Entry[] = entriesFrom(1, 5)
        for (;;) {
          expect(kept.length).toBeLessThan(5000)
          const entries = entriesFrom(log.lastIndex + 1, 1, 300)
          const code = await refusal(log, { entries })
          if (code !== undefined) {
            expect(code).toBe('disk-full')
            break
          }
          kept.push(...entries)
        }
        // Both files of the journal are full, but for the reserve.
        expect(kept.length).toBeGreaterThan((fileBytes / 512) * 1.8)
        for (const vote of [1, 2, 3]) {
          const hardState = { term: 10 + vote, vote, commit: 2 }
          expect(await refusal(log, { hardState })).toBeUndefined()
        }
        const { hardState } = log
        expect(await refusal(log, { entries: entriesFrom(log.lastIndex + 1, 1) })).toBe('disk-full')
        const mustHold = () => {
          expect(log.read(1, 1e9)).toEqual(kept)
          expect(log.hardState).toEqual(hardState)
        }
        mustHold()
        await log.close()
        // Nothing has gone home: it opens with all in its journal.
        for (const _restart of [1, 2]) {
          log = await open()
          mustHold()
          const entries = entriesFrom(log.lastIndex + 1, 1)
          expect(await refusal(log, { entries })).toBe('disk-full')
          mustHold()
          await log.close()
        }
        log = await open()
        rmSync(ballast)
        const more = entriesFrom(log.lastIndex + 1, 20, 10_000, 13)
        await writeLog(log, { entries: more })
        kept.push(...more)
        mustHold()
        await log.close()
        log = await open()
        mustHold()
        await log.close()
      } finally {
        execFileSync('umount', ['-l', dir.path])
      }
    },
  )

  test.skipIf(canMount.status !== 0)('is not asked of LMDB (needs mount)', async () => {
    using dir = temporaryDir()
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', dir.path])
    try {
      await (await openSmallLog(dir.path)).close()
      fill(dir.path)
      const run = spawnSync(process.execPath, [program, dir.path, '80'], { encoding: 'utf8' })
      expect(run.stdout).toMatch(/^(acknowledged \d+\n){62}(refused disk-full\n){18}$/)
      // Where it would say that a write failed.
      expect(run.stderr).toBe('')
    } finally {
      execFileSync('umount', ['-l', dir.path])
    }
  })

  test.skipIf(canMount.status !== 0)(
    'a log is not made where there is none (needs mount)',
    async () => {
      using dir = temporaryDir()
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', dir.path])
      try {
        const ballast = fill(dir.path)
        await expect(openLog(dir.path)).rejects.toThrow(/no room on the disk for a log/)
        truncateSync(ballast, 900_000)
        await expect(openLog(dir.path)).rejects.toThrow(/journal cannot be made in .*ENOSPC/)
        rmSync(ballast)
        await (await openLog(dir.path, 0, 1, 64 * 1024)).close()
      } finally {
        execFileSync('umount', ['-l', dir.path])
      }
    },
  )

  /** Takes all the room that there is. Returns the path of the file that does. */
  function fill(dir: string): string {
    const path = join(dir, 'ballast')
    const fd = openSync(path, 'w')
    const page = new Uint8Array(4096).fill(1)
    let isFull = false
    while (!isFull) {
      try {
        isFull = writeSync(fd, page) < page.length
      } catch (error) {
        expect((error as { code?: string }).code).toBe('ENOSPC')
        isFull = true
      }
    }
    closeSync(fd)
    return path
  }
})

const program = join(import.meta.dir, 'fixtures', 'appender.ts')
const calls = 'fdatasync,fsync,pwrite64,pwritev,pwritev2,write,openat'

/** Runs the appender for so many entries, each of a sector of the journal. */
function tracedRun(count: number): readonly Call[] {
  using dir = temporaryDir()
  const data = join(dir.path, 'data')
  mkdirSync(data)
  const trace = join(dir.path, 'trace')
  const args = ['-y', '-e', `trace=${calls}`, '-o', trace]
  const run = strace(...args, process.execPath, program, data, `${count}`)
  expect(run.status).toBe(0)
  return callsIn(readFileSync(trace, 'utf8'))
}

const isAck = ({ args }: Call) => args.includes('acknowledged')
const descriptorOf = ({ args }: Call) => /^(\d+)</.exec(args)?.[1] ?? ''
const isWriteTo = (call: Call, file: string) =>
  call.name.startsWith('pwrite') && call.args.includes(`/${file}>`)
const offsetOf = ({ args }: Call) => Number(/, (\d+)$/.exec(args)?.[1])

/** Descriptors of this file that write through to the disk. */
function dsyncDescriptors(traced: readonly Call[], file: string): readonly string[] {
  return traced
    .filter(({ name, args }) => name === 'openat' && args.includes(`/${file}"`))
    .filter(({ args }) => /O_(WRONLY|RDWR)\|O_DSYNC/.test(args))
    .map(({ result }) => /^(\d+)/.exec(result)?.[1] ?? '')
}

describe('what reaches the disk (needs strace)', () => {
  test.skipIf(!canTrace)('an append is acknowledged after its write to the disk ended', () => {
    const traced = tracedRun(12)
    const writes = traced.filter(call => isWriteTo(call, 'log-0.journal'))
    const acks = traced.filter(isAck)
    expect([writes.length, acks.length]).toEqual([12, 12])
    const through = dsyncDescriptors(traced, 'log-0.journal')
    for (const [nth, write] of writes.entries()) {
      expect(through).toContain(descriptorOf(write))
      expect([write.result, offsetOf(write)]).toEqual(['512', nth * 512])
      expect(write.end).toBeLessThan(acks[nth]?.begin ?? 0)
      expect(write.begin).toBeGreaterThan(acks[nth - 1]?.end ?? -1)
    }
  })

  test.skipIf(!canTrace)('a file of the journal is written over when all of it is home', () => {
    const traced = tracedRun(200)
    expect(traced.filter(isAck)).toHaveLength(200)
    const metaDescriptors = dsyncDescriptors(traced, 'log.mdb')
    const syncs = traced.filter(call => call.name === 'fdatasync' && call.args.includes('log.mdb>'))
    const metas = traced.filter(
      call => isWriteTo(call, 'log.mdb') && metaDescriptors.includes(descriptorOf(call)),
    )
    let written = 0
    for (const file of ['log-0.journal', 'log-1.journal']) {
      const writes = traced.filter(call => isWriteTo(call, file))
      const begins = writes.flatMap((write, at) => (at > 0 && offsetOf(write) === 0 ? [at] : []))
      for (const at of begins) {
        const [last, first] = [writes[at - 1], writes[at]]
        if (last === undefined || first === undefined) throw new Error('no such write')
        // After all that was in the file: the pages are synced, then the meta page is written to a
        // descriptor that syncs each write, and then the file begins anew.
        const isHome = syncs.some(
          sync =>
            sync.begin > last.end &&
            sync.result === '0' &&
            metas.some(meta => meta.begin > sync.end && meta.end < first.begin),
        )
        expect(isHome).toBe(true)
        written += 1
      }
    }
    expect(written).toBeGreaterThanOrEqual(4)
  })

  test.skipIf(!canTrace).each([
    ['fails', 'error=EIO'],
    ['ends early', 'retval=100'],
  ])('a write of the journal that %s is final, whatever a later one says', async (_, fault) => {
    using dir = temporaryDir()
    const data = join(dir.path, 'data')
    mkdirSync(data)
    const trace = join(dir.path, 'trace')
    const of = ['-y', '-P', join(data, 'log-0.journal'), '-e', 'trace=pwrite64', '-o', trace]
    // Counted for each thread: at the latest when each has written once.
    const inject = `inject=pwrite64:${fault}:when=2`
    const run = strace(...of, '-e', inject, process.execPath, program, data, '30')
    expect(run.stdout).toMatch(/^(acknowledged \d+\n)+(refused store-failed\n){5,}$/)
    const acknowledged = run.stdout.match(/acknowledged/g)?.length ?? 0
    const writes = callsIn(readFileSync(trace, 'utf8')).filter(({ name }) => name === 'pwrite64')
    expect(writes.slice(0, -1).map(({ result }) => result)).toEqual(Array(acknowledged).fill('512'))
    expect(writes.at(-1)?.result).toMatch(/INJECTED/)
    await mustHoldAtLeast(data, acknowledged)
  })

  test.skipIf(!canTrace)('a failed fsync is final, whatever a later one says', async () => {
    using dir = temporaryDir()
    // What is there already is opened without a transaction: the first is that of a settling.
    await (await openSmallLog(dir.path)).close()
    const inject = 'inject=fdatasync:error=EIO:when=1'
    const args = ['-e', 'trace=fdatasync', '-e', inject, '-o', '/dev/null']
    const run = strace(...args, process.execPath, program, dir.path, '100')
    expect(run.stdout).toMatch(/^(acknowledged \d+\n)+(refused store-failed\n)+$/)
    const acknowledged = run.stdout.match(/acknowledged/g)?.length ?? 0
    // The other file may be full before the failure is noticed, but no more than that.
    expect(acknowledged).toBeGreaterThanOrEqual(31)
    expect(acknowledged).toBeLessThanOrEqual(62)
    expect(run.stdout.match(/refused/g)?.length).toBe(100 - acknowledged)
    await mustHoldAtLeast(dir.path, acknowledged)
  })

  async function mustHoldAtLeast(dir: string, count: number): Promise<void> {
    const log = await openSmallLog(dir)
    expect(log.lastIndex).toBeGreaterThanOrEqual(count)
    expect(log.read(1, 1e9)).toEqual(entriesFrom(1, log.lastIndex, 100))
    await log.close()
  }
})
