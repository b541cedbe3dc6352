/** Looks at the connections to other nodes now and then, for the log and the metrics. */
import type { Logger } from '../log.ts'
import type { NodeId } from '../raft/types.ts'
import type { PeerState } from './types.ts'

/** Why there is no connection, where that is known. */
type Seen = PeerState & { readonly problem?: string | undefined }

export interface PeerWatchParts {
  readonly states: () => readonly Seen[]
  readonly log: Logger
  /** A round trip that was not told before. */
  readonly rtt: (peer: NodeId, ms: number) => void
  /** The node is a peer no more. */
  readonly forget: (peer: NodeId) => void
}

export class PeerWatch {
  readonly #parts: PeerWatchParts
  #known = new Map<NodeId, Seen>()

  constructor(parts: PeerWatchParts) {
    this.#parts = parts
  }

  /** To be called about as often as peers are pinged, and whenever something happened. */
  look(): void {
    const { states, rtt, forget } = this.#parts
    const seen = new Map(states().map(state => [state.id, state]))
    for (const [id, state] of seen) {
      const before = this.#known.get(id)
      // A float: two round trips never take exactly as long.
      if (state.rttMs !== undefined && state.rttMs !== before?.rttMs) rtt(id, state.rttMs)
      if (state.isConnected !== (before?.isConnected ?? false)) this.#tell(state)
    }
    for (const id of this.#known.keys()) if (!seen.has(id)) forget(id)
    this.#known = seen
  }

  #tell({ id, address, isConnected, problem }: Seen): void {
    const { log } = this.#parts
    const why = problem === undefined ? {} : { why: problem }
    if (isConnected) log.info({ node: id, address }, 'connected to a node')
    else log.warn({ node: id, address, ...why }, 'lost the connection to a node')
  }
}
