import { statfsSync } from 'node:fs'

/** What a filesystem has for us, in bytes. */
export function freeBytesOf(dir: string): number {
  const { bavail, bsize } = statfsSync(dir)
  return bavail * bsize
}

/**
 * Whether the filesystem has room, without asking it at every write: that would be some percent of
 * what a write takes of the event loop.
 *
 * Where there was room, this is not asked again for `lookMs`, unless what the log took meanwhile
 * may have come to `spentShare` of `freeBytesMin`, the state's part included. So this node by
 * itself uses no more than that of its reserve unseen, which is little beside what the reserve is
 * for. Others may fill the disk within that time; they may do so as well between a look and the
 * write behind it, and then LMDB and SQLite refuse, of which nothing is lost. Where there was no
 * room, every question is a look: a node goes on as soon as there is.
 */
const lookMs = 100
const spentShare = 16
/**
 * What an entry comes to on the disk besides its own bytes, at the most that is usual: pages of the
 * log, and in SQLite's WAL each page of table or index that its effect touches.
 */
const entryBytes = 64 * 1024

export class Room {
  readonly #freeBytesMin: number
  readonly #look: () => number
  #freeBytes = 0
  #spentBytes = 0
  #lookedMs = Number.NEGATIVE_INFINITY

  /** `look` asks the filesystem how many bytes are free. */
  constructor(freeBytesMin: number, look: () => number) {
    this.#freeBytesMin = freeBytesMin
    this.#look = look
  }

  has(bytes: number, nowMs: number): boolean {
    const isFresh =
      nowMs - this.#lookedMs < lookMs && this.#spentBytes < this.#freeBytesMin / spentShare
    if (isFresh && this.#freeBytes - this.#spentBytes >= bytes) return true
    return this.look(nowMs) >= bytes
  }

  /** Bytes that are free by the filesystem's own word. */
  look(nowMs: number): number {
    this.#freeBytes = this.#look()
    this.#spentBytes = 0
    this.#lookedMs = nowMs
    return this.#freeBytes
  }

  /** So many entries, of so many bytes together, are about to be written. */
  spend(entries: number, bytes: number): void {
    // Their bytes are in the log, and then in the state.
    this.#spentBytes += 2 * bytes + entries * entryBytes
  }
}
