/**
 * The journal's format: what a scan gives after crashes, and what it says to damage.
 *
 * What is guaranteed of a journal of which a bit was flipped: where the sector is of a write that
 * is not home, the last one included, the scan throws. Anywhere else it throws or gives the same.
 */
import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { StartError } from '../../src/errors.ts'
import {
  encodeSectors,
  type JournalWrite,
  scanJournal,
  sectorBytes,
  sectorCount,
  sectorRoom,
} from '../../src/store/journal-sectors.ts'
import { seeded } from '../seed.ts'

const fileSectors = 12

/** Places writes as journal.ts does, in memory. */
class Disk {
  readonly files = [0, 1].map(() => new Uint8Array(fileSectors * sectorBytes))
  /** Acknowledged and not home. */
  live: JournalWrite[] = []
  settled = 0
  /** Where each sector of a live write is. */
  places: { file: number; at: number; number: number }[] = []
  #number = 0
  #active = 0
  #at = 0

  /** `reached` says which sectors do reach the disk; all of them unless given. */
  append(length: number, reached?: (sector: number) => boolean): JournalWrite {
    const count = sectorCount(length)
    if (this.#at + count > fileSectors) this.#turn()
    const number = ++this.#number
    const write = { number, bytes: contents(number, length) }
    const room = new Uint8Array(sectorCount(write.bytes.length) * sectorBytes)
    const sectors = encodeSectors(write, sectorRoom(room))
    for (let sector = 0; sector < count; sector++) {
      if (reached?.(sector) === false) continue
      const part = sectors.subarray(sector * sectorBytes, (sector + 1) * sectorBytes)
      const at = this.#at + sector
      this.files[this.#active]?.set(part, at * sectorBytes)
      this.places.push({ file: this.#active, at, number })
    }
    this.#at += count
    if (reached === undefined) this.live.push(write)
    return write
  }

  /** All up to write `number` is home. */
  settle(number: number): void {
    this.settled = number
    this.live = this.live.filter(write => write.number > number)
    this.places = this.places.filter(place => place.number > number)
    if (this.settled === this.#number) this.#at = 0
  }

  settleAll(): void {
    this.settle(this.#number)
  }

  /** What log.ts does at a start: all goes home, and numbers go on behind the last in use. */
  recover(lastNumber: number): void {
    this.#number = lastNumber
    this.#active = 0
    this.settle(lastNumber)
  }

  /** The other file is written, while this one goes home. */
  #turn(): void {
    const other = this.#active === 0 ? 1 : 0
    if (this.places.some(({ file }) => file === other)) {
      this.settleAll()
      return
    }
    this.#active = other
    this.#at = 0
    if (this.lagging) this.lagging = false
    else this.settleAllBut(other)
  }

  /** The next file that is full does not go home at once. */
  lagging = false

  settleAllBut(file: number): void {
    const numbers = this.places.filter(place => place.file !== file).map(({ number }) => number)
    if (numbers.length > 0) this.settle(Math.max(...numbers))
  }
}

/** Any two writes differ in every sector. */
function contents(number: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, at) => (number * 31 + at * 7) % 251)
}

const lengths = fc.oneof(
  fc.integer({ min: 0, max: 600 }),
  fc.constantFrom(0, 1, 491, 492, 493, 984, 985),
  fc.integer({ min: 0, max: 4 * 492 }),
)

const step = fc.oneof(
  { weight: 12, arbitrary: fc.record({ kind: fc.constant('append' as const), length: lengths }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('settle' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('lag' as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('crash' as const),
      length: lengths,
      /** Of the write under way: bit n is whether its sector n reached the disk. */
      reached: fc.nat(31),
      /** Whether the process dies once more before what it found is home. */
      isTwice: fc.boolean(),
    }),
  },
)

describe('after crashes at any write', () => {
  test('a scan gives what was acknowledged, and what was not only when it is whole', () => {
    let torn = 0
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 60, size: 'max' }), steps => {
        const disk = new Disk()
        for (const given of [...steps, { kind: 'check' as const }]) {
          if (given.kind === 'append') disk.append(given.length)
          else if (given.kind === 'settle') disk.settleAll()
          else if (given.kind === 'lag') disk.lagging = true
          else if (given.kind === 'check') {
            expect(scanJournal(disk.files, disk.settled).writes).toEqual(disk.live)
          } else {
            const { length, reached, isTwice } = given
            const count = sectorCount(length)
            const isThere = (sector: number) => ((reached >> sector) & 1) === 1
            const write = disk.append(length, isThere)
            const { live, settled } = disk
            const whole = Array.from({ length: count }, (_, sector) => sector).every(isThere)
            if (!whole && reached % 2 ** count > 0) torn += 1
            for (const _start of isTwice ? [1, 2] : [1]) {
              const { writes, lastNumber } = scanJournal(disk.files, settled)
              expect(writes).toEqual(whole ? [...live, write] : live)
              const isTaken = reached % 2 ** count > 0
              expect(lastNumber).toBe(isTaken ? write.number : write.number - 1)
            }
            disk.recover(scanJournal(disk.files, settled).lastNumber)
            expect(scanJournal(disk.files, disk.settled)).toEqual({
              writes: [],
              lastNumber: disk.settled,
            })
          }
        }
      }),
      seeded(1000),
    )
    expect(torn).toBeGreaterThan(100)
  })
})

/** Three live writes, one of them of several sectors, over both files and over older writes. */
function threeLive(lastLength: number): Disk {
  const disk = new Disk()
  for (let write = 0; write < 30; write++) disk.append(write % 3 === 0 ? 700 : 100)
  disk.settleAll()
  for (const length of [200, 1300, lastLength]) disk.append(length)
  expect(disk.live).toHaveLength(3)
  return disk
}

describe('a bit that was flipped', () => {
  test.each([
    ['one sector', 300],
    ['three sectors', 1200],
  ])(
    'in a live write is found, the last of %s included, elsewhere it loses nothing',
    (_, length) => {
      const disk = threeLive(length)
      const { files, settled, live } = disk
      const before = scanJournal(files, settled)
      expect(before.writes).toEqual(live)
      const isLive = (file: number, byte: number) =>
        disk.places.some(
          place => place.file === file && place.at === Math.floor(byte / sectorBytes),
        )
      const missed: string[] = []
      let found = 0
      for (const [nth, file] of files.entries()) {
        for (let byte = 0; byte < file.length; byte++) {
          // Every bit of the headers, one of each byte behind them.
          const bits = byte % sectorBytes < 20 ? [0, 1, 2, 3, 4, 5, 6, 7] : [byte % 8]
          for (const bit of bits) {
            const mask = 1 << bit
            file[byte] = (file[byte] ?? 0) ^ mask
            const outcome = scanned(files, settled)
            file[byte] = (file[byte] ?? 0) ^ mask
            if (outcome === 'found') {
              found += 1
              continue
            }
            if (isLive(nth, byte)) missed.push(`file ${nth} byte ${byte} bit ${bit}`)
            else expect(outcome).toEqual(before)
          }
        }
      }
      expect(missed).toEqual([])
      expect(found).toBeGreaterThanOrEqual(disk.places.length * (20 * 8 + 492))
    },
    30_000,
  )

  test('in any journal that a sequence of writes leaves', () => {
    fc.assert(
      fc.property(
        fc.array(lengths, { minLength: 1, maxLength: 40, size: 'max' }),
        fc.nat(),
        fc.nat(7),
        (all, place, bit) => {
          const disk = new Disk()
          for (const length of all) disk.append(length)
          const { files, settled } = disk
          const before = scanJournal(files, settled)
          const byte = place % (2 * fileSectors * sectorBytes)
          const nth = Math.floor(byte / (fileSectors * sectorBytes))
          const file = files[nth] as Uint8Array
          const at = byte % (fileSectors * sectorBytes)
          file[at] = (file[at] ?? 0) ^ (1 << bit)
          const outcome = scanned(files, settled)
          const isLive = disk.places.some(
            live => live.file === nth && live.at === Math.floor(at / sectorBytes),
          )
          if (isLive) expect(outcome).toBe('found')
          else if (outcome !== 'found') expect(outcome).toEqual(before)
        },
      ),
      seeded(1000),
    )
  })

  test('in the write that a crash tore is found where it is read, and else changes nothing', () => {
    for (let reached = 0; reached < 7; reached++) {
      const disk = threeLive(300)
      disk.append(1200, sector => ((reached >> sector) & 1) === 1)
      const { files, settled, live } = disk
      for (const file of files) {
        for (let byte = 0; byte < file.length; byte += 3) {
          file[byte] = (file[byte] ?? 0) ^ 0x10
          const outcome = scanned(files, settled)
          file[byte] = (file[byte] ?? 0) ^ 0x10
          if (outcome !== 'found') expect(outcome.writes).toEqual(live)
        }
      }
    }
  })
})

describe('a write that the disk lost', () => {
  test('in the middle is found, whatever sectors of it', () => {
    fc.assert(
      fc.property(
        fc.array(lengths, { minLength: 1, maxLength: 20, size: 'max' }),
        fc.array(lengths, { minLength: 2, maxLength: 4 }),
        fc.nat(),
        fc.integer({ min: 1, max: 31 }),
        (before, after, which, lost) => {
          const disk = new Disk()
          for (const length of before) disk.append(length)
          disk.settleAll()
          // As a disk that lies: it says that it wrote, and gives back what was there before.
          const older = disk.files.map(file => Uint8Array.from(file))
          for (const length of after) disk.append(length)
          const { live, settled } = disk
          if (live.length < 2) return
          const { number, bytes } = live[which % (live.length - 1)] as JournalWrite
          const places = disk.places.filter(place => place.number === number)
          const isLost = (sector: number) => ((lost >> sector) & 1) === 1
          if (!places.some((_, sector) => isLost(sector))) return
          expect(places).toHaveLength(sectorCount(bytes.length))
          for (const [sector, { file, at }] of places.entries()) {
            if (!isLost(sector)) continue
            const [from, to] = [at * sectorBytes, (at + 1) * sectorBytes]
            disk.files[file]?.set(older[file]?.subarray(from, to) ?? [], from)
          }
          expect(scanned(disk.files, settled)).toBe('found')
        },
      ),
      seeded(1000),
    )
  })

  test('is named', () => {
    const disk = threeLive(300)
    const { file, at } = disk.places[1] ?? { file: 0, at: 0 }
    disk.files[file]?.fill(0, at * sectorBytes, (at + 1) * sectorBytes)
    expect(() => scanJournal(disk.files, disk.settled)).toThrow(
      /lacks write 32, but holds write 33: it is damaged.*new node/,
    )
  })

  test('as the last one is as if it had never been', () => {
    // No journal can tell it from one that was under way: only the acknowledgement knows.
    const disk = threeLive(300)
    const { file, at } = disk.places.at(-1) ?? { file: 0, at: 0 }
    disk.files[file]?.fill(0, at * sectorBytes, (at + 1) * sectorBytes)
    expect(scanJournal(disk.files, disk.settled).writes).toEqual(disk.live.slice(0, -1))
  })
})

describe('a journal beside a log of another time', () => {
  test('that is older is refused once what it lacks was written over', () => {
    const disk = threeLive(300)
    for (let settled = 0; settled < disk.settled; settled++) {
      const outcome = scanned(disk.files, settled)
      if (outcome === 'found') continue
      // All that followed is still there.
      expect(outcome.writes[0]?.number).toBe(settled + 1)
      expect(outcome.writes.at(-1)).toEqual(disk.live.at(-1) as JournalWrite)
    }
    expect(scanned(disk.files, 0)).toBe('found')
  })

  test('that is newer gives nothing again', () => {
    const disk = threeLive(300)
    for (const [nth, { number }] of disk.live.entries()) {
      const outcome = scanned(disk.files, number)
      if (nth === 2) expect(outcome).toEqual({ writes: [], lastNumber: number })
    }
    expect(scanJournal(disk.files, 1000)).toEqual({ writes: [], lastNumber: 1000 })
  })
})

function scanned(files: readonly Uint8Array[], settled: number) {
  try {
    return scanJournal(files, settled)
  } catch (error) {
    expect(error).toBeInstanceOf(StartError)
    return 'found' as const
  }
}
