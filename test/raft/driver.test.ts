/** The driver on a real log, in a group of one. Larger groups are the simulation's. */
import { afterEach, describe, expect, test } from 'bun:test'
import { FndError } from '../../src/errors.ts'
import { Member } from '../../src/raft/driver.ts'
import { Group } from '../../src/raft/group.ts'
import type { MemberLimits } from '../../src/raft/member-options.ts'
import { noObserver } from '../../src/raft/observer.ts'
import type { CommittedEntry, LogStore, LogWrite, StateMachine } from '../../src/raft/ports.ts'
import { message } from '../../src/raft/role-state.ts'
import { systemScheduler } from '../../src/raft/scheduler.ts'
import type { Entry } from '../../src/raft/types.ts'
import { JournaledLog } from '../../src/store/log.ts'
import { temporaryDir } from '../store/sample.ts'

/** Collects first bytes, in memory, as if on a disk of its own. */
class Collector implements StateMachine {
  appliedIndex = 0
  appliedTerm = 0
  confState = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }
  readonly applied: number[] = []
  flushes = 0
  settled = 0
  /** Thrown by the next calls of `apply` and of `settle`. */
  readonly faults: Error[] = []
  readonly settleFaults: Error[] = []

  settle(): void {
    const fault = this.settleFaults.shift()
    if (fault !== undefined) throw fault
    this.settled = this.appliedIndex
  }

  apply(entries: readonly CommittedEntry[]): readonly unknown[] {
    const fault = this.faults.shift()
    if (fault !== undefined) throw fault
    return entries.map(entry => {
      if (entry.index <= this.appliedIndex) return undefined
      expect(entry.index).toBe(this.appliedIndex + 1)
      this.appliedIndex = entry.index
      this.appliedTerm = entry.term
      const [first] = entry.bytes
      if (entry.kind === 'normal' && first !== undefined) this.applied.push(first)
      return first
    })
  }

  flush(done: (error: undefined, durableIndex: number) => void): void {
    this.flushes += 1
    const { appliedIndex } = this
    setImmediate(() => done(undefined, appliedIndex))
  }

  install(): void {
    throw new Error('a group of one receives no snapshots')
  }
}

/** The real log, with its writes written down. */
class Watched implements LogStore {
  readonly writes: LogWrite[] = []
  /** Given instead of the next writes that hold entries of proposals. */
  readonly faults: Error[] = []
  isFull = false
  readonly #log: JournaledLog

  constructor(log: JournaledLog) {
    this.#log = log
  }

  get identity() {
    return this.#log.identity
  }
  get hardState() {
    return this.#log.hardState
  }
  get firstIndex() {
    return this.#log.firstIndex
  }
  get lastIndex() {
    return this.#log.lastIndex
  }
  get installing() {
    return this.#log.installing
  }
  term(index: number) {
    return this.#log.term(index)
  }
  read(fromIndex: number, bytesMax: number) {
    return this.#log.read(fromIndex, bytesMax)
  }
  hasRoom() {
    return !this.isFull && this.#log.hasRoom()
  }
  write(write: LogWrite, done: (error: Error | undefined) => void): void {
    const fault = write.entries.some(entry => entry.bytes.length > 0)
      ? this.faults.shift()
      : undefined
    if (fault !== undefined) return void setImmediate(() => done(fault))
    if (write.entries.some(entry => entry.bytes.length > 0)) this.writes.push(write)
    this.#log.write(write, done)
  }
  close() {
    return this.#log.close()
  }
}

const bytes = (value: number, length = 1) => new Uint8Array(length).fill(value)
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => 'ok',
    error => (error instanceof FndError ? error.code : String(error)),
  )

async function settled(machine: Collector): Promise<void> {
  while (machine.settled < machine.appliedIndex) await Bun.sleep(1)
}

let cleanups = new AsyncDisposableStack()
afterEach(async () => {
  await cleanups.disposeAsync()
  cleanups = new AsyncDisposableStack()
})

function newDir(): string {
  return cleanups.use(temporaryDir()).path
}

/** Small, so that the log goes home, and old entries leave it, within a test. */
const journalBytes = 32 * 1024

async function openMember(dir: string, machine: Collector, limits: Partial<MemberLimits> = {}) {
  const log = new Watched(
    await JournaledLog.open({
      dir,
      identity: () => ({ clusterId: 'c', nodeId: 1, uuid: 'u' }),
      freeBytesMin: 0,
      journalBytes,
    }),
  )
  const fatal: Error[] = []
  const member = new Member({
    log,
    machine,
    network: { send: () => undefined, sendSnapshot: () => undefined },
    scheduler: systemScheduler,
    observer: noObserver,
    random: n => Math.floor(Math.random() * n),
    onFatal: error => fatal.push(error),
    limits,
  })
  const group = new Group(member)
  const close = async () => {
    await group.close()
    await log.close()
  }
  return { member, group, close, log, fatal }
}

async function openGroup(
  dir: string,
  machine: Collector = new Collector(),
  limits: Partial<MemberLimits> = {},
) {
  const { member, group, close, log, fatal } = await openMember(dir, machine, limits)
  cleanups.defer(close)
  member.start()
  await group.read(5000)
  const propose = async (value: Uint8Array) => (await group.propose(value)).result
  return { group, propose, close, log, machine, fatal }
}

describe('a group of one', () => {
  test('answers with the result of the state machine, in order', async () => {
    const { group, propose, machine } = await openGroup(newDir())
    const results = await Promise.all([1, 2, 3].map(value => propose(bytes(value))))
    expect(results).toEqual([1, 2, 3])
    expect(machine.applied).toEqual([1, 2, 3])
    // Its first entry is the empty one with which its term began.
    expect(group.status()).toMatchObject({ role: 'leader', term: 1, lastIndex: 4, applied: 4 })
  })

  test('writes what came in one turn at once, and then what came meanwhile', async () => {
    const { propose, log } = await openGroup(newDir())
    const first = Array.from({ length: 50 }, (_, at) => propose(bytes(at)))
    while (log.writes.length === 0) await new Promise(setImmediate)
    const second = Array.from({ length: 70 }, (_, at) => propose(bytes(at)))
    await Promise.all([...first, ...second])
    expect(log.writes.map(write => write.entries.length)).toEqual([50, 70])
  })

  test('bounds a write by count and by bytes, but takes one large entry', async () => {
    const limits = { batchMax: 3, batchBytesMax: 10 }
    const { propose, log } = await openGroup(newDir(), new Collector(), limits)
    const sizes = [1, 1, 1, 1, 9, 5, 50, 1]
    await Promise.all(sizes.map((size, at) => propose(bytes(at, size))))
    expect(log.writes.map(write => write.entries.length)).toEqual([3, 2, 1, 1, 1])
  })

  test('refuses what is over its bounds, and takes it later', async () => {
    const limits = { pendingMax: 2, pendingBytesMax: 100, entryBytesMax: 80 }
    const { propose } = await openGroup(newDir(), new Collector(), limits)
    const proposals = [60, 60, 81, 1, 1].map(size => code(propose(bytes(1, size))))
    expect(await Promise.all(proposals)).toEqual([
      'ok',
      'write-overload',
      'request-too-large',
      'ok',
      'write-overload',
    ])
    expect(await code(propose(bytes(1)))).toBe('ok')
  })

  test('finishes what it took when it is closed, and takes no more', async () => {
    const { group, propose, machine, log } = await openGroup(newDir())
    const taken = code(propose(bytes(7)))
    while (log.writes.length === 0) await new Promise(setImmediate)
    const closing = group.close()
    expect(await code(propose(bytes(8)))).toBe('shutting-down')
    await closing
    expect(await taken).toBe('ok')
    expect(machine.applied).toEqual([7])
  })

  test('reads see what was acknowledged before them', async () => {
    const { group, propose, machine } = await openGroup(newDir())
    for (let value = 1; value < 20; value++) {
      void propose(bytes(value))
      await group.read(1000)
      await propose(bytes(100 + value))
      await group.read(1000)
      expect(machine.applied.at(-1)).toBe(100 + value)
    }
  })

  test('a change of the configuration is applied and kept', async () => {
    const { group } = await openGroup(newDir())
    await group.proposeConf({
      transition: 'auto',
      changes: [{ type: 'add-learner', nodeId: 2 }],
    })
    expect(group.status().confState).toMatchObject({ voters: [1], learners: [2] })
  })
})

describe('recovery', () => {
  test('applies what the state machine lacks', async () => {
    const dir = newDir()
    const first = await openGroup(dir)
    for (const value of [1, 2, 3]) await first.propose(bytes(value))
    await first.close()

    const behind = new Collector()
    behind.appliedIndex = 2
    behind.appliedTerm = 1
    const second = await openGroup(dir, behind)
    expect(behind.applied).toEqual([2, 3])
    expect(second.log.hardState).toMatchObject({ term: 2, vote: 1 })
    expect(await second.propose(bytes(4))).toBe(4)
    expect(second.group.status()).toMatchObject({ lastIndex: 6, term: 2 })
  })

  test('refuses a log that ends before the state', async () => {
    const ahead = new Collector()
    ahead.appliedIndex = 1
    await expect(openGroup(newDir(), ahead)).rejects.toThrow(/the log lost entries/)
  })
})

describe('faults', () => {
  test('without room proposals are refused, and nothing else', async () => {
    const { propose, log, machine, fatal } = await openGroup(newDir())
    log.isFull = true
    expect(await code(propose(bytes(1)))).toBe('disk-full')
    log.isFull = false
    expect(await code(propose(bytes(2)))).toBe('ok')
    expect(machine.applied).toEqual([2])
    expect(fatal).toEqual([])
  })

  test('a write that found no room is tried again, as what it holds is promised', async () => {
    const { propose, log, machine, fatal } = await openGroup(newDir(), new Collector(), {
      retryMs: 20,
    })
    log.faults.push(new FndError('disk-full'), new FndError('disk-full'))
    const logged = code(propose(bytes(1)))
    while (log.faults.length > 1) await Bun.sleep(1)
    expect(await code(propose(bytes(2)))).toBe('disk-full')
    expect(await logged).toBe('ok')
    expect(await code(propose(bytes(3)))).toBe('ok')
    expect(machine.applied).toEqual([1, 3])
    expect(fatal).toEqual([])
  })

  test('a failed write is final', async () => {
    const { propose, log, machine, fatal } = await openGroup(newDir(), new Collector(), {
      batchMax: 1,
    })
    log.faults.push(new FndError('store-failed'))
    const both = [propose(bytes(1)), propose(bytes(2))].map(code)
    expect(await Promise.all(both)).toEqual(['store-failed', 'store-failed'])
    expect(await code(propose(bytes(3)))).toBe('store-failed')
    expect(fatal).toHaveLength(1)
    expect(machine.applied).toEqual([])
  })

  test('a failed apply is final', async () => {
    const { propose, machine, fatal } = await openGroup(newDir())
    machine.faults.push(new Error('bug'))
    expect(await code(propose(bytes(1)))).toBe('store-failed')
    expect(fatal.map(error => error.message)).toEqual(['bug'])
  })

  test('a state machine without room is asked again, and new changes are refused', async () => {
    const { propose, machine, fatal } = await openGroup(newDir(), new Collector(), { retryMs: 20 })
    machine.faults.push(new FndError('disk-full'), new FndError('disk-full'))
    const logged = code(propose(bytes(1)))
    while (machine.faults.length > 1) await Bun.sleep(1)
    expect(await code(propose(bytes(2)))).toBe('disk-full')
    expect(await logged).toBe('ok')
    expect(await code(propose(bytes(3)))).toBe('ok')
    expect(machine.applied).toEqual([1, 3])
    expect(fatal).toEqual([])
  })

  test('a state machine that cannot settle is asked again, and changes are refused', async () => {
    const { propose, machine, fatal } = await openGroup(newDir(), new Collector(), {
      ...{ retryMs: 20, settleMs: 1 },
    })
    await settled(machine)
    machine.settleFaults.push(new FndError('disk-full'), new FndError('disk-full'))
    expect(await code(propose(bytes(1)))).toBe('ok')
    while (machine.settleFaults.length > 1) await Bun.sleep(1)
    expect(await code(propose(bytes(2)))).toBe('disk-full')
    await settled(machine)
    expect(await code(propose(bytes(3)))).toBe('ok')
    expect(machine.applied).toEqual([1, 3])
    expect(fatal).toEqual([])
  })

  test('a failed settling is final', async () => {
    const { propose, machine, fatal } = await openGroup(newDir(), new Collector(), { settleMs: 1 })
    await settled(machine)
    machine.settleFaults.push(new Error('EIO'))
    expect(await code(propose(bytes(1)))).toBe('ok')
    while (fatal.length === 0) await Bun.sleep(1)
    expect(fatal.map(error => error.message)).toEqual(['EIO'])
    expect(await code(propose(bytes(2)))).toBe('store-failed')
  })
})

describe('settling', () => {
  const late = { settleMs: 3_600_000 }
  const quiet = () => new Promise(resolve => setTimeout(resolve, 5))

  test('is done for many batches at a time, and soon', async () => {
    const { propose, machine } = await openGroup(newDir(), new Collector(), { settleMs: 20 })
    await settled(machine)
    const before = machine.settled
    await propose(bytes(1))
    expect(machine.settled).toBe(before)
    await settled(machine)
  })

  test('does not wait for its time once there is much of it', async () => {
    const limits = { ...late, settleMax: 10, settleBytes: 1000 }
    const { propose, machine } = await openGroup(newDir(), new Collector(), limits)
    for (let value = 1; value < 9; value++) await propose(bytes(value))
    await quiet()
    expect(machine.settled).toBe(0)
    await propose(bytes(9))
    await settled(machine)
    const before = machine.settled
    await propose(bytes(10, 999))
    await quiet()
    expect(machine.settled).toBe(before)
    await propose(bytes(11))
    await settled(machine)
  })

  test('of a change of the configuration is done before that is told', async () => {
    const { group, machine } = await openGroup(newDir(), new Collector(), late)
    const changes = [{ type: 'add-learner', nodeId: 2 }] as const
    await group.proposeConf({ transition: 'auto', changes })
    expect(machine.settled).toBe(machine.appliedIndex)
  })
})

describe('a follower', () => {
  const ofLeader = (index: number, commit: number, entries: readonly Entry[]) =>
    message('MsgApp', 2, 1, { term: 1, logTerm: index === 0 ? 0 : 1, index, commit, entries })
  const entry = (index: number): Entry => ({ index, term: 1, kind: 'normal', bytes: bytes(index) })

  test('tells those who wait of what was held up while the log is being written', async () => {
    const machine = new Collector()
    machine.confState = { ...machine.confState, voters: [1, 2, 3] }
    const { member, log, close } = await openMember(newDir(), machine)
    cleanups.defer(close)
    member.start()
    member.receive([ofLeader(0, 0, [entry(1)])])
    while (log.lastIndex < 1) await Bun.sleep(1)
    // The second write does not end while this goes on.
    log.faults.push(...Array.from({ length: 1000 }, () => new FndError('disk-full')))
    member.receive([ofLeader(1, 0, [entry(2)])])
    while (!member.isStarved) await Bun.sleep(1)
    machine.faults.push(new FndError('write-overload'))
    const told = new Promise(resolve => member.whenApplied(1, resolve))
    member.receive([message('MsgHeartbeat', 2, 1, { term: 1, commit: 1 })])
    expect(await told).toBe(true)
    expect([machine.applied, machine.faults, log.lastIndex]).toEqual([[1], [], 1])
    log.faults.length = 0
    while (log.lastIndex < 2) await Bun.sleep(1)
  })
})

describe('truncation', () => {
  test('happens behind a flush, leaves the window, and survives a restart', async () => {
    const dir = newDir()
    const limits = { trailingMax: 100 }
    const { propose, close, log, machine } = await openGroup(dir, new Collector(), limits)
    const round = () => Promise.all(Array.from({ length: 400 }, (_, at) => propose(bytes(at))))
    await round()
    expect(machine.flushes).toBe(0)
    // Entries leave when a file of the journal is full, which takes nine rounds or ten.
    for (let rounds = 0; log.firstIndex === 1; rounds++) {
      expect(rounds).toBeLessThan(100)
      await round()
    }
    expect(machine.flushes).toBeGreaterThan(0)
    expect(log.lastIndex - log.firstIndex).toBeGreaterThanOrEqual(100)
    await close()
    const { firstIndex, lastIndex } = log

    const again = await openGroup(dir, machine, limits)
    expect(again.log.firstIndex).toBe(firstIndex)
    // The restart began a term, with an empty entry.
    expect(again.log.lastIndex).toBe(lastIndex + 1)
    await again.close()
    await expect(openGroup(dir, new Collector(), limits)).rejects.toThrow(/are gone/)
  })

  test('goes on, wherever the log keeps entries together that leave together', async () => {
    const limits = { trailingMax: 100, flushEveryMax: 100 }
    const { propose, log } = await openGroup(newDir(), new Collector(), limits)
    const firsts = new Set<number>()
    // A file of the journal holds some hundreds of these, which are one segment then.
    for (let rounds = 0; firsts.size < 10; rounds++) {
      expect(rounds).toBeLessThan(2000)
      await Promise.all(Array.from({ length: 7 }, (_, at) => propose(bytes(at))))
      firsts.add(log.firstIndex)
    }
    expect(log.lastIndex - log.firstIndex).toBeLessThan(3000)
  })
})
