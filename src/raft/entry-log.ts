import type { CommittedEntry } from './replicator.ts'

/** What a member must not forget; rewritten with every append. */
export interface HardState {
  readonly term: number
  /** The node this member voted for in `term`. */
  readonly vote: string
  readonly commitIndex: number
  readonly clusterId: string
  readonly nodeId: string
}

export interface Append {
  /** Consecutive, starting right after the last entry of the log. */
  readonly entries: readonly CommittedEntry[]
  readonly hardState: HardState
  /** Entries up to this index are no longer needed; some of them leave in the same transaction. */
  readonly dropThrough: number
}

/** A log on disk as a member needs it. The log keeps at least its last entry. */
export interface EntryLog {
  readonly hardState: HardState
  /** `lastIndex + 1` when the log was never written. */
  readonly firstIndex: number
  /** Zero when the log was never written. */
  readonly lastIndex: number
  /**
   * Entries from `fromIndex` on, at most `bytesMax` of them but at least one. Throws `StartError`
   * at a record that is missing or does not have its checksum.
   */
  read(fromIndex: number, bytesMax: number): CommittedEntry[]
  /**
   * Resolves when all of it is on the disk. Rejects with `FndError` `disk-full` when nothing of it
   * was kept, now or later; with any other error the outcome is unknown and the log is closed for
   * good, since after a failed fsync a later one may falsely succeed.
   */
  append(append: Append): Promise<void>
  close(): Promise<void>
}
