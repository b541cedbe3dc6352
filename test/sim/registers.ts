/**
 * Keys that hold a text each, as a single copy would; and a second, cheap check of the same
 * histories that needs no search: every written value is unique, so that the values that were
 * replaced tell the order of the writes.
 */
import { checkHistory, type Model, type Operation, type Verdict } from './linearizability.ts'

/** `''` is the value of a key that was never written. */
export type RegisterInput =
  | { readonly kind: 'read'; readonly key: string }
  | { readonly kind: 'write'; readonly key: string; readonly value: string }
  /** Writes only if the value is the expected one. */
  | {
      readonly kind: 'swap'
      readonly key: string
      readonly expected: string
      readonly value: string
    }

/**
 * The value that was there just before. A write may have none to tell (`undefined`); a swap is
 * done exactly if it was the expected one.
 */
export interface RegisterOutput {
  readonly before: string | undefined
}

export type RegisterOperation = Operation<RegisterInput, RegisterOutput>

const register: Model<string, RegisterInput, RegisterOutput> = {
  initial: '',
  keyOf: input => input.key,
  step(state, input, output) {
    if (output?.before !== undefined && output.before !== state) return undefined
    if (input.kind === 'read') return state
    return input.kind === 'swap' && input.expected !== state ? state : input.value
  },
  textOf: state => state,
}

/**
 * Written values must be unique within a key. Unknown reads change nothing; nor do unknown writes
 * whose value nobody saw, since they can stand at the very end: without them the search is short.
 * That needs that no swap has an answer without `before`.
 */
export function checkRegisters(
  history: readonly RegisterOperation[],
): Verdict<RegisterInput, RegisterOutput> {
  const seen = new Set<string>()
  for (const { input, output } of history) {
    if (output?.before !== undefined) seen.add(`${input.key} ${output.before}`)
    if (input.kind === 'swap') seen.add(`${input.key} ${input.expected}`)
  }
  const isWanted = ({ input, output }: RegisterOperation) =>
    output !== undefined || (input.kind !== 'read' && seen.has(`${input.key} ${input.value}`))
  return checkHistory(register, history.filter(isWanted))
}

/**
 * Faults of the chains of predecessors, each a sentence. Exact where every write is answered with
 * the value before it, blind where it is not; takes linear time.
 */
export function chainFaults(history: readonly RegisterOperation[]): string[] {
  const byKey = Map.groupBy(history, operation => operation.input.key)
  return [...byKey].flatMap(([key, operations]) => chainFaultsOf(key, operations))
}

interface Written {
  readonly value: string
  /** Unknown writes have no end. */
  readonly invokedAt: number
  readonly returnedAt: number
}

function chainFaultsOf(key: string, operations: readonly RegisterOperation[]): string[] {
  const faults: string[] = []
  const writes = new Map<string, Written>([['', { value: '', invokedAt: -1, returnedAt: -1 }]])
  /** Value → the write that replaced it. */
  const successors = new Map<string, Written>()
  for (const { input, output, invokedAt, returnedAt } of operations) {
    if (input.kind === 'read') continue
    const end = output === undefined ? Number.POSITIVE_INFINITY : returnedAt
    const written = { value: input.value, invokedAt, returnedAt: end }
    const isRefused = input.kind === 'swap' && output && output.before !== input.expected
    if (isRefused) continue
    if (writes.has(input.value)) faults.push(`${key}: ${input.value} was written twice`)
    writes.set(input.value, written)
    if (output?.before === undefined) continue
    const other = successors.get(output.before)
    if (other !== undefined) {
      faults.push(`${key}: ${other.value} and ${input.value} both replaced '${output.before}'`)
    }
    successors.set(output.before, written)
  }
  for (const { input, output, invokedAt, returnedAt } of operations) {
    const before = output?.before
    if (before === undefined) continue
    const what = input.kind === 'read' ? 'a read' : input.value
    const origin = writes.get(before)
    if (origin === undefined) {
      faults.push(`${key}: ${what} saw '${before}', which nobody wrote`)
    } else if (origin.invokedAt > returnedAt) {
      faults.push(`${key}: ${what} saw '${before}' at ${returnedAt}, before it was written`)
    }
    const successor = successors.get(before)
    if (successor !== undefined && successor.returnedAt < invokedAt) {
      faults.push(
        `${key}: ${what} of ${invokedAt} saw '${before}', replaced by ${successor.value} at ` +
          `${successor.returnedAt}`,
      )
    }
  }
  return [...faults, ...brokenChains(key, writes, successors)]
}

/** Known links must not lead in a circle, nor against the time. */
function brokenChains(
  key: string,
  writes: ReadonlyMap<string, Written>,
  successors: ReadonlyMap<string, Written>,
): string[] {
  const faults: string[] = []
  const visited = new Set<string>()
  for (const start of writes.keys()) {
    const own = new Set<string>()
    let latestInvoke = Number.NEGATIVE_INFINITY
    for (let value: string | undefined = start; value !== undefined && !visited.has(value); ) {
      visited.add(value)
      own.add(value)
      const next: Written | undefined = successors.get(value)
      if (next === undefined) break
      if (own.has(next.value)) faults.push(`${key}: ${next.value} is its own predecessor`)
      latestInvoke = Math.max(latestInvoke, writes.get(value)?.invokedAt ?? latestInvoke)
      if (next.returnedAt < latestInvoke) {
        faults.push(`${key}: ${next.value} follows a write that began after its end`)
      }
      value = next.value
    }
  }
  return faults
}
