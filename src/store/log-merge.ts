/** Which entries at the end of the log the next write takes into its own segment. Pure. */
import type { Entry } from '../raft/types.ts'

export interface Span {
  readonly first: number
  readonly last: number
}

/** That many short segments at the end of the log are merged by the next write. */
export const mergeCount = 32
const shortEntriesMax = 8
const mergedBytesMax = 64 * 1024

/**
 * The entries of the last `mergeCount` segments, when all of these are short and still in memory,
 * else none. `recent` are the newest entries of the log.
 */
export function mergeable(segments: readonly Span[], recent: readonly Entry[]): readonly Entry[] {
  const first = segments[segments.length - mergeCount]?.first ?? 0
  const recentFirst = recent[0]?.index ?? Number.POSITIVE_INFINITY
  if (first < recentFirst) return []
  const isShort = ({ first, last }: Span) => last - first < shortEntriesMax
  if (!segments.slice(-mergeCount).every(isShort)) return []
  const entries = recent.slice(first - recentFirst)
  const bytes = entries.reduce((sum, entry) => sum + entry.bytes.length, 0)
  return bytes > mergedBytesMax ? [] : entries
}
