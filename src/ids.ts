import type { Clock } from './clock.ts'

/**
 * Fn's id format: 26 Crockford base32 characters that hold 128 bits, 48 of millisecond time, 48 of
 * machine, 32 of a counter, so that ids sort by creation. Clients treat them as opaque.
 */
const alphabet = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

export class IdSource {
  readonly #clock: Clock
  /** The 48 bits of the machine, then never changed. */
  readonly #machine: bigint
  #counter: number
  #prefix = ''
  #prefixMs = -1
  #prefixHigh = -1

  /** `seed` is random, so that two processes of one machine never make the same id. */
  constructor(clock: Clock, seed: { machine: bigint; counter: number }) {
    this.#clock = clock
    this.#machine = seed.machine & 0xffff_ffff_ffffn
    this.#counter = seed.counter >>> 0
  }

  /** A fresh id. Called once per call, so the parts that change rarely are kept as text. */
  next(): string {
    const nowMs = this.#clock.nowMs()
    this.#counter = (this.#counter + 1) >>> 0
    // 26 characters hold 130 bits. The first 20 hold time, machine and the counter's top two bits;
    // the last six hold the 30 bits of the counter that change from one id to the next.
    const high = this.#counter >>> 30
    if (nowMs !== this.#prefixMs || high !== this.#prefixHigh) {
      this.#prefixMs = nowMs
      this.#prefixHigh = high
      const bits = (BigInt(nowMs) << 50n) | (this.#machine << 2n) | BigInt(high)
      this.#prefix = ''
      for (let shift = 95n; shift >= 0n; shift -= 5n) {
        this.#prefix += alphabet[Number((bits >> shift) & 31n)]
      }
    }
    const low = this.#counter
    return (
      this.#prefix +
      alphabet.charAt((low >>> 25) & 31) +
      alphabet.charAt((low >>> 20) & 31) +
      alphabet.charAt((low >>> 15) & 31) +
      alphabet.charAt((low >>> 10) & 31) +
      alphabet.charAt((low >>> 5) & 31) +
      alphabet.charAt(low & 31)
    )
  }
}
