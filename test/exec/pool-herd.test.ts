/** How many instances a load starts: simulated in discrete time, of events and the pool alone. */
import { describe, expect, test } from 'bun:test'
import { type Demand, Pool } from '../../src/exec/pool.ts'

interface Load {
  /** When each call arrives. */
  readonly arrivalsMs: readonly number[]
  /** Callers who send their next call when the last was answered, until `untilMs`. */
  readonly callers?: number
  readonly runMs: number
  /** Cores the function computes on: calls beyond that many share them. */
  readonly computesOn?: number
  readonly firstRunMs?: number
  readonly startMs: number
  readonly untilMs: number
  readonly cpus?: number
  readonly memoryMbMax?: number
  readonly demand?: Partial<Demand>
}

interface Call {
  readonly arrivedMs: number
}

interface Outcome {
  readonly starts: number
  readonly done: number
  readonly failed: number
  readonly waitMsMax: number
}

/** What happens when; of things at the same time, the one added first comes first. */
class Agenda {
  /** The next one is the last. */
  readonly #events: { atMs: number; run: () => void }[] = []

  add(atMs: number, run: () => void): void {
    let place = this.#events.length
    while (place > 0 && (this.#events[place - 1]?.atMs ?? 0) <= atMs) place -= 1
    this.#events.splice(place, 0, { atMs, run })
  }

  next(): { atMs: number; run: () => void } | undefined {
    return this.#events.pop()
  }
}

function simulate(load: Load): Outcome {
  const cpus = load.cpus ?? 2
  const pool = new Pool<Call>({
    memoryMbMax: load.memoryMbMax ?? 64_000,
    startsMax: 2 * cpus,
    cpus,
    waitingPerFnMax: 5000,
    waitingMax: 20_000,
    waitMs: 60_000,
  })
  const rest = { memoryMb: 128, concurrency: 1, instancesMin: 0, instancesMax: 1000 }
  pool.define({ key: 'f', ...rest, idleTimeoutMs: 30_000, ...never, ...load.demand }, 0)
  const agenda = new Agenda()
  let nowMs = 0
  let running = 0
  const warm = new Set<number>()
  const outcome = { starts: 0, done: 0, failed: 0, waitMsMax: 0 }
  const run = (call: Call, instance: number): void => {
    outcome.waitMsMax = Math.max(outcome.waitMsMax, nowMs - call.arrivedMs)
    running += 1
    const share = load.computesOn === undefined ? 1 : Math.max(1, running / load.computesOn)
    const first = warm.has(instance) ? 0 : (load.firstRunMs ?? 0)
    warm.add(instance)
    const runMs = first + load.runMs * share
    agenda.add(nowMs + runMs, () => {
      running -= 1
      outcome.done += 1
      pool.release(instance, runMs, 'keep', nowMs)
      follow()
      if (load.callers !== undefined && nowMs < load.untilMs) arrive()
    })
  }
  const follow = (): void => {
    for (const effect of pool.takeEffects()) {
      if (effect.do === 'start') {
        outcome.starts += 1
        agenda.add(nowMs + load.startMs, () => {
          pool.ready(effect.instance, nowMs)
          follow()
        })
      } else if (effect.do === 'assign') run(effect.call, effect.instance)
      else if (effect.do === 'fail') outcome.failed += 1
    }
  }
  const arrive = (): void => {
    const call = { arrivedMs: nowMs }
    const placement = pool.acquire('f', call, nowMs)
    if (typeof placement === 'number') run(call, placement)
    else if (placement !== 'waiting') outcome.failed += 1
    follow()
  }
  for (const atMs of load.arrivalsMs) agenda.add(atMs, arrive)
  for (let caller = 0; caller < (load.callers ?? 0); caller += 1) agenda.add(0, arrive)
  for (;;) {
    const event = agenda.next()
    if (event === undefined || event.atMs > load.untilMs) break
    while (pool.nextWakeMs <= event.atMs) {
      nowMs = pool.nextWakeMs
      pool.isSaturated = load.computesOn !== undefined && running >= load.computesOn
      pool.tick(nowMs)
      follow()
    }
    nowMs = event.atMs
    event.run()
  }
  return outcome
}

const never = { pauseAfterMs: Number.POSITIVE_INFINITY }
const herd = Array.from({ length: 1000 }, () => 0)
const steady = (perS: number, s: number) =>
  Array.from({ length: perS * s }, (_, n) => (n * 1000) / perS)

describe('a thousand simultaneous first calls', () => {
  for (const cpus of [1, 2, 4, 16]) {
    for (const startMs of [10, 25, 400]) {
      test(`of 1 ms, ${cpus} cores, start ${startMs} ms: one instance per core at most`, () => {
        const load = { arrivalsMs: herd, runMs: 1, firstRunMs: 20, startMs, untilMs: 10_000, cpus }
        const outcome = simulate(load)
        expect(outcome.starts).toBeLessThanOrEqual(cpus)
        expect(outcome).toMatchObject({ done: 1000, failed: 0 })
      })
    }
  }

  test('that sleep 1 s: instances grow until the memory is full', () => {
    const load = { arrivalsMs: herd, runMs: 1000, startMs: 25, untilMs: 60_000 }
    expect(simulate({ ...load, memoryMbMax: 128 * 200 })).toMatchObject({ starts: 200, done: 1000 })
  })

  test('that sleep 1 s: instances grow to instancesMax', () => {
    const load = { arrivalsMs: herd, runMs: 1000, startMs: 25, untilMs: 60_000 }
    const outcome = simulate({ ...load, demand: { instancesMax: 50 } })
    expect(outcome).toMatchObject({ starts: 50, done: 1000 })
  })

  test('that take 16 at a time: the slots count, not the instances', () => {
    const load = { arrivalsMs: herd, runMs: 1000, startMs: 25, untilMs: 60_000 }
    const { starts, done } = simulate({ ...load, demand: { concurrency: 16 } })
    expect(done).toBe(1000)
    expect(starts).toBeLessThanOrEqual(63)
  })
})

describe('lasting load', () => {
  test('64 callers of a hello: one instance per core at most', () => {
    const load = { arrivalsMs: [], callers: 64, runMs: 0.3, firstRunMs: 20, startMs: 25 }
    expect(simulate({ ...load, untilMs: 3000 }).starts).toBeLessThanOrEqual(2)
  })

  test('64 callers that compute for 50 ms on two cores: not one for each', () => {
    const load = { arrivalsMs: [], callers: 64, runMs: 50, computesOn: 2, startMs: 25 }
    expect(simulate({ ...load, untilMs: 10_000 }).starts).toBeLessThanOrEqual(4)
  })

  test('1,000 short calls a second that sleep 5 ms: overload is met, waits end', () => {
    const load = { arrivalsMs: steady(1000, 10), runMs: 5, startMs: 25, untilMs: 20_000 }
    const { starts, done, failed, waitMsMax } = simulate(load)
    expect({ done, failed }).toEqual({ done: 10_000, failed: 0 })
    expect(starts).toBeGreaterThanOrEqual(5)
    expect(starts).toBeLessThanOrEqual(12)
    expect(waitMsMax).toBeLessThan(3000)
  })

  test('one call at a time: one instance', () => {
    const load = { arrivalsMs: steady(10, 5), runMs: 20, startMs: 25, untilMs: 10_000 }
    expect(simulate(load)).toMatchObject({ starts: 1, done: 50 })
  })
})
