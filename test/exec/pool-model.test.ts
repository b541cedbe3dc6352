/**
 * Random sequences of everything that can happen to a pool, against a model that follows its
 * effects and knows only the rules: it never asks the pool what it thinks.
 */
import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { type Demand, type InstanceId, Pool, type PoolLimits } from '../../src/exec/pool.ts'

const seed = Number(process.env.FND_SEED ?? Date.now() % 2 ** 31)

interface Call {
  readonly id: number
}

interface ModelInstance {
  readonly id: InstanceId
  readonly key: string
  state: 'starting' | 'ready' | 'doomed'
  calls: Call[]
  /** Order in which instances fell idle; the highest was used last. */
  idleOrder: number
  /** Waits for a download; a start that ever did may be one more than may begin. */
  fetching: 'never' | 'now' | 'over'
}

const limits: PoolLimits = {
  memoryMbMax: 100,
  startsMax: 3,
  cpus: 2,
  waitingPerFnMax: 8,
  waitingMax: 12,
  waitMs: 1000,
}

const demands: readonly Demand[] = [
  demand({ key: 'one', memoryMb: 10, concurrency: 1, instancesMax: 4 }),
  demand({ key: 'many', memoryMb: 30, concurrency: 4, instancesMax: 3 }),
  demand({ key: 'kept', memoryMb: 20, concurrency: 2, instancesMin: 1, instancesMax: 2 }),
  demand({ key: 'big', memoryMb: 70, concurrency: 1, instancesMax: 2 }),
  demand({ key: 'huge', memoryMb: 101, concurrency: 1, instancesMax: 2 }),
]

function demand(given: Partial<Demand> & { key: string }): Demand {
  const rest = { memoryMb: 10, concurrency: 1, instancesMin: 0, instancesMax: 2 }
  return { ...rest, idleTimeoutMs: 300, ...given }
}

class World {
  readonly pool = new Pool<Call>(limits)
  readonly instances = new Map<InstanceId, ModelInstance>()
  /** Ids that were stopped or are gone, for reports that come late. */
  readonly past: InstanceId[] = []
  /** FIFO per key. */
  readonly queues = new Map<string, Call[]>()
  readonly retired = new Set<string>()
  isDraining = false
  nowMs = 0
  lastCall = 0
  lastIdle = 0
  ended = new Set<number>()
  /** Until when failed starts may hold new ones back, at most. */
  readonly backoffUntilMs = new Map<string, number>()

  constructor() {
    for (const each of demands) this.define(each.key)
  }

  define(key: string): void {
    this.retired.delete(key)
    this.pool.define(this.demandOf(key), this.nowMs)
    this.settle()
  }

  retire(key: string): void {
    if (this.pool.has(key)) this.retired.add(key)
    this.pool.retire(key, this.nowMs)
    this.settle()
    for (const instance of this.of(key)) {
      const mayWork = instance.state === 'starting' && this.queue(key).length > 0
      expect(instance.calls.length > 0 || mayWork).toBe(true)
    }
  }

  demandOf(key: string): Demand {
    const found = demands.find(each => each.key === key)
    if (found === undefined) throw new Error(`no demand ${key}`)
    return found
  }

  of(key: string): ModelInstance[] {
    return [...this.instances.values()].filter(instance => instance.key === key)
  }

  queue(key: string): Call[] {
    const queue = this.queues.get(key) ?? []
    this.queues.set(key, queue)
    return queue
  }

  waiting(): number {
    return [...this.queues.values()].reduce((sum, queue) => sum + queue.length, 0)
  }

  freeSlots(instance: ModelInstance): number {
    if (instance.state !== 'ready') return 0
    return this.demandOf(instance.key).concurrency - instance.calls.length
  }

  take(call: Call, id: InstanceId): void {
    const instance = this.instances.get(id)
    if (instance === undefined) throw new Error('a call went to an instance that is not there')
    expect(this.freeSlots(instance)).toBeGreaterThan(0)
    instance.calls.push(call)
  }

  end(call: Call): void {
    expect(this.ended.has(call.id)).toBe(false)
    this.ended.add(call.id)
  }

  acquire(key: string): void {
    if (!this.pool.has(key)) this.define(key)
    this.lastCall += 1
    const call = { id: this.lastCall }
    const free = this.of(key).filter(instance => this.freeSlots(instance) > 0)
    const { memoryMb, concurrency } = this.demandOf(key)
    const waitingBefore = this.waiting()
    const placement = this.pool.acquire(key, call, this.nowMs)
    if (typeof placement === 'number') {
      expect(free.map(instance => instance.id)).toContain(placement)
      if (concurrency === 1) {
        const newest = free.sort((a, b) => b.idleOrder - a.idleOrder)[0]
        expect(placement).toBe(newest?.id ?? 0)
      }
      this.take(call, placement)
    } else {
      expect(this.isDraining || free.length === 0).toBe(true)
      if (placement === 'waiting') this.queue(key).push(call)
      else this.end(call)
      const isTooLarge = memoryMb > limits.memoryMbMax && !this.isDraining
      expect(placement === 'too-large').toBe(isTooLarge)
      const hasInstance = this.of(key).length > 0
      const isFull =
        waitingBefore >= limits.waitingMax || this.queue(key).length >= limits.waitingPerFnMax
      if (placement === 'busy' && !this.isDraining) expect(hasInstance && !isFull).toBe(false)
    }
    this.settle()
  }

  release(instance: ModelInstance, pick: number, verdict: 'keep' | 'unfit'): void {
    const [call] = instance.calls.splice(pick % instance.calls.length, 1)
    if (call === undefined) return
    this.end(call)
    if (verdict === 'unfit') instance.state = 'doomed'
    if (instance.calls.length === 0) this.markIdle(instance)
    this.pool.release(instance.id, 1 + (pick % 60), verdict, this.nowMs)
    this.settle()
  }

  markIdle(instance: ModelInstance): void {
    this.lastIdle += 1
    instance.idleOrder = this.lastIdle
  }

  ready(instance: ModelInstance): void {
    instance.state = 'ready'
    this.markIdle(instance)
    this.pool.ready(instance.id, this.nowMs)
    this.settle()
  }

  fetch(instance: ModelInstance): void {
    instance.fetching = instance.fetching === 'now' ? 'over' : 'now'
    this.pool.fetching(instance.id, instance.fetching === 'now', this.nowMs)
    this.settle()
  }

  lose(instance: ModelInstance, isFailure: boolean): void {
    this.instances.delete(instance.id)
    this.past.push(instance.id)
    for (const call of instance.calls) this.end(call)
    const isStart = instance.state === 'starting'
    if (isStart) this.backoffUntilMs.set(instance.key, this.nowMs + 5000)
    if (isFailure) this.pool.failed(instance.id, 'init-failed', 'why', this.nowMs)
    else this.pool.gone(instance.id, this.nowMs)
    this.settle()
    const isAlone = !this.of(instance.key).some(other => other.state !== 'doomed')
    if (isFailure && isAlone) expect(this.queue(instance.key)).toEqual([])
  }

  cancel(pick: number): void {
    const waiting = [...this.queues.values()].flat()
    const call = waiting[pick % Math.max(1, waiting.length)]
    if (call === undefined) {
      expect(this.pool.cancel({ id: -1 }, this.nowMs)).toBe(false)
      return
    }
    expect(this.pool.cancel(call, this.nowMs)).toBe(true)
    expect(this.pool.cancel(call, this.nowMs)).toBe(false)
    this.unqueue(call)
    this.end(call)
    this.settle()
  }

  unqueue(call: Call): { key: string; place: number } {
    for (const [key, queue] of this.queues) {
      const place = queue.indexOf(call)
      if (place < 0) continue
      queue.splice(place, 1)
      return { key, place }
    }
    throw new Error('an effect names a call that does not wait')
  }

  tick(ms: number): void {
    this.nowMs += ms
    this.pool.tick(this.nowMs)
    this.settle()
    expect(this.pool.nextWakeMs).toBeGreaterThan(this.nowMs)
  }

  /** Follows the effects, then checks what must hold between any two operations. */
  settle(): void {
    for (const effect of this.pool.takeEffects()) {
      if (effect.do === 'start') {
        const { key, instance: id } = effect
        this.instances.set(id, {
          id,
          key,
          state: 'starting',
          calls: [],
          idleOrder: 0,
          fetching: 'never',
        })
        this.checkMemory()
      } else if (effect.do === 'stop') {
        const instance = this.instances.get(effect.instance)
        expect(instance?.calls).toEqual([])
        if (effect.why === 'evicted' || effect.why === 'idle') {
          const ready = this.of(effect.key).filter(other => other.state === 'ready')
          expect(ready.length).toBeGreaterThan(this.demandOf(effect.key).instancesMin)
          expect(instance?.state).toBe('ready')
        }
        this.instances.delete(effect.instance)
        this.past.push(effect.instance)
      } else {
        const { place } = this.unqueue(effect.call)
        if (effect.do === 'assign') {
          expect(place).toBe(0)
          this.take(effect.call, effect.instance)
        } else this.end(effect.call)
      }
    }
    this.check()
  }

  checkMemory(): void {
    let usedMb = 0
    for (const { key } of this.instances.values()) usedMb += this.demandOf(key).memoryMb
    expect(usedMb).toBeLessThanOrEqual(limits.memoryMbMax)
  }

  check(): void {
    this.checkMemory()
    const starting = [...this.instances.values()].filter(each => each.state === 'starting')
    const inTurn = starting.filter(each => each.fetching === 'never')
    expect(inTurn.length).toBeLessThanOrEqual(limits.startsMax)
    const isFetching = (each: ModelInstance) => each.fetching === 'now'
    expect(this.pool.stats().starting).toBe(starting.filter(each => !isFetching(each)).length)
    for (const { key, instancesMax } of demands) {
      const instances = this.of(key)
      expect(instances.length).toBeLessThanOrEqual(instancesMax)
      // No lost wakeup: a call never waits beside a free slot.
      const isFree = instances.some(instance => this.freeSlots(instance) > 0)
      expect(isFree && this.queue(key).length > 0).toBe(false)
      if (!this.retired.has(key) && !this.isDraining) continue
      expect(instances.some(each => each.state === 'ready' && each.calls.length === 0)).toBe(false)
      if (instances.length + this.queue(key).length > 0 || this.isDraining) continue
      expect(this.pool.has(key)).toBe(false)
    }
    this.checkStats()
    for (const { key } of demands)
      this.checkProgress(key, starting.filter(each => !isFetching(each)).length)
  }

  /** Waiting calls of a function without any instance get one as soon as that is possible. */
  checkProgress(key: string, starting: number): void {
    const { memoryMb, instancesMax } = this.demandOf(key)
    const instances = this.of(key)
    if (this.queue(key).length === 0 || instances.length >= instancesMax) return
    if (instances.some(each => each.state !== 'doomed') || starting >= limits.startsMax) return
    if ((this.backoffUntilMs.get(key) ?? 0) > this.nowMs) return
    const stats = this.pool.stats()
    expect(stats.memoryMbAvailable + stats.memoryMbEvictable).toBeLessThan(memoryMb)
  }

  checkStats(): void {
    const stats = this.pool.stats()
    expect(stats.waiting).toBe(this.waiting())
    let evictableMb = 0
    for (const fn of stats.fns) {
      const instances = this.of(fn.key)
      const count = (state: string) => instances.filter(each => each.state === state).length
      const idle = instances.filter(each => each.state === 'ready' && each.calls.length === 0)
      expect(fn.idle).toBe(idle.length)
      expect([fn.starting, fn.doomed]).toEqual([count('starting'), count('doomed')])
      expect(fn.running).toBe(instances.reduce((sum, each) => sum + each.calls.length, 0))
      const { instancesMin, memoryMb } = this.demandOf(fn.key)
      const min = this.isDraining || fn.isRetired ? 0 : instancesMin
      evictableMb += memoryMb * Math.max(0, Math.min(idle.length, count('ready') - min))
    }
    expect(stats.memoryMbEvictable).toBe(evictableMb)
  }

  do(step: Step): void {
    const all = [...this.instances.values()]
    const pickOf = (list: ModelInstance[]) => list[step.pick % Math.max(1, list.length)]
    const starting = pickOf(all.filter(instance => instance.state === 'starting'))
    const running = pickOf(all.filter(instance => instance.calls.length > 0))
    const late = this.past[step.pick % Math.max(1, this.past.length)]
    if (step.what === 'acquire') this.acquire(step.key)
    else if (step.what === 'tick') this.tick(step.pick)
    else if (step.what === 'cancel') this.cancel(step.pick)
    else if (step.what === 'retire') this.retire(step.key)
    else if (step.what === 'define') this.define(step.key)
    else if (step.what === 'ready' && starting) this.ready(starting)
    else if (step.what === 'failed' && starting) this.lose(starting, true)
    else if (step.what === 'fetch' && starting) this.fetch(starting)
    else if (step.what === 'keep' && running) this.release(running, step.pick, 'keep')
    else if (step.what === 'unfit' && running) this.release(running, step.pick, 'unfit')
    else if (step.what === 'gone' && all.length > 0) {
      const instance = pickOf(all)
      if (instance !== undefined) this.lose(instance, false)
    } else if (step.what === 'late' && late !== undefined) {
      this.pool.ready(late, this.nowMs)
      this.pool.failed(late, 'init-failed', undefined, this.nowMs)
      this.pool.release(late, 5, 'keep', this.nowMs)
      this.pool.gone(late, this.nowMs)
      this.settle()
    } else if (step.what === 'drain' && step.pick % 40 === 0) {
      this.isDraining = true
      this.pool.drain(this.nowMs)
      this.settle()
    }
  }

  /** Lets everything come to its end: each call ends, and the pool is empty. */
  finish(): void {
    for (const { key } of demands) this.retire(key)
    for (let round = 0; this.instances.size + this.waiting() > 0; round += 1) {
      if (round > 1000) throw new Error('the pool does not come to rest')
      for (const instance of [...this.instances.values()]) {
        if (!this.instances.has(instance.id)) continue
        if (instance.state === 'starting') this.ready(instance)
        else if (instance.calls.length > 0) this.release(instance, 0, 'keep')
      }
      this.tick(20)
    }
    expect(this.ended.size).toBe(this.lastCall)
    const { memoryMbUsed, memoryMbEvictable, starting, waiting } = this.pool.stats()
    expect([memoryMbUsed, memoryMbEvictable, starting, waiting]).toEqual([0, 0, 0, 0])
    if (!this.isDraining) expect(this.pool.stats().fns).toEqual([])
  }
}

type What =
  | ('acquire' | 'keep' | 'unfit' | 'ready' | 'failed' | 'gone')
  | ('fetch' | 'tick' | 'cancel' | 'retire' | 'define' | 'late' | 'drain')
interface Step {
  readonly what: What
  readonly key: string
  readonly pick: number
}

/** Arrivals, ends and starts make most of a pool's life; the weights say so. */
const step: fc.Arbitrary<Step> = fc.record({
  what: fc.oneof(
    { weight: 12, arbitrary: fc.constant<What>('acquire') },
    { weight: 8, arbitrary: fc.constantFrom<What>('keep') },
    { weight: 6, arbitrary: fc.constant<What>('ready') },
    { weight: 4, arbitrary: fc.constantFrom<What>('tick', 'unfit', 'fetch') },
    {
      weight: 5,
      arbitrary: fc.constantFrom<What>(
        ...(['failed', 'gone', 'cancel', 'retire', 'define', 'late', 'drain'] as const),
      ),
    },
  ),
  key: fc.constantFrom('one', 'one', 'many', 'many', 'kept', 'big', 'huge'),
  pick: fc.integer({ min: 0, max: 400 }),
})

/** Found at random, kept for good: a retired function must not keep a start that nobody needs. */
const found: Step[] = [
  { what: 'acquire', key: 'one', pick: 0 },
  { what: 'acquire', key: 'one', pick: 0 },
  { what: 'ready', key: 'one', pick: 181 },
  { what: 'retire', key: 'one', pick: 0 },
  { what: 'keep', key: 'one', pick: 0 },
]

test(`random lives of a pool keep every rule (FND_SEED=${seed})`, () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150, size: 'max' }), steps => {
      const world = new World()
      for (const each of steps) world.do(each)
      world.finish()
    }),
    { seed, numRuns: 2000, examples: [[found]] },
  )
}, 60_000)
