/**
 * What the rest of fnd knows of replication: bytes go in, and come out applied, in one order, on
 * every member. A group of one member (`single.ts`) keeps the same promises as a larger one.
 */

/**
 * The state machine under the log. `apply` is synchronous and deterministic, and makes its effect
 * and `index` durable in one transaction, so that no entry is ever applied twice.
 */
export interface StateMachine {
  /** Index of the last entry whose effect is stored. Zero when nothing was applied. */
  readonly appliedIndex: number
  /**
   * Applies consecutive committed entries; returns one opaque result for each, in order. Throws
   * `FndError` `disk-full` or `write-overload` when nothing was applied and the same call may
   * succeed later. Throws anything else only for faults of the disk or bugs: then the process must
   * end.
   */
  apply(entries: readonly CommittedEntry[]): readonly unknown[]
  /** Makes everything applied so far survive a power loss, so that the log may be truncated. */
  flush(): void
}

export interface CommittedEntry {
  /** Starts at 1, without gaps. */
  readonly index: number
  readonly term: number
  readonly bytes: Uint8Array
}

export interface Replicator extends AsyncDisposable {
  /**
   * Resolves with the state machine's result once the entry is durable on a majority and applied
   * here. Rejects with `FndError` when the change was refused before it was logged
   * (`write-overload`, `disk-full`, `shutting-down`): then it has no effect, now or later.
   */
  propose(bytes: Uint8Array): Promise<unknown>
  status(): ReplicatorStatus
}

export interface ReplicatorStatus {
  readonly role: 'leader'
  readonly term: number
  readonly lastIndex: number
  readonly commitIndex: number
  readonly appliedIndex: number
}
