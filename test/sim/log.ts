/**
 * The log of one process: that of the product, on the disk of its node, watched. What it says of
 * itself must be what it was given. And what a start would find, whenever the process ends, is all
 * that it acknowledged, with or without the write under way as a whole, and nothing else.
 */
import { FndError, StartError } from '../../src/errors.ts'
import type { Identity, LogStore, LogWrite } from '../../src/raft/ports.ts'
import type { Entry, HardState } from '../../src/raft/types.ts'
import { JournaledLog, type LogParts } from '../../src/store/log.ts'
import type { JournalFiles, LogRecords } from '../../src/store/log-ports.ts'
import { LogTree } from '../../src/store/log-tree.ts'
import type { Process } from './clock.ts'
import { Device } from './device.ts'
import { freeBytesMin, type SimDisk } from './disk.ts'
import { difference, differenceAtOnce, type LogImage, lastIndexOf, otherThan } from './image.ts'
import type { DiskOptions } from './options.ts'
import type { Prng } from './prng.ts'
import { type RecordMedium, SimRecords } from './records.ts'
import { type JournalMedium, SimJournalFiles } from './sectors.ts'
import type { World } from './world.ts'

/** At so many of the moments at which a write begins or ends, the end of all is imagined. */
const imagined = 0.01

export interface LogEvents {
  /** Throws at a broken promise. Called before the write begins. */
  onWrite(write: LogWrite, before: LogImage): void
  /** May end the process in the middle of the call, by throwing. */
  failpoint(where: string): void
}

export class SimLog implements LogStore {
  readonly #world: World
  readonly #disk: SimDisk
  readonly #device: Device
  readonly #events: LogEvents
  readonly #files: SimJournalFiles
  readonly #log: JournaledLog

  /** Throws `StartError` at damage, and else what a failed flush throws. */
  constructor(
    world: World,
    disk: SimDisk,
    process: Process,
    options: () => DiskOptions,
    prng: Prng,
    events: LogEvents,
  ) {
    this.#world = world
    this.#disk = disk
    this.#events = events
    this.#device = new Device(world, process, options, prng, events.failpoint)
    const isFull = () => disk.isFullForLog(world.nowMs)
    this.#files = new SimJournalFiles(disk.journal, this.#device)
    this.#log = opened(
      new SimRecords(disk.records, this.#device, isFull),
      this.#files,
      () => disk.freeBytes(world.nowMs),
      process,
    )
    disk.found(imageOf(world, disk, this.#log), this.#log.firstIndex)
  }

  get identity(): Identity {
    return this.#log.identity
  }

  get hardState(): HardState {
    return this.#log.hardState
  }

  get firstIndex(): number {
    return this.#log.firstIndex
  }

  get lastIndex(): number {
    return this.#log.lastIndex
  }

  get installing(): string {
    return this.#log.installing
  }

  /** It told of a failure because there was one. */
  get isBroken(): boolean {
    return this.#device.isBroken
  }

  term(index: number): number | undefined {
    return this.#log.term(index)
  }

  read(fromIndex: number, bytesMax: number): Entry[] {
    const entries = this.#log.read(fromIndex, bytesMax)
    const other = otherThan(this.#disk.log, entries)
    if (other !== undefined) this.#fail(`reads ${other}`)
    return entries
  }

  hasRoom(): boolean {
    return this.#log.hasRoom()
  }

  write(write: LogWrite, done: (error: Error | undefined) => void): void {
    const { process } = this.#device
    if (process.isOver) return
    this.#events.failpoint('before a write')
    this.#mustBe(this.#disk.log)
    this.#events.onWrite(write, this.#disk.log)
    this.#disk.begin(write)
    let isLater = false
    const { writes } = this.#files
    this.#log.write(write, error => {
      if (process.isOver) return
      if (!isLater) this.#fail('is done with a write in the same turn')
      this.#events.failpoint('after a write')
      this.#imagine()
      if (error === undefined && this.#files.writes === writes) {
        this.#world.count('branch: write went home at once')
      }
      this.#ended(error)
      done(error)
    })
    isLater = true
    this.#imagine()
  }

  /** Nothing else is under way then, or will be. */
  settle(by: 'a start' | 'an end', done: (error: FndError | undefined) => void): void {
    let isAtOnce = true
    this.#log.settle(error => {
      if (error?.code === 'disk-full') this.#world.count(`fault: no room for the journal at ${by}`)
      else if (error === undefined && !isAtOnce) this.#world.count(`branch: journal home at ${by}`)
      this.#imagine()
      done(error)
    })
    isAtOnce = false
  }

  async close(): Promise<void> {}

  #ended(error: Error | undefined): void {
    const disk = this.#disk
    if (error === undefined) {
      if (disk.journal.isWriting) this.#fail('acknowledges a write before it is on the disk')
      disk.acknowledged(this.#log.firstIndex)
      this.#mustBe(disk.log)
      const { nodeId } = this.identity
      this.#world.note('durable', nodeId, lastIndexOf(disk.log), this.hardState.term)
    } else if (error instanceof FndError && error.code === 'disk-full') {
      this.#world.count('fault: no room for a write')
      disk.pending = undefined
      this.#mustBe(disk.log)
    }
  }

  #mustBe(image: LogImage): void {
    const found = differenceAtOnce(this.#log, image)
    if (found !== undefined) this.#fail(`has ${found}`)
  }

  /** What would a start find if all ended in this moment, and if something were damaged? */
  #imagine(): void {
    const { prng } = this.#device
    const disk = this.#disk
    if (disk.isDamaged || !prng.chance(imagined)) return
    this.#world.count('branch: end imagined')
    const [journal, records] = [disk.journal.copy(), disk.records.copy()]
    journal.crash(prng, prng.chance(0.5))
    records.crash(prng)
    const what = prng.pick(['nothing', 'a sector', 'a record'])
    if (what === 'a sector') journal.damage(prng, records.settled)
    else if (what === 'a record') records.damage(prng)
    try {
      const found = atRest(records, journal, () => journal.flush())
      const image = imageOf(this.#world, disk, found)
      // It counts from there on.
      journal.crash(prng, true)
      const lost = difference(atRest(records, journal), image)
      if (lost !== undefined) this.#fail(`loses what a start found, which then finds ${lost}`)
    } catch (error) {
      if (what === 'nothing' || !(error instanceof StartError)) throw error
      this.#world.count(`branch: damage of ${what} imagined and found`)
    }
  }

  #fail(text: string): never {
    this.#world.fail(`the log of node ${this.identity.nodeId} ${text}`)
  }
}

/**
 * A process ended: what is there is what counts from here on, also for those who count how many
 * hold an entry. Undefined where damage hides it.
 */
export function takeStock(world: World, disk: SimDisk): 'pending' | 'acknowledged' | undefined {
  const { pending } = disk
  try {
    const log = atRest(disk.records, disk.journal)
    const found = imageOf(world, disk, log)
    disk.found(found, log.firstIndex)
    return found === pending ? 'pending' : 'acknowledged'
  } catch (error) {
    if (error instanceof StartError && disk.isDamaged) return undefined
    throw error
  }
}

/** Which of what it may hold the log holds. */
function imageOf(world: World, disk: SimDisk, log: JournaledLog): LogImage {
  const { log: acknowledged, pending } = disk
  const unlike = difference(log, acknowledged)
  if (unlike === undefined) return acknowledged
  const unlikePending = pending === undefined ? 'no write' : difference(log, pending)
  if (pending !== undefined && unlikePending === undefined) return pending
  world.fail(
    `a start of node ${disk.identity.nodeId} finds ${unlike}, as it acknowledged; under way was ` +
      unlikePending,
  )
}

function atRest(
  records: RecordMedium,
  journal: JournalMedium,
  flush: () => void = () => undefined,
): JournaledLog {
  const mustNotWrite = () => {
    throw new Error('whoever only looks does not write')
  }
  return opened(
    {
      get: key => records.get(key),
      segmentKeys: () => records.segmentKeys(),
      write: mustNotWrite,
      close: async () => undefined,
    },
    {
      fileBytes: journal.fileBytes,
      read: () => journal.read(),
      memory: length => new Uint8Array(length),
      write: mustNotWrite,
      flush,
      close: () => undefined,
    },
    () => 0,
    { monotonicMs: () => 0, soon: mustNotWrite },
  )
}

function opened(
  records: LogRecords,
  files: JournalFiles,
  freeBytes: () => number,
  scheduler: LogParts['scheduler'],
): JournaledLog {
  const tree = LogTree.load(records)
  if (tree === undefined) throw new Error('the log is gone')
  return new JournaledLog({ tree, files, freeBytesMin, freeBytes, scheduler })
}
