/** A small node, a function, and what a pool says, in short. */
import { type Demand, type Effect, Pool, type PoolLimits } from '../../src/exec/pool.ts'

export interface Call {
  readonly name: string
}
export const call = (name: string): Call => ({ name })

export const limits: PoolLimits = {
  memoryMbMax: 1024,
  startsMax: 4,
  cpus: 2,
  waitingPerFnMax: 5000,
  waitingMax: 20_000,
  waitMs: 60_000,
}
export const hello: Demand = {
  key: 'hello',
  memoryMb: 128,
  concurrency: 1,
  instancesMin: 0,
  instancesMax: 100,
  idleTimeoutMs: 30_000,
  pauseAfterMs: Number.POSITIVE_INFINITY,
}

/** Effects in short: `start hello 1`, `stop hello 1 idle`, `assign a 1`, `fail a busy`. */
export function said(pool: Pool<Call>): string[] {
  return pool.takeEffects().map((effect: Effect<Call>) => {
    if (effect.do === 'start') return `start ${effect.key} ${effect.instance}`
    if (effect.do === 'stop') return `stop ${effect.key} ${effect.instance} ${effect.why}`
    if (effect.do === 'assign') return `assign ${effect.call.name} ${effect.instance}`
    if (effect.do !== 'fail') return `${effect.do} ${effect.key} ${effect.instance}`
    return `fail ${effect.call.name} ${effect.code}${effect.detail ? `: ${effect.detail}` : ''}`
  })
}

/** CPU time of the instances 1, 2 and so on, in ms. */
export function observe(
  pool: Pool<Call>,
  nowMs: number,
  cpuMs: readonly (number | undefined)[],
): void {
  pool.observe(new Map(cpuMs.map((each, index) => [index + 1, each])), nowMs)
}

export function poolOf(demands: readonly Demand[], changes: Partial<PoolLimits> = {}): Pool<Call> {
  const pool = new Pool<Call>({ ...limits, ...changes })
  for (const demand of demands) pool.define(demand, 0)
  return pool
}
