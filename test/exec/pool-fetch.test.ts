/** Starts that wait for a download: what they take from others, and what not. */
import { expect, test } from 'bun:test'
import { type Demand, Pool } from '../../src/exec/pool.ts'
import { type Call, hello } from './pool-harness.ts'

const slow = { ...hello, key: 'slow' }

/** Only one may start at a time. */
function poolOf(...demands: readonly Demand[]): Pool<Call> {
  const limits = { waitingPerFnMax: 100, waitingMax: 100, waitMs: 60_000 }
  const pool = new Pool<Call>({ memoryMbMax: 1024, startsMax: 1, cpus: 2, ...limits })
  for (const demand of demands) pool.define(demand, 0)
  return pool
}

/** `start slow 1`, `assign a 1`, `fail a busy`. */
function said(pool: Pool<Call>): string[] {
  return pool.takeEffects().map(effect => {
    if (effect.do === 'assign') return `assign ${effect.call.name} ${effect.instance}`
    if (effect.do === 'fail') return `fail ${effect.call.name} ${effect.code}`
    return `${effect.do} ${effect.key} ${effect.instance}`
  })
}

test('they take no turn of others, and no more of their function begin meanwhile', () => {
  const pool = poolOf(slow, hello)
  pool.acquire('slow', { name: 'a' }, 0)
  pool.acquire('hello', { name: 'b' }, 0)
  expect(said(pool)).toEqual(['start slow 1'])
  pool.fetching(1, true, 250)
  expect(said(pool)).toEqual(['start hello 2'])
  pool.ready(2, 300)
  expect(said(pool)).toEqual(['assign b 2'])
  for (const name of ['c', 'd', 'e']) pool.acquire('slow', { name }, 400)
  pool.tick(5000)
  expect(said(pool)).toEqual([])
  expect(pool.stats().starting).toBe(0)
  pool.fetching(1, false, 6000)
  pool.ready(1, 6100)
  expect(said(pool)).toEqual(['assign a 1', 'start slow 3'])
  pool.fetching(3, true, 6200)
  expect(pool.stats().starting).toBe(0)
})

test('however they end, the turn is free after it', () => {
  const pool = poolOf(slow)
  pool.acquire('slow', { name: 'a' }, 0)
  pool.fetching(1, true, 250)
  pool.failed(1, 'pull-failed', undefined, 300)
  expect(said(pool)).toEqual(['start slow 1', 'fail a pull-failed'])
  expect(pool.stats().starting).toBe(0)
  const call = { name: 'b' }
  pool.acquire('slow', call, 60_000)
  expect(said(pool)).toEqual(['start slow 2'])
  pool.fetching(2, true, 60_250)
  pool.cancel(call, 60_300)
  pool.retire('slow', 60_300)
  expect(said(pool)).toEqual(['stop slow 2'])
  pool.fetching(2, false, 60_400)
  expect(pool.stats().starting).toBe(0)
})
