import { describe, expect, test } from 'bun:test'
import { chooseVictims } from '../../src/exec/eviction.ts'
import { backoffMs, Estimate, type Pressure, wantsStart } from '../../src/exec/scale.ts'
import { Spread, shareBetween } from '../../src/exec/spread.ts'

const base: Pressure = {
  waiting: 10,
  instances: 2,
  starting: 0,
  concurrency: 1,
  width: 2,
  runMs: 50,
  runMsUncrowded: 50,
  oldestMs: 0,
  startMs: 100,
  waitingMs: 0,
  pressedMs: 0,
  isSaturated: false,
  oldestWaitMs: 100,
}

/** 1,000 callers of a JavaScript hello. */
const packed = { width: 1, instances: 1, concurrency: 100, waiting: 900, runMs: 3, startMs: 25 }
const lasting = { runMs: 1, waiting: 30, instances: 1 }
const saturated = { isSaturated: true, waiting: 1000, pressedMs: 10_001 }

describe('wantsStart', () => {
  const rows: [string, Partial<Pressure>, boolean][] = [
    ['10 waiting × 50 ms / 2 is longer than a start', {}, true],
    ['4 waiting × 50 ms / 2 is just a start', { waiting: 4 }, false],
    ['slots count, not instances', { concurrency: 5 }, false],
    ['starting slots take them all', { waiting: 2, starting: 2, runMs: 999 }, false],
    ['nothing there yet', { instances: 0, waiting: 1 }, true],
    ['nothing there, one is starting', { instances: 1, starting: 1, waiting: 1 }, false],
    ['nothing known: up to its width', { runMs: undefined, instances: 1 }, true],
    ['nothing known: no more than that', { runMs: undefined }, false],
    ['nothing known but that a call hangs', { runMs: undefined, oldestMs: 200 }, true],
    ['a hiccup says nothing', { runMs: undefined, oldestMs: 199 }, false],
    ['a hanging call outweighs the average', { runMs: 1, oldestMs: 500 }, true],
    ['quick: the backlog is over soon', { runMs: 1, waiting: 1000 }, false],
    ['quick, below its width', { runMs: 1, waiting: 1000, instances: 1 }, true],
    ['quick: expected to last', { runMs: 5, waiting: 1000 }, true],
    ['quick: has lasted', { runMs: 5, waiting: 60, pressedMs: 1900 }, true],
    ['stretched: the cores are full', { runMs: 80, waiting: 1000 }, false],
    ['nobody has waited long', { oldestWaitMs: 99, waiting: 1000 }, false],
    ['nobody has waited long, below its width', { oldestWaitMs: 0, instances: 1 }, true],
    ['saturated: cores have nothing to give', { isSaturated: true, waiting: 1000 }, false],
    ['saturated, below its width', { isSaturated: true, instances: 1 }, true],
    ['saturated for very long', { ...saturated, oldestWaitMs: 1000 }, true],
    ['saturated for very long, but each waits a little only', saturated, false],
    ['quick on one instance that has time left', { ...packed, oldestWaitMs: 30 }, false],
    ['quick on one instance, and overload lasts', { ...packed, pressedMs: 2000 }, true],
    ['one call at a time, and calls never stop waiting', { ...lasting, waitingMs: 1001 }, true],
    ['one call at a time, but not for long', { ...lasting, waitingMs: 1000 }, false],
    ['one call at a time, at its width', { ...lasting, waitingMs: 9999, instances: 2 }, false],
    ['many calls at a time', { ...lasting, waitingMs: 9999, concurrency: 5 }, false],
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

describe('Spread', () => {
  /** Looks at it with these sums of shares, and says the width after each. */
  function widths(shares: number[], running = 50, isSaturated = false, cpus = 4): number[] {
    const spread = new Spread()
    return shares.map(share => {
      spread.look(share, running, cpus, isSaturated)
      return spread.width
    })
  }

  test('a full core, seen three times in a row, gets company', () => {
    expect(widths([0.9, 0.9, 0.9, 1.8, 1.8, 1.8])).toEqual([1, 1, 2, 2, 2, 3])
    expect(widths([0.9, 0.9, 0.8, 0.9, 0.9])).toEqual([1, 1, 1, 1, 1])
  })
  test('no more than cores, and no more than calls', () => {
    expect(widths(Array(9).fill(4), 50, false, 2).at(-1)).toBe(2)
    expect(widths(Array(9).fill(4), 1).at(-1)).toBe(1)
    expect(widths(Array(9).fill(4), 2).at(-1)).toBe(2)
  })
  test('no company where nothing more could run', () => {
    expect(widths(Array(9).fill(1), 50, true).at(-1)).toBe(1)
  })
  test('packed again when one less would do, with a margin', () => {
    expect(widths([0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6])).toEqual([
      1, 1, 2, 2, 2, 2, 2, 2, 1,
    ])
  })
  test('as many as cores where CPU time cannot be read', () => {
    const spread = new Spread()
    spread.giveUp(4)
    expect(spread.width).toBe(4)
  })
  test('the share of one core is at most one, and unknown at the first look', () => {
    expect(shareBetween(undefined, { cpuMs: 100, atMs: 200 })).toBe(0)
    expect(shareBetween({ cpuMs: 100, atMs: 200 }, { cpuMs: 150, atMs: 400 })).toBe(0.25)
    expect(shareBetween({ cpuMs: 100, atMs: 200 }, { cpuMs: 900, atMs: 400 })).toBe(1)
  })
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
