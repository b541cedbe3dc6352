import { assert } from '../errors.ts'

const uidCount = 65_536

/** One uid for each living instance, from a range that hosts leave alone. */
export class UidRange {
  readonly first: number
  readonly count = uidCount
  readonly #taken = new Set<number>()
  #next: number

  /** `block` (0 to 4095) keeps two fnd of one host apart. */
  constructor(block: number) {
    assert(block >= 0 && block < 4096, 'blocks of uids lie between 0x60000000 and 0x6fffffff')
    this.first = 0x6000_0000 + block * uidCount
    this.#next = this.first
  }

  /** The uid longest out of use comes first, so that a stray file is nobody's for long. */
  take(): number {
    assert(this.#taken.size < uidCount, 'there are fewer instances than uids')
    while (this.#taken.has(this.#next)) this.#advance()
    const uid = this.#next
    this.#taken.add(uid)
    this.#advance()
    return uid
  }

  release(uid: number): void {
    this.#taken.delete(uid)
  }

  #advance(): void {
    this.#next += 1
    if (this.#next === this.first + uidCount) this.#next = this.first
  }
}
