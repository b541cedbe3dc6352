import type { Entry } from '../raft/types.ts'

const bytesMax = 1024 * 1024
/** What an entry takes besides its bytes, roughly. */
const entryBytes = 100

/** The newest entries of the log, in memory: they are read at once, to be sent and applied. */
export class Recent {
  readonly #entries: Entry[] = []
  #bytes = 0

  /** Consecutive; the last is that of the log. */
  get entries(): readonly Entry[] {
    return this.#entries
  }

  /** `Infinity` when there are none. */
  get firstIndex(): number {
    return this.#entries[0]?.index ?? Infinity
  }

  /** Replaces what is at or after the first of `added`, and forgets what is below `logFirst`. */
  put(added: readonly Entry[], logFirst: number): void {
    const entries = this.#entries
    const first = added[0]?.index ?? Infinity
    let cut = entries.length
    while (cut > 0 && (entries[cut - 1]?.index ?? 0) >= first) cut -= 1
    if (cut < entries.length) {
      for (const { bytes } of entries.splice(cut)) this.#bytes -= bytes.length + entryBytes
    }
    for (const entry of added) {
      entries.push(entry)
      this.#bytes += entry.bytes.length + entryBytes
    }
    let leaving = 0
    while (this.#bytes > bytesMax || (entries[leaving]?.index ?? Infinity) < logFirst) {
      this.#bytes -= (entries[leaving]?.bytes.length ?? 0) + entryBytes
      leaving += 1
    }
    if (leaving > 0) entries.splice(0, leaving)
  }

  clear(): void {
    this.#entries.length = 0
    this.#bytes = 0
  }
}
