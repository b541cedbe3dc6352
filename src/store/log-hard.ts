/** Which of two hard states of one member is the later one. */
import type { HardState } from '../raft/types.ts'

/** Whether a member at `before` may come to `after`: raft undoes no term, no commit and no vote. */
export function follows(after: HardState, before: HardState): boolean {
  if (after.term < before.term || after.commit < before.commit) return false
  return after.term > before.term || after.vote === before.vote || before.vote === 0
}

/**
 * Undefined where neither may follow the other, so that they are not two states of one member. Two
 * that may follow each other are equal.
 */
export function laterOf(one: HardState, other: HardState): HardState | undefined {
  if (follows(one, other)) return one
  return follows(other, one) ? other : undefined
}
