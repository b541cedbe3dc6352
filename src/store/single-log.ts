import type { Append, EntryLog, HardState } from '../raft/entry-log.ts'
import type { LogStore } from '../raft/ports.ts'
import type { CommittedEntry } from '../raft/replicator.ts'

/** The log of several members as that of a member who is alone, whose term never changes. */
export class SingleLog implements EntryLog {
  readonly #log: LogStore

  constructor(log: LogStore) {
    this.#log = log
  }

  get hardState(): HardState {
    const { hardState, identity, lastIndex } = this.#log
    const { clusterId, uuid } = identity
    const term = Math.max(1, hardState.term)
    return { term, vote: uuid, commitIndex: lastIndex, clusterId, nodeId: uuid }
  }

  get firstIndex(): number {
    return this.#log.firstIndex
  }

  get lastIndex(): number {
    return this.#log.lastIndex
  }

  read(fromIndex: number, bytesMax: number): CommittedEntry[] {
    return this.#log.read(fromIndex, bytesMax)
  }

  append({ entries, hardState, dropThrough }: Append): Promise<void> {
    return new Promise((resolve, reject) => {
      const { term, commitIndex: commit } = hardState
      const written = entries.map(entry => ({ kind: 'normal' as const, ...entry }))
      const state = { term, vote: this.#log.identity.nodeId, commit }
      this.#log.write({ entries: written, hardState: state, dropThrough }, error => {
        if (error === undefined) resolve()
        else reject(error)
      })
    })
  }

  close(): Promise<void> {
    return this.#log.close()
  }
}
