import { describe, expect, test } from 'bun:test'
import { describeVerdict } from './linearizability.ts'
import { Prng } from './prng.ts'
import {
  chainFaults,
  checkRegisters,
  type RegisterInput,
  type RegisterOperation,
} from './registers.ts'

function op(
  invokedAt: number,
  returnedAt: number,
  input: RegisterInput,
  before: string | undefined,
): RegisterOperation {
  return { input, output: { before }, invokedAt, returnedAt }
}

function unknown(invokedAt: number, input: RegisterInput): RegisterOperation {
  return { input, output: undefined, invokedAt, returnedAt: invokedAt }
}

const read = (key = 'x'): RegisterInput => ({ kind: 'read', key })
const write = (value: string, key = 'x'): RegisterInput => ({ kind: 'write', key, value })
const swap = (expected: string, value: string): RegisterInput => ({
  kind: 'swap',
  key: 'x',
  expected,
  value,
})

function verdict(...history: RegisterOperation[]): string {
  return checkRegisters(history).kind
}

describe('known histories', () => {
  test('nothing, and reads of nothing', () => {
    expect(verdict()).toBe('linearizable')
    expect(verdict(op(0, 1, read(), ''), op(2, 3, read(), ''))).toBe('linearizable')
    expect(verdict(op(0, 1, read(), 'a'))).toBe('violation')
  })

  test('a read beside a write sees the old or the new value, and later reads never go back', () => {
    const write1 = op(0, 100, write('1'), undefined)
    expect(verdict(write1, op(25, 75, read(), '1'), op(30, 60, read(), ''))).toBe('linearizable')
    expect(verdict(write1, op(10, 30, read(), '1'), op(40, 90, read(), ''))).toBe('violation')
  })

  test('a stale read after the write was answered', () => {
    const writes = [op(0, 1, write('1'), undefined), op(2, 3, write('2'), undefined)]
    expect(verdict(...writes, op(4, 5, read(), '2'))).toBe('linearizable')
    expect(verdict(...writes, op(4, 5, read(), '1'))).toBe('violation')
    expect(verdict(...writes, op(2.5, 5, read(), '1'))).toBe('linearizable')
  })

  test('an answer and a call of the same moment overlap', () => {
    expect(verdict(op(0, 2, write('1'), undefined), op(2, 3, read(), ''))).toBe('linearizable')
  })

  test('a lost update', () => {
    const both = [op(0, 1, write('1'), ''), op(2, 3, write('2'), '')]
    expect(verdict(...both)).toBe('violation')
    expect(verdict(op(0, 3, write('1'), '2'), op(0, 3, write('2'), ''))).toBe('linearizable')
    expect(verdict(op(0, 3, write('1'), '2'), op(0, 3, write('2'), '1'))).toBe('violation')
  })

  test('two successful swaps of the same value', () => {
    const first = op(0, 9, swap('', '1'), '')
    expect(verdict(first, op(0, 9, swap('', '2'), '1'))).toBe('linearizable')
    expect(verdict(first, op(0, 9, swap('', '2'), ''))).toBe('violation')
  })

  test('keys do not disturb each other, and each is checked', () => {
    const good = [op(0, 1, write('1', 'y'), ''), op(2, 3, read('y'), '1')]
    expect(verdict(...good, op(2, 3, read(), ''))).toBe('linearizable')
    expect(verdict(...good, op(2, 3, read(), '1'))).toBe('violation')
  })
})

describe('unknown outcomes', () => {
  test('may never have happened', () => {
    expect(verdict(unknown(0, write('1')), op(5, 6, read(), ''))).toBe('linearizable')
  })

  test('may have happened at any time after the call, once', () => {
    const lost = unknown(0, write('1'))
    const later = [op(5, 6, read(), ''), op(7, 8, read(), '1'), op(9, 10, read(), '1')]
    expect(verdict(lost, ...later)).toBe('linearizable')
    expect(verdict(lost, ...later, op(11, 12, read(), ''))).toBe('violation')
    const over = [op(1, 2, write('2'), ''), op(3, 4, read(), '1')]
    expect(verdict(lost, ...over)).toBe('linearizable')
    expect(verdict(lost, ...over, op(5, 6, read(), '2'))).toBe('violation')
  })

  test('did not happen before the call', () => {
    expect(verdict(unknown(5, write('1')), op(0, 4, read(), '1'))).toBe('violation')
  })

  test('an unknown swap of a value that is gone has no effect', () => {
    const history = [op(0, 1, write('1'), ''), unknown(2, swap('', '2'))]
    expect(verdict(...history, op(3, 4, read(), '1'))).toBe('linearizable')
    expect(verdict(...history, op(3, 4, read(), '2'))).toBe('violation')
  })

  test('many of them do not make the search long', () => {
    const history: RegisterOperation[] = []
    for (let at = 0; at < 400; at++) history.push(unknown(at, write(`lost${at}`)))
    for (let at = 0; at < 60; at++) {
      history.push(op(500 + at, 500.5 + at, read(), at < 30 ? 'lost7' : 'lost9'))
    }
    expect(verdict(...history)).toBe('linearizable')
    expect(verdict(...history, op(600, 601, read(), 'lost7'))).toBe('violation')
  })
})

/** A history that a single copy gave, with random overlaps and lost answers. */
function realHistory(prng: Prng, count: number): RegisterOperation[] {
  const state = new Map<string, string>()
  return Array.from({ length: count }, (_, at) => {
    const key = prng.pick(['x', 'y'])
    const before = state.get(key) ?? ''
    const input: RegisterInput = prng.chance(0.5)
      ? { kind: 'read', key }
      : prng.chance(0.3)
        ? { kind: 'swap', key, expected: prng.chance(0.5) ? before : 'other', value: `${at}` }
        : { kind: 'write', key, value: `${at}` }
    const isWritten = input.kind === 'write' || (input.kind === 'swap' && input.expected === before)
    if (isWritten) state.set(key, input.value)
    const invokedAt = at - prng.exponential(2)
    if (prng.chance(0.1)) return unknown(invokedAt, input)
    return op(invokedAt, at + prng.exponential(2), input, before)
  })
}

/** All orders, by brute force. */
function isLinearizableSlow(history: readonly RegisterOperation[], state = ''): boolean {
  const known = history.filter(({ output }) => output !== undefined)
  if (known.length === 0) return true
  const earliestEnd = Math.min(...known.map(({ returnedAt }) => returnedAt))
  return history.some((operation, at) => {
    const { input, output, invokedAt } = operation
    if (invokedAt > earliestEnd) return false
    if (output?.before !== undefined && output.before !== state) return false
    const isRefused = input.kind === 'swap' && input.expected !== state
    const next = input.kind === 'read' || isRefused ? state : input.value
    return isLinearizableSlow(history.toSpliced(at, 1), next)
  })
}

describe('random histories', () => {
  test('those of a single copy are accepted by both checks', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const history = realHistory(new Prng(seed), 60)
      expect(`${seed}: ${describeVerdict(checkRegisters(history))}`).toBe(`${seed}: linearizable`)
      expect([seed, chainFaults(history)]).toEqual([seed, []])
    }
  })

  test('small ones get the verdict of trying every order', () => {
    const count = { linearizable: 0, violation: 0, undecided: 0 }
    for (let seed = 1; seed <= 3000; seed++) {
      const prng = new Prng(seed)
      const values = ['', '1', '2', '3', '4', '5', '6']
      const history = Array.from({ length: 6 }, (_, at): RegisterOperation => {
        const input = prng.pick([read(), write(`${at + 1}`), swap(`${at}`, `${at + 1}`)])
        const invokedAt = prng.below(10)
        if (prng.chance(0.2)) return unknown(invokedAt, input)
        const before = prng.pick(values.slice(0, 1 + prng.below(4)))
        const isSilent = input.kind === 'write' && prng.chance(0.5)
        return op(invokedAt, invokedAt + prng.below(8), input, isSilent ? undefined : before)
      })
      const { kind } = checkRegisters(history)
      count[kind] += 1
      expect([seed, kind]).toEqual([
        seed,
        isLinearizableSlow(history) ? 'linearizable' : 'violation',
      ])
    }
    expect(count.linearizable).toBeGreaterThan(100)
    expect(count.violation).toBeGreaterThan(100)
    expect(count.undecided).toBe(0)
  })

  test('what the chains refuse is refused by the search too', () => {
    let refused = 0
    for (let seed = 1; seed <= 500; seed++) {
      const prng = new Prng(seed)
      const history = realHistory(prng, 40)
      const at = prng.below(history.length)
      const changed = history[at]
      if (changed?.output === undefined) continue
      const before = `${prng.below(history.length)}`
      const mutant = history.with(at, { ...changed, output: { before } })
      const isRefused = chainFaults(mutant).length > 0
      if (isRefused) expect([seed, checkRegisters(mutant).kind]).toEqual([seed, 'violation'])
      refused += Number(isRefused)
    }
    expect(refused).toBeGreaterThan(200)
  })
})

describe('chains of predecessors', () => {
  test('a fork, a value from nowhere, a stale read, a read of the future, a circle', () => {
    const one = op(0, 1, write('1'), '')
    expect(chainFaults([one, op(2, 3, write('2'), '')]).join()).toContain("both replaced ''")
    expect(chainFaults([one, op(2, 3, read(), '7')]).join()).toContain('nobody wrote')
    const two = op(2, 3, write('2'), '1')
    expect(chainFaults([one, two, op(4, 5, read(), '1')]).join()).toContain('replaced by 2 at 3')
    expect(chainFaults([one, two, op(0, 1, read(), '2')]).join()).toContain('before it was written')
    const circle = [op(0, 9, write('a'), 'b'), op(0, 9, write('b'), 'a')]
    expect(chainFaults(circle).join()).toContain('its own predecessor')
    const backwards = [
      op(5, 9, write('b'), ''),
      op(0, 9, write('c'), 'b'),
      op(0, 4, write('d'), 'c'),
    ]
    expect(chainFaults(backwards).join()).toContain('began after its end')
  })
})

test('the text of a violation names the operations that fit nowhere', () => {
  const text = describeVerdict(
    checkRegisters([op(0, 1, write('1'), ''), op(2, 3, read(), ''), unknown(0, write('2'))]),
  )
  expect(text).toContain('not linearizable on x')
  expect(text).toContain('2..3 {"before":""} {"kind":"read","key":"x"}')
})
