/**
 * Virtual time and the one queue of events. Events run one after the other, in the order of their
 * times and then of their making; nothing else makes anything happen. Everything that happens is
 * noted in a running hash, so that two runs of a seed can be compared.
 */
import { Prng } from './prng.ts'

/** More events than that at one time are a circle without an end. */
const stepsAtOnceMax = 1_000_000

/** A promise of Raft, of the driver or of the store was broken. */
export class Violation extends Error {
  override readonly name = 'Violation'
}

interface Event {
  readonly atMs: number
  readonly order: number
  readonly run: () => void
}

export class World {
  readonly prng: Prng
  readonly isVerbose: boolean
  /** How often each fault was injected and each branch taken. */
  readonly counts = new Map<string, number>()
  readonly lines: string[] = []
  /** The first; also when whoever was called through caught what was thrown. */
  violation: Error | undefined
  readonly #queue: Event[] = []
  readonly #kinds = new Map<string, number>()
  #nowMs = 0
  #order = 0
  #steps = 0
  /** Since the time last went on. */
  #stepsAtOnce = 0
  #moment = 0
  #hashA = 0x811c9dc5
  #hashB = 0x1234567

  constructor(seed: number, isVerbose: boolean) {
    this.prng = new Prng(seed)
    this.isVerbose = isVerbose
  }

  get nowMs(): number {
    return this.#nowMs
  }

  get steps(): number {
    return this.#steps
  }

  /** Strictly ascending: tells which of two things of the same time came first. */
  moment(): number {
    this.#moment += 1
    return this.#moment
  }

  get traceHash(): string {
    const hex = (half: number) => (half >>> 0).toString(16).padStart(8, '0')
    return hex(this.#hashA) + hex(this.#hashB)
  }

  after(delayMs: number, run: () => void): void {
    this.#order += 1
    push(this.#queue, { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order, run })
  }

  /** Runs the next event. False when there is none. */
  step(): boolean {
    const event = pop(this.#queue)
    if (event === undefined) return false
    this.#stepsAtOnce = event.atMs > this.#nowMs ? 1 : this.#stepsAtOnce + 1
    this.#nowMs = event.atMs
    this.#steps += 1
    if (this.#stepsAtOnce > stepsAtOnceMax) this.fail('time stands still')
    event.run()
    return true
  }

  /** Runs events until that time, with `afterEach` after each. */
  runUntil(untilMs: number, afterEach: () => void): void {
    for (;;) {
      const [next] = this.#queue
      if (next === undefined || next.atMs > untilMs) break
      this.step()
      afterEach()
    }
    this.#nowMs = untilMs
  }

  /** A promise was broken: nothing after this counts. */
  fail(text: string): never {
    this.violation ??= new Violation(text)
    throw this.violation
  }

  count(what: string, by = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + by)
  }

  /** Into the hash; and into the text when somebody reads it. */
  note(kind: string, ...numbers: readonly number[]): void {
    let code = this.#kinds.get(kind)
    if (code === undefined) {
      code = this.#kinds.size + 1
      this.#kinds.set(kind, code)
    }
    this.#mix(code)
    this.#mix(Math.floor(this.#nowMs * 1000))
    for (const number of numbers) this.#mix(number)
    if (this.isVerbose) this.line(`${kind} ${numbers.join(' ')}`)
  }

  line(text: string): void {
    if (!this.isVerbose) return
    this.lines.push(`${this.#nowMs.toFixed(3).padStart(10)} ${text}`)
    if (this.lines.length > 1_000_000) this.lines.splice(0, 500_000)
  }

  #mix(number: number): void {
    this.#hashA = Math.imul(this.#hashA ^ (number | 0), 0x01000193)
    this.#hashB = Math.imul((this.#hashB << 5) ^ (this.#hashB >>> 27) ^ (number | 0), 0x9e3779b1)
  }
}

// A binary heap.

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
}

function push(heap: Event[], event: Event): void {
  let at = heap.length
  heap.push(event)
  while (at > 0) {
    const parentAt = (at - 1) >> 1
    const parent = heap[parentAt]
    if (parent === undefined || !isBefore(event, parent)) break
    heap[at] = parent
    at = parentAt
  }
  heap[at] = event
}

function pop(heap: Event[]): Event | undefined {
  const [first] = heap
  const last = heap.pop()
  if (first === undefined || last === undefined || heap.length === 0) return first
  let at = 0
  for (;;) {
    const [left, right] = [heap[2 * at + 1], heap[2 * at + 2]]
    if (left === undefined) break
    const isRight = right !== undefined && isBefore(right, left)
    const child = isRight ? right : left
    if (!isBefore(child, last)) break
    heap[at] = child
    at = isRight ? 2 * at + 2 : 2 * at + 1
  }
  heap[at] = last
  return first
}
