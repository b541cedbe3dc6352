/**
 * The disk of one node: what is on it survives the processes that use it. The log on it is that of
 * the product (src/store/log.ts), over a journal of sectors and records that change together. The
 * state machine keeps what it settled when a process is killed, but a loss of power may take the
 * newest of that, back to the last flush (SQLite's WAL with `synchronous=NORMAL`).
 */
import type { CommittedEntry, Identity, LogWrite } from '../../src/raft/ports.ts'
import { firstRecords } from '../../src/store/log-records.ts'
import { emptyLog, type LogImage, without, written } from './image.ts'
import type { MachineImage, SimMachine } from './machine.ts'
import type { Prng } from './prng.ts'
import { RecordMedium } from './records.ts'
import { JournalMedium } from './sectors.ts'

/** Room that the log keeps back, in bytes. */
export const freeBytesMin = 64 * 1024 * 1024

/** What a crash made of the write and the transaction that were under way. */
export interface Wreck {
  readonly write: 'none' | 'torn' | 'whole'
  readonly transaction: 'none' | 'kept' | 'dropped'
}

export class SimDisk {
  readonly identity: Identity
  readonly journal: JournalMedium
  readonly records: RecordMedium
  /** What the log acknowledged: a start must find it. */
  log: LogImage = emptyLog
  /** With the write that is under way, or whose outcome nobody knows: a start may find this. */
  pending: LogImage | undefined
  readonly snapshots = new Map<string, MachineImage>()
  fullUntilMs = 0
  /** There is room for what was promised, but no more should be promised. */
  lowUntilMs = 0
  /** The log's transactions find no room, whatever there is for others: a quota, a full map. */
  closedUntilMs = 0
  /** What of the state machine survives everything, and the batches that survive only a kill. */
  floor: MachineImage
  batches: (readonly CommittedEntry[])[] = []

  constructor(identity: Identity, first: MachineImage, journalBytes: number) {
    this.identity = identity
    this.floor = first
    this.journal = new JournalMedium(journalBytes)
    this.records = new RecordMedium(firstRecords(identity, { index: 0, term: 0 }, 0))
  }

  get isDamaged(): boolean {
    return this.journal.isDamaged || this.records.isDamaged
  }

  /** What nobody has found is as it was written after all. */
  mend(): void {
    this.journal.mend()
    this.records.mend()
  }

  freeBytes(nowMs: number): number {
    if (nowMs < this.fullUntilMs) return 0
    return nowMs < this.lowUntilMs ? freeBytesMin / 2 : 2 * freeBytesMin
  }

  isFullForLog(nowMs: number): boolean {
    return nowMs < Math.max(this.fullUntilMs, this.closedUntilMs)
  }

  begin(write: LogWrite): void {
    this.pending = written(this.log, write)
  }

  /** The log acknowledged what was begun. */
  acknowledged(firstIndex: number): void {
    this.found(this.pending ?? this.log, firstIndex)
  }

  /** This is what the log holds, from `firstIndex` on. */
  found(image: LogImage, firstIndex: number): void {
    this.log = without(image, firstIndex)
    this.pending = undefined
  }

  /** A machine in the state that a start would find. */
  restore(make: (image: MachineImage) => SimMachine): SimMachine {
    const machine = make(this.floor)
    for (const batch of this.batches) machine.apply(batch)
    return machine
  }

  /** The process ended, and with `isPowerLoss` the machine under it. */
  crash(prng: Prng, isPowerLoss: boolean): Wreck {
    const wreck = {
      write: this.journal.crash(prng, isPowerLoss),
      transaction: this.records.crash(prng),
    }
    // What survived a loss of power has reached the disk.
    if (isPowerLoss) this.batches = this.batches.slice(0, prng.below(this.batches.length + 1))
    return wreck
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
