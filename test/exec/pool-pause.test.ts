/** When idle instances are paused, and how calls get them back. */
import { describe, expect, test } from 'bun:test'
import { type Demand, type Effect, Pool } from '../../src/exec/pool.ts'
import { type Call, call, hello, limits } from './pool-harness.ts'

const box: Demand = { ...hello, key: 'box', pauseAfterMs: 500 }

function said(pool: Pool<Call>): string[] {
  return pool.takeEffects().map((effect: Effect<Call>) => {
    if (effect.do === 'assign') return `assign ${effect.call.name} ${effect.instance}`
    if (effect.do === 'fail') return `fail ${effect.call.name} ${effect.code}`
    return `${effect.do} ${effect.instance}${effect.do === 'stop' ? ` ${effect.why}` : ''}`
  })
}

/** Instances 1 to `count`, ready and idle since 0 to `count` - 1. */
function warm(count: number, changes: Partial<Demand> = {}, cpus = 8): Pool<Call> {
  const pool = new Pool<Call>({ ...limits, cpus })
  pool.define({ ...box, ...changes }, 0)
  for (let id = 1; id <= count; id += 1) pool.acquire('box', call(`first ${id}`), 0)
  for (let id = 1; id <= count; id += 1) pool.ready(id, 0, true)
  for (let id = 1; id <= count; id += 1) pool.release(id, 1, 'keep', id - 1)
  pool.tick(count - 1)
  pool.takeEffects()
  return pool
}

/** The same, and all paused. */
function paused(count: number, changes: Partial<Demand> = {}, cpus = 8): Pool<Call> {
  const pool = warm(count, changes, cpus)
  pool.tick(1000)
  pool.takeEffects()
  return pool
}

const counts = (pool: Pool<Call>): number[] => {
  const [fn] = pool.stats().fns
  return fn === undefined ? [] : [fn.idle, fn.busy, fn.paused, fn.starting]
}

describe('pausing', () => {
  test('the longest idle first, each at its time', () => {
    const pool = warm(2)
    expect(pool.nextWakeMs).toBe(500)
    pool.tick(499)
    expect(said(pool)).toEqual([])
    pool.tick(500)
    expect(said(pool)).toEqual(['pause 1'])
    expect(pool.nextWakeMs).toBe(501)
    pool.tick(501)
    expect(said(pool)).toEqual(['pause 2'])
    expect(counts(pool)).toEqual([0, 0, 2, 0])
    expect(pool.stats()).toMatchObject({ memoryMbUsed: 256, memoryMbEvictable: 256 })
  })

  test('never where nobody asked for it, or the driver cannot', () => {
    const never = warm(1, { pauseAfterMs: Number.POSITIVE_INFINITY })
    never.tick(29_000)
    expect(said(never)).toEqual([])
    const pool = new Pool<Call>(limits)
    pool.define({ ...box, instancesMin: 1 }, 0)
    pool.ready(1, 0)
    pool.takeEffects()
    pool.tick(29_000)
    expect(said(pool)).toEqual([])
    expect(pool.nextWakeMs).toBe(Number.POSITIVE_INFINITY)
  })

  test('also those of instancesMin, which a paused one counts for', () => {
    const pool = paused(1, { instancesMin: 1 })
    expect(counts(pool)).toEqual([0, 0, 1, 0])
    expect(pool.stats().memoryMbEvictable).toBe(0)
    pool.tick(100_000)
    expect(said(pool)).toEqual([])
  })

  test('the idle timeout goes on', () => {
    const pool = paused(1)
    expect(pool.nextWakeMs).toBe(30_000)
    pool.tick(30_000)
    expect(said(pool)).toEqual(['stop 1 idle'])
  })

  test('one that failed leaves the instance ready, and is tried again', () => {
    const pool = paused(1)
    pool.pauseFailed(1, 1100)
    expect(pool.nextWakeMs).toBe(2100)
    pool.tick(2099)
    expect(said(pool)).toEqual([])
    expect(counts(pool)).toEqual([1, 0, 0, 0])
    pool.tick(2100)
    expect(said(pool)).toEqual(['pause 1'])
    pool.pauseFailed(1, 2200)
    // The failures do not keep it: it is idle since 0.
    pool.tick(30_000)
    expect(said(pool)).toEqual(['stop 1 idle'])
  })

  test('one that failed does not put off the others', () => {
    const pool = warm(2)
    pool.tick(500)
    pool.pauseFailed(1, 500)
    pool.takeEffects()
    expect(pool.nextWakeMs).toBe(501)
    pool.tick(501)
    expect(said(pool)).toEqual(['pause 2'])
  })

  test('a failed one is older than those used since', () => {
    const pool = warm(3)
    pool.tick(500)
    pool.pauseFailed(1, 500)
    const take = () => pool.acquire('box', call('x'), 500)
    expect([take(), take(), take()]).toEqual([3, 2, 1])
  })
})

describe('resuming', () => {
  test('a call that finds no free slot gets one at once, the one used last', () => {
    const pool = paused(2)
    expect(pool.acquire('box', call('a'), 1001)).toBe('waiting')
    expect(said(pool)).toEqual(['resume 2'])
    expect(counts(pool)).toEqual([0, 0, 2, 0])
    pool.resumed(2, 1020)
    expect(said(pool)).toEqual(['assign a 2'])
    expect(counts(pool)).toEqual([0, 1, 1, 0])
    pool.release(2, 1, 'keep', 1030)
    pool.tick(1529)
    expect(said(pool)).toEqual([])
    pool.tick(1530)
    expect(said(pool)).toEqual(['pause 2'])
  })

  test('as many as the calls need, then starts', () => {
    const pool = paused(2)
    for (const name of ['a', 'b', 'c']) pool.acquire('box', call(name), 1001)
    expect(said(pool)).toEqual(['resume 2', 'resume 1', 'start 3'])
    const wide = new Pool<Call>(limits)
    wide.define({ ...box, concurrency: 4, instancesMin: 2 }, 0)
    for (const id of [1, 2]) wide.ready(id, 0, true)
    wide.tick(1000)
    wide.takeEffects()
    for (const name of ['a', 'b', 'c']) wide.acquire('box', call(name), 1001)
    expect(said(wide)).toEqual(['resume 2'])
  })

  test('also while another one starts, and without memory or a start to spare', () => {
    const pool = new Pool<Call>({ ...limits, startsMax: 1, memoryMbMax: 256 })
    pool.define(box, 0)
    pool.acquire('box', call('a'), 0)
    pool.acquire('box', call('b'), 0)
    pool.ready(1, 0, true)
    pool.release(1, 1, 'keep', 0)
    pool.release(1, 1, 'keep', 0)
    expect(said(pool)).toEqual(['start 1', 'assign a 1', 'start 2', 'assign b 1'])
    pool.tick(500)
    pool.acquire('box', call('c'), 501)
    expect(said(pool)).toEqual(['pause 1', 'resume 1'])
  })

  test('is no start: it says nothing of how long starts take', () => {
    const pool = paused(1, {}, 1)
    pool.acquire('box', call('a'), 1001)
    pool.resumed(1, 50_000)
    pool.acquire('box', call('b'), 50_000)
    pool.tick(50_400)
    // `a` hangs for 400 ms, which is longer than a start, 0 ms as far as is known.
    expect(said(pool)).toEqual(['resume 1', 'assign a 1', 'start 2'])
  })

  test('one that fails is stopped, and the call goes to the next or to a new one', () => {
    const pool = paused(2)
    pool.acquire('box', call('a'), 1001)
    pool.resumeFailed(2, 1010)
    expect(said(pool)).toEqual(['resume 2', 'stop 2 unfit', 'resume 1'])
    pool.resumeFailed(1, 1020)
    expect(said(pool)).toEqual(['stop 1 unfit', 'start 3'])
    pool.ready(3, 1050, true)
    expect(said(pool)).toEqual(['assign a 3'])
  })

  test('what pauses still, and fails to, serves at once', () => {
    const pool = paused(1)
    pool.acquire('box', call('a'), 1001)
    pool.pauseFailed(1, 1002)
    expect(said(pool)).toEqual(['resume 1', 'assign a 1'])
  })

  test('for a caller who leaves meanwhile: it is idle, and paused again', () => {
    const pool = paused(1)
    const a = call('a')
    pool.acquire('box', a, 1001)
    pool.cancel(a, 1002)
    pool.resumed(1, 1010)
    pool.tick(1510)
    expect(said(pool)).toEqual(['resume 1', 'pause 1'])
  })

  test('callers are not told of a failed start while there is one to resume', () => {
    const pool = paused(2, { instancesMin: 2 })
    pool.gone(1, 1000)
    pool.tick(1100)
    expect(said(pool)).toEqual(['start 3'])
    pool.failed(3, 'init-failed', undefined, 1101)
    expect(pool.acquire('box', call('a'), 1102)).toBe('waiting')
    expect(said(pool)).toEqual(['resume 2'])
  })

  test('a failed start is not the end of calls that wait for one that is being resumed', () => {
    const pool = paused(1)
    for (const name of ['a', 'b']) pool.acquire('box', call(name), 1001)
    expect(said(pool)).toEqual(['resume 1', 'start 2'])
    pool.failed(2, 'init-failed', undefined, 1002)
    pool.resumed(1, 1003)
    expect(said(pool)).toEqual(['assign a 1'])
  })

  test('one that is being resumed counts for instancesMin', () => {
    const pool = paused(1, { instancesMin: 1 })
    pool.acquire('box', call('a'), 1001)
    pool.tick(1050)
    expect(said(pool)).toEqual(['resume 1'])
  })

  test('company for a computing instance is a paused one, if there is one', () => {
    const pool = warm(1, { concurrency: 9 })
    pool.define({ ...box, key: 'other', concurrency: 9, instancesMin: 2 }, 0)
    for (const id of [2, 3]) pool.ready(id, 0, true)
    pool.tick(400)
    expect(pool.acquire('other', call('a'), 400)).toBe(3)
    pool.tick(600)
    expect(pool.acquire('other', call('b'), 600)).toBe(3)
    expect(said(pool)).toEqual(['start 2', 'start 3', 'pause 1', 'pause 2'])
    for (let look = 0; look < 4; look += 1) {
      pool.observe(new Map([[3, look * 200]]), 600 + look * 200)
    }
    expect(said(pool)).toEqual(['resume 2'])
  })
})

describe('the end of paused instances', () => {
  test('they make room like idle ones, the longest unused first', () => {
    const pool = new Pool<Call>({ ...limits, memoryMbMax: 384 })
    pool.define(box, 0)
    pool.define({ ...box, key: 'never', pauseAfterMs: Number.POSITIVE_INFINITY }, 0)
    pool.define({ ...box, key: 'new', memoryMb: 256 }, 0)
    for (const key of ['box', 'never', 'box']) pool.acquire(key, call(key), 0)
    for (const id of [1, 2, 3]) pool.ready(id, 0, true)
    for (const id of [1, 2, 3]) pool.release(id, 1, 'keep', id)
    pool.tick(1000)
    pool.takeEffects()
    pool.acquire('new', call('a'), 1001)
    expect(said(pool)).toEqual(['stop 1 evicted', 'stop 2 evicted', 'start 4'])
  })

  test('retired, draining: at once; one that is being resumed when nobody waits for it', () => {
    const retired = paused(2)
    const a = call('a')
    retired.acquire('box', a, 1001)
    retired.takeEffects()
    retired.retire('box', 1002)
    expect(said(retired)).toEqual(['stop 1 retired'])
    retired.cancel(a, 1003)
    expect(said(retired)).toEqual(['stop 2 retired'])
    expect(retired.has('box')).toBe(false)
    retired.resumed(2, 1004)
    const drained = paused(2)
    drained.acquire('box', a, 1001)
    drained.takeEffects()
    drained.drain(1002)
    drained.resumed(2, 1003)
    drained.release(2, 1, 'keep', 1004)
    expect(said(drained)).toEqual(['stop 1 draining', 'assign a 2', 'stop 2 draining'])
  })

  test('gone: the call gets another, and late reports are ignored', () => {
    const pool = paused(2)
    pool.gone(1, 1000)
    pool.acquire('box', call('a'), 1001)
    pool.gone(2, 1002)
    expect(said(pool)).toEqual(['resume 2', 'start 3'])
    for (const id of [1, 2]) {
      pool.resumed(id, 1003)
      pool.resumeFailed(id, 1003)
      pool.pauseFailed(id, 1003)
    }
    expect(said(pool)).toEqual([])
  })
})
