/**
 * Linear reads (thesis §6.4): first the index that leadership was confirmed at, then the wait until
 * it is applied here. All reads of a turn share one question to the core.
 */
export type ReadDone = (isConfirmed: boolean) => void

interface Waiting {
  readonly index: number
  readonly done: ReadDone
}

export class Reads {
  /** Not asked yet. */
  #fresh: ReadDone[] = []
  readonly #asked = new Map<number, readonly ReadDone[]>()
  /** Confirmed, or waiting for an index anyway. */
  #waiting: Waiting[] = []

  get hasFresh(): boolean {
    return this.#fresh.length > 0
  }

  add(done: ReadDone): void {
    this.#fresh.push(done)
  }

  /** `read`: the core's number for them, or undefined when it knows no leader. */
  asked(read: number | undefined): void {
    const dones = this.#fresh
    this.#fresh = []
    if (read === undefined) for (const done of dones) done(false)
    else this.#asked.set(read, dones)
  }

  /** `index` undefined: leadership was lost before it was confirmed. */
  answered(read: number, index: number | undefined, appliedIndex: number): void {
    const dones = this.#asked.get(read) ?? []
    this.#asked.delete(read)
    for (const done of dones) {
      if (index === undefined) done(false)
      else this.waitFor(index, appliedIndex, done)
    }
  }

  waitFor(index: number, appliedIndex: number, done: ReadDone): void {
    if (index <= appliedIndex) done(true)
    else this.#waiting.push({ index, done })
  }

  applied(appliedIndex: number): void {
    if (this.#waiting.length > 0) this.#release(appliedIndex)
  }

  #release(appliedIndex: number): void {
    const reached = this.#waiting.filter(({ index }) => index <= appliedIndex)
    if (reached.length === 0) return
    this.#waiting = this.#waiting.filter(({ index }) => index > appliedIndex)
    for (const { done } of reached) done(true)
  }

  endAll(): void {
    const dones = [...this.#fresh, ...[...this.#asked.values()].flat()]
    const waiting = this.#waiting
    this.#fresh = []
    this.#asked.clear()
    this.#waiting = []
    for (const done of dones) done(false)
    for (const { done } of waiting) done(false)
  }
}
