/**
 * The log as the core sees it: a stable part behind `LogReader`, and a tail in memory. The tail
 * holds what is not applied yet, so that applying reads no disk. What is not persisted is among it,
 * so the log need not know how far the disk is: a late acknowledgement, of entries that another
 * leader replaced meanwhile, cannot mislead it.
 */
import { assert } from '../errors.ts'
import type { Entry, LogReader, Snapshot } from './types.ts'

/** An entry without bytes must count for something where messages are bounded. */
const entryOverhead = 24

export function entrySize(entry: Entry): number {
  return entry.bytes.length + entryOverhead
}

const none: readonly Entry[] = []

/** Entries `from` on of this term, until the next run. */
interface TermRun {
  readonly from: number
  readonly term: number
}

export class RaftLog {
  readonly #stable: LogReader
  #tail: Entry[] = []
  /** Index of the first entry of the tail. */
  #tailFrom: number
  /** Entries up to here were handed out to be persisted. */
  #handed: number
  /** Received, and not yet known to be installed. The log begins behind it. */
  #snapshot: Snapshot | undefined
  #isSnapshotHanded = false
  /** Terms of all entries from the first run on; spares the reads of a disk. Never empty. */
  #runs: TermRun[]
  #commit: number
  #applied: number

  /** `commit` may lag behind `applied`, because it need not be flushed. */
  constructor(stable: LogReader, commit: number, applied: number) {
    const last = stable.lastIndex
    assert(applied >= stable.firstIndex - 1, 'the log goes on where the state machine ends')
    assert(applied <= last, 'what is applied was persisted before')
    assert(commit <= last, 'what is committed here was persisted with the commit index')
    this.#stable = stable
    this.#tailFrom = last + 1
    this.#handed = last
    this.#commit = Math.max(commit, applied)
    this.#applied = applied
    const term = stable.term(last)
    assert(term !== undefined, 'the term of the last entry is known')
    this.#runs = [{ from: last, term }]
  }

  get commit(): number {
    return this.#commit
  }

  get applied(): number {
    return this.#applied
  }

  get firstIndex(): number {
    return this.#snapshot === undefined ? this.#stable.firstIndex : this.#snapshot.index + 1
  }

  get lastIndex(): number {
    return this.#tailFrom + this.#tail.length - 1
  }

  get lastTerm(): number {
    return this.#runs[this.#runs.length - 1]?.term ?? 0
  }

  /** Undefined beyond either end; the term in front of the first entry is known. */
  term(index: number): number | undefined {
    if (index > this.lastIndex || index < this.firstIndex - 1) return undefined
    for (let at = this.#runs.length - 1; at >= 0; at--) {
      const run = this.#runs[at]
      if (run !== undefined && run.from <= index) return run.term
    }
    return this.#stable.term(index)
  }

  /** Whether a log that ends at (index, term) holds all that this one may have committed. */
  isUpToDate(index: number, term: number): boolean {
    const own = this.lastTerm
    return term > own || (term === own && index >= this.lastIndex)
  }

  /** Entries from `from` to the last one, at least one of them, cut after `bytesMax`. */
  entriesFrom(from: number, bytesMax: number): readonly Entry[] {
    return this.#slice(from, this.lastIndex + 1, bytesMax)
  }

  /** Of [from, end). Reads the stable log only below the tail. */
  #slice(from: number, end: number, bytesMax: number): readonly Entry[] {
    if (from >= end) return none
    if (from >= this.#tailFrom) return this.#tailSlice(from, end, bytesMax, 0)
    const stableEnd = Math.min(end, this.#tailFrom)
    const held = this.#stable.entries(from, stableEnd, bytesMax)
    assert(held.length > 0 && held[0]?.index === from, 'the stable log holds its entries')
    if (stableEnd === end || from + held.length < stableEnd) return held
    let bytes = 0
    for (const entry of held) bytes += entrySize(entry)
    return bytes >= bytesMax ? held : [...held, ...this.#tailSlice(stableEnd, end, bytesMax, bytes)]
  }

  /** `bytesBefore` were taken already, so that this part may be empty if they are above 0. */
  #tailSlice(from: number, end: number, bytesMax: number, bytesBefore: number): Entry[] {
    const first = from - this.#tailFrom
    const last = end - this.#tailFrom
    if (bytesMax === Number.POSITIVE_INFINITY) return this.#tail.slice(first, last)
    let bytes = bytesBefore
    for (let at = first; at < last; at++) {
      const entry = this.#tail[at]
      assert(entry !== undefined, 'the tail has no gap')
      bytes += entrySize(entry)
      if (bytes > bytesMax && (at > first || bytesBefore > 0)) return this.#tail.slice(first, at)
    }
    return this.#tail.slice(first, last)
  }

  /** At the end, or in place of everything at or after the first one's index. */
  append(entries: readonly Entry[]): void {
    const first = entries[0]
    if (first === undefined) return
    const { index } = first
    assert(index > this.#commit, 'a committed entry is never replaced')
    assert(index <= this.lastIndex + 1, 'the log has no gap')
    if (index <= this.lastIndex) this.#truncate(index)
    const tail = this.#tail
    let next = index
    let term = this.lastTerm
    for (const entry of entries) {
      assert(entry.index === next, 'entries are consecutive')
      if (entry.term !== term) {
        assert(entry.term > term, 'terms never decrease along the log')
        this.#runs.push({ from: next, term: entry.term })
        term = entry.term
      }
      tail.push(entry)
      next += 1
    }
  }

  #truncate(index: number): void {
    const keptTerm = this.term(index - 1)
    assert(keptTerm !== undefined, 'the term in front of the first entry is known')
    if (index >= this.#tailFrom) this.#tail.length = index - this.#tailFrom
    else {
      this.#tail = []
      this.#tailFrom = index
    }
    this.#handed = Math.min(this.#handed, index - 1)
    while ((this.#runs[this.#runs.length - 1]?.from ?? 0) >= index) this.#runs.pop()
    if (this.#runs.length === 0) this.#runs.push({ from: index - 1, term: keptTerm })
  }

  /**
   * A leader's entries behind (prevIndex, prevTerm). Keeps those that are here, replaces from the
   * first conflict on. Undefined if they do not fit; else the last index that is now the leader's.
   */
  merge(
    prevIndex: number,
    prevTerm: number,
    entries: readonly Entry[],
    leaderCommit: number,
  ): number | undefined {
    if (this.term(prevIndex) !== prevTerm) return undefined
    const last = prevIndex + entries.length
    const same = this.#countSame(entries)
    // Entries that are here stay, also those behind them: the message may be an old one.
    if (same < entries.length) this.append(same === 0 ? entries : entries.slice(same))
    this.commitTo(Math.min(leaderCommit, last))
    return last
  }

  /** How many of the first of them are here. */
  #countSame(entries: readonly Entry[]): number {
    let count = 0
    for (const { index, term } of entries) {
      if (this.term(index) !== term) break
      count += 1
    }
    return count
  }

  /**
   * The highest index up to `index` whose term is at most `term`, so that both sides skip whole
   * terms when they look for where their logs meet. Its term is 0 if it is not known.
   */
  findConflict(index: number, term: number): { readonly index: number; readonly term: number } {
    for (let at = index; at > 0; at--) {
      const own = this.term(at)
      if (own === undefined) return { index: at, term: 0 }
      if (own <= term) return { index: at, term: own }
    }
    return { index: 0, term: 0 }
  }

  /** Never goes back. */
  commitTo(index: number): void {
    if (index <= this.#commit) return
    assert(index <= this.lastIndex, 'nothing is committed beyond the end of the log')
    this.#commit = index
  }

  /** Whether a change of the configuration is committed and not applied. */
  hasUnappliedConfChange(): boolean {
    for (let from = this.#applied + 1; from <= this.#commit; ) {
      const entries = this.#slice(from, this.#commit + 1, 1024 * 1024)
      if (entries.some(({ kind }) => kind !== 'normal')) return true
      from += entries.length
    }
    return false
  }

  /** A snapshot takes the place of the whole log. */
  restore(snapshot: Snapshot): void {
    const { index, term } = snapshot
    assert(index > this.#commit, 'a snapshot never takes the state back')
    this.#snapshot = snapshot
    this.#isSnapshotHanded = false
    this.#tail = []
    this.#tailFrom = index + 1
    this.#handed = index
    this.#runs = [{ from: index, term }]
    this.#commit = index
  }

  get hasSnapshotPending(): boolean {
    return this.#snapshot !== undefined
  }

  /** The newest snapshot that may be sent. */
  snapshotToSend(): Snapshot | undefined {
    return this.#snapshot ?? this.#stable.snapshot()
  }

  get hasUnhanded(): boolean {
    return this.#handed < this.lastIndex || this.#unhandedSnapshot !== undefined
  }

  get hasCommitted(): boolean {
    return this.#applied < this.#commit && this.#snapshot === undefined
  }

  get #unhandedSnapshot(): Snapshot | undefined {
    return this.#isSnapshotHanded ? undefined : this.#snapshot
  }

  /** What is to be persisted and was not handed out; from here on it is handed out. */
  handOut(): { readonly entries: readonly Entry[]; readonly snapshot: Snapshot | undefined } {
    const snapshot = this.#unhandedSnapshot
    const first = this.#handed + 1 - this.#tailFrom
    const entries = first < this.#tail.length ? this.#tail.slice(first) : none
    this.#handed = this.lastIndex
    this.#isSnapshotHanded = this.#snapshot !== undefined
    return { entries, snapshot }
  }

  /** What is to be applied next. Nothing while a snapshot is on its way to be installed. */
  committed(bytesMax: number): readonly Entry[] {
    if (!this.hasCommitted) return none
    return this.#slice(this.#applied + 1, this.#commit + 1, bytesMax)
  }

  /** The same from `fromIndex` to `stableIndex`, but nothing that was replaced since `handOut`. */
  committedBetween(fromIndex: number, stableIndex: number, bytesMax: number): readonly Entry[] {
    if (!this.hasCommitted) return none
    const lastIndex = Math.min(stableIndex, this.#handed, this.#commit)
    return this.#slice(fromIndex, lastIndex + 1, bytesMax)
  }

  /** The stable log begins behind this snapshot, and the state machine is at its index. */
  installed({ index }: Snapshot): void {
    assert(this.#snapshot?.index === index, 'no other snapshot came meanwhile')
    this.#snapshot = undefined
    this.#isSnapshotHanded = false
    this.appliedTo(index)
  }

  /** Drops from the tail what is applied, which was persisted before. */
  appliedTo(index: number): void {
    if (index <= this.#applied) return
    assert(index <= this.#commit, 'only what is committed is applied')
    assert(index <= this.#handed, 'only what was handed out is applied')
    this.#applied = index
    if (index < this.#tailFrom) return
    if (index === this.lastIndex) this.#tail.length = 0
    else this.#tail = this.#tail.slice(index + 1 - this.#tailFrom)
    this.#tailFrom = index + 1
  }
}
