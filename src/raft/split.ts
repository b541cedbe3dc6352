import type { Entry } from './types.ts'

const none: readonly never[] = []

/** Those up to `index`, and those behind it. They are consecutive. */
export function splitAt<E extends Entry>(
  entries: readonly E[],
  index: number,
): readonly [early: readonly E[], late: readonly E[]] {
  const count = index + 1 - (entries[0]?.index ?? index + 1)
  if (count >= entries.length) return [entries, none]
  return count <= 0 ? [none, entries] : [entries.slice(0, count), entries.slice(count)]
}
