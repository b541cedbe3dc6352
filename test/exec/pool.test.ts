import { describe, expect, test } from 'bun:test'
import { AssertionError } from '../../src/errors.ts'
import type { Demand, Pool, PoolLimits } from '../../src/exec/pool.ts'
import { type Call, call, hello, observe, poolOf, said } from './pool-harness.ts'

test('the first call starts an instance and gets it; the next finds it at once', () => {
  const pool = poolOf([hello])
  expect(pool.acquire('hello', call('a'), 0)).toBe('waiting')
  expect(said(pool)).toEqual(['start hello 1'])
  pool.ready(1, 25)
  expect(said(pool)).toEqual(['assign a 1'])
  pool.release(1, 1, 'keep', 26)
  expect(pool.acquire('hello', call('b'), 27)).toBe(1)
  expect(said(pool)).toEqual([])
})

describe('placing', () => {
  /** A pool whose first `count` instances of the demand are ready and idle; 1 fell idle first. */
  function warm(demand: Demand, count: number, changes: Partial<PoolLimits> = {}): Pool<Call> {
    const min = { ...demand, instancesMin: count }
    const pool = poolOf([min], { startsMax: 64, memoryMbMax: 100_000, ...changes })
    for (let id = 1; id <= count; id += 1) pool.ready(id, id)
    pool.takeEffects()
    return pool
  }

  test('one call per instance: the instance used last comes first', () => {
    const pool = warm(hello, 3)
    const take = () => pool.acquire('hello', call('x'), 10)
    expect([take(), take(), take()]).toEqual([3, 2, 1])
    for (const id of [2, 3, 1]) pool.release(id, 1, 'keep', 11)
    expect([take(), take()]).toEqual([1, 3])
  })

  test('several per instance: packed, and overflow goes to an idle one', () => {
    const pool = warm({ ...hello, concurrency: 3 }, 3)
    const take = () => pool.acquire('hello', call('x'), 10)
    expect([take(), take(), take(), take(), take()]).toEqual([3, 3, 3, 2, 2])
    // Of two busy ones, where one would do, the more loaded takes the call.
    pool.release(3, 1, 'keep', 11)
    pool.release(3, 1, 'keep', 11)
    expect([take(), take(), take()]).toEqual([2, 3, 3])
  })

  test('several per instance: those that fill cores spread, and then the least loaded', () => {
    const pool = warm({ ...hello, concurrency: 5 }, 3)
    const take = () => pool.acquire('hello', call('x'), 10)
    expect([take(), take()]).toEqual([3, 3])
    expect(pool.toMeasure()).toEqual([1, 2, 3])
    for (let look = 0; look <= 3; look += 1) observe(pool, look * 200, [0, 0, look * 180])
    expect(said(pool)).toEqual([])
    expect([take(), take(), take(), take(), take()]).toEqual([2, 2, 2, 3, 3])
    // All in all they fill half a core: one is enough.
    for (let look = 4; look <= 7; look += 1) observe(pool, look * 200, [0, look * 50, 0])
    expect([take(), take()]).toEqual([3, 2])
  })

  test('waiting calls get slots in the order in which they came', () => {
    const pool = poolOf([{ ...hello, concurrency: 2, instancesMax: 1 }])
    for (const name of ['a', 'b', 'c', 'd']) pool.acquire('hello', call(name), 0)
    pool.ready(1, 25)
    expect(said(pool)).toEqual(['start hello 1', 'assign a 1', 'assign b 1'])
    pool.release(1, 5, 'keep', 30)
    expect(said(pool)).toEqual(['assign c 1'])
  })

  test('a slot is given back once', () => {
    const pool = warm(hello, 1)
    pool.acquire('hello', call('a'), 1)
    pool.release(1, 1, 'keep', 2)
    expect(() => pool.release(1, 1, 'keep', 3)).toThrow(AssertionError)
  })

  test('no effects: always the same frozen list', () => {
    const pool = warm(hello, 1)
    expect(pool.takeEffects()).toBe(pool.takeEffects())
    expect(Object.isFrozen(pool.takeEffects())).toBe(true)
  })
})

describe('company for an instance that computes all the time', () => {
  /** Instance 1 with running calls, none of which waits. */
  function computing(calls: number, changes: Partial<Demand> = {}): Pool<Call> {
    const pool = poolOf([{ ...hello, concurrency: 100, ...changes }])
    pool.acquire('hello', call('first'), 0)
    pool.ready(1, 0)
    for (let count = 1; count < calls; count += 1) pool.acquire('hello', call('x'), 0)
    pool.takeEffects()
    return pool
  }
  function look(pool: Pool<Call>, share: number, times = 4): string[] {
    for (let n = 0; n < times; n += 1) observe(pool, n * 200, [n * 200 * share])
    return said(pool)
  }

  test('comes after three looks, once', () => {
    const pool = computing(20)
    expect(look(pool, 0.95, 3)).toEqual([])
    observe(pool, 600, [570])
    expect(said(pool)).toEqual(['start hello 2'])
    observe(pool, 800, [760])
    expect(said(pool)).toEqual([])
  })

  test('not for one that has time left, nor for one that works for a single caller', () => {
    expect(look(computing(20), 0.5, 20)).toEqual([])
    const single = computing(1)
    expect(single.toMeasure()).toEqual([])
    expect(look(single, 1, 20)).toEqual([])
  })

  test('not where nothing more could run, nor beyond instancesMax, nor when it closes', () => {
    const saturated = computing(20)
    saturated.isSaturated = true
    expect(look(saturated, 1)).toEqual([])
    expect(look(computing(20, { instancesMax: 1 }), 1)).toEqual([])
    const retired = computing(20)
    retired.retire('hello', 0)
    expect(look(retired, 1)).toEqual([])
  })

  test('where CPU time cannot be read, as if it computed', () => {
    const pool = computing(20)
    observe(pool, 0, [undefined])
    expect(said(pool)).toEqual(['start hello 2'])
  })

  test('functions of one call at a time are not measured', () => {
    const pool = poolOf([hello])
    for (const name of ['a', 'b']) pool.acquire('hello', call(name), 0)
    for (const id of [1, 2]) pool.ready(id, 0)
    expect(pool.toMeasure()).toEqual([])
  })

  test('of very many functions, each gets its turn', () => {
    const keys = Array.from({ length: 80 }, (_, n) => `f${n}`)
    const pool = poolOf(
      keys.map(key => ({ ...hello, key, concurrency: 9, memoryMb: 1 })),
      { startsMax: 100 },
    )
    for (const key of [...keys, ...keys]) pool.acquire(key, call(key), 0)
    for (let id = 1; id <= 80; id += 1) pool.ready(id, 0)
    const looks = [pool.toMeasure(), pool.toMeasure(), pool.toMeasure()]
    expect(Math.max(...looks.map(ids => ids.length))).toBeLessThan(40)
    expect(new Set(looks.flat()).size).toBe(80)
  })
})

describe('refusals', () => {
  test('a function larger than the node', () => {
    const pool = poolOf([{ ...hello, memoryMb: 1025 }])
    expect(pool.acquire('hello', call('a'), 0)).toBe('too-large')
  })

  test('more waiting calls than one function, or the node, may have', () => {
    const other = { ...hello, key: 'other' }
    const pool = poolOf([hello, other], { waitingPerFnMax: 2, waitingMax: 3 })
    const placed = ['hello', 'hello', 'hello', 'other', 'other'].map(key =>
      pool.acquire(key, call(key), 0),
    )
    expect(placed).toEqual(['waiting', 'waiting', 'busy', 'waiting', 'busy'])
  })

  test('no instance and no room for one', () => {
    const pool = poolOf([hello, { ...hello, key: 'other' }], { memoryMbMax: 200 })
    pool.acquire('hello', call('a'), 0)
    expect(pool.acquire('other', call('b'), 0)).toBe('busy')
    // With an instance of its own, a function waits for that.
    expect(pool.acquire('hello', call('c'), 0)).toBe('waiting')
  })

  test('a call that waits too long', () => {
    const pool = poolOf([hello], { waitMs: 1000 })
    pool.acquire('hello', call('a'), 0)
    pool.tick(999)
    expect(said(pool)).toEqual(['start hello 1'])
    pool.tick(1000)
    expect(said(pool)).toEqual(['fail a busy'])
    pool.ready(1, 1001)
    expect(said(pool)).toEqual([])
  })

  test('a caller who left is not served', () => {
    const pool = poolOf([{ ...hello, instancesMax: 1 }])
    const [a, b] = [call('a'), call('b')]
    pool.acquire('hello', a, 0)
    pool.acquire('hello', b, 0)
    expect(pool.cancel(a, 1)).toBe(true)
    pool.ready(1, 25)
    expect(said(pool)).toEqual(['start hello 1', 'assign b 1'])
    expect(pool.cancel(b, 26)).toBe(false)
  })
})

describe('memory', () => {
  const small = { ...hello, key: 'small', memoryMb: 50 }
  const large = { ...hello, key: 'large', memoryMb: 100 }
  const huge = { ...hello, key: 'huge', memoryMb: 200 }

  /** Instances 1 (small), 2 (large), 3 (small), idle since 1, 2 and 3; 200 MB all in all. */
  function full(): Pool<Call> {
    const pool = poolOf([small, large, huge], { memoryMbMax: 200 })
    const order = ['small', 'large', 'small']
    for (const key of order) pool.acquire(key, call(key), 0)
    for (const id of [1, 2, 3]) pool.ready(id, 0)
    for (const id of [1, 2, 3]) pool.release(id, 1, 'keep', id)
    pool.takeEffects()
    return pool
  }

  test('the least recently used make room, and only as many as needed', () => {
    const pool = full()
    pool.define({ ...hello, key: 'new', memoryMb: 100 }, 4)
    pool.acquire('new', call('a'), 4)
    // 1 alone is too little; with 2 there is room enough, so 1 is spared.
    expect(said(pool)).toEqual(['stop large 2 evicted', 'start new 4'])
  })

  test('all or nothing: busy ones are never touched', () => {
    const pool = full()
    pool.acquire('large', call('a'), 4)
    expect(pool.acquire('huge', call('b'), 5)).toBe('busy')
    expect(said(pool)).toEqual([])
    pool.release(2, 1, 'keep', 6)
    expect(pool.acquire('huge', call('c'), 7)).toBe('waiting')
    expect(said(pool).length).toBe(4)
  })

  test('instancesMin is kept', () => {
    const kept = { ...large, key: 'kept', instancesMin: 1 }
    const pool = poolOf([kept, huge], { memoryMbMax: 200 })
    pool.ready(1, 0)
    expect(pool.acquire('huge', call('a'), 1)).toBe('busy')
  })

  test('a waiting function takes what another lets go, at once', () => {
    const pool = poolOf([large, small], { memoryMbMax: 150 })
    pool.acquire('small', call('a'), 0)
    pool.acquire('large', call('b'), 0)
    pool.ready(1, 10)
    pool.ready(2, 10)
    pool.acquire('small', call('c'), 10)
    pool.tick(400) // `a` runs for long: a second instance is worth it, and there is no room.
    expect(said(pool)).toEqual(['start small 1', 'start large 2', 'assign a 1', 'assign b 2'])
    pool.release(2, 390, 'keep', 401)
    expect(said(pool)).toEqual(['stop large 2 evicted', 'start small 3'])
  })

  test('functions without any instance come first, the longest waiting first', () => {
    const keys = ['a', 'b', 'c']
    const pool = poolOf(
      keys.map(key => ({ ...hello, key })),
      { startsMax: 1 },
    )
    pool.acquire('a', call('a1'), 0)
    pool.acquire('a', call('a2'), 1)
    pool.acquire('c', call('c1'), 2)
    pool.acquire('b', call('b1'), 3)
    pool.ready(1, 25)
    pool.ready(2, 50)
    pool.ready(3, 75)
    expect(said(pool)).toEqual([
      ...['start a 1', 'assign a1 1', 'start c 2', 'assign c1 2'],
      ...['start b 3', 'assign b1 3', 'start a 4'],
    ])
  })
})

describe('failed starts', () => {
  test('fail all waiting calls when nothing else is there, and hold back new starts', () => {
    const pool = poolOf([hello])
    pool.acquire('hello', call('a'), 0)
    pool.acquire('hello', call('b'), 0)
    pool.failed(1, 'init-failed', 'exit 1', 10)
    expect(said(pool)).toEqual(['start hello 1', 'start hello 2'])
    pool.failed(2, 'init-failed', 'exit 1', 11)
    const lost = (name: string) => `fail ${name} init-failed: exit 1`
    expect(said(pool)).toEqual([lost('a'), lost('b')])
    pool.acquire('hello', call('c'), 109)
    expect(said(pool)).toEqual([lost('c')])
    pool.acquire('hello', call('d'), 110)
    expect(said(pool)).toEqual(['start hello 3'])
  })

  test('the pause doubles from 100 ms to 5 s, and a success ends it', () => {
    const pool = poolOf([hello])
    let nowMs = 0
    for (const pauseMs of [100, 200, 400, 800, 1600, 3200, 5000, 5000]) {
      pool.acquire('hello', call('a'), nowMs)
      const [start] = pool.takeEffects()
      if (start?.do !== 'start') throw new Error(`no start at ${nowMs}`)
      pool.failed(start.instance, 'init-timeout', undefined, nowMs)
      pool.takeEffects()
      pool.acquire('hello', call('b'), nowMs + pauseMs - 1)
      expect(said(pool)).toEqual(['fail b init-timeout'])
      nowMs += pauseMs
    }
    pool.acquire('hello', call('c'), nowMs)
    pool.ready(9, nowMs)
    pool.gone(9, nowMs)
    pool.takeEffects()
    expect(pool.acquire('hello', call('d'), nowMs)).toBe('waiting')
    expect(said(pool)).toEqual(['start hello 10'])
  })

  test('waiting calls stay while another instance can serve them', () => {
    const pool = poolOf([hello])
    pool.acquire('hello', call('a'), 0)
    pool.acquire('hello', call('b'), 0)
    pool.failed(1, 'init-failed', undefined, 10)
    pool.ready(2, 20)
    pool.release(2, 1, 'keep', 21)
    // The success ended the pause, so `b` got a start of its own; the warm one was faster.
    expect(said(pool).slice(2)).toEqual(['assign a 2', 'start hello 3', 'assign b 2'])
  })
})

describe('the end of instances', () => {
  test('unfit: takes no more calls, is stopped after its last, and is replaced', () => {
    const pool = poolOf([{ ...hello, concurrency: 2, instancesMax: 2 }])
    pool.acquire('hello', call('a'), 0)
    pool.acquire('hello', call('b'), 0)
    pool.ready(1, 25)
    pool.acquire('hello', call('c'), 26)
    pool.takeEffects()
    pool.release(1, 30, 'unfit', 55)
    pool.release(1, 30, 'keep', 56)
    expect(said(pool)).toEqual(['start hello 2', 'stop hello 1 unfit'])
    pool.ready(2, 80)
    expect(said(pool)).toEqual(['assign c 2'])
  })

  test('gone: waiting calls get another, and late reports are ignored', () => {
    const pool = poolOf([{ ...hello, instancesMax: 1 }])
    pool.acquire('hello', call('a'), 0)
    pool.acquire('hello', call('b'), 0)
    pool.ready(1, 25)
    pool.gone(1, 26)
    pool.release(1, 1, 'unfit', 27)
    pool.gone(1, 28)
    expect(said(pool)).toEqual(['start hello 1', 'assign a 1', 'start hello 2'])
  })

  test('idle for too long, the longest first, down to instancesMin', () => {
    const pool = poolOf([{ ...hello, instancesMin: 1 }])
    pool.ready(1, 0)
    pool.acquire('hello', call('a'), 0)
    pool.acquire('hello', call('b'), 0)
    pool.ready(2, 100)
    pool.release(1, 1, 'keep', 200)
    pool.release(2, 1, 'keep', 300)
    pool.takeEffects()
    expect(pool.nextWakeMs).toBeLessThanOrEqual(30_200)
    pool.tick(30_199)
    expect(said(pool)).toEqual([])
    expect(pool.nextWakeMs).toBe(30_200)
    pool.tick(30_200)
    expect(said(pool)).toEqual(['stop hello 1 idle'])
    pool.tick(100_000)
    expect(said(pool)).toEqual([])
    expect(pool.nextWakeMs).toBe(Number.POSITIVE_INFINITY)
  })

  test('instancesMin is restored after a pause that grows while they die young', () => {
    const pool = poolOf([{ ...hello, instancesMin: 1 }])
    pool.ready(1, 0)
    pool.gone(1, 10)
    expect(said(pool)).toEqual(['start hello 1'])
    expect(pool.nextWakeMs).toBe(110)
    pool.tick(110)
    pool.ready(2, 120)
    pool.gone(2, 121)
    expect(said(pool)).toEqual(['start hello 2'])
    expect(pool.nextWakeMs).toBe(321)
    pool.tick(321)
    pool.ready(3, 330)
    pool.gone(3, 10_000)
    expect(said(pool)).toEqual(['start hello 3', 'start hello 4'])
  })

  test('retired: idle ones stop now, busy ones when done, waiting calls are served', () => {
    const pool = poolOf([{ ...hello, instancesMax: 2 }])
    for (const name of ['a', 'b', 'c']) pool.acquire('hello', call(name), 0)
    pool.ready(1, 25)
    pool.ready(2, 25)
    pool.takeEffects()
    pool.retire('hello', 30)
    pool.release(1, 10, 'keep', 35)
    pool.release(2, 10, 'unfit', 36)
    expect(said(pool)).toEqual(['assign c 1', 'stop hello 2 unfit'])
    pool.release(1, 10, 'keep', 40)
    expect(said(pool)).toEqual(['stop hello 1 retired'])
    expect(pool.has('hello')).toBe(false)
  })

  test('retired with calls waiting and nothing left: one more is started', () => {
    const pool = poolOf([{ ...hello, instancesMax: 1 }])
    pool.acquire('hello', call('a'), 0)
    pool.acquire('hello', call('b'), 0)
    pool.ready(1, 25)
    pool.retire('hello', 26)
    pool.gone(1, 27)
    pool.ready(2, 50)
    pool.release(2, 1, 'keep', 51)
    expect(said(pool).slice(2)).toEqual(['start hello 2', 'assign b 2', 'stop hello 2 retired'])
    expect(pool.has('hello')).toBe(false)
  })

  test('draining: new calls are refused, idle ones stop, instancesMin counts no more', () => {
    const pool = poolOf([{ ...hello, instancesMin: 2 }])
    pool.ready(1, 0)
    pool.ready(2, 0)
    const id = pool.acquire('hello', call('a'), 0)
    expect(id).toBe(2)
    pool.takeEffects()
    pool.drain(1)
    expect(said(pool)).toEqual(['stop hello 1 draining'])
    expect(pool.acquire('hello', call('b'), 2)).toBe('busy')
    pool.release(2, 1, 'keep', 3)
    pool.tick(4)
    expect(said(pool)).toEqual(['stop hello 2 draining'])
  })
})
