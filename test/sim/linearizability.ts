/**
 * Is there an order of the operations, each between its call and its answer, in which a single
 * copy would have given the same answers? Porcupine's algorithm (github.com/anishathalye/porcupine,
 * checker.go), which is Wing and Gong's search with Lowe's cache, on each key by itself: a history
 * is linearizable exactly if its part on every key is (Herlihy and Wing, locality).
 *
 * An operation without an answer is unknown: it may have happened at any time after its call, or
 * never. So it has no end, and the search is over when all answered operations are placed.
 */

export interface Operation<Input, Output> {
  readonly input: Input
  /** `undefined`: the outcome is unknown, and `returnedAt` does not count. */
  readonly output: Output | undefined
  /** Any clock that all clients share. With equal times a call comes before an answer. */
  readonly invokedAt: number
  readonly returnedAt: number
}

/** A single copy. `step` is total for unknown outputs: then any answer would have been right. */
export interface Model<State, Input, Output> {
  readonly initial: State
  readonly keyOf: (input: Input) => string
  /** The next state; `undefined` when this output is impossible here. */
  readonly step: (state: State, input: Input, output: Output | undefined) => State | undefined
  /** Equal texts exactly for equal states. */
  readonly textOf: (state: State) => string
}

export type Verdict<Input, Output> =
  | { readonly kind: 'linearizable' }
  | {
      readonly kind: 'violation'
      readonly key: string
      /** The longest order found, and the answered operations for which there is no place. */
      readonly placed: readonly Operation<Input, Output>[]
      readonly unplaced: readonly Operation<Input, Output>[]
    }
  /** The search was given up after `stepsMax`: says nothing. */
  | { readonly kind: 'undecided'; readonly key: string }

interface Event {
  readonly id: number
  readonly isCall: boolean
  readonly at: number
  before: Event | undefined
  after: Event | undefined
}

export function checkHistory<State, Input, Output>(
  model: Model<State, Input, Output>,
  history: readonly Operation<Input, Output>[],
  stepsMax = 5_000_000,
): Verdict<Input, Output> {
  const byKey = Map.groupBy(history, operation => model.keyOf(operation.input))
  let undecided: Verdict<Input, Output> | undefined
  for (const [key, operations] of byKey) {
    const verdict = new Search(model, operations, stepsMax).run(key)
    if (verdict.kind === 'violation') return verdict
    if (verdict.kind === 'undecided') undecided = verdict
  }
  return undecided ?? { kind: 'linearizable' }
}

/** Text of a violation, for people. */
export function describeVerdict<Input, Output>(verdict: Verdict<Input, Output>): string {
  if (verdict.kind === 'linearizable') return 'linearizable'
  if (verdict.kind === 'undecided') return `undecided on ${verdict.key}`
  const line = ({ input, output, invokedAt, returnedAt }: Operation<Input, Output>) => {
    const end = output === undefined ? 'unknown' : `${returnedAt} ${JSON.stringify(output)}`
    return `  ${invokedAt}..${end} ${JSON.stringify(input)}`
  }
  const last = verdict.placed.slice(-8).map(line)
  const rest = verdict.unplaced.slice(0, 8).map(line)
  return [
    `not linearizable on ${verdict.key}; placed last:`,
    ...last,
    'no place for:',
    ...rest,
  ].join('\n')
}

class Search<State, Input, Output> {
  readonly #model: Model<State, Input, Output>
  readonly #operations: readonly Operation<Input, Output>[]
  readonly #stepsMax: number
  readonly #head: Event = { id: -1, isCall: true, at: -1, before: undefined, after: undefined }
  readonly #returns: (Event | undefined)[] = []
  /** Which operations are placed, one bit each. */
  readonly #placed: Uint32Array
  readonly #seen = new Set<string>()
  #unplacedKnown = 0

  constructor(
    model: Model<State, Input, Output>,
    operations: readonly Operation<Input, Output>[],
    stepsMax: number,
  ) {
    this.#model = model
    this.#operations = operations
    this.#stepsMax = stepsMax
    this.#placed = new Uint32Array((operations.length >> 5) + 1)
    this.#link()
  }

  run(key: string): Verdict<Input, Output> {
    const trail: { readonly event: Event; readonly state: State }[] = []
    let longest: readonly number[] = []
    let state = this.#model.initial
    let event = this.#head.after
    for (let steps = 0; this.#unplacedKnown > 0; steps++) {
      if (steps > this.#stepsMax) return { kind: 'undecided', key }
      // The answers of unplaced operations are in the list, so its end is never reached before one.
      if (event === undefined) throw new Error('an answer is missing in the list of events')
      if (event.isCall) {
        const next = this.#tryPlace(event, state)
        if (next === undefined) {
          event = event.after
          continue
        }
        trail.push({ event, state })
        state = next
        this.#lift(event)
        event = this.#head.after
        continue
      }
      // Its call was not placed by now, so the last choice was wrong.
      if (trail.length > longest.length) longest = trail.map(step => step.event.id)
      const last = trail.pop()
      if (last === undefined) return this.#violation(key, longest)
      state = last.state
      this.#flip(last.event.id)
      this.#unlift(last.event)
      event = last.event.after
    }
    return { kind: 'linearizable' }
  }

  /** The state with this operation placed next; `undefined` if impossible or tried already. */
  #tryPlace(call: Event, state: State): State | undefined {
    const operation = this.#operations[call.id]
    if (operation === undefined) return undefined
    const next = this.#model.step(state, operation.input, operation.output)
    if (next === undefined) return undefined
    this.#flip(call.id)
    const place = `${this.#placed.join()}|${this.#model.textOf(next)}`
    if (this.#seen.has(place)) {
      this.#flip(call.id)
      return undefined
    }
    this.#seen.add(place)
    return next
  }

  #flip(id: number): void {
    const word = id >> 5
    this.#placed[word] = (this.#placed[word] ?? 0) ^ (1 << (id & 31))
  }

  #link(): void {
    const events: Event[] = []
    for (const [id, { output, invokedAt, returnedAt }] of this.#operations.entries()) {
      const blank = { id, before: this.#head, after: undefined }
      events.push({ ...blank, isCall: true, at: invokedAt })
      if (output === undefined) continue
      const end: Event = { ...blank, isCall: false, at: returnedAt }
      this.#returns[id] = end
      this.#unplacedKnown += 1
      events.push(end)
    }
    events.sort((a, b) => a.at - b.at || Number(b.isCall) - Number(a.isCall) || a.id - b.id)
    let last = this.#head
    for (const event of events) {
      last.after = event
      event.before = last
      last = event
    }
  }

  #lift(call: Event): void {
    cut(call)
    const end = this.#returns[call.id]
    if (end === undefined) return
    cut(end)
    this.#unplacedKnown -= 1
  }

  #unlift(call: Event): void {
    const end = this.#returns[call.id]
    if (end !== undefined) {
      paste(end)
      this.#unplacedKnown += 1
    }
    paste(call)
  }

  #violation(key: string, longest: readonly number[]): Verdict<Input, Output> {
    const at = (id: number) => this.#operations[id] ?? []
    const isMissing = (id: number) => this.#returns[id] !== undefined && !longest.includes(id)
    const unplaced = [...this.#operations.keys()].filter(isMissing)
    unplaced.sort((a, b) => (this.#returns[a]?.at ?? 0) - (this.#returns[b]?.at ?? 0))
    return { kind: 'violation', key, placed: longest.flatMap(at), unplaced: unplaced.flatMap(at) }
  }
}

function cut(event: Event): void {
  if (event.before !== undefined) event.before.after = event.after
  if (event.after !== undefined) event.after.before = event.before
}

/** Undoes the cut, if every later cut was undone before it (dancing links). */
function paste(event: Event): void {
  if (event.before !== undefined) event.before.after = event
  if (event.after !== undefined) event.after.before = event
}
