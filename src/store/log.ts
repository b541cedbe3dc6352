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
import type { Identity, LogStore, LogWrite, Scheduler } from '../raft/ports.ts'
import type { Entry, HardState } from '../raft/types.ts'
import { Journal, journalBytes } from './journal.ts'
import { makeJournalFiles, SyncedJournalFiles } from './journal-files.ts'
import type { JournalWrite } from './journal-sectors.ts'
import { follows } from './log-hard.ts'
import type { JournalFiles } from './log-ports.ts'
import { cure, decodeTurn, encodeTurn } from './log-records.ts'
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

/** What a log is made of: a simulation has its own (test/sim). */
export interface LogParts {
  readonly tree: LogTree
  readonly files: JournalFiles
  readonly freeBytesMin: number
  /** Of the filesystem. */
  readonly freeBytes: () => number
  readonly scheduler: Pick<Scheduler, 'monotonicMs' | 'soon'>
}

type Done = (error: FndError | undefined) => void

interface UnderWay {
  readonly write: LogWrite
  readonly done: (error: Error | undefined) => void
}

export class JournaledLog implements LogStore {
  readonly #tree: LogTree
  readonly #journal: Journal
  readonly #room: Room
  readonly #freeBytesMin: number
  readonly #scheduler: LogParts['scheduler']
  #hardState: HardState
  /** The entries from `#tailFirst` on, whatever the tree has there. */
  #tail: Entry[] = []
  #tailFirst: number
  /** With the next settling. */
  #dropThrough = 0
  /** Where entries were written since the settling under way began. */
  #writtenFrom = Number.POSITIVE_INFINITY
  #isSettling = false
  #underWay: UnderWay | undefined
  #onSettled: (() => void) | undefined
  #onWritten: (() => void) | undefined
  #state: 'open' | 'closed' | 'failed' = 'open'
  /** What the tree said when it failed. */
  #failure: FndError | undefined

  /** Opens the log, or makes one in a directory that is there. Rejects with `StartError`. */
  static async open(options: JournaledLogOptions): Promise<JournaledLog> {
    const { dir, freeBytesMin, journalBytes: fileBytes = journalBytes } = options
    const tree = await LogTree.open(options)
    let files: JournalFiles | undefined
    try {
      await makeJournal(tree, dir, fileBytes)
      files = new SyncedJournalFiles(dir, fileBytes)
      const scheduler = eventLoop
      const freeBytes = () => freeBytesOf(dir)
      const log = new JournaledLog({ tree, files, freeBytesMin, freeBytes, scheduler })
      const error = await new Promise<FndError | undefined>(done => log.settle(done))
      // Without room it stays in the journal, and in memory.
      if (error !== undefined && error.code !== 'disk-full') throw error
      return log
    } catch (error) {
      files?.close()
      await tree.close()
      throw error
    }
  }

  /**
   * With what an earlier process left in the journal, which `settle` brings home. Throws
   * `StartError`.
   */
  constructor({ tree, files, freeBytesMin, freeBytes, scheduler }: LogParts) {
    const { journal, writes } = Journal.open(files, tree.settled ?? 0)
    this.#tree = tree
    this.#journal = journal
    this.#room = new Room(freeBytesMin, freeBytes)
    this.#freeBytesMin = freeBytesMin
    this.#scheduler = scheduler
    this.#hardState = tree.hardState
    this.#tailFirst = tree.lastIndex + 1
    this.#restore(writes)
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
    assert(this.#underWay === undefined, 'one write at a time')
    assert(this.#state !== 'closed', 'a closed log is not written')
    this.#mustFollow(write)
    this.#underWay = { write, done }
    this.#begin(write)
  }

  readonly #written: Done = error => {
    const done = this.#underWay?.done
    this.#underWay = undefined
    done?.(error)
    const onWritten = this.#onWritten
    this.#onWritten = undefined
    onWritten?.()
  }

  hasRoom(): boolean {
    return this.#room.has(this.#freeBytesMin, this.#scheduler.monotonicMs())
  }

  /**
   * After the write that is under way, all that is in the journal goes home; `done` at once when
   * nothing is left there. With `FndError` `disk-full` it stays. Nothing is written meanwhile.
   */
  settle(done: Done): void {
    // Its number is given out already, and a member whose state finds no room does not wait for it.
    if (this.#underWay !== undefined) {
      assert(this.#onWritten === undefined, 'the end comes once')
      this.#onWritten = () => this.settle(done)
      return
    }
    this.#whenSettled(() => {
      if (this.#state === 'failed' || this.#journal.isSettled) done(this.#failure)
      else this.#settle(done)
    })
  }

  /** Settles, if there is room. Rejects when that failed. */
  async close(): Promise<void> {
    if (this.#state === 'closed') return
    const error = await new Promise<FndError | undefined>(done => this.settle(done))
    // After a failure lmdb may hold its own locks for ever; the process is about to end anyway.
    if (this.#state === 'open') await this.#tree.close()
    this.#state = 'closed'
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

  #begin(write: LogWrite): void {
    const refusal = this.#refusal(write)
    if (refusal !== undefined) return this.#refuse(refusal)
    const bytes = encodeTurn(write)
    const isOfSnapshot = write.reset !== undefined || write.isInstalled === true
    if (isOfSnapshot || this.#journal.isLarge(bytes.length)) this.#writeHome(write)
    else if (this.#journal.fits(bytes.length, write.entries.length === 0)) this.#append(bytes)
    else this.#makeWay(bytes)
  }

  #refuse(refusal: FndError): void {
    this.#scheduler.soon(() => this.#written(refusal))
  }

  #refusal({ entries, reset }: LogWrite): FndError | undefined {
    if (this.#state === 'failed') return new FndError('store-failed')
    // A vote or a step of the commit takes no room to speak of, and dropping entries gives some.
    if (entries.length === 0 && reset === undefined) return undefined
    const nowMs = this.#scheduler.monotonicMs()
    if (!this.#room.has(this.#freeBytesMin / reserveShare, nowMs)) return new FndError('disk-full')
    let bytes = 0
    for (const entry of entries) bytes += entry.bytes.length
    this.#room.spend(entries.length, bytes)
    return undefined
  }

  /** Of the write under way. */
  #append(bytes: Uint8Array): void {
    this.#journal.append(bytes, this.#appended)
  }

  readonly #appended = (cause: Error | undefined): void => {
    if (cause !== undefined) {
      // After a failed flush a later one may falsely succeed.
      this.#state = 'failed'
      return this.#written(new FndError('store-failed', { cause }))
    }
    if (this.#underWay !== undefined) this.#keep(this.#underWay.write)
    this.#written(undefined)
  }

  /** The file in use has no room for it. */
  #makeWay(bytes: Uint8Array): void {
    this.#whenSettled(() => {
      if (this.#journal.canTurn) {
        this.#settle(() => undefined)
        this.#journal.turn()
        return this.#append(bytes)
      }
      // What did not find its way home before goes with what was written since.
      this.#settle(error => {
        if (error === undefined) this.#append(bytes)
        else this.#written(error)
      })
    })
  }

  #whenSettled(run: () => void): void {
    if (!this.#isSettling) return run()
    assert(this.#onSettled === undefined, 'a write or the end of all waits, and not both')
    this.#onSettled = run
  }

  /** All that is in the journal goes home. */
  #settle(done: Done): void {
    const { number } = this.#journal
    const entries = [...this.#tail]
    this.#writtenFrom = Number.POSITIVE_INFINITY
    this.#isSettling = true
    const write = { entries, hardState: this.#hardState, dropThrough: this.#dropThrough }
    this.#home(write, number, error => {
      this.#isSettling = false
      if (error === undefined) {
        const last = entries.at(-1)?.index ?? this.#tailFirst - 1
        this.#forgetBelow(Math.min(last + 1, this.#writtenFrom))
      }
      done(error)
      const onSettled = this.#onSettled
      this.#onSettled = undefined
      onSettled?.()
    })
  }

  /** With all that was written before. */
  #writeHome(write: LogWrite): void {
    this.#whenSettled(() => {
      const first = write.reset === undefined ? (write.entries[0]?.index ?? Infinity) : 0
      const before = this.#tail.filter(({ index }) => index < first)
      const { number } = this.#journal
      this.#home({ ...write, entries: [...before, ...write.entries] }, number, error => {
        if (error === undefined) {
          this.#hardState = write.hardState
          this.#dropThrough = write.dropThrough
          this.#tail = []
          this.#tailFirst = this.#tree.lastIndex + 1
        }
        this.#written(error)
      })
    })
  }

  #home(write: LogWrite, number: number, done: Done): void {
    if (this.#state === 'failed') {
      // It waited for what failed: after that a transaction may falsely succeed.
      return this.#scheduler.soon(() => done(new FndError('store-failed')))
    }
    this.#tree.write(write, number, error => {
      if (error === undefined) this.#journal.settle(number)
      else if (error.code !== 'disk-full') {
        this.#state = 'failed'
        this.#failure = error
      }
      done(error)
    })
  }

  #keep({ entries, hardState, dropThrough }: LogWrite): void {
    this.#hardState = hardState
    // Only from here on: what may leave is committed by this hard state, not by the one before.
    this.#dropThrough = dropThrough
    const first = entries[0]
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

  #restore(writes: readonly JournalWrite[]): void {
    for (const { number, bytes } of writes) {
      const { entries, hardState } = decodeTurn(bytes, `write ${number}`)
      const first = entries[0]?.index ?? this.lastIndex + 1
      if (first > this.lastIndex + 1) throw new StartError(lacks(this.lastIndex + 1, first - 1))
      if (!follows(hardState, this.#hardState) || first <= this.#hardState.commit) {
        throw new StartError(`The log's journal contradicts the log: it is damaged. ${cure}`)
      }
      this.#keep({ entries, hardState, dropThrough: 0 })
    }
    const { commit } = this.#hardState
    if (this.lastIndex < commit) throw new StartError(lacks(this.lastIndex + 1, commit))
  }
}

/** A log that is new, or of a version without a journal, gets one. */
async function makeJournal(tree: LogTree, dir: string, fileBytes: number): Promise<void> {
  if (tree.settled !== undefined) return
  await makeJournalFiles(dir, fileBytes)
  const write = { entries: [], hardState: tree.hardState, dropThrough: 0 }
  const error = await new Promise<FndError | undefined>(done => tree.write(write, 0, done))
  if (error !== undefined) throw error
}

const eventLoop: LogParts['scheduler'] = {
  monotonicMs: () => performance.now(),
  soon: run => void setImmediate(run),
}
