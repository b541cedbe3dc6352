/**
 * LMDB as the log sees it: records that change together. Its promise is atomicity, so a transaction
 * is there or not; but it takes its time, may fail, may find no room, and a crash comes at any
 * moment of it. Records may be damaged: a bit flips, they cannot be read, are gone, or another is
 * in their place.
 */
import { FndError, StartError } from '../../src/errors.ts'
import type { LogRecords, RecordChange } from '../../src/store/log-ports.ts'
import { decodeHard, type LogKey } from '../../src/store/log-records.ts'
import { type Device, flipped } from './device.ts'
import type { Prng } from './prng.ts'

type Damage = Uint8Array | 'missing' | 'unreadable'

export class RecordMedium {
  readonly #records = new Map<string, readonly [LogKey, Uint8Array]>()
  readonly #damage = new Map<string, Damage>()
  /** Whether a crash keeps it is chance. */
  #pending: RecordChange | undefined

  constructor(first: Iterable<readonly [LogKey, Uint8Array]>) {
    for (const [key, record] of first) this.#records.set(`${key}`, [key, record])
  }

  get isDamaged(): boolean {
    return this.#damage.size > 0
  }

  mend(): void {
    this.#damage.clear()
  }

  /** Number of the last write of the journal that is in here. */
  get settled(): number {
    const record = this.#records.get('hard')?.[1] ?? new Uint8Array()
    return decodeHard(record, 'hard').settled ?? 0
  }

  get(key: LogKey): Uint8Array | undefined {
    const damage = this.#damage.get(`${key}`)
    if (damage === 'unreadable') throw new StartError(`record ${key} cannot be read (EIO)`)
    if (damage === 'missing') return undefined
    return damage ?? this.#records.get(`${key}`)?.[1]
  }

  segmentKeys(): readonly (readonly [number, number])[] {
    return this.#segments().filter(key => this.#damage.get(`${key}`) !== 'missing')
  }

  begin(change: RecordChange): void {
    this.#pending = change
  }

  /** The transaction is on the disk. Returns what was there before. */
  commit(): ReadonlyMap<string, Uint8Array | undefined> {
    const before = new Map<string, Uint8Array | undefined>()
    const { removed = [], put = [] } = this.#pending ?? {}
    this.#pending = undefined
    for (const key of [...removed, ...put.map(([key]) => key)]) {
      before.set(`${key}`, this.#records.get(`${key}`)?.[1])
      this.#damage.delete(`${key}`)
    }
    for (const key of removed) this.#records.delete(`${key}`)
    for (const [key, record] of put) this.#records.set(`${key}`, [key, record])
    return before
  }

  crash(prng: Prng): 'none' | 'kept' | 'dropped' {
    if (this.#pending === undefined) return 'none'
    if (prng.chance(0.5)) {
      this.commit()
      return 'kept'
    }
    this.#pending = undefined
    return 'dropped'
  }

  copy(): RecordMedium {
    const copy = new RecordMedium(this.#records.values())
    copy.#pending = this.#pending
    return copy
  }

  /** The last segment is never gone: what follows it is in the journal, or was never written. */
  damage(prng: Prng): string {
    const segments = this.#segments()
    const key = prng.pick([...segments, ...(prng.chance(0.2) ? names : [])]) ?? 'hard'
    const record = this.#records.get(`${key}`)?.[1] ?? new Uint8Array()
    const isMiddle = typeof key !== 'string' && key !== segments.at(-1)
    const kind = prng.pick(isMiddle ? replacements : faults)
    if (kind === 'flip') this.#damage.set(`${key}`, flipped(record, prng))
    else if (kind === 'misdirected') {
      const [, other = record] = this.#records.get(`${segments.at(-1)}`) ?? []
      this.#damage.set(`${key}`, other)
    } else this.#damage.set(`${key}`, kind)
    return kind
  }

  #segments(): readonly (readonly [number, number])[] {
    const keys = [...this.#records.values()].flatMap(([key]) =>
      typeof key === 'string' ? [] : [key],
    )
    return keys.sort(([a], [b]) => a - b)
  }
}

const names = ['hard', 'base', 'identity'] as const
const faults = ['flip', 'unreadable'] as const
const replacements = [...faults, 'missing', 'misdirected'] as const

/** As one process has it open. */
export class SimRecords implements LogRecords {
  readonly #medium: RecordMedium
  readonly #device: Device
  readonly #isFull: () => boolean
  /** While a transaction is on the disk and not told to be: what it replaced. */
  #before: ReadonlyMap<string, Uint8Array | undefined> = new Map()

  constructor(medium: RecordMedium, device: Device, isFull: () => boolean) {
    this.#medium = medium
    this.#device = device
    this.#isFull = isFull
  }

  get(key: LogKey): Uint8Array | undefined {
    return this.#before.has(`${key}`) ? this.#before.get(`${key}`) : this.#medium.get(key)
  }

  segmentKeys(): Iterable<readonly [number, number]> {
    return this.#medium.segmentKeys()
  }

  write(change: RecordChange, done: (error: FndError | undefined) => void): void {
    const { world, prng } = this.#device
    // Many pages, and the journal goes on meanwhile.
    const latencyMs = this.#device.latencyMs(prng.pick([1, 5, 30]))
    if (this.#isFull()) {
      world.count('fault: no room for a transaction')
      return this.#device.later(latencyMs, () => done(new FndError('disk-full')))
    }
    world.count('branch: transaction of the log')
    this.#device.write('a transaction', {
      latencyMs,
      begin: () => this.#medium.begin(change),
      keep: () => {
        this.#before = this.#medium.commit()
      },
      done: cause => {
        this.#before = new Map()
        done(cause && new FndError('store-failed', { cause }))
      },
    })
  }

  async close(): Promise<void> {}
}
