/**
 * The leader hands leadership over. Changes are refused meanwhile, so a voter that does not take it
 * soon, because its disk or its way to it stands still just now, is left for another.
 */
import { FndError } from '../errors.ts'
import type { CoreStatus, NodeId } from '../raft/types.ts'

export interface HandOver {
  readonly raft: {
    status(): CoreStatus
    transfer(to: NodeId): void
  }
  readonly nodeId: NodeId
  /** Whom to ask first. */
  readonly to: NodeId
  /** Who may take it as well, the best one first. */
  readonly others: () => readonly NodeId[]
  readonly electionTimeoutMs: number
  readonly monotonicMs: () => number
}

/** Part of an election timeout: some round trips and flushes, as nobody has to be waited for. */
const patience = 1 / 8
const lookEveryMs = 5

/** Resolves with who leads then. Rejects with `transfer-failed` after four election timeouts. */
export async function handOver(parts: HandOver): Promise<NodeId> {
  const { raft, nodeId, others, electionTimeoutMs, monotonicMs } = parts
  const startedMs = monotonicMs()
  const asked: NodeId[] = [parts.to]
  for (;;) {
    const { lead } = raft.status()
    if (lead !== 0 && lead !== nodeId) return lead
    const waitedMs = monotonicMs() - startedMs
    if (waitedMs > 4 * electionTimeoutMs) throw new FndError('transfer-failed')
    if (waitedMs > asked.length * patience * electionTimeoutMs) asked.push(next(asked, others()))
    // Again and again: the core gives it up where the other does not catch up in time.
    raft.transfer(asked.at(-1) as NodeId)
    await Bun.sleep(lookEveryMs)
  }
}

/** Who was not asked yet, or else the longest ago; the same again where there is no other. */
function next(asked: readonly NodeId[], others: readonly NodeId[]): NodeId {
  const lastAsked = (id: NodeId) => asked.lastIndexOf(id)
  const [first] = others.toSorted((a, b) => lastAsked(a) - lastAsked(b))
  return first ?? (asked.at(-1) as NodeId)
}
