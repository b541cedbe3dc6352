/**
 * What the log needs of the disk. Everything is synchronous or ends in a callback, so that a
 * simulation can decide what happens when (test/sim).
 */
import type { FndError } from '../errors.ts'
import type { LogKey } from './log-records.ts'

/** Records under their keys, which change together: LMDB (log-lmdb.ts). */
export interface LogRecords {
  /** Throws `StartError` when it cannot be read. */
  get(key: LogKey): Uint8Array | undefined
  /** Keys of all segments, ascending. Throws `StartError` when they cannot be read. */
  segmentKeys(): Iterable<readonly [first: number, last: number]>
  /**
   * One transaction. `done` is called in a later turn, when it is on the disk; until then records
   * are read as they were. With `FndError` `disk-full` nothing of it was kept, with any other
   * nothing may be written any more. One at a time.
   */
  write(change: RecordChange, done: (error: FndError | undefined) => void): void
  /** Not during a write. */
  close(): Promise<void>
}

export interface RecordChange {
  readonly removed: readonly LogKey[]
  readonly put: readonly (readonly [LogKey, Uint8Array])[]
}

/** The two files of the journal, which have their size already (journal-files.ts). */
export interface JournalFiles {
  /** Of each. */
  readonly fileBytes: number
  /** All bytes of each. Throws `StartError`. */
  read(): readonly Uint8Array[]
  /** Memory that `write` can write from. */
  memory(length: number): Uint8Array
  /**
   * Whole sectors, at this offset in bytes. `done` is called in a later turn, when they are on the
   * disk. After an error what follows on the disk is not known. One at a time.
   */
  write(file: 0 | 1, sectors: Uint8Array, at: number, done: Written): void
  /** What can be read is on the disk from then on. */
  flush(): void
  /** Not during a write. */
  close(): void
}

export type Written = (error: Error | undefined) => void
