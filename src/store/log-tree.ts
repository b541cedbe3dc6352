/**
 * The log in LMDB. One write is one transaction: entries, hard state, the base, how far the journal
 * is in it, and the removal of entries that are old or overwritten. LMDB gives atomicity, so that
 * there is no torn tail to repair: whatever is missing or has another checksum is damage, and the
 * log does not open or read (raft.md §2.2).
 *
 * Entries are kept in segments, one value for many, keyed by the first and last index: that takes a
 * third less time than a value for each. Old entries leave by whole segments. The entry before the
 * first is the base, of which index and term stay known.
 *
 * Logs of versions without a journal have one transaction for each write, and the newest hard state
 * may be the one in their last segment, which is that of the write that left it.
 */
import { assert, type FndError, StartError } from '../errors.ts'
import type { Identity, LogWrite } from '../raft/ports.ts'
import type { Entry, HardState } from '../raft/types.ts'
import { fsyncDir } from './fsync.ts'
import { explained } from './log-file.ts'
import { laterOf } from './log-hard.ts'
import { LmdbRecords } from './log-lmdb.ts'
import type { LogRecords, RecordChange } from './log-ports.ts'
import {
  type Base,
  baseRecord,
  cure,
  decodeHard,
  decodeRecord,
  decodeSegment,
  encodeHard,
  encodeSegment,
  firstRecords,
  keyOf,
  type LogKey,
  type Segment,
  segmentsOf,
  textOf,
  textRecord,
} from './log-records.ts'
import { Terms } from './log-terms.ts'

export interface LogTreeOptions {
  /** The directory that holds `log.mdb`. */
  readonly dir: string
  /** Who this member is, asked only when the log is new. */
  readonly identity: () => Identity | Promise<Identity>
  /** Where a new log begins, for a state that is there already; index and term 0 unless given. */
  readonly base?: Base
}

interface Span {
  readonly first: number
  readonly last: number
}

/** What one transaction does to the entries, and what the log is after it. */
interface Plan {
  readonly removed: readonly Span[]
  readonly added: readonly (readonly Entry[])[]
  /** How many segments leave at the front, and how many stay before those added. */
  readonly dropCount: number
  readonly keepCount: number
  readonly base: Base
  readonly lastIndex: number
}

export class LogTree {
  readonly #records: LogRecords
  #identity: Identity = { clusterId: '', nodeId: 0, uuid: '' }
  #hardState: HardState = { term: 0, vote: 0, commit: 0 }
  #base: Base = { index: 0, term: 0 }
  #installing = ''
  #settled: number | undefined
  #lastIndex = 0
  /** Ascending and without gaps, as in the file. */
  readonly #segments: Span[] = []
  #terms = new Terms()
  #isWriting = false

  /** Opens it, or makes one in a directory that is there. Rejects with `StartError`. */
  static async open({ dir, identity, base }: LogTreeOptions): Promise<LogTree> {
    const records = await LmdbRecords.open(dir)
    try {
      const found = LogTree.load(records)
      if (found !== undefined) return found
      const change = { removed: [], put: firstRecords(await identity(), base) }
      const error = await new Promise<FndError | undefined>(done => records.write(change, done))
      if (error !== undefined) throw error
      await fsyncDir(dir)
      const made = LogTree.load(records)
      assert(made !== undefined, 'what was made is there')
      return made
    } catch (error) {
      await records.close()
      throw error
    }
  }

  /** What an earlier process left. Undefined when that is nothing. Throws `StartError`. */
  static load(records: LogRecords): LogTree | undefined {
    const tree = new LogTree(records)
    return explained(() => tree.#load()) ? tree : undefined
  }

  private constructor(records: LogRecords) {
    this.#records = records
  }

  get identity(): Identity {
    return this.#identity
  }

  get hardState(): HardState {
    return this.#hardState
  }

  get firstIndex(): number {
    return this.#base.index + 1
  }

  get lastIndex(): number {
    return this.#lastIndex
  }

  get installing(): string {
    return this.#installing
  }

  term(index: number): number | undefined {
    if (index < this.#base.index || index > this.#lastIndex) return undefined
    return this.#terms.at(index)
  }

  /** Number of the last write of the journal that is in here; undefined before there is one. */
  get settled(): number | undefined {
    return this.#settled
  }

  /** As of the log, but entries before `endIndex` only. */
  read(fromIndex: number, endIndex: number, bytesMax: number): Entry[] {
    const read: Entry[] = []
    let bytes = 0
    for (let index = fromIndex; index < endIndex; ) {
      const segment = this.#segments[this.#segmentAt(index)]
      assert(segment !== undefined, 'segments have no gaps')
      const { entries } = this.#segment(segment)
      for (const entry of entries.slice(index - segment.first, endIndex - segment.first)) {
        bytes += entry.bytes.length
        // More than asked for is no answer, except that one entry always is.
        if (bytes > bytesMax && read.length > 0) return read
        read.push(entry)
        index += 1
      }
    }
    return read
  }

  /**
   * `done` is called in a later turn, when it is on the disk; until then this is read as it was.
   * With `FndError` `disk-full` nothing of it was kept, with any other nothing may be written any
   * more. `settled` is the last write of the journal that it brings. One at a time.
   */
  write(write: LogWrite, settled: number, done: (error: FndError | undefined) => void): void {
    assert(!this.#isWriting, 'one write at a time')
    const plan = this.#plan(write)
    this.#isWriting = true
    this.#records.write(this.#change(write, plan, settled), error => {
      this.#isWriting = false
      if (error === undefined) this.#keep(write, plan, settled)
      done(error)
    })
  }

  close(): Promise<void> {
    return this.#records.close()
  }

  #change(write: LogWrite, { removed, added, base }: Plan, settled: number): RecordChange {
    const { hardState, reset, isInstalled } = write
    const put: [LogKey, Uint8Array][] = []
    for (const entries of added) put.push([keyOf(entries), encodeSegment(entries, hardState)])
    put.push(['hard', encodeHard({ hardState, settled })])
    if (base !== this.#base) put.push(['base', baseRecord(base)])
    if (reset !== undefined) put.push(['installing', textRecord(reset.data)])
    else if (isInstalled === true) put.push(['installing', textRecord('')])
    return { removed: removed.map(({ first, last }) => [first, last]), put }
  }

  #plan({ entries, reset, dropThrough }: LogWrite): Plan {
    const segments = this.#segments
    const isShort = (segment: Span) => segment.last < (entries[0]?.index ?? Infinity)
    if (reset !== undefined) {
      const lastIndex = reset.index + entries.length
      const base = { index: reset.index, term: reset.term }
      const added = segmentsOf(entries)
      return { removed: [...segments], added, dropCount: 0, keepCount: 0, base, lastIndex }
    }
    let keepCount = segments.length
    while (keepCount > 0 && !isShort(segments[keepCount - 1] as Span)) keepCount -= 1
    let dropCount = 0
    let base = this.#base
    while (dropCount < keepCount && (segments[dropCount]?.last ?? Infinity) <= dropThrough)
      dropCount += 1
    const dropped = segments[dropCount - 1]
    if (dropped !== undefined) base = { index: dropped.last, term: this.term(dropped.last) ?? 0 }
    const cut = segments.slice(keepCount)
    const kept = this.#remains(cut[0], entries[0])
    return {
      removed: [...segments.slice(0, dropCount), ...cut],
      added: segmentsOf([...kept, ...entries]),
      dropCount,
      keepCount,
      base,
      lastIndex: Math.max(entries.at(-1)?.index ?? this.#lastIndex, base.index),
    }
  }

  /** The entries of segment `cut` before the first new one: they are written again. */
  #remains(cut: Span | undefined, firstNew: Entry | undefined): readonly Entry[] {
    if (cut === undefined || firstNew === undefined || cut.first >= firstNew.index) return []
    return this.#segment(cut).entries.slice(0, firstNew.index - cut.first)
  }

  /** The transaction is on the disk: the log is what it says. */
  #keep(write: LogWrite, plan: Plan, settled: number): void {
    const { entries, reset } = write
    this.#hardState = write.hardState
    this.#settled = settled
    this.#installing = reset?.data ?? (write.isInstalled === true ? '' : this.#installing)
    this.#segments.length = plan.keepCount
    if (plan.dropCount > 0) this.#segments.splice(0, plan.dropCount)
    for (const added of plan.added) {
      const [first, last] = keyOf(added)
      this.#segments.push({ first, last })
    }
    if (reset !== undefined) this.#terms = new Terms()
    else if (entries[0] !== undefined) this.#terms.cutFrom(entries[0].index)
    if (plan.base !== this.#base) {
      if (reset !== undefined) this.#terms.push(plan.base.index, plan.base.term)
      this.#terms.dropBelow(plan.base.index)
      this.#base = plan.base
    }
    for (const entry of entries) this.#terms.push(entry.index, entry.term)
    this.#lastIndex = plan.lastIndex
  }

  /** Position of the segment that holds `index`. */
  #segmentAt(index: number): number {
    let low = 0
    let high = this.#segments.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#segments[middle]?.last ?? 0) < index) low = middle + 1
      else high = middle
    }
    return low
  }

  #segment({ first, last }: Span): Segment {
    const record = this.#records.get([first, last])
    if (record === undefined) throw new StartError(lacks(first, last))
    return decodeSegment(record, first, last)
  }

  /** False when there is nothing. */
  #load(): boolean {
    for (const [first, last] of this.#records.segmentKeys()) this.#segments.push({ first, last })
    const hard = this.#records.get('hard')
    const identity = this.#value('identity')
    const base = this.#value('base')
    if (hard === undefined || identity === undefined || base === undefined) {
      const isNew = hard === undefined && identity === undefined && base === undefined
      if (isNew && this.#segments.length === 0) return false
      throw new StartError(`The log lacks its hard state or identity: it is damaged. ${cure}`)
    }
    const { hardState, settled } = decodeHard(hard, 'hard')
    this.#hardState = this.#latest(hardState)
    this.#settled = settled
    this.#identity = JSON.parse(textOf(identity.bytes))
    this.#base = { index: base.index, term: base.term }
    this.#installing = textOf(this.#value('installing')?.bytes ?? new Uint8Array())
    this.#lastIndex = this.#mustBeWhole()
    this.#terms.push(base.index, base.term)
    this.#learnTerms(0, this.#segments.length - 1)
    return true
  }

  /** Given what the record `hard` says. */
  #latest(own: HardState): HardState {
    const last = this.#segments.at(-1)
    if (last === undefined) return own
    const found = laterOf(own, this.#segment(last).hardState)
    if (found !== undefined) return found
    throw new StartError(`The log's hard states contradict each other: it is damaged. ${cure}`)
  }

  /** Returns the last index. */
  #mustBeWhole(): number {
    let last = this.#base.index
    for (const segment of this.#segments) {
      const isNext = segment.first === last + 1 && segment.last >= segment.first
      if (!isNext) throw new StartError(lacks(last + 1, segment.first - 1))
      last = segment.last
    }
    const { commit } = this.#hardState
    if (last < commit) throw new StartError(lacks(last + 1, commit))
    return last
  }

  /** Terms never fall, so between two segments of one term all have that term. */
  #learnTerms(from: number, to: number): void {
    const [low, high] = [this.#segments[from], this.#segments[to]]
    if (low === undefined || high === undefined || from > to) return
    const { entries } = this.#segment(low)
    for (const { index, term } of entries) this.#terms.push(index, term)
    if (from === to || entries.at(-1)?.term === this.#segment(high).entries.at(-1)?.term) return
    const middle = (from + 1 + to) >> 1
    this.#learnTerms(from + 1, middle)
    this.#learnTerms(middle + 1, to)
  }

  #value(name: string) {
    const record = this.#records.get(name)
    return record === undefined ? undefined : decodeRecord(record, name)
  }
}

export function lacks(first: number, last: number): string {
  return `The log lacks entries between ${first} and ${last}: it is damaged. ${cure}`
}
