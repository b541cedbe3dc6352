/**
 * Readers that follow the output of a function as it comes. Each has a bounded buffer: a reader
 * slower than the function loses the oldest lines it has not read, and is told how many.
 */
import { FndError } from '../errors.ts'
import type { LogLine } from './call-log.ts'

/**
 * Gets lines in order, in batches. While the promise it returned is pending nothing more is handed
 * to it. It must not throw or reject.
 */
export type LogListener = (lines: readonly LogLine[]) => void | Promise<void>

const bufferedLinesMax = 1000
const bufferedBytesMax = 256 * 1024
const followersMax = 64

class Follower {
  readonly #listener: LogListener
  #lines: LogLine[] = []
  #bytes = 0
  #droppedLines = 0
  #isDelivering = false
  #isClosed = false

  constructor(listener: LogListener) {
    this.#listener = listener
  }

  add(line: LogLine): void {
    this.#lines.push(line)
    this.#bytes += line.text.length
    let excess = 0
    while (this.#lines.length - excess > bufferedLinesMax || this.#bytes > bufferedBytesMax) {
      this.#bytes -= this.#lines[excess]?.text.length ?? 0
      excess += 1
    }
    // Halving once, not shifting for each line, keeps the cost of a slow reader constant.
    if (excess > 0) {
      excess = Math.max(excess, this.#lines.length >>> 1)
      this.#lines.splice(0, excess)
      this.#bytes = this.#lines.reduce((sum, kept) => sum + kept.text.length, 0)
      this.#droppedLines += excess
    }
    if (!this.#isDelivering) {
      this.#isDelivering = true
      // The lines of one chunk come in one turn: they make one batch.
      queueMicrotask(() => void this.#deliver())
    }
  }

  close(): void {
    this.#isClosed = true
    this.#lines = []
    this.#bytes = 0
  }

  async #deliver(): Promise<void> {
    while (!this.#isClosed && this.#lines.length > 0) {
      const lines = this.#take()
      await this.#listener(lines)
    }
    this.#isDelivering = false
  }

  #take(): LogLine[] {
    const lines = this.#lines
    this.#lines = []
    this.#bytes = 0
    const first = lines[0]
    if (this.#droppedLines > 0 && first !== undefined) {
      const text = `----- ${this.#droppedLines} lines were dropped: this reader is too slow -----`
      lines.unshift({ ...first, stream: 'stderr', text })
      this.#droppedLines = 0
    }
    return lines
  }
}

export class Followers {
  readonly #byFn = new Map<string, Set<Follower>>()
  #count = 0

  get count(): number {
    return this.#count
  }

  has(fnId: string): boolean {
    return this.#byFn.has(fnId)
  }

  publish(line: LogLine): void {
    const followers = this.#byFn.get(line.fnId)
    if (followers === undefined) return
    for (const follower of followers) follower.add(line)
  }

  /** Returns what ends it; ending it twice is allowed. */
  add(fnId: string, listener: LogListener): () => void {
    if (this.#count >= followersMax) {
      throw new FndError('too-many-followers', { detail: `at most ${followersMax} at a time` })
    }
    const follower = new Follower(listener)
    const followers = this.#byFn.get(fnId) ?? new Set()
    followers.add(follower)
    this.#byFn.set(fnId, followers)
    this.#count += 1
    return () => {
      follower.close()
      if (!followers.delete(follower)) return
      this.#count -= 1
      // Another set may stand there already if this one emptied before.
      if (followers.size === 0 && this.#byFn.get(fnId) === followers) this.#byFn.delete(fnId)
    }
  }
}
