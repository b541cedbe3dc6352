/** The node and the functions of a pool's random lives. */
import type { Demand, PoolLimits } from '../../src/exec/pool.ts'

export const limits: PoolLimits = {
  memoryMbMax: 100,
  startsMax: 3,
  cpus: 2,
  waitingPerFnMax: 8,
  waitingMax: 12,
  waitMs: 1000,
}

export const demands: readonly Demand[] = [
  demand({ key: 'one', memoryMb: 10, concurrency: 1, instancesMax: 4, pauseAfterMs: 40 }),
  demand({ key: 'many', memoryMb: 30, concurrency: 4, instancesMax: 3, pauseAfterMs: 150 }),
  demand({ key: 'kept', memoryMb: 20, concurrency: 2, instancesMin: 1, pauseAfterMs: 0 }),
  demand({ key: 'big', memoryMb: 70, concurrency: 1, pauseAfterMs: 2000 }),
  demand({ key: 'huge', memoryMb: 101, concurrency: 1, instancesMax: 2 }),
]

function demand(given: Partial<Demand> & { key: string }): Demand {
  const rest = { memoryMb: 10, concurrency: 1, instancesMin: 0, instancesMax: 2 }
  return { ...rest, idleTimeoutMs: 300, pauseAfterMs: Number.POSITIVE_INFINITY, ...given }
}
