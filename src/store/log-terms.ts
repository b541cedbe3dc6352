/**
 * The terms of consecutive entries, as runs: a log has few of them, and `term` is asked all the
 * time.
 */
export class Terms {
  /** Where each run begins, ascending. A run ends where the next begins. */
  readonly #starts: number[] = []
  readonly #terms: number[] = []

  /** The term of an entry at or after the first that was pushed. */
  at(index: number): number | undefined {
    return this.#terms[this.#runOf(index)]
  }

  /** Entries from `index` on have this term. `index` is above all that was pushed before. */
  push(index: number, term: number): void {
    if (this.#terms.at(-1) === term) return
    this.#starts.push(index)
    this.#terms.push(term)
  }

  /** Forgets the entries at `index` and above. */
  cutFrom(index: number): void {
    const count = this.#runOf(index - 1) + 1
    this.#starts.length = count
    this.#terms.length = count
  }

  /** Forgets whole runs below `index`. */
  dropBelow(index: number): void {
    const run = this.#runOf(index)
    if (run <= 0) return
    this.#starts.splice(0, run)
    this.#terms.splice(0, run)
  }

  /** The last run that begins at `index` or before; -1 for none. */
  #runOf(index: number): number {
    let low = 0
    let high = this.#starts.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#starts[middle] ?? 0) <= index) low = middle + 1
      else high = middle
    }
    return low - 1
  }
}
