import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { LineSplitter } from '../../src/exec/lines.ts'
import { seed } from '../watch/seed.ts'

const text = new TextDecoder('utf-8', { ignoreBOM: true })
const encoder = new TextEncoder()

interface Piece {
  readonly bytes: number[]
  readonly isContinued: boolean
}

function split(bytes: Uint8Array, cuts: readonly number[], bytesMax: number): Piece[] {
  const pieces: Piece[] = []
  const lines = new LineSplitter(
    (piece, isContinued) => pieces.push({ bytes: [...piece], isContinued }),
    bytesMax,
  )
  let start = 0
  for (const cut of [...cuts, bytes.length]
    .map(at => at % (bytes.length + 1))
    .sort((a, b) => a - b)) {
    lines.push(bytes.subarray(start, cut))
    start = cut
  }
  lines.push(bytes.subarray(start))
  lines.flush()
  return pieces
}

/** The same rules, over a whole buffer, one byte at a time. */
function naive(bytes: Uint8Array, bytesMax: number): Piece[] {
  const pieces: Piece[] = []
  let line: number[] = []
  let isContinued = false
  for (const byte of bytes) {
    if (byte === 10) {
      pieces.push({ bytes: line, isContinued })
      line = []
      isContinued = false
      continue
    }
    line.push(byte)
    if (line.length <= bytesMax) continue
    let at = bytesMax
    if ((line[at] ?? 0) >> 6 === 2) {
      for (let back = 1; back <= 3; back += 1) {
        const before = line[bytesMax - back] ?? 0
        if (before < 0x80) break
        if (before >= 0xc0) {
          at = bytesMax - back
          break
        }
      }
    }
    pieces.push({ bytes: line.slice(0, at), isContinued })
    line = line.slice(at)
    isContinued = true
  }
  if (line.length > 0) pieces.push({ bytes: line, isContinued })
  return pieces
}

const anyBytes = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc
    .string({ unit: fc.constantFrom('a', '\n', 'é', '語', '🙂', '\x1e'), maxLength: 120 })
    .map(value => encoder.encode(value)),
)

test('any chunking gives the lines of a naive splitter', () => {
  fc.assert(
    fc.property(
      anyBytes,
      fc.array(fc.nat({ max: 1000 }), { maxLength: 12 }),
      fc.integer({ min: 8, max: 40 }),
      (bytes, cuts, bytesMax) => {
        expect(split(bytes, cuts, bytesMax)).toEqual(naive(bytes, bytesMax))
      },
    ),
    { seed, numRuns: 2000 },
  )
})

test('no piece of valid UTF-8 ends inside a character', () => {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  const strings = fc.string({ unit: fc.constantFrom('x', 'é', '語', '🙂'), maxLength: 300 })
  fc.assert(
    fc.property(strings, fc.array(fc.nat(), { maxLength: 9 }), (value, cuts) => {
      const pieces = split(encoder.encode(value), cuts, 16)
      expect(pieces.map(piece => strict.decode(new Uint8Array(piece.bytes))).join('')).toBe(value)
      for (const piece of pieces) expect(piece.bytes.length).toBeLessThanOrEqual(16)
    }),
    { seed, numRuns: 500 },
  )
})

test('after discarding, the next line begins after the next newline', () => {
  const lines: string[] = []
  const splitter = new LineSplitter((bytes, isContinued) => {
    lines.push(`${isContinued ? '…' : ''}${text.decode(bytes)}`)
  })
  splitter.push(encoder.encode('half'))
  splitter.discard(encoder.encode(' a line'))
  expect(splitter.unfinished).toBeUndefined()
  splitter.push(encoder.encode('rest\nnext\nopen'))
  splitter.discard(encoder.encode('x\ny\nz'))
  splitter.push(encoder.encode('!\n'))
  expect(lines).toEqual(['…rest', 'next', 'z!'])
})
