/**
 * xoshiro128** (Blackman and Vigna), seeded by splitmix32: the only source of chance in the
 * simulation, so that a seed replays byte for byte.
 */
export class Prng {
  #a: number
  #b: number
  #c: number
  #d: number

  constructor(seed: number) {
    let state = seed >>> 0
    const next = () => {
      state = (state + 0x9e3779b9) >>> 0
      let mixed = state ^ (state >>> 16)
      mixed = Math.imul(mixed, 0x21f0aaad)
      mixed ^= mixed >>> 15
      mixed = Math.imul(mixed, 0x735a2d97)
      return (mixed ^ (mixed >>> 15)) >>> 0
    }
    this.#a = next()
    this.#b = next()
    this.#c = next()
    this.#d = next()
  }

  /** A stream of its own, so that draws of one part do not shift those of another. */
  fork(): Prng {
    return new Prng(this.uint32())
  }

  uint32(): number {
    const scrambled = Math.imul(this.#b, 5)
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9) >>> 0
    const shifted = this.#b << 9
    this.#c ^= this.#a
    this.#d ^= this.#b
    this.#b ^= this.#c
    this.#a ^= this.#d
    this.#c ^= shifted
    this.#d = (this.#d << 11) | (this.#d >>> 21)
    return result
  }

  /** Uniform in [0, 1). */
  real(): number {
    return this.uint32() / 0x1_0000_0000
  }

  /** Uniform in [0, n); `n` is at least 1. */
  below(n: number): number {
    return Math.floor(this.real() * n)
  }

  /** Uniform in [min, max]. */
  between(min: number, max: number): number {
    return min + this.below(max - min + 1)
  }

  chance(probability: number): boolean {
    return this.real() < probability
  }

  /** Exponential with this mean. */
  exponential(mean: number): number {
    return -Math.log(1 - this.real()) * mean
  }

  pick<T>(items: readonly [T, ...T[]]): T
  pick<T>(items: readonly T[]): T | undefined
  pick<T>(items: readonly T[]): T | undefined {
    return items[this.below(items.length)]
  }

  shuffled<T>(items: readonly T[]): T[] {
    const shuffled = [...items]
    for (let at = shuffled.length - 1; at > 0; at--) {
      const other = this.below(at + 1)
      const [a, b] = [shuffled[at], shuffled[other]]
      if (a === undefined || b === undefined) continue
      shuffled[at] = b
      shuffled[other] = a
    }
    return shuffled
  }
}
