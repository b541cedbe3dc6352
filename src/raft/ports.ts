/**
 * What the driver needs of the world: a log, a state machine, a network, time. Everything is
 * synchronous or ends in a callback, so that a simulation can decide what happens when.
 */
import type { ConfState, Entry, HardState, Message, NodeId } from './types.ts'

/** Who this member is; never changes within a data directory. */
export interface Identity {
  readonly clusterId: string
  readonly nodeId: NodeId
  /** Of the data directory: tells a restarted node from one that was wiped. */
  readonly uuid: string
}

/** One transaction on the log: all of it or nothing is on the disk. */
export interface LogWrite {
  /** Consecutive; the first replaces everything at or after its index. */
  readonly entries: readonly Entry[]
  readonly hardState: HardState
  /** Entries up to this index are no longer needed: they leave with this write or later. */
  readonly dropThrough: number
  /** The log begins anew behind this point, before `entries`: a snapshot takes its place. */
  readonly reset?: LogReset | undefined
  /** The snapshot of an earlier `reset` is installed: forget `installing`. */
  readonly isInstalled?: boolean
}

export interface LogReset {
  readonly index: number
  readonly term: number
  /** Name of the snapshot that lies ready; remembered as `installing` until `isInstalled`. */
  readonly data: string
}

export interface LogStore {
  readonly identity: Identity
  readonly hardState: HardState
  /**
   * `lastIndex + 1` when the log is empty. The term of `firstIndex - 1` stays known. Rises in any
   * turn, as far as a write that is done allowed with `dropThrough`.
   */
  readonly firstIndex: number
  readonly lastIndex: number
  /** A snapshot that replaced the log and may not be installed yet; `''` for none. */
  readonly installing: string
  /** Of `firstIndex - 1` to `lastIndex`, else undefined. */
  term(index: number): number | undefined
  /**
   * Entries from `fromIndex` on, at most `bytesMax` of them but at least one. Throws `StartError`
   * at a record that is missing or does not have its checksum.
   */
  read(fromIndex: number, bytesMax: number): Entry[]
  /**
   * `done` is called in a later turn, when all of it is on the disk; until then the log is read as
   * it was. With `FndError` `disk-full`:
   * nothing of it was kept, now or later. With any other error the outcome is unknown and the log
   * is closed for good, since after a failed fsync a later one may falsely succeed. One write at a
   * time.
   */
  write(write: LogWrite, done: (error: Error | undefined) => void): void
  /**
   * Whether there is room for more than what members must be able to write at any time. A leader
   * asks before it logs a proposal; followers write into the reserve.
   */
  hasRoom(): boolean
  close(): Promise<void>
}

export interface CommittedEntry extends Entry {
  /** Of a `conf*` entry: the configuration that it led to. */
  readonly confState?: ConfState
}

/**
 * The state machine under the log. `apply` is synchronous and deterministic. Its effect, the index
 * and the configuration are kept in one transaction, so that no entry is applied twice. Whoever
 * reads in this process sees the effect at once; `settle` ends the transaction. A process that is
 * killed loses what it applied since, and its next start applies that from the log.
 */
export interface StateMachine {
  /** Index and term of the last entry that was applied. Zero when nothing was. */
  readonly appliedIndex: number
  readonly appliedTerm: number
  /** As of `appliedIndex`. */
  readonly confState: ConfState
  /**
   * Applies consecutive committed entries; returns one opaque result for each, in order. Entries
   * that are empty or `conf*` have the result undefined. Throws `FndError` when nothing was applied
   * and the same call may succeed later: `write-overload` when somebody else writes, mostly for
   * some milliseconds, `disk-full`. Throws anything else only for faults of the disk or bugs: then
   * the process must end.
   */
  apply(entries: readonly CommittedEntry[]): readonly unknown[]
  /**
   * Makes what was applied survive the end of the process. Throws `FndError` `disk-full` or
   * `write-overload` when that cannot be done just now: nothing applied is undone, and the call may
   * be repeated. Throws anything else when the process must end.
   */
  settle(): void
  /**
   * Settles, and makes what is settled survive a power loss, so that the log may be truncated:
   * `done` with the index that survives, in a later turn; it is that of an earlier settling when
   * there is no room now. Meanwhile more may be applied. With an error the process must end.
   */
  flush(done: (error: Error | undefined, durableIndex: number) => void): void
  /**
   * Takes the place of the current state with the received snapshot of this name; `done` in a later
   * turn, and until then nothing is applied. Idempotent: a start repeats it when it does not know
   * whether it was done. With an error the process must end.
   */
  install(data: string, done: (error: Error | undefined) => void): void
}

export interface Network {
  /** Sends what it can and drops the rest: raft repeats what matters. Never `MsgSnap`. */
  send(messages: readonly Message[]): void
  /**
   * Builds a snapshot of the state machine at `message.snapshot.index` or later, and brings it to
   * `message.to`, which then steps its `MsgSnap`. `done` tells whether that worked. One at a time
   * for each node; a second is refused by `done(false)`.
   */
  sendSnapshot(message: Message, done: (isOk: boolean) => void): void
}

/** Time and turns of the event loop. */
export interface Scheduler {
  /** Never going back. */
  monotonicMs(): number
  /** In a later turn, after input that is waiting. */
  soon(run: () => void): void
  /** Returns how to cancel it. */
  after(delayMs: number, run: () => void): () => void
}
