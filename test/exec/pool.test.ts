import { expect, test } from 'bun:test'
import { type Demand, type Effect, Pool, type PoolLimits } from '../../src/exec/pool.ts'

interface Call {
  readonly name: string
}
const call = (name: string): Call => ({ name })

const limits: PoolLimits = {
  memoryMbMax: 1024,
  startsMax: 4,
  cpus: 2,
  waitingPerFnMax: 5000,
  waitingMax: 20_000,
  waitMs: 60_000,
}
const hello: Demand = {
  key: 'hello',
  memoryMb: 128,
  concurrency: 1,
  instancesMin: 0,
  instancesMax: 100,
  idleTimeoutMs: 30_000,
}

/** Effects in short: `start hello 1`, `stop hello 1 idle`, `assign a 1`, `fail a busy`. */
function said(pool: Pool<Call>): string[] {
  return pool.takeEffects().map((effect: Effect<Call>) => {
    if (effect.do === 'start') return `start ${effect.key} ${effect.instance}`
    if (effect.do === 'stop') return `stop ${effect.key} ${effect.instance} ${effect.why}`
    if (effect.do === 'assign') return `assign ${effect.call.name} ${effect.instance}`
    return `fail ${effect.call.name} ${effect.code}${effect.detail ? `: ${effect.detail}` : ''}`
  })
}

function poolOf(demands: readonly Demand[], changes: Partial<PoolLimits> = {}): Pool<Call> {
  const pool = new Pool<Call>({ ...limits, ...changes })
  for (const demand of demands) pool.define(demand, 0)
  return pool
}

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
