import { assert } from '../errors.ts'
import type { LogStore } from './ports.ts'
import type { Entry, LogReader, Snapshot } from './types.ts'

/**
 * The stable log as the core reads it: the newest entries in memory, since those are what followers
 * ask for, and the rest from the disk. It learns of entries only when they are on the disk.
 */
export class LogCache implements LogReader {
  readonly #log: LogStore
  readonly #bytesMax: number
  readonly #newestSnapshot: () => Snapshot | undefined
  /** Consecutive; ends with the last entry of the log. May be empty although the log is not. */
  #entries: Entry[] = []
  #bytes = 0

  constructor(log: LogStore, bytesMax: number, newestSnapshot: () => Snapshot | undefined) {
    this.#log = log
    this.#bytesMax = bytesMax
    this.#newestSnapshot = newestSnapshot
  }

  get firstIndex(): number {
    return this.#log.firstIndex
  }

  get lastIndex(): number {
    return this.#log.lastIndex
  }

  term(index: number): number | undefined {
    return this.#cached(index)?.term ?? this.#log.term(index)
  }

  entries(fromIndex: number, endIndex: number, bytesMax: number): readonly Entry[] {
    assert(fromIndex >= this.#log.firstIndex, 'entries before the first were truncated')
    assert(endIndex <= this.#log.lastIndex + 1, 'entries beyond the last are not stable')
    const first = this.#entries[0]
    if (first === undefined || fromIndex < first.index) {
      const found = this.#log.read(fromIndex, bytesMax)
      const excess = fromIndex + found.length - endIndex
      return excess > 0 ? found.slice(0, -excess) : found
    }
    const start = fromIndex - first.index
    let end = start
    let bytes = 0
    for (; end < endIndex - first.index; end++) {
      bytes += this.#entries[end]?.bytes.length ?? 0
      if (bytes > bytesMax && end > start) break
    }
    return this.#entries.slice(start, end)
  }

  snapshot(): Snapshot | undefined {
    return this.#newestSnapshot()
  }

  /** These are on the disk; the first took the place of everything at or after its index. */
  appended(entries: readonly Entry[]): void {
    const [first] = entries
    if (first === undefined) return
    this.#dropFrom(first.index)
    for (const entry of entries) {
      this.#entries.push(entry)
      this.#bytes += entry.bytes.length
    }
    // By halves, so that a drop costs little for each entry.
    if (this.#bytes > this.#bytesMax) this.#dropOldest(this.#bytesMax / 2)
  }

  /** A snapshot took the place of the log. */
  reset(): void {
    this.#entries = []
    this.#bytes = 0
  }

  #cached(index: number): Entry | undefined {
    const first = this.#entries[0]
    return first === undefined ? undefined : this.#entries[index - first.index]
  }

  #dropFrom(index: number): void {
    const first = this.#entries[0]
    if (first === undefined || index >= first.index + this.#entries.length) return
    if (index < first.index) return this.reset()
    for (const entry of this.#entries.splice(index - first.index)) {
      this.#bytes -= entry.bytes.length
    }
  }

  #dropOldest(bytesMax: number): void {
    let count = 0
    while (this.#bytes > bytesMax && count < this.#entries.length) {
      this.#bytes -= this.#entries[count]?.bytes.length ?? 0
      count += 1
    }
    this.#entries.splice(0, count)
  }
}
