import { FndError } from '../errors.ts'
import type { NodeId } from '../raft/types.ts'
import type { Command, Outcome } from '../store/commands.ts'
import type { Node } from '../store/objects.ts'

/** What this node says of itself. */
type Own = Pick<Node, 'uuid' | 'name' | 'apiUrl' | 'version' | 'commandVersion' | 'peerAddress'>

interface Rows {
  node(id: NodeId): Node | undefined
  nextNodeId(): number
  propose(command: Command): Promise<Outcome>
}

const retryMs = 500

/** Keeps this node's own row true: where it is, and what it understands. */
export class Announcer {
  readonly #nodeId: NodeId
  readonly #rows: Rows
  readonly #isVoter: () => boolean
  #timer: Timer | undefined
  #isStopped = false

  /** `isVoter`: by the configuration that is applied here. */
  constructor(nodeId: NodeId, rows: Rows, isVoter: () => boolean) {
    this.#nodeId = nodeId
    this.#rows = rows
    this.#isVoter = isVoter
  }

  /** Tries until the row says so. */
  announce(own: Own): void {
    void this.#step(own)
  }

  stop(): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
  }

  async #step(own: Own): Promise<void> {
    if (this.#isStopped || this.#isTold(own)) return
    try {
      await this.#rows.propose({ type: 'node.join', ...own, id: this.#nodeId, atMs: Date.now() })
    } catch (error) {
      // Again, until there is a leader that takes it.
      if (!(error instanceof FndError)) throw error
      this.#timer = setTimeout(() => void this.#step(own), retryMs)
    }
  }

  #isTold(own: Own): boolean {
    const row = this.#rows.node(this.#nodeId)
    // Whoever was removed does not come back by this; who votes without a row was recovered or
    // restored, as the first node of another cluster.
    if (row === undefined) return this.#nodeId < this.#rows.nextNodeId() && !this.#isVoter()
    return Object.entries(own).every(([key, value]) => row[key as keyof Node] === value)
  }
}
