/**
 * A model of a pool's world for random tests: it follows the pool's effects and knows only the
 * rules; it never asks the pool what it thinks.
 */
import { expect } from 'bun:test'
import { type Demand, type InstanceId, Pool } from '../../src/exec/pool.ts'
import { demands, limits } from './pool-demands.ts'

export type What =
  | ('resumed' | 'resumeFailed' | 'pauseFailed')
  | ('acquire' | 'keep' | 'unfit' | 'ready' | 'failed' | 'gone')
  | ('fetch' | 'observe' | 'tick' | 'cancel' | 'retire' | 'define' | 'late' | 'drain')
export interface Step {
  readonly what: What
  readonly key: string
  readonly pick: number
}

interface Call {
  readonly id: number
}

interface ModelInstance {
  readonly id: InstanceId
  readonly key: string
  state: 'starting' | 'ready' | 'paused' | 'resuming' | 'doomed'
  calls: Call[]
  canPause: boolean
  /** When it was last used. */
  idleSinceMs: number
  /** When it is to be paused if it is idle until then. */
  pauseDueMs: number
  /** Waits for a download; a start that ever did may be one more than may begin. */
  fetching: 'never' | 'now' | 'over'
}

export class World {
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
  cpuMs = 0
  lookedAtMs = 0
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
      const mayCome = instance.state === 'starting' || instance.state === 'resuming'
      const mayWork = mayCome && this.queue(key).length > 0
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
        const newestMs = Math.max(...free.map(each => each.idleSinceMs))
        expect(this.instances.get(placement)?.idleSinceMs).toBe(newestMs)
      } else this.checkPacking(free, placement)
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

  /** Whatever the readings were: an idle one only below one busy per core, or when those are full;
   * and beyond that many, the one with the most calls. */
  checkPacking(free: ModelInstance[], placement: InstanceId): void {
    const busyFree = free.filter(each => each.calls.length > 0).map(each => each.calls.length)
    const load = free.find(each => each.id === placement)?.calls.length ?? 0
    const key = this.instances.get(placement)?.key ?? ''
    const ready = this.of(key).filter(each => each.state === 'ready')
    const busy = ready.filter(each => each.calls.length > 0).length
    if (load === 0 && busyFree.length > 0) expect(busy).toBeLessThan(limits.cpus)
    if (busy > limits.cpus && busyFree.length > 0) expect(load).toBe(Math.max(...busyFree))
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
    instance.idleSinceMs = this.nowMs
    const { pauseAfterMs } = this.demandOf(instance.key)
    instance.pauseDueMs = instance.canPause ? this.nowMs + pauseAfterMs : Number.POSITIVE_INFINITY
  }

  ready(instance: ModelInstance, canPause = false): void {
    instance.state = 'ready'
    instance.canPause = canPause
    this.markIdle(instance)
    this.pool.ready(instance.id, this.nowMs, canPause)
    this.settle()
  }

  resumed(instance: ModelInstance): void {
    instance.state = 'ready'
    this.markIdle(instance)
    this.pool.resumed(instance.id, this.nowMs)
    this.settle()
  }

  /** The effects of this must stop the instance. */
  resumeFailed(instance: ModelInstance): void {
    this.pool.resumeFailed(instance.id, this.nowMs)
    this.settle()
    expect(this.instances.has(instance.id)).toBe(false)
  }

  /** The instance is idle for as long as it was; the next pause comes after a second at most. */
  pauseFailed(instance: ModelInstance): void {
    instance.state = 'ready'
    const { pauseAfterMs } = this.demandOf(instance.key)
    instance.pauseDueMs = this.nowMs + Math.max(1000, pauseAfterMs)
    this.pool.pauseFailed(instance.id, this.nowMs)
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
    const waiting = [...this.queue(instance.key)]
    const isAlone = !this.of(instance.key).some(other => other.state !== 'doomed')
    const isStart = instance.state === 'starting'
    if (isStart) this.backoffUntilMs.set(instance.key, this.nowMs + 5000)
    if (isFailure) this.pool.failed(instance.id, 'init-failed', 'why', this.nowMs)
    else this.pool.gone(instance.id, this.nowMs)
    this.settle()
    if (isFailure && isAlone) expect(this.queue(instance.key)).toEqual([])
    // While there is another that takes calls or will, nobody hears of the failure.
    if (!isAlone) expect(this.queue(instance.key)).toEqual(waiting)
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
    for (const instance of this.instances.values()) {
      if (!this.isIdle(instance)) continue
      expect(instance.pauseDueMs).toBeGreaterThan(this.nowMs)
    }
    expect(this.pool.nextWakeMs).toBeGreaterThan(this.nowMs)
  }

  /** Each instance has computed for its share of the time since it was looked at. */
  observe(pick: number): void {
    this.pool.isSaturated = pick % 5 === 0
    const measured = this.pool.toMeasure()
    for (const id of measured) {
      const instance = this.instances.get(id)
      expect(instance?.state).toBe('ready')
      expect(this.demandOf(instance?.key ?? '').concurrency).toBeGreaterThan(1)
    }
    this.cpuMs += (this.nowMs - this.lookedAtMs) * (pick % 3 === 0 ? 0.3 : 1)
    this.lookedAtMs = this.nowMs
    const cpuMs = pick % 50 === 0 ? undefined : this.cpuMs
    this.pool.observe(new Map([...measured, ...this.past].map(id => [id, cpuMs])), this.nowMs)
    this.settle()
  }

  /** Follows the effects, then checks what must hold between any two operations. */
  settle(): void {
    for (const effect of this.pool.takeEffects()) {
      if (effect.do === 'start') {
        const { key, instance: id } = effect
        const times = { idleSinceMs: 0, pauseDueMs: 0 }
        const fresh = { id, key, state: 'starting', calls: [], canPause: false, ...times } as const
        this.instances.set(id, { ...fresh, calls: [], fetching: 'never' })
        this.checkMemory()
      } else if (effect.do === 'pause' || effect.do === 'resume') {
        this.follow(effect.do, effect.instance)
      } else if (effect.do === 'stop') {
        const instance = this.instances.get(effect.instance)
        expect(instance?.calls).toEqual([])
        if (effect.why === 'evicted' || effect.why === 'idle') {
          const warm = this.of(effect.key).filter(other => this.isWarm(other))
          expect(warm.length).toBeGreaterThan(this.demandOf(effect.key).instancesMin)
          expect(warm.map(each => each.id)).toContain(effect.instance)
        }
        if (effect.why === 'idle') {
          const unused = this.of(effect.key).filter(each => this.isUnused(each))
          const oldestMs = Math.min(...unused.map(each => each.idleSinceMs))
          expect(instance?.idleSinceMs).toBe(oldestMs)
          expect(this.nowMs - oldestMs).toBeGreaterThanOrEqual(300)
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

  follow(what: 'pause' | 'resume', id: InstanceId): void {
    const instance = this.instances.get(id)
    if (instance === undefined) throw new Error('an effect names an instance that is not there')
    if (what === 'pause') {
      expect(this.isIdle(instance)).toBe(true)
      expect(instance.pauseDueMs).toBeLessThanOrEqual(this.nowMs)
      instance.state = 'paused'
      return
    }
    const paused = this.of(instance.key).filter(each => each.state === 'paused')
    const newestMs = Math.max(...paused.map(each => each.idleSinceMs))
    expect([instance.state, instance.idleSinceMs]).toEqual(['paused', newestMs])
    const isWanted = this.queue(instance.key).length > 0
    expect(isWanted || this.of(instance.key).some(each => each.calls.length > 1)).toBe(true)
    instance.state = 'resuming'
  }

  isIdle(instance: ModelInstance): boolean {
    return instance.state === 'ready' && instance.calls.length === 0
  }

  isUnused(instance: ModelInstance): boolean {
    return instance.state === 'paused' || this.isIdle(instance)
  }

  isWarm(instance: ModelInstance): boolean {
    return instance.state === 'paused' || instance.state === 'ready'
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
    const counted = starting.filter(each => each.fetching !== 'now').length
    expect(this.pool.stats().starting).toBe(counted)
    for (const { key, instancesMax } of demands) {
      const instances = this.of(key)
      expect(instances.length).toBeLessThanOrEqual(instancesMax)
      // No lost wakeup: a call never waits beside a free slot.
      const isFree = instances.some(instance => this.freeSlots(instance) > 0)
      expect(isFree && this.queue(key).length > 0).toBe(false)
      const isPaused = instances.some(each => each.state === 'paused')
      const resuming = instances.filter(each => each.state === 'resuming')
      const slotsToCome = resuming.length * this.demandOf(key).concurrency
      expect(isPaused && this.queue(key).length > slotsToCome).toBe(false)
      if (!this.retired.has(key) && !this.isDraining) continue
      expect(instances.some(each => this.isUnused(each))).toBe(false)
      if (instances.length + this.queue(key).length > 0 || this.isDraining) continue
      expect(this.pool.has(key)).toBe(false)
    }
    this.checkStats()
    this.checkWake()
    for (const { key } of demands) this.checkProgress(key, counted)
  }

  /** Whoever calls `tick` when the pool says so pauses and stops everything in time. */
  checkWake(): void {
    for (const { key, idleTimeoutMs, instancesMin } of demands) {
      const instances = this.of(key)
      const unused = instances.filter(each => this.isUnused(each))
      for (const each of unused) {
        if (each.state === 'paused') continue
        expect(this.pool.nextWakeMs).toBeLessThanOrEqual(each.pauseDueMs)
      }
      const warm = instances.filter(each => this.isWarm(each)).length
      if (unused.length === 0 || warm <= instancesMin) continue
      const oldestMs = Math.min(...unused.map(each => each.idleSinceMs))
      expect(this.pool.nextWakeMs).toBeLessThanOrEqual(oldestMs + idleTimeoutMs)
    }
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
      const idle = instances.filter(each => this.isIdle(each))
      expect(fn.paused).toBe(count('paused') + count('resuming'))
      expect(fn.idle).toBe(idle.length)
      expect([fn.starting, fn.doomed]).toEqual([count('starting'), count('doomed')])
      expect(fn.running).toBe(instances.reduce((sum, each) => sum + each.calls.length, 0))
      const unused = instances.filter(each => this.isUnused(each)).length
      const warm = instances.filter(each => this.isWarm(each)).length
      const { instancesMin, memoryMb } = this.demandOf(fn.key)
      const min = this.isDraining || fn.isRetired ? 0 : instancesMin
      evictableMb += memoryMb * Math.max(0, Math.min(unused, warm - min))
    }
    expect(stats.memoryMbEvictable).toBe(evictableMb)
  }

  do(step: Step): void {
    const all = [...this.instances.values()]
    const pickOf = (list: ModelInstance[]) => list[step.pick % Math.max(1, list.length)]
    const starting = pickOf(all.filter(instance => instance.state === 'starting'))
    const resuming = pickOf(all.filter(instance => instance.state === 'resuming'))
    // The pause of one that is being resumed may still be under way.
    const mayPause = (state: string) => state === 'paused' || state === 'resuming'
    const pausing = pickOf(all.filter(instance => mayPause(instance.state)))
    const running = pickOf(all.filter(instance => instance.calls.length > 0))
    const late = this.past[step.pick % Math.max(1, this.past.length)]
    if (step.what === 'acquire') this.acquire(step.key)
    else if (step.what === 'tick') this.tick(step.pick)
    else if (step.what === 'cancel') this.cancel(step.pick)
    else if (step.what === 'observe') this.observe(step.pick)
    else if (step.what === 'retire') this.retire(step.key)
    else if (step.what === 'define') this.define(step.key)
    else if (step.what === 'ready' && starting) this.ready(starting, step.pick % 5 > 0)
    else if (step.what === 'resumed' && resuming) this.resumed(resuming)
    else if (step.what === 'resumeFailed' && resuming) this.resumeFailed(resuming)
    else if (step.what === 'pauseFailed' && pausing) this.pauseFailed(pausing)
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
      this.pool.resumed(late, this.nowMs)
      this.pool.resumeFailed(late, this.nowMs)
      this.pool.pauseFailed(late, this.nowMs)
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
        else if (instance.state === 'resuming') this.resumed(instance)
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
