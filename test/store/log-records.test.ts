import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { desk } from '../../src/raft/desk.ts'
import type { Entry } from '../../src/raft/types.ts'
import { decodeTurn, encodeTurn } from '../../src/store/log-records.ts'
import { seeded } from '../seed.ts'

/** Of a few bytes, and around the bound of what takes shape in memory that all share. */
const length = fc.oneof(fc.nat(300), fc.integer({ min: desk.length - 300, max: desk.length + 9 }))
const entry = fc.tuple(length, fc.nat(255), fc.constantFrom('normal', 'conf', 'conf-v2'))
const turn = fc
  .record({ first: fc.integer({ min: 1, max: 2 ** 40 }), entries: fc.array(entry), vote: fc.nat() })
  .map(({ first, entries, vote }) => ({
    hardState: { term: 7, vote, commit: first - 1 },
    entries: entries.map(
      ([size, value, kind], at): Entry => ({
        ...{ index: first + at, term: 3, kind },
        bytes: new Uint8Array(size).fill(value),
      }),
    ),
  }))

test('a turn comes out as it went in, whatever is written and read after it', () => {
  fc.assert(
    fc.property(turn, turn, (one, other) => {
      const record = encodeTurn(one)
      const decoded = decodeTurn(record, 'one')
      decodeTurn(encodeTurn(other), 'other')
      expect(decoded).toEqual(one)
      expect(decodeTurn(record, 'one')).toEqual(one)
    }),
    seeded(),
  )
})
