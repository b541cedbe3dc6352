/**
 * The log: LMDB (log-tree.ts) behind a journal. Writes go into the journal, which is one write of
 * consecutive pages and one flush, half of what a transaction of LMDB takes (bench/flush.ts). When
 * one of the journal's two files is full, all that is in it goes home into LMDB in one transaction,
 * while the other is written; that is to settle. A write that is large, or that replaces the log by
 * a snapshot, goes home at once, with all that was written before.
 *
 * What is not home is kept in memory too, so that the journal is read only by a start. LMDB knows
 * the number of the last write of the journal that it has, in the same transaction, so that each
 * counts once.
 */
import { assert, FndError, StartError } from '../errors.ts'
import type { Identity, LogStore, LogWrite } from '../raft/ports.ts'
import type { Entry, HardState } from '../raft/types.ts'
import { Journal, journalBytes } from './journal.ts'
import { follows } from './log-hard.ts'
import { cure, decodeTurn, encodeTurn, type Segment } from './log-records.ts'
import { freeBytesOf, Room } from './log-room.ts'
import { LogTree, type LogTreeOptions, lacks } from './log-tree.ts'

/** What is promised already may be written into all of the reserve but this part of it. */
const reserveShare = 4

export interface JournaledLogOptions extends LogTreeOptions {
  /**
   * `hasRoom` is false while the filesystem has less room than this, so that there is always
   * enough to apply what the log accepted. Writes are refused at a quarter of it.
   */
  readonly freeBytesMin: number
  /** Of each of the journal's files, always the same for one directory; 2 MiB unless given. */
  readonly journalBytes?: number
}

export class JournaledLog implements LogStore {
  readonly #tree: LogTree
  readonly #journal: Journal
  readonly #room: Room
  readonly #freeBytesMin: number
  #hardState: HardState
  /** The entries from `#tailFirst` on, whatever the tree has there. */
  #tail: Entry[] = []
  #tailFirst: number
  /** With the next settling. */
  #dropThrough = 0
  /** Where entries were written since the settling under way began. */
  #writtenFrom = Number.POSITIVE_INFINITY
  #settling: Promise<FndError | undefined> = Promise.resolve(undefined)
  #isWriting = false
  #writing: Promise<void> = Promise.resolve()
  #closed: 'no' | 'closed' | 'failed' = 'no'

  /** Opens the log, or makes one in a directory that is there. Rejects with `StartError`. */
  static async open(options: JournaledLogOptions): Promise<JournaledLog> {
    const { dir, freeBytesMin, journalBytes: fileBytes = journalBytes } = options
    const tree = await LogTree.open(options)
    let journal: Journal | undefined
    try {
      await makeJournal(tree, dir, fileBytes)
      const opened = Journal.open(dir, fileBytes, tree.settled ?? 0)
      journal = opened.journal
      const room = new Room(freeBytesMin, () => freeBytesOf(dir))
      const log = new JournaledLog(tree, journal, room, freeBytesMin)
      const turns = opened.writes.map(({ number, bytes }) => decodeTurn(bytes, `write ${number}`))
      await log.#restore(turns)
      return log
    } catch (error) {
      journal?.close()
      await tree.close()
      throw error
    }
  }

  private constructor(tree: LogTree, journal: Journal, room: Room, freeBytesMin: number) {
    this.#tree = tree
    this.#journal = journal
    this.#room = room
    this.#freeBytesMin = freeBytesMin
    this.#hardState = tree.hardState
    this.#tailFirst = tree.lastIndex + 1
  }

  get identity(): Identity {
    return this.#tree.identity
  }

  get hardState(): HardState {
    return this.#hardState
  }

  get firstIndex(): number {
    return this.#tree.firstIndex
  }

  get lastIndex(): number {
    return this.#tailFirst + this.#tail.length - 1
  }

  get installing(): string {
    return this.#tree.installing
  }

  term(index: number): number | undefined {
    if (index < this.#tailFirst) return this.#tree.term(index)
    return this.#tail[index - this.#tailFirst]?.term
  }

  read(fromIndex: number, bytesMax: number): Entry[] {
    assert(fromIndex >= this.firstIndex, 'entries before the first were truncated')
    const read = this.#tree.read(fromIndex, this.#tailFirst, bytesMax)
    if (fromIndex + read.length < this.#tailFirst) return read
    let bytes = read.reduce((sum, entry) => sum + entry.bytes.length, 0)
    for (let at = fromIndex + read.length - this.#tailFirst; at < this.#tail.length; at++) {
      const entry = this.#tail[at] as Entry
      bytes += entry.bytes.length
      // More than asked for is no answer, except that one entry always is.
      if (bytes > bytesMax && read.length > 0) return read
      read.push(entry)
    }
    return read
  }

  write(write: LogWrite, done: (error: Error | undefined) => void): void {
    assert(!this.#isWriting, 'one write at a time')
    assert(this.#closed !== 'closed', 'a closed log is not written')
    this.#mustFollow(write)
    this.#isWriting = true
    this.#writing = this.#write(write).then(error => {
      this.#isWriting = false
      // Outside of the promise, so that what `done` throws ends the process as any other bug.
      queueMicrotask(() => done(error))
    })
  }

  hasRoom(): boolean {
    return this.#room.has(this.#freeBytesMin, performance.now())
  }

  /**
   * After the write that is under way, all that is in the journal goes home, if there is room.
   * Rejects when that failed.
   */
  async close(): Promise<void> {
    if (this.#closed === 'closed') return
    // Its number is given out already, and a member whose state finds no room does not wait for it.
    await this.#writing
    const failed = await this.#settling
    const isDue = this.#closed === 'no' && !this.#journal.isSettled
    const error = isDue ? await this.#settle() : failed
    // After a failure lmdb may hold its own locks for ever; the process is about to end anyway.
    if (this.#closed === 'no') await this.#tree.close()
    this.#closed = 'closed'
    this.#journal.close()
    if (error !== undefined && error.code !== 'disk-full') throw error
  }

  /** What no member may do, whatever it was told: these are the promises of raft to its log. */
  #mustFollow({ entries, hardState, reset }: LogWrite): void {
    const old = this.#hardState
    assert(follows(hardState, old), 'no term, commit or vote is undone')
    assert(reset === undefined || reset.index >= old.commit, 'no snapshot undoes what is committed')
    let index = entries[0]?.index ?? this.firstIndex
    const end = reset === undefined ? this.lastIndex : reset.index
    const begin = reset === undefined ? old.commit : reset.index
    assert(entries.length === 0 || index <= end + 1, 'entries are appended without gaps')
    assert(entries.length === 0 || index > begin, 'what is committed is never overwritten')
    let term = reset === undefined ? (this.term(index - 1) ?? 0) : reset.term
    for (const entry of entries) {
      assert(entry.index === index, 'entries are appended without gaps')
      assert(entry.term >= term && entry.term <= hardState.term, 'terms never fall in a log')
      term = entry.term
      index += 1
    }
  }

  async #write(write: LogWrite): Promise<Error | undefined> {
    const refusal = this.#refusal(write)
    if (refusal !== undefined) {
      await new Promise(setImmediate)
      return refusal
    }
    const bytes = encodeTurn(write)
    const isOfSnapshot = write.reset !== undefined || write.isInstalled === true
    if (isOfSnapshot || this.#journal.isLarge(bytes.length)) return this.#writeHome(write)
    const full = await this.#makeWay(bytes.length, write.entries.length === 0)
    if (full !== undefined) return full
    const cause = await this.#journal.append(bytes)
    if (cause !== undefined) {
      // After a failed flush a later one may falsely succeed.
      this.#closed = 'failed'
      return new FndError('store-failed', { cause })
    }
    this.#keep(write)
    return undefined
  }

  #refusal({ entries, reset }: LogWrite): FndError | undefined {
    if (this.#closed === 'failed') return new FndError('store-failed')
    // A vote or a step of the commit takes no room to speak of, and dropping entries gives some.
    if (entries.length === 0 && reset === undefined) return undefined
    const isEnough = this.#room.has(this.#freeBytesMin / reserveShare, performance.now())
    if (!isEnough) return new FndError('disk-full')
    let bytes = 0
    for (const entry of entries) bytes += entry.bytes.length
    this.#room.spend(entries.length, bytes)
    return undefined
  }

  /** Room in the journal for so many bytes. */
  async #makeWay(length: number, mayUseReserve: boolean): Promise<FndError | undefined> {
    if (this.#journal.fits(length, mayUseReserve)) return undefined
    await this.#settling
    // What did not find its way home before goes with what was written since.
    if (!this.#journal.canTurn) return this.#settle()
    this.#settling = this.#settle()
    this.#journal.turn()
    return undefined
  }

  /** All that is in the journal goes home. */
  async #settle(): Promise<FndError | undefined> {
    const { number } = this.#journal
    const entries = [...this.#tail]
    this.#writtenFrom = Number.POSITIVE_INFINITY
    const write = { entries, hardState: this.#hardState, dropThrough: this.#dropThrough }
    const error = await this.#home(write, number)
    if (error !== undefined) return error
    const last = entries.at(-1)?.index ?? this.#tailFirst - 1
    this.#forgetBelow(Math.min(last + 1, this.#writtenFrom))
    return undefined
  }

  /** With all that was written before. */
  async #writeHome(write: LogWrite): Promise<FndError | undefined> {
    await this.#settling
    const first = write.reset === undefined ? (write.entries[0]?.index ?? Infinity) : 0
    const before = this.#tail.filter(({ index }) => index < first)
    const { number } = this.#journal
    const error = await this.#home({ ...write, entries: [...before, ...write.entries] }, number)
    if (error !== undefined) return error
    this.#hardState = write.hardState
    this.#dropThrough = write.dropThrough
    this.#tail = []
    this.#tailFirst = this.#tree.lastIndex + 1
    return undefined
  }

  async #home(write: LogWrite, number: number): Promise<FndError | undefined> {
    const error = await this.#tree.write(write, number)
    if (error === undefined) this.#journal.settle(number)
    else if (error.code !== 'disk-full') this.#closed = 'failed'
    return error
  }

  #keep({ entries, hardState, dropThrough }: LogWrite): void {
    this.#hardState = hardState
    // Only from here on: what may leave is committed by this hard state, not by the one before.
    this.#dropThrough = dropThrough
    const [first] = entries
    if (first === undefined) return
    this.#writtenFrom = Math.min(this.#writtenFrom, first.index)
    this.#tail.length = Math.max(0, first.index - this.#tailFirst)
    this.#tailFirst = Math.min(this.#tailFirst, first.index)
    for (const entry of entries) this.#tail.push(entry)
  }

  #forgetBelow(index: number): void {
    if (index <= this.#tailFirst) return
    this.#tail.splice(0, index - this.#tailFirst)
    this.#tailFirst = index
  }

  /** What an earlier process left in the journal. */
  async #restore(turns: readonly Segment[]): Promise<void> {
    for (const { entries, hardState } of turns) {
      const first = entries[0]?.index ?? this.lastIndex + 1
      if (first > this.lastIndex + 1) throw new StartError(lacks(this.lastIndex + 1, first - 1))
      if (!follows(hardState, this.#hardState) || first <= this.#hardState.commit) {
        throw new StartError(`The log's journal contradicts the log: it is damaged. ${cure}`)
      }
      this.#keep({ entries, hardState, dropThrough: 0 })
    }
    const { commit } = this.#hardState
    if (this.lastIndex < commit) throw new StartError(lacks(this.lastIndex + 1, commit))
    if (this.#journal.isSettled) return
    // Without room it stays in the journal, and in memory.
    const error = await this.#settle()
    if (error !== undefined && error.code !== 'disk-full') throw error
  }
}

/** A log that is new, or of a version without a journal, gets one. */
async function makeJournal(tree: LogTree, dir: string, fileBytes: number): Promise<void> {
  if (tree.settled !== undefined) return
  await Journal.create(dir, fileBytes)
  const { hardState } = tree
  const error = await tree.write({ entries: [], hardState, dropThrough: 0 }, 0)
  if (error !== undefined) throw error
}
