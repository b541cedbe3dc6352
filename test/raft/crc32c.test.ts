import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { crc32c } from '../../src/raft/crc32c.ts'
import { seeded } from '../seed.ts'

const text = (value: string) => new TextEncoder().encode(value)

/** The definition, one bit at a time. */
function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return (crc ^ 0xffffffff) >>> 0
}

describe('crc32c', () => {
  test.each([
    ['the check value of the catalogue', text('123456789'), 0xe3069283],
    ['nothing', new Uint8Array(), 0],
    ['32 bytes of zero (RFC 3720 B.4)', new Uint8Array(32), 0x8a9136aa],
    ['32 bytes of one (RFC 3720 B.4)', new Uint8Array(32).fill(255), 0x62a8ab43],
    ['32 rising bytes (RFC 3720 B.4)', Uint8Array.from({ length: 32 }, (_, at) => at), 0x46dd794e],
  ])('of %s', (_, bytes, expected) => {
    expect(crc32c(bytes)).toBe(expected)
  })

  test('agrees with the definition, of the whole and of a part', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(100), fc.nat(100), (bytes, a, b) => {
        expect(crc32c(bytes)).toBe(slowCrc(bytes))
        const [start, end] = [Math.min(a, b, bytes.length), Math.min(Math.max(a, b), bytes.length)]
        expect(crc32c(bytes, start, end)).toBe(slowCrc(bytes.subarray(start, end)))
      }),
      seeded(),
    )
  })
})
