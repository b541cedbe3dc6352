import type { NodeId } from '../raft/types.ts'
import type { Node } from '../store/objects.ts'

interface Rows {
  readonly state: {
    nodes(): readonly Node[]
    node(id: NodeId): Node | undefined
    /** A node without a row whose id is below this was removed. */
    nextNodeId(): number
  }
  onNodes(listener: () => void): void
}

interface Listener {
  setMembers(members: readonly { readonly id: NodeId; readonly address: string }[]): void
}

/** Who the other nodes are: by the rows, and by what nodes say before their rows are here. */
export class Roll {
  readonly #rows: Rows
  readonly #told = new Map<NodeId, string>()
  #peers: Listener | undefined

  /** `given`: what a node that has just joined was told. */
  constructor(rows: Rows, given: readonly Node[]) {
    this.#rows = rows
    for (const { id, peerAddress } of given) this.#told.set(id, peerAddress)
    rows.onNodes(() => this.#refresh())
  }

  tell(peers: Listener): void {
    this.#peers = peers
    this.#refresh()
  }

  /** A member said hello. */
  met(id: NodeId, address: string): void {
    if (this.#told.get(id) === address || this.#rows.state.node(id) !== undefined) return
    this.#told.set(id, address)
    this.#refresh()
  }

  isRemoved(id: NodeId): boolean {
    return id < this.#rows.state.nextNodeId() && this.#rows.state.node(id) === undefined
  }

  #refresh(): void {
    const members = new Map<NodeId, string>()
    for (const [id, address] of this.#told) if (!this.isRemoved(id)) members.set(id, address)
    for (const { id, peerAddress } of this.#rows.state.nodes()) members.set(id, peerAddress)
    this.#peers?.setMembers([...members].map(([id, address]) => ({ id, address })))
  }
}
