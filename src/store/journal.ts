/**
 * The journal of the log: two files that have their size already, so that a write is one page or
 * few behind each other and one flush. They take turns: while what is in one goes home into LMDB,
 * the other is written, and whatever is home is written over (log.ts).
 */
import { assert } from '../errors.ts'
import {
  encodeSectors,
  type JournalWrite,
  type Scan,
  type SectorRoom,
  scanJournal,
  sectorBytes,
  sectorCount,
  sectorRoom,
} from './journal-sectors.ts'
import type { JournalFiles, Written } from './log-ports.ts'

/** Of each file: a settling for every few thousand small writes, which takes some milliseconds. */
export const journalBytes = 2 * 1024 * 1024
/** That part of each file is for votes, while LMDB has no room. */
const reserveShare = 32
/** A write of more than that part of a file goes home at once. */
const largeShare = 4

export interface OpenJournal {
  readonly journal: Journal
  readonly writes: readonly JournalWrite[]
}

export class Journal {
  readonly #files: JournalFiles
  /** Of the write under way. */
  readonly #room: SectorRoom
  /** Number of the last write in each file. */
  readonly #last: [number, number]
  readonly #fileSectors: number
  #settled: number
  #number: number
  #active: 0 | 1 = 0
  /** The next sector of the active file. */
  #at = 0

  /** With what was written after `settled`: that and all before is home. Throws `StartError`. */
  static open(files: JournalFiles, settled: number): OpenJournal {
    const scan = scanJournal(files.read(), settled)
    return { journal: new Journal(files, settled, scan), writes: scan.writes }
  }

  private constructor(files: JournalFiles, settled: number, { lastNumber }: Scan) {
    this.#files = files
    this.#fileSectors = files.fileBytes / sectorBytes
    const roomBytes = (sectorCount(files.fileBytes / largeShare) + 1) * sectorBytes
    this.#room = sectorRoom(files.memory(roomBytes))
    this.#settled = settled
    this.#number = lastNumber
    // Where a write is torn, none may follow in its place: until all is home both count as full.
    this.#last = [lastNumber, lastNumber]
    if (lastNumber === settled) return
    this.#at = this.#fileSectors
    // Whoever wrote it may have ended before its flush did. It counts from here on, also while LMDB
    // has no room for it.
    files.flush()
  }

  /** Of the last write. */
  get number(): number {
    return this.#number
  }

  get isSettled(): boolean {
    return this.#settled === this.#number
  }

  /** Whether so many bytes are too many for one write. */
  isLarge(length: number): boolean {
    return length > (this.#fileSectors * sectorBytes) / largeShare
  }

  /** Whether the file in use has room for so many bytes. */
  fits(length: number, mayUseReserve: boolean): boolean {
    const reserved = mayUseReserve ? 0 : this.#fileSectors / reserveShare
    return this.#at + sectorCount(length) <= this.#fileSectors - reserved
  }

  /** Whether all that is in the other file is home. */
  get canTurn(): boolean {
    return this.#last[this.#active === 0 ? 1 : 0] <= this.#settled
  }

  /** Goes on in the other file. */
  turn(): void {
    assert(this.canTurn, 'what is not home is not written over')
    this.#active = this.#active === 0 ? 1 : 0
    this.#at = 0
  }

  /**
   * `done` is called in a later turn, when it is on the disk. After an error what follows on the
   * disk is not known, and nothing more may be written. One at a time.
   */
  append(bytes: Uint8Array, done: Written): void {
    assert(this.fits(bytes.length, true), 'a write does not go beyond its file')
    this.#number += 1
    this.#last[this.#active] = this.#number
    const sectors = encodeSectors({ number: this.#number, bytes }, this.#room)
    const at = this.#at * sectorBytes
    this.#at += sectorCount(bytes.length)
    this.#files.write(this.#active, sectors, at, done)
  }

  /** All up to write `number` is home. */
  settle(number: number): void {
    this.#settled = number
    if (this.isSettled) this.#at = 0
  }

  close(): void {
    this.#files.close()
  }
}
