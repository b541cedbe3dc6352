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
  /** The parts that change rarely are kept as text, since there is an id for every call. */
  #time = ''
  #timeMs = -1
  #middle = ''
  #middleHigh = -1

  /** `seed` is random, so that two processes of one machine never make the same id. */
  constructor(clock: Clock, seed: { machine: bigint; counter: number }) {
    this.#clock = clock
    this.#machine = seed.machine & 0xffff_ffff_ffffn
    this.#counter = seed.counter >>> 0
  }

  next(): string {
    const nowMs = this.#clock.nowMs()
    this.#counter = (this.#counter + 1) >>> 0
    if (nowMs !== this.#timeMs) {
      this.#timeMs = nowMs
      this.#time = timeText(nowMs)
    }
    // 26 characters hold 130 bits: ten for the time, ten for the machine and the counter's top two
    // bits, six for the 30 bits of the counter that change from one id to the next.
    const low = this.#counter
    const high = low >>> 30
    if (high !== this.#middleHigh) {
      this.#middleHigh = high
      this.#middle = middleText((this.#machine << 2n) | BigInt(high))
    }
    return (
      this.#time +
      this.#middle +
      alphabet.charAt((low >>> 25) & 31) +
      alphabet.charAt((low >>> 20) & 31) +
      alphabet.charAt((low >>> 15) & 31) +
      alphabet.charAt((low >>> 10) & 31) +
      alphabet.charAt((low >>> 5) & 31) +
      alphabet.charAt(low & 31)
    )
  }
}

/** 48 bits in ten characters, in two halves, because JavaScript shifts 32 bits at most. */
function timeText(ms: number): string {
  return fiveText(Math.floor(ms / 2 ** 25)) + fiveText(ms % 2 ** 25)
}

/** 25 bits in five characters. */
function fiveText(bits: number): string {
  let text = ''
  for (let shift = 20; shift >= 0; shift -= 5) text += alphabet.charAt((bits >>> shift) & 31)
  return text
}

function middleText(bits: bigint): string {
  return fiveText(Number(bits >> 25n)) + fiveText(Number(bits & 0x1ff_ffffn))
}
