/**
 * The disk of one node: what is on it survives the processes that use it. Faults by what the real
 * stores promise (src/store): a write of the log is whole or not there, but it takes its time, may
 * fail, may find no room, and a crash comes at any moment of it. After an error that is not want of
 * room, later writes seem to succeed and are kept nowhere (raft.md §2.2, "fsyncgate"). The state
 * machine keeps what it settled when a process is killed, but a loss of power may take the newest
 * of that, back to the last flush (SQLite's WAL with `synchronous=NORMAL`). Records may be damaged,
 * which reading them tells (their checksums; test/store).
 */
import { FndError, StartError } from '../../src/errors.ts'
import type { CommittedEntry, Identity, LogStore, LogWrite } from '../../src/raft/ports.ts'
import type { Entry, HardState } from '../../src/raft/types.ts'
import type { Process } from './clock.ts'
import type { MachineImage, SimMachine } from './machine.ts'
import type { DiskOptions } from './options.ts'
import type { Prng } from './prng.ts'
import { Violation, type World } from './world.ts'

/** The log as it lies on the disk. */
export interface LogImage {
  readonly hardState: HardState
  readonly baseIndex: number
  readonly baseTerm: number
  readonly entries: readonly Entry[]
  readonly installing: string
}

export const emptyLog: LogImage = {
  hardState: { term: 0, vote: 0, commit: 0 },
  baseIndex: 0,
  baseTerm: 0,
  entries: [],
  installing: '',
}

export function lastIndexOf(log: LogImage): number {
  return log.baseIndex + log.entries.length
}

export function termOf(log: LogImage, index: number): number | undefined {
  if (index === log.baseIndex) return log.baseTerm
  return log.entries[index - log.baseIndex - 1]?.term
}

/** The image after this write. `dropMax`: the store removes old entries in pieces. */
function written(log: LogImage, write: LogWrite, dropMax: number): LogImage {
  let { baseIndex, baseTerm, entries, installing } = log
  if (write.reset !== undefined) {
    baseIndex = write.reset.index
    baseTerm = write.reset.term
    entries = []
    installing = write.reset.data
  }
  if (write.isInstalled === true) installing = ''
  const [first] = write.entries
  if (first !== undefined) {
    entries = [...entries.slice(0, first.index - baseIndex - 1), ...write.entries]
  }
  const dropEnd = Math.min(write.dropThrough, baseIndex + entries.length, baseIndex + dropMax)
  if (dropEnd > baseIndex) {
    baseTerm = entries[dropEnd - baseIndex - 1]?.term ?? baseTerm
    entries = entries.slice(dropEnd - baseIndex)
    baseIndex = dropEnd
  }
  return { hardState: write.hardState, baseIndex, baseTerm, entries, installing }
}

export class SimDisk {
  readonly identity: Identity
  log: LogImage = emptyLog
  /** The write that is under way. Whether a crash keeps it is chance. */
  pending: LogImage | undefined
  /** Indices whose records give back something else than was written. */
  readonly damaged = new Set<number>()
  readonly snapshots = new Map<string, MachineImage>()
  fullUntilMs = 0
  /** There is room for what was promised, but no more should be promised. */
  lowUntilMs = 0
  /** What of the state machine survives everything, and the batches that survive only a kill. */
  floor: MachineImage
  batches: (readonly CommittedEntry[])[] = []

  constructor(identity: Identity, first: MachineImage) {
    this.identity = identity
    this.floor = first
  }

  /** A machine in the state that a start would find. */
  restore(make: (image: MachineImage) => SimMachine): SimMachine {
    const machine = make(this.floor)
    for (const batch of this.batches) machine.apply(batch)
    return machine
  }

  /** The process ended, and with `isPowerLoss` the machine under it. */
  crash(prng: Prng, isPowerLoss: boolean): void {
    if (this.pending !== undefined && prng.chance(0.5)) this.log = this.pending
    this.pending = undefined
    if (!isPowerLoss) return
    // What survived a loss of power has reached the disk.
    this.batches = this.batches.slice(0, prng.below(this.batches.length + 1))
  }

  /** The first `count` batches, which led to `image`, survive everything. */
  flushedTo(image: MachineImage, count: number): void {
    this.floor = image
    this.batches.splice(0, count)
  }

  flushed(machine: SimMachine): void {
    this.floor = machine.image()
    this.batches = []
  }
}

export interface LogEvents {
  /** Throws at a broken promise. Called before the write begins. */
  onWrite(write: LogWrite, before: LogImage): void
  onDurable(after: LogImage): void
  /** May end the process in the middle of the call, by throwing. */
  failpoint(where: string): void
}

export class SimLog implements LogStore {
  readonly identity: Identity
  readonly #world: World
  readonly #disk: SimDisk
  readonly #process: Process
  readonly #options: () => DiskOptions
  readonly #prng: Prng
  readonly #events: LogEvents
  #seen: LogImage
  #isWriting = false
  #isBroken = false
  #isClosed = false

  constructor(
    world: World,
    disk: SimDisk,
    process: Process,
    options: () => DiskOptions,
    prng: Prng,
    events: LogEvents,
  ) {
    this.identity = disk.identity
    this.#world = world
    this.#disk = disk
    this.#process = process
    this.#options = options
    this.#prng = prng
    this.#events = events
    this.#seen = disk.log
  }

  get hardState(): HardState {
    return this.#seen.hardState
  }

  get firstIndex(): number {
    return this.#seen.baseIndex + 1
  }

  get lastIndex(): number {
    return lastIndexOf(this.#seen)
  }

  get installing(): string {
    return this.#seen.installing
  }

  term(index: number): number | undefined {
    return termOf(this.#seen, index)
  }

  read(fromIndex: number, bytesMax: number): Entry[] {
    const log = this.#seen
    if (fromIndex <= log.baseIndex) throw new Violation(`read of ${fromIndex}, which left the log`)
    const found: Entry[] = []
    let bytes = 0
    for (let at = fromIndex - log.baseIndex - 1; at < log.entries.length; at++) {
      const entry = log.entries[at]
      if (entry === undefined) break
      if (this.#disk.damaged.has(entry.index)) {
        this.#world.count('fault: damaged record found')
        throw new StartError(`entry ${entry.index} does not have its checksum`)
      }
      found.push(entry)
      bytes += entry.bytes.length
      if (bytes >= bytesMax) break
    }
    return found
  }

  hasRoom(): boolean {
    return this.#world.nowMs >= Math.max(this.#disk.lowUntilMs, this.#disk.fullUntilMs)
  }

  write(write: LogWrite, done: (error: Error | undefined) => void): void {
    if (this.#process.isOver) return
    this.#events.failpoint('before a write')
    if (this.#isWriting) throw new Violation('a write was begun while another was under way')
    if (this.#isClosed) throw new Violation('a closed log was written')
    const options = this.#options()
    const prng = this.#prng
    this.#events.onWrite(write, this.#seen)
    this.#isWriting = true
    const isSlow = prng.chance(options.slow)
    if (isSlow) this.#world.count('fault: slow write')
    const latencyMs = isSlow ? prng.real() * options.slowMaxMs : prng.exponential(options.latencyMs)
    const isFull = this.#world.nowMs < this.#disk.fullUntilMs && takesRoom(write)
    if (isFull) {
      this.#world.count('fault: no room for a write')
      return this.#end(latencyMs, () => done(new FndError('disk-full')))
    }
    if (this.#isBroken) {
      this.#world.count('fault: false success after an error')
      return this.#end(latencyMs, () => done(undefined))
    }
    const after = written(this.#seen, write, prng.pick([1, 10, 2000]))
    if (prng.chance(options.error)) {
      this.#world.count('fault: write failed')
      this.#isBroken = true
      this.#disk.pending = after
      return this.#end(latencyMs, () => done(new Error('EIO: input/output error, fdatasync')))
    }
    this.#disk.pending = after
    this.#world.after(latencyMs * 0.8, () => {
      if (this.#process.isOver) return
      this.#disk.pending = undefined
      this.#disk.log = after
      this.#forgetDamage(write, after)
      this.#events.onDurable(after)
    })
    this.#end(latencyMs, () => {
      this.#seen = after
      done(undefined)
    })
  }

  async close(): Promise<void> {
    this.#isClosed = true
  }

  #end(latencyMs: number, run: () => void): void {
    this.#world.after(latencyMs, () =>
      this.#process.dispatch(() => {
        this.#isWriting = false
        this.#events.failpoint('after a write')
        run()
      }),
    )
  }

  /** Records that were written anew, or left, are no longer damaged. */
  #forgetDamage(write: LogWrite, after: LogImage): void {
    const [first] = write.entries
    for (const index of this.#disk.damaged) {
      const isRewritten = first !== undefined && index >= first.index
      if (isRewritten || index <= after.baseIndex) this.#disk.damaged.delete(index)
    }
  }
}

/** As the real log: a vote or a step of the commit takes no room to speak of. */
function takesRoom({ entries, reset }: LogWrite): boolean {
  return entries.length > 0 || reset !== undefined
}
