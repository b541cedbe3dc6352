import { expect, test } from 'bun:test'
import fc from 'fast-check'
import type { HardState } from '../../src/raft/types.ts'
import { follows, laterOf } from '../../src/store/log-hard.ts'
import { seeded } from '../seed.ts'

const state = (term: number, vote: number, commit: number): HardState => ({ term, vote, commit })

test.each([
  ['the same', state(3, 1, 7), state(3, 1, 7)],
  ['a higher commit', state(3, 1, 8), state(3, 1, 7)],
  ['a higher term, with another vote', state(4, 2, 7), state(3, 1, 7)],
  ['a higher term, without a vote', state(4, 0, 7), state(3, 1, 7)],
  ['the first vote of a term', state(3, 2, 7), state(3, 0, 7)],
])('%s is later', (_, later, earlier) => {
  expect(laterOf(later, earlier)).toEqual(later)
  expect(laterOf(earlier, later)).toEqual(later)
})

test.each([
  ['two votes in one term', state(3, 1, 7), state(3, 2, 7)],
  ['two votes in one term, whatever the commit', state(3, 1, 7), state(3, 2, 9)],
  ['a vote that is taken back', state(3, 1, 7), state(3, 0, 9)],
  ['a commit that falls in a higher term', state(4, 1, 7), state(3, 1, 9)],
])('%s contradict each other', (_, one, other) => {
  expect(laterOf(one, other)).toBeUndefined()
  expect(laterOf(other, one)).toBeUndefined()
})

test('of any two states in the life of a member the later is found', () => {
  const step = fc.record({
    isNewTerm: fc.boolean(),
    vote: fc.nat(3),
    committed: fc.nat(2),
  })
  fc.assert(
    fc.property(fc.array(step), fc.nat(), fc.nat(), (steps, one, other) => {
      const life = [state(0, 0, 0)]
      for (const { isNewTerm, vote, committed } of steps) {
        const last = life.at(-1) ?? state(0, 0, 0)
        const next = isNewTerm
          ? state(last.term + 1, vote, last.commit + committed)
          : state(last.term, last.vote === 0 ? vote : last.vote, last.commit + committed)
        expect(follows(next, last)).toBe(true)
        life.push(next)
      }
      const [low, high] = [one % life.length, other % life.length].sort((a, b) => a - b)
      const [earlier, later] = [life[low ?? 0] ?? state(0, 0, 0), life[high ?? 0] ?? state(0, 0, 0)]
      expect(laterOf(earlier, later)).toEqual(later)
      expect(laterOf(later, earlier)).toEqual(later)
    }),
    seeded(300),
  )
})
