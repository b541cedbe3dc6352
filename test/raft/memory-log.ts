import { assert } from '../../src/errors.ts'
import { entrySize } from '../../src/raft/log.ts'
import type { Entry, LogReader, Ready, Snapshot } from '../../src/raft/types.ts'

/** A stable log in memory, for tests of the core. */
export class MemoryLog implements LogReader {
  #entries: Entry[] = []
  #baseIndex: number
  #baseTerm: number
  /** What `snapshot` answers; a test sets it. */
  newest: Snapshot | undefined

  /** Empty, or empty behind a snapshot, which is then also the newest. */
  constructor(base?: Snapshot) {
    this.#baseIndex = base?.index ?? 0
    this.#baseTerm = base?.term ?? 0
    this.newest = base
  }

  get firstIndex(): number {
    return this.#baseIndex + 1
  }

  get lastIndex(): number {
    return this.#baseIndex + this.#entries.length
  }

  term(index: number): number | undefined {
    return index === this.#baseIndex ? this.#baseTerm : this.#entries[index - this.firstIndex]?.term
  }

  entries(fromIndex: number, endIndex: number, bytesMax: number): readonly Entry[] {
    assert(fromIndex >= this.firstIndex && endIndex <= this.lastIndex + 1, 'all are held')
    const found: Entry[] = []
    let bytes = 0
    for (const entry of this.#entries.slice(
      fromIndex - this.firstIndex,
      endIndex - this.firstIndex,
    )) {
      bytes += entrySize(entry)
      if (found.length > 0 && bytes > bytesMax) break
      found.push(entry)
    }
    return found
  }

  snapshot(): Snapshot | undefined {
    return this.newest
  }

  /** What a driver writes for a Ready. */
  persist({ snapshot, entries }: Pick<Ready, 'snapshot' | 'entries'>): void {
    if (snapshot !== undefined) {
      this.#entries = []
      this.#baseIndex = snapshot.index
      this.#baseTerm = snapshot.term
      this.newest = snapshot
    }
    const first = entries[0]
    if (first === undefined) return
    assert(first.index >= this.firstIndex && first.index <= this.lastIndex + 1, 'no gap')
    this.#entries.length = first.index - this.firstIndex
    for (const entry of entries) this.#entries.push(entry)
  }

  /** Drops the entries up to `index`, whose term stays known. */
  compact(index: number): void {
    const term = this.term(index)
    assert(term !== undefined && index >= this.#baseIndex, 'only what is held is dropped')
    this.#entries.splice(0, index - this.#baseIndex)
    this.#baseIndex = index
    this.#baseTerm = term
  }
}
