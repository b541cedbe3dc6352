/**
 * The journal of the log: two files that have their size already, so that a write is one page or
 * few behind each other and one flush. They take turns: while what is in one goes home into LMDB,
 * the other is written, and whatever is home is written over (log.ts).
 */
import { ptr } from 'bun:ffi'
import {
  closeSync,
  constants,
  fdatasyncSync,
  openSync,
  readFileSync,
  readSync,
  write,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { assert, StartError } from '../errors.ts'
import { fsyncDir, writeAll } from './fsync.ts'
import {
  encodeSectors,
  type JournalWrite,
  type Scan,
  scanJournal,
  sectorBytes,
  sectorCount,
} from './journal-sectors.ts'
import { cure } from './log-records.ts'

const fileNames = ['log-0.journal', 'log-1.journal'] as const
/** Of each file: a settling for every few thousand small writes, which takes some milliseconds. */
export const journalBytes = 2 * 1024 * 1024
/** That part of each file is for votes, while LMDB has no room. */
const reserveShare = 32
/** A write of more than that part of a file goes home at once. */
const largeShare = 4
const pageBytes = 4096
/** Written at a time when a file is made, so that it takes no memory to speak of. */
const zerosBytes = 64 * 1024

export interface OpenJournal {
  readonly journal: Journal
  readonly writes: readonly JournalWrite[]
}

export class Journal {
  readonly #fds: readonly number[]
  /** Of the write under way. */
  readonly #room: Uint8Array
  /** Number of the last write in each file. */
  readonly #last: [number, number]
  readonly #fileSectors: number
  #settled: number
  #number: number
  #active: 0 | 1 = 0
  /** The next sector of the active file. */
  #at = 0

  /**
   * Makes empty files, on the disk, in the place of any that are there. They have all their bytes
   * from then on, so that a write finds its room. Rejects with `StartError`.
   */
  static async create(dir: string, fileBytes: number): Promise<void> {
    try {
      for (const name of fileNames) await writeZeros(join(dir, name), fileBytes)
    } catch (cause) {
      const { message } = cause as Error
      throw new StartError(`The log's journal cannot be made in ${dir} (${message}).`, { cause })
    }
    await fsyncDir(dir)
  }

  /** With what was written after `settled`: that and all before is home. Throws `StartError`. */
  static open(dir: string, fileBytes: number, settled: number): OpenJournal {
    const files = fileNames.map(name => wholeFile(join(dir, name), fileBytes))
    const scan = scanJournal(files, settled)
    return { journal: new Journal(dir, fileBytes, settled, scan), writes: scan.writes }
  }

  private constructor(dir: string, fileBytes: number, settled: number, { lastNumber }: Scan) {
    this.#fileSectors = fileBytes / sectorBytes
    this.#room = aligned((sectorCount(fileBytes / largeShare) + 1) * sectorBytes)
    this.#fds = fileNames.map(name => openThrough(join(dir, name), this.#room))
    this.#settled = settled
    this.#number = lastNumber
    // Where a write is torn, none may follow in its place: until all is home both count as full.
    this.#last = [lastNumber, lastNumber]
    if (lastNumber === settled) return
    this.#at = this.#fileSectors
    // Whoever wrote it may have ended before its flush did. It counts from here on, also while LMDB
    // has no room for it.
    for (const fd of this.#fds) fdatasyncSync(fd)
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
   * Resolves when it is on the disk. After an error what follows on the disk is not known, and
   * nothing more may be written. One at a time.
   */
  append(bytes: Uint8Array): Promise<Error | undefined> {
    assert(this.fits(bytes.length, true), 'a write does not go beyond its file')
    this.#number += 1
    this.#last[this.#active] = this.#number
    const sectors = encodeSectors({ number: this.#number, bytes }, this.#room)
    const at = this.#at * sectorBytes
    this.#at += sectorCount(bytes.length)
    return new Promise(resolve => {
      const fd = this.#fds[this.#active] as number
      write(fd, sectors, 0, sectors.length, at, (error, written) => {
        if (error !== null) resolve(error)
        else if (written < sectors.length) resolve(new Error(`EIO: wrote ${written} bytes`))
        else resolve(undefined)
      })
    })
  }

  /** All up to write `number` is home. */
  settle(number: number): void {
    this.#settled = number
    if (this.isSettled) this.#at = 0
  }

  close(): void {
    for (const fd of this.#fds) closeSync(fd)
  }
}

async function writeZeros(path: string, length: number): Promise<void> {
  const file = await open(path, 'w', 0o600)
  try {
    const zeros = new Uint8Array(zerosBytes)
    for (let at = 0; at < length; at += zerosBytes) {
      await writeAll(file, zeros.subarray(0, length - at))
    }
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Memory from the beginning of a page on, as direct writes ask for it. */
function aligned(length: number): Uint8Array {
  const memory = new Uint8Array(length + pageBytes)
  const excess = ptr(memory) % pageBytes
  return memory.subarray(excess === 0 ? 0 : pageBytes - excess).subarray(0, length)
}

/**
 * For writes that go through to the disk, and past the page cache where the filesystem and the disk
 * take sectors that way: that is a sixth faster, and a quarter less CPU time.
 */
function openThrough(path: string, room: Uint8Array): number {
  const flags = constants.O_RDWR | constants.O_DSYNC
  let fd: number | undefined
  try {
    fd = openSync(path, flags | constants.O_DIRECT)
    readSync(fd, room, 0, sectorBytes, 0)
    return fd
  } catch (error) {
    if (fd !== undefined) closeSync(fd)
    if ((error as { code?: unknown }).code !== 'EINVAL') throw error
    return openSync(path, flags)
  }
}

function wholeFile(path: string, fileBytes: number): Uint8Array {
  let bytes: Uint8Array
  try {
    bytes = readFileSync(path)
  } catch (cause) {
    const { message } = cause as Error
    throw new StartError(`The log's journal cannot be read (${message}). ${cure}`, { cause })
  }
  if (bytes.length === fileBytes) return bytes
  throw new StartError(
    `${path} has ${bytes.length} bytes, and not ${fileBytes}: it is damaged. ${cure}`,
  )
}
