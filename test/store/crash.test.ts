/**
 * A real process, killed in the middle of its work: nothing that it acknowledged is lost, and what
 * is there is what the log says.
 */
import { afterAll, describe, expect, test } from 'bun:test'
import {
  cpSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { StartError } from '../../src/errors.ts'
import { StateDb } from '../../src/store/db.ts'
import { journalBytes } from '../../src/store/journal.ts'
import { openStore, type Store } from '../../src/store/replica.ts'
import { seeded } from '../seed.ts'
import {
  anApp,
  openAlone,
  openLog,
  outputUntilKilled,
  smallJournal,
  temporaryDir,
} from './sample.ts'

const proposer = join(import.meta.dir, 'fixtures', 'proposer.ts')

/** Runs the proposer for some time after it is ready, kills it, returns what it acknowledged. */
async function runAndKill(
  dataDir: string,
  prefix: string,
  forMs: number,
  ...args: string[]
): Promise<string[]> {
  const text = await outputUntilKilled([proposer, dataDir, prefix, ...args], forMs)
  // The last line may be half written; only whole lines were acknowledged to us.
  return text.split('\n').slice(1, -1)
}

function fail(error: Error): never {
  throw error
}

function open(dataDir: string, fileBytes = journalBytes): Promise<Store> {
  return openAlone({ dataDir, onFatal: fail, journalBytes: fileBytes })
}

function mustHold(store: Store, acknowledged: readonly string[]): void {
  const lost = acknowledged.filter(id => store.state.fn(id) === undefined)
  expect(lost).toEqual([])
  const unrouted = acknowledged.filter(id => store.routes.fnById(id) === undefined)
  expect(unrouted).toEqual([])
}

/** The state hash that the log alone leads to. Undefined when its beginning is gone. */
async function replayedHash(dataDir: string): Promise<string | undefined> {
  const dir = join(dataDir, 'store')
  const log = await openLog(dir)
  using db = new StateDb(':memory:')
  if (log.firstIndex > 1) return undefined
  for (let index = 1; index <= log.lastIndex; ) {
    const entries = log.read(index, 1e6)
    db.apply(entries)
    index += entries.length
  }
  await log.close()
  return db.stateHash
}

test('kill -9 at any moment loses nothing acknowledged', async () => {
  using dir = temporaryDir()
  // The first is short, so that its log still begins with the first entry.
  const moments = [1, ...fc.sample(fc.integer({ min: 0, max: 400 }), { ...seeded(), numRuns: 11 })]
  const acknowledged: string[] = []
  let replayed = 0
  for (const [round, forMs] of moments.entries()) {
    acknowledged.push(...(await runAndKill(dir.path, `r${round}`, forMs)))
    const store = await open(dir.path)
    mustHold(store, acknowledged)
    const { appliedIndex, lastIndex, stateHash } = store.status()
    expect(appliedIndex).toBe(lastIndex)
    await store[Symbol.asyncDispose]()
    const hash = await replayedHash(dir.path)
    if (hash === undefined) continue
    expect(hash).toBe(stateHash)
    replayed += 1
  }
  expect(acknowledged.length).toBeGreaterThan(moments.length)
  expect(replayed).toBeGreaterThan(0)
}, 60_000)

test('kill -9 around flushes and cuts of the log loses nothing acknowledged', async () => {
  using dir = temporaryDir()
  const moments = fc.sample(fc.integer({ min: 0, max: 300 }), { ...seeded(), numRuns: 40 })
  const acknowledged: string[] = []
  let firstIndex = 1
  let cuts = 0
  for (const [round, forMs] of moments.entries()) {
    // A busy machine needs more of them.
    if (round >= 10 && cuts > 3 && acknowledged.length > round) break
    // Flushed and cut all the time.
    const narrow = ['0', '10', '1', `${smallJournal}`]
    acknowledged.push(...(await runAndKill(dir.path, `f${round}`, forMs, ...narrow)))
    const store = await open(dir.path, smallJournal)
    mustHold(store, acknowledged)
    const status = store.status()
    expect(status.appliedIndex).toBe(status.lastIndex)
    if (status.firstIndex > firstIndex) cuts += 1
    firstIndex = status.firstIndex
    await store[Symbol.asyncDispose]()
  }
  expect(acknowledged.length).toBeGreaterThan(10)
  expect(cuts).toBeGreaterThan(3)
}, 120_000)

test('a lone node that starts again shows at once what it acknowledged', async () => {
  using dir = temporaryDir()
  const acknowledged = await runAndKill(dir.path, 's', 30)
  await using store = await openStore({ dataDir: dir.path, onFatal: fail })
  await store.start()
  mustHold(store, acknowledged)
}, 20_000)

describe('after a crash', () => {
  /** A directory as the kill left it, with its WAL; each test damages a copy. */
  const crashed = temporaryDir()
  const ready = runAndKill(crashed.path, 'c', 80)
  afterAll(() => crashed[Symbol.dispose]())

  async function copyOfCrashed(dir: string) {
    const acknowledged = await ready
    cpSync(crashed.path, dir, { recursive: true })
    const wal = join(dir, 'store', 'state.db-wal')
    expect(statSync(wal).size).toBeGreaterThan(10_000)
    return { acknowledged, wal, walBytes: statSync(wal).size }
  }

  test.each([
    ['removed', (wal: string) => rmSync(wal)],
    ['emptied', (wal: string) => truncateSync(wal, 0)],
    ['cut inside its header', (wal: string) => truncateSync(wal, 17)],
    ['cut in the middle', (wal: string) => truncateSync(wal, statSync(wal).size >> 1)],
    ['cut by one byte', (wal: string) => truncateSync(wal, statSync(wal).size - 1)],
    ['garbled at its end', (wal: string) => scribble(wal, statSync(wal).size - 3000, 3000)],
    ['garbled in the middle', (wal: string) => scribble(wal, statSync(wal).size >> 1, 100)],
    ['longer by garbage', (wal: string) => scribble(wal, statSync(wal).size, 9000)],
  ])('a WAL that was %s is replayed from the log', async (_, damage) => {
    using dir = temporaryDir()
    const { acknowledged, wal } = await copyOfCrashed(dir.path)
    using whole = temporaryDir()
    cpSync(crashed.path, whole.path, { recursive: true })
    const undamaged = await open(whole.path)
    damage(wal)
    const store = await open(dir.path)
    mustHold(store, acknowledged)
    expect(store.status().stateHash).toBe(undamaged.status().stateHash)
    await store[Symbol.asyncDispose]()
    await undamaged[Symbol.asyncDispose]()
  })

  test('a database that was removed is built anew from the log', async () => {
    using dir = temporaryDir()
    const { acknowledged } = await copyOfCrashed(dir.path)
    for (const end of ['', '-wal', '-shm']) rmSync(join(dir.path, 'store', `state.db${end}`))
    const log = await openLog(join(dir.path, 'store'))
    const isWhole = log.firstIndex === 1
    await log.close()
    if (!isWhole) {
      await expect(open(dir.path)).rejects.toThrow(/entries between are gone/)
      return
    }
    const store = await open(dir.path)
    mustHold(store, acknowledged)
    await store[Symbol.asyncDispose]()
  })

  test('a database that was overwritten is refused with a reason', async () => {
    using dir = temporaryDir()
    await copyOfCrashed(dir.path)
    for (const end of ['-wal', '-shm']) rmSync(join(dir.path, 'store', `state.db${end}`))
    scribble(join(dir.path, 'store', 'state.db'), 0, 4096)
    await expect(open(dir.path)).rejects.toThrow(/cannot be opened as a database.*backup/)
  })

  test('a log that was removed is refused with a reason', async () => {
    using dir = temporaryDir()
    await copyOfCrashed(dir.path)
    rmSync(join(dir.path, 'store', 'log.mdb'))
    await expect(open(dir.path)).rejects.toThrow(/the log lost entries/)
  })

  test.each([
    ['log.mdb', 1],
    ['log-0.journal', 0.01],
  ])(
    'no byte changed in %s goes unnoticed or loses anything',
    async (name, share) => {
      using dir = temporaryDir()
      const { acknowledged } = await copyOfCrashed(dir.path)
      const path = join(dir.path, 'store', name)
      const good = readFileSync(path)
      // The journal is written from its beginning on.
      const end = Math.floor(good.length * share)
      const places = fc.sample(fc.nat(end - 1), { ...seeded(), numRuns: 10 })
      let refused = 0
      for (const place of places) {
        rmSync(dir.path, { recursive: true })
        cpSync(crashed.path, dir.path, { recursive: true })
        scribble(path, place, 1, (good[place] ?? 0) ^ 0x20)
        // A process of its own: LMDB may take it down by a signal when its own pages are damaged.
        const child = Bun.spawn(
          [process.execPath, join(import.meta.dir, 'fixtures', 'reader.ts'), dir.path],
          { stdout: 'pipe', stderr: 'ignore' },
        )
        const ids = new Set((await new Response(child.stdout).text()).split('\n'))
        if ((await child.exited) !== 0) refused += 1
        else expect(acknowledged.filter(id => !ids.has(id))).toEqual([])
      }
      expect(refused).toBeLessThanOrEqual(places.length)
    },
    60_000,
  )
})

function scribble(path: string, at: number, count: number, byte = 0xa5): void {
  const fd = openSync(path, 'r+')
  writeSync(fd, new Uint8Array(count).fill(byte), 0, count, at)
}

describe('one fnd for each directory', () => {
  test('a second one is refused and told the pid of the first', async () => {
    using dir = temporaryDir()
    const first = await open(dir.path)
    const second = open(dir.path)
    await expect(second).rejects.toBeInstanceOf(StartError)
    await expect(second).rejects.toThrow(`pid ${process.pid}`)
    await first[Symbol.asyncDispose]()
    const third = await open(dir.path)
    await third[Symbol.asyncDispose]()
  })

  test('of another process, and free again after kill -9', async () => {
    using dir = temporaryDir()
    const child = Bun.spawn([process.execPath, proposer, dir.path, 'p', '50'], { stdout: 'pipe' })
    await child.stdout.getReader().read()
    await expect(open(dir.path)).rejects.toThrow(`pid ${child.pid}`)
    child.kill('SIGKILL')
    await child.exited
    const store = await open(dir.path)
    await store[Symbol.asyncDispose]()
    expect(existsSync(join(dir.path, 'lock.pid'))).toBe(true)
  })
})

test('below the reserve of room writes are refused, reads are not', async () => {
  using dir = temporaryDir()
  const store = await open(dir.path)
  await store.state.propose({ type: 'app.create', app: anApp('A') })
  await store[Symbol.asyncDispose]()
  const onFatal = (error: Error) => {
    throw error
  }
  const freeBytesMin = Number.MAX_SAFE_INTEGER
  const full = await openStore({ dataDir: dir.path, onFatal, freeBytesMin })
  full.member.start()
  // It cannot even begin its term.
  while (!full.member.isStarved) await Bun.sleep(1)
  const refused = full.state.propose({ type: 'app.create', app: anApp('B') })
  await expect(refused).rejects.toMatchObject({ code: 'disk-full', status: 507 })
  expect(full.state.app('A')).toBeDefined()
  expect(full.routes.appByName('app-A')?.id).toBe('A')
  await full[Symbol.asyncDispose]()
})
