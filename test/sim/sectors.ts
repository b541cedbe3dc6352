/**
 * The two files of a journal, sector by sector. A disk writes a sector whole or not at all, and the
 * sectors of one write in any order: of one that was under way a crash keeps whichever it likes.
 * What a killed process wrote can be read, but a loss of power may still take it, until somebody
 * flushes it. Sectors may be damaged: a bit flips, they cannot be read, a write of long ago landed
 * elsewhere, or something else landed here.
 */
import { StartError } from '../../src/errors.ts'
import { sectorBytes } from '../../src/store/journal-sectors.ts'
import type { JournalFiles, Written } from '../../src/store/log-ports.ts'
import { type Device, flipped } from './device.ts'
import type { Prng } from './prng.ts'

/** Before what is written into a sector of the journal: its checksum, part, number and length. */
const headerBytes = 20

export class JournalMedium {
  readonly fileBytes: number
  /** Both files, one behind the other: what a read gives, but for damage. */
  readonly #seen: Uint8Array
  /** What was in each sector before that. */
  readonly #before: Uint8Array
  /** What a loss of power brings back, of sectors that were not flushed. */
  readonly #unflushed = new Map<number, Uint8Array>()
  readonly #damage = new Map<number, Uint8Array | 'unreadable'>()
  #pending: { readonly first: number; readonly bytes: Uint8Array } | undefined

  constructor(fileBytes: number) {
    this.fileBytes = fileBytes
    this.#seen = new Uint8Array(2 * fileBytes)
    this.#before = new Uint8Array(2 * fileBytes)
  }

  get isDamaged(): boolean {
    return this.#damage.size > 0
  }

  /** A crash may still take of it what it likes. */
  get isWriting(): boolean {
    return this.#pending !== undefined
  }

  mend(): void {
    this.#damage.clear()
  }

  read(): readonly Uint8Array[] {
    const bytes = this.#seen.slice()
    for (const [at, sector] of this.#damage) {
      if (sector === 'unreadable') throw new StartError('the journal cannot be read (EIO)')
      bytes.set(sector, at * sectorBytes)
    }
    return [bytes.subarray(0, this.fileBytes), bytes.subarray(this.fileBytes)]
  }

  begin(file: 0 | 1, at: number, bytes: Uint8Array): void {
    const first = (file * this.fileBytes + at) / sectorBytes
    this.#pending = { first, bytes: bytes.slice() }
  }

  keep(): void {
    const pending = this.#pending
    if (pending === undefined) return
    this.#pending = undefined
    this.#write(pending.first, pending.bytes)
  }

  flush(): void {
    this.#unflushed.clear()
  }

  /** What became of the write that was under way. */
  crash(prng: Prng, isPowerLoss: boolean): 'none' | 'torn' | 'whole' {
    const { first, bytes } = this.#pending ?? { first: 0, bytes: new Uint8Array() }
    this.#pending = undefined
    const share = prng.pick([0, 0.5, 0.5, 0.9, 1])
    const count = bytes.length / sectorBytes
    let reached = 0
    for (let part = 0; part < count; part++) {
      if (!prng.chance(share)) continue
      const flushed = sectorOf(this.#seen, first + part).slice()
      this.#write(first + part, sectorOf(bytes, part))
      this.#unflushed.set(first + part, flushed)
      reached += 1
    }
    const keptShare = prng.pick([0, 0.5, 1])
    for (const [at, flushed] of this.#unflushed) {
      if (prng.chance(keptShare)) this.#unflushed.delete(at)
      else if (isPowerLoss) this.#write(at, flushed)
    }
    if (reached === 0) return 'none'
    return reached < count ? 'torn' : 'whole'
  }

  /** Another one with the same content. */
  copy(): JournalMedium {
    const copy = new JournalMedium(this.fileBytes)
    copy.#seen.set(this.#seen)
    copy.#before.set(this.#before)
    for (const [at, sector] of this.#unflushed) copy.#unflushed.set(at, sector)
    copy.#pending = this.#pending
    return copy
  }

  /**
   * Damages a sector, mostly one with a write after `settled`. The last write is never taken as a
   * whole by what was there before it: no log can tell that from a loss of power amid that write.
   */
  damage(prng: Prng, settled: number): string {
    const all = Array.from({ length: this.#seen.length / sectorBytes }, (_, at) => at)
    const last = Math.max(...all.map(at => this.#numberAt(at)))
    const used = all.filter(at => this.#numberAt(at) > settled)
    const at = prng.pick(used.length > 0 && prng.chance(0.9) ? used : all) ?? 0
    const sector = sectorOf(this.#seen, at)
    const isReplaceable = used.includes(at) && this.#numberAt(at) < last
    const kind = prng.pick(isReplaceable ? replacements : faults)
    if (kind === 'unreadable') this.#damage.set(at, kind)
    else if (kind === 'flip') this.#damage.set(at, flipped(sector, prng))
    else if (kind === 'flip in a header') {
      this.#damage.set(at, flipped(sector, prng, 0, headerBytes))
    } else {
      const other = kind === 'lost' ? sectorOf(this.#before, at) : this.#other(prng, at)
      this.#damage.set(at, other.slice())
    }
    return kind
  }

  #other(prng: Prng, at: number): Uint8Array {
    const count = this.#seen.length / sectorBytes
    return sectorOf(this.#seen, (at + prng.between(1, count - 1)) % count)
  }

  #numberAt(at: number): number {
    const { buffer, byteOffset } = sectorOf(this.#seen, at)
    return new DataView(buffer, byteOffset).getFloat64(8, true)
  }

  #write(first: number, bytes: Uint8Array): void {
    const from = first * sectorBytes
    this.#before.set(this.#seen.subarray(from, from + bytes.length), from)
    this.#seen.set(bytes, from)
    for (let part = 0; part < bytes.length / sectorBytes; part++) {
      this.#damage.delete(first + part)
      this.#unflushed.delete(first + part)
    }
  }
}

function sectorOf(bytes: Uint8Array, at: number): Uint8Array {
  return bytes.subarray(at * sectorBytes, (at + 1) * sectorBytes)
}

const faults = ['flip', 'flip in a header', 'unreadable'] as const
const replacements = [...faults, 'lost', 'misdirected'] as const

/** As one process has them open. */
export class SimJournalFiles implements JournalFiles {
  readonly fileBytes: number
  readonly #medium: JournalMedium
  readonly #device: Device
  /** How many there were. */
  writes = 0
  #file = 0

  constructor(medium: JournalMedium, device: Device) {
    this.fileBytes = medium.fileBytes
    this.#medium = medium
    this.#device = device
  }

  read(): readonly Uint8Array[] {
    return this.#medium.read()
  }

  memory(length: number): Uint8Array {
    return new Uint8Array(length)
  }

  write(file: 0 | 1, sectors: Uint8Array, at: number, done: Written): void {
    const { world } = this.#device
    if (file !== this.#file) world.count('branch: journal turned')
    else if (at === 0) world.count('branch: journal begun anew in the same file')
    this.#file = file
    this.writes += 1
    if (sectors.length > sectorBytes) world.count('branch: journal write of many sectors')
    this.#device.write('a journal write', {
      latencyMs: this.#device.latencyMs(1),
      begin: () => this.#medium.begin(file, at, sectors),
      keep: () => this.#medium.keep(),
      done,
    })
  }

  flush(): void {
    this.#device.world.count('branch: journal flushed by a start')
    if (this.#device.fails()) {
      this.#device.world.count('fault: flush of a start failed')
      throw new Error('EIO: input/output error, fdatasync')
    }
    this.#medium.flush()
  }

  close(): void {}
}
