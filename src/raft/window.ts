/** Sizes of the entries in the log, oldest first: tells how far the log outgrew its window. */
export class Window {
  #firstIndex: number
  readonly #sizes: number[] = []
  #bytes = 0

  constructor(firstIndex: number) {
    this.#firstIndex = firstIndex
  }

  get firstIndex(): number {
    return this.#firstIndex
  }

  get count(): number {
    return this.#sizes.length
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Entries before the first, oldest first. */
  prepend(sizes: readonly number[]): void {
    this.#sizes.unshift(...sizes)
    this.#firstIndex -= sizes.length
    for (const bytes of sizes) this.#bytes += bytes
  }

  /** The entry after the last. */
  push(bytes: number): void {
    this.#sizes.push(bytes)
    this.#bytes += bytes
  }

  /** The entries below `index` left the log. */
  dropBelow(index: number): void {
    if (index <= this.#firstIndex) return
    const dropped = this.#sizes.splice(0, index - this.#firstIndex)
    for (const bytes of dropped) this.#bytes -= bytes
    this.#firstIndex += dropped.length
  }

  /** The entries from `index` on were replaced, or are to be. */
  dropFrom(index: number): void {
    if (index >= this.#firstIndex + this.#sizes.length) return
    const dropped = this.#sizes.splice(Math.max(0, index - this.#firstIndex))
    for (const bytes of dropped) this.#bytes -= bytes
  }

  /** Index of the newest entry outside a window of the newest entries, or one below the first. */
  outside(countMax: number, bytesMax: number): number {
    let kept = 0
    let bytes = 0
    for (let at = this.#sizes.length - 1; at >= 0; at--) {
      bytes += this.#sizes[at] ?? 0
      if (kept >= countMax || bytes > bytesMax) return this.#firstIndex + at
      kept += 1
    }
    return this.#firstIndex - 1
  }
}
