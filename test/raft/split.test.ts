import { expect, test } from 'bun:test'
import { splitAt } from '../../src/raft/split.ts'

const entry = (index: number) => ({
  ...{ index, term: 1, kind: 'normal' as const },
  bytes: new Uint8Array(),
})
const four = [5, 6, 7, 8].map(entry)

test.each([
  ['before all', 0, 0],
  ['just before the first', 4, 0],
  ['at the first', 5, 1],
  ['between', 7, 3],
  ['at the last', 8, 4],
  ['behind all', 100, 4],
])('entries are split %s', (_, index, count) => {
  expect(splitAt(four, index)).toEqual([four.slice(0, count), four.slice(count)])
})

test('no entries are split into none and none', () => {
  expect(splitAt([], 3)).toEqual([[], []])
})
