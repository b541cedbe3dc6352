import type { ActiveCall } from './active-call.ts'

/** A set of calls, kept by position: adding and removing allocate nothing. */
export class CallList {
  readonly #calls: ActiveCall[] = []

  get isEmpty(): boolean {
    return this.#calls.length === 0
  }

  add(call: ActiveCall): void {
    call.position = this.#calls.length
    this.#calls.push(call)
  }

  /** Harmless for a call that is not in the list. */
  delete(call: ActiveCall): void {
    if (call.position < 0) return
    const last = this.#calls.pop()
    if (last !== undefined && last !== call) {
      this.#calls[call.position] = last
      last.position = call.position
    }
    call.position = -1
  }

  /** For going through while the list changes. */
  copy(): ActiveCall[] {
    return this.#calls.slice()
  }
}
