import { afterEach, describe, expect, test } from 'bun:test'
import { FndError } from '../../src/errors.ts'
import type { Append, EntryLog } from '../../src/raft/entry-log.ts'
import type { CommittedEntry, StateMachine } from '../../src/raft/replicator.ts'
import { type SingleLimits, SingleMember } from '../../src/raft/single.ts'
import { LmdbLog } from '../../src/store/log.ts'
import { SingleLog } from '../../src/store/single-log.ts'
import { temporaryDir } from '../store/sample.ts'

/** Collects first bytes, in memory, as if on a disk of its own. */
class Collector implements StateMachine {
  appliedIndex = 0
  readonly applied: number[] = []
  flushes = 0
  /** Thrown by the next calls of `apply`. */
  readonly faults: Error[] = []

  apply(entries: readonly CommittedEntry[]): readonly unknown[] {
    const fault = this.faults.shift()
    if (fault !== undefined) throw fault
    return entries.map(entry => {
      if (entry.index <= this.appliedIndex) return undefined
      expect(entry.index).toBe(this.appliedIndex + 1)
      this.appliedIndex = entry.index
      this.applied.push(entry.bytes[0] ?? -1)
      return entry.bytes[0]
    })
  }

  flush(): void {
    this.flushes += 1
  }
}

/** The real log, with its appends written down. */
class Watched implements EntryLog {
  readonly appends: Append[] = []
  /** Thrown instead of the next appends. */
  readonly faults: Error[] = []
  readonly #log: SingleLog

  constructor(log: SingleLog) {
    this.#log = log
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
  read(fromIndex: number, bytesMax: number) {
    return this.#log.read(fromIndex, bytesMax)
  }
  async append(append: Append): Promise<void> {
    this.appends.push(append)
    const fault = this.faults.shift()
    if (fault !== undefined) throw fault
    await this.#log.append(append)
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

let cleanups = new AsyncDisposableStack()
afterEach(async () => {
  await cleanups.disposeAsync()
  cleanups = new AsyncDisposableStack()
})

function newDir(): string {
  return cleanups.use(temporaryDir()).path
}

async function openMember(
  dir: string,
  machine: Collector = new Collector(),
  limits: Partial<SingleLimits> = {},
) {
  const identity = () => ({ clusterId: 'c', nodeId: 1, uuid: 'n' })
  const log = new Watched(new SingleLog(await LmdbLog.open({ dir, identity, freeBytesMin: 0 })))
  const fatal: Error[] = []
  const onFatal = (error: Error) => fatal.push(error)
  const member = SingleMember.open({ log, machine, onFatal, limits })
  cleanups.use(member)
  return { member, log, machine, fatal }
}

describe('a group of one', () => {
  test('answers with the result of the state machine, in order', async () => {
    const { member, machine } = await openMember(newDir())
    const results = await Promise.all([1, 2, 3].map(value => member.propose(bytes(value))))
    expect(results).toEqual([1, 2, 3])
    expect(machine.applied).toEqual([1, 2, 3])
    expect(member.status()).toEqual({
      role: 'leader',
      term: 1,
      lastIndex: 3,
      commitIndex: 3,
      appliedIndex: 3,
    })
  })

  test('appends what came in one turn at once, and then what came meanwhile', async () => {
    const { member, log } = await openMember(newDir())
    const first = Array.from({ length: 50 }, (_, at) => member.propose(bytes(at)))
    while (log.appends.length === 0) await new Promise(setImmediate)
    const second = Array.from({ length: 70 }, (_, at) => member.propose(bytes(at)))
    await Promise.all([...first, ...second])
    expect(log.appends.map(append => append.entries.length)).toEqual([50, 70])
    expect(log.appends.map(append => append.hardState.commitIndex)).toEqual([50, 120])
  })

  test('bounds an append by count and by bytes, but takes one large entry', async () => {
    const limits = { batchMax: 3, batchBytesMax: 10 }
    const { member, log } = await openMember(newDir(), new Collector(), limits)
    const sizes = [1, 1, 1, 1, 9, 5, 50, 1]
    await Promise.all(sizes.map((size, at) => member.propose(bytes(at, size))))
    expect(log.appends.map(append => append.entries.length)).toEqual([3, 2, 1, 1, 1])
  })

  test('refuses what is over its bounds, and takes it later', async () => {
    const limits = { pendingMax: 2, pendingBytesMax: 100, entryBytesMax: 80 }
    const { member } = await openMember(newDir(), new Collector(), limits)
    const proposals = [60, 60, 81, 1, 1].map(size => code(member.propose(bytes(1, size))))
    expect(await Promise.all(proposals)).toEqual([
      'ok',
      'write-overload',
      'request-too-large',
      'ok',
      'write-overload',
    ])
    expect(await code(member.propose(bytes(1)))).toBe('ok')
  })

  test('finishes what it took when it is closed, and takes no more', async () => {
    const { member, machine } = await openMember(newDir())
    const taken = code(member.propose(bytes(7)))
    const closing = member[Symbol.asyncDispose]()
    expect(await code(member.propose(bytes(8)))).toBe('shutting-down')
    await closing
    expect(await taken).toBe('ok')
    expect(machine.applied).toEqual([7])
  })
})

describe('recovery', () => {
  test('applies what the state machine lacks', async () => {
    const dir = newDir()
    const first = await openMember(dir)
    for (const value of [1, 2, 3]) await first.member.propose(bytes(value))
    await first.member[Symbol.asyncDispose]()

    const behind = new Collector()
    behind.appliedIndex = 1
    const second = await openMember(dir, behind)
    expect(behind.applied).toEqual([2, 3])
    expect(second.log.hardState).toEqual({
      term: 1,
      vote: 'n',
      commitIndex: 3,
      clusterId: 'c',
      nodeId: 'n',
    })
    expect(await second.member.propose(bytes(4))).toBe(4)
    expect(second.member.status().lastIndex).toBe(4)
  })

  test('refuses a log that ends before the state', async () => {
    const ahead = new Collector()
    ahead.appliedIndex = 1
    await expect(openMember(newDir(), ahead)).rejects.toThrow(/the log lost entries/)
  })
})

describe('faults', () => {
  test('a full disk refuses the batch and nothing else', async () => {
    const { member, log, machine, fatal } = await openMember(newDir())
    log.faults.push(new FndError('disk-full'))
    expect(await code(member.propose(bytes(1)))).toBe('disk-full')
    expect(await code(member.propose(bytes(2)))).toBe('ok')
    expect(machine.applied).toEqual([2])
    expect(fatal).toEqual([])
  })

  test('a failed append is final', async () => {
    const { member, log, machine, fatal } = await openMember(newDir(), new Collector(), {
      batchMax: 1,
    })
    log.faults.push(new FndError('store-failed'))
    const both = [member.propose(bytes(1)), member.propose(bytes(2))].map(code)
    expect(await Promise.all(both)).toEqual(['store-failed', 'store-failed'])
    expect(await code(member.propose(bytes(3)))).toBe('store-failed')
    expect(fatal).toHaveLength(1)
    expect(machine.applied).toEqual([])
  })

  test('a failed apply is final', async () => {
    const { member, machine, fatal } = await openMember(newDir())
    machine.faults.push(new Error('bug'))
    expect(await code(member.propose(bytes(1)))).toBe('store-failed')
    expect(fatal.map(error => error.message)).toEqual(['bug'])
  })

  test('a state machine without room is asked again, and new changes are refused', async () => {
    const { member, machine, fatal } = await openMember(newDir(), new Collector(), { retryMs: 20 })
    machine.faults.push(new FndError('disk-full'), new FndError('disk-full'))
    const logged = code(member.propose(bytes(1)))
    while (machine.faults.length > 1) await Bun.sleep(1)
    expect(await code(member.propose(bytes(2)))).toBe('disk-full')
    expect(await logged).toBe('ok')
    expect(await code(member.propose(bytes(3)))).toBe('ok')
    expect(machine.applied).toEqual([1, 3])
    expect(fatal).toEqual([])
  })
})

describe('truncation', () => {
  test('happens behind a flush, leaves the window, and survives a restart', async () => {
    const dir = newDir()
    const limits = { trailingMax: 100 }
    const { member, log, machine } = await openMember(dir, new Collector(), limits)
    const round = () =>
      Promise.all(Array.from({ length: 400 }, (_, at) => member.propose(bytes(at))))
    await round()
    expect(machine.flushes).toBe(0)
    for (let rounds = 0; log.firstIndex === 1; rounds++) {
      expect(rounds).toBeLessThan(10)
      await round()
    }
    expect(machine.flushes).toBe(1)
    expect(log.lastIndex - log.firstIndex).toBeGreaterThanOrEqual(100)
    const { firstIndex, lastIndex } = log
    await member[Symbol.asyncDispose]()

    const again = await openMember(dir, machine, limits)
    expect([again.log.firstIndex, again.log.lastIndex]).toEqual([firstIndex, lastIndex])
    await again.member[Symbol.asyncDispose]()
    await expect(openMember(dir, new Collector(), limits)).rejects.toThrow(/are gone/)
  })
})
