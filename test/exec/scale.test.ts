import { describe, expect, test } from 'bun:test'
import { chooseVictims } from '../../src/exec/eviction.ts'
import { backoffMs, Estimate, type Pressure, wantsStart } from '../../src/exec/scale.ts'

const base: Pressure = {
  waiting: 10,
  instances: 2,
  starting: 0,
  concurrency: 1,
  cpus: 2,
  runMs: 50,
  runMsUncrowded: 50,
  oldestMs: 0,
  startMs: 100,
  pressedMs: 0,
  isSaturated: false,
  oldestWaitMs: 100,
}

describe('wantsStart', () => {
  const rows: [string, Partial<Pressure>, boolean][] = [
    ['10 waiting × 50 ms / 2 is longer than a start', {}, true],
    ['4 waiting × 50 ms / 2 is just a start', { waiting: 4 }, false],
    ['slots count, not instances', { concurrency: 5 }, false],
    ['starting slots take them all', { waiting: 2, starting: 2, runMs: 999 }, false],
    ['nothing there yet', { instances: 0, waiting: 1 }, true],
    ['nothing there, one is starting', { instances: 1, starting: 1, waiting: 1 }, false],
    ['nothing known: one per core', { runMs: undefined, instances: 1 }, true],
    ['nothing known: no more than that', { runMs: undefined }, false],
    ['nothing known but that a call hangs', { runMs: undefined, oldestMs: 200 }, true],
    ['a hiccup says nothing', { runMs: undefined, oldestMs: 199 }, false],
    ['a hanging call outweighs the average', { runMs: 1, oldestMs: 500 }, true],
    ['quick: the backlog is over soon', { runMs: 1, waiting: 1000 }, false],
    ['quick, below one per core', { runMs: 1, waiting: 1000, instances: 1 }, true],
    ['quick: expected to last', { runMs: 5, waiting: 1000 }, true],
    ['quick: has lasted', { runMs: 5, waiting: 60, pressedMs: 1900 }, true],
    ['stretched: the cores are full', { runMs: 80, waiting: 1000 }, false],
    ['nobody has waited long', { oldestWaitMs: 99, waiting: 1000 }, false],
    ['nobody has waited long, below one per core', { oldestWaitMs: 0, instances: 1 }, true],
    ['saturated: cores have nothing to give', { isSaturated: true, waiting: 1000 }, false],
    ['saturated, below one per core', { isSaturated: true, instances: 1 }, true],
    ['saturated for very long', { isSaturated: true, waiting: 1000, pressedMs: 10_001 }, true],
    ['stretched for long', { runMs: 80, waiting: 1000, pressedMs: 2001 }, true],
  ]
  for (const [title, given, expected] of rows) {
    test(`${title}: ${expected}`, () => expect(wantsStart({ ...base, ...given })).toBe(expected))
  }
})

test('an estimate starts from the least of its first samples, then follows', () => {
  const estimate = new Estimate(3)
  estimate.add(30)
  estimate.add(1)
  expect(estimate.ms).toBeUndefined()
  estimate.add(2)
  expect(estimate.ms).toBe(1)
  estimate.add(11)
  expect(estimate.ms).toBe(2)
})

test('the pause after failures is bounded', () => {
  expect([1, 2, 3, 6, 7, 5000].map(backoffMs)).toEqual([100, 200, 400, 3200, 5000, 5000])
})

describe('chooseVictims', () => {
  /** Memory of the candidates, oldest first; need; memory of the chosen. */
  const rows: [string, number[], number, number[]][] = [
    ['the oldest', [10, 10, 10], 10, [10]],
    ['as many as needed', [10, 10, 10], 15, [10, 10]],
    ['nothing when all are too little', [10, 10], 21, []],
    ['a small one is spared when a larger one suffices', [10, 50, 10], 50, [50]],
    ['the most recently used is spared first', [10, 10, 10, 40], 45, [10, 40]],
  ]
  for (const [title, memories, needMb, expected] of rows) {
    test(title, () => {
      const candidates = memories.map((memoryMb, idleSinceMs) => ({ memoryMb, idleSinceMs }))
      const chosen = chooseVictims(candidates.reverse(), needMb)
      expect(chosen.map(victim => victim.memoryMb)).toEqual(expected)
    })
  }
})
