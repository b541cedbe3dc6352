/**
 * The instances and the waiting calls of one function. Instances with a free slot hang in lists by
 * how many calls they run, each list last-in first-out, so that taking and giving back a slot move
 * one instance from one list to its neighbour and allocate nothing.
 */
import { assert, type ErrorCode } from '../errors.ts'
import { Estimate, runSamplesMin } from './scale.ts'

export type InstanceId = number

export interface Demand {
  /** Names what an instance is made from; the same key always comes with the same demand. */
  readonly key: string
  readonly memoryMb: number
  /** Calls that one instance takes at a time, at least 1. */
  readonly concurrency: number
  readonly instancesMin: number
  /** At least 1. Instances that only finish their last calls count too. */
  readonly instancesMax: number
  readonly idleTimeoutMs: number
}

export interface FnStats {
  readonly key: string
  readonly waiting: number
  readonly starting: number
  readonly idle: number
  readonly busy: number
  /** Instances that only finish their last calls. */
  readonly doomed: number
  /** Calls on all instances. */
  readonly running: number
  readonly isRetired: boolean
  /** Why the last start failed, until one succeeds. */
  readonly failing: ErrorCode | undefined
}

export type InstancePhase = 'starting' | 'ready' | 'doomed'

export class PoolInstance<C extends object> {
  readonly id: InstanceId
  readonly fleet: Fleet<C>
  readonly memoryMb: number
  readonly startedMs: number
  /** `doomed` takes no further call and is stopped when its last one ends. */
  phase: InstancePhase = 'starting'
  /** Its start waits for what has to be fetched first. */
  isFetching = false
  running = 0
  readyMs = 0
  idleSinceMs = 0
  /**
   * When a call last ended here, or the first began. While calls run, one of them is at least as
   * old as this, which is what scaling wants to know, without a record per call.
   */
  progressMs = 0
  newer: PoolInstance<C> | undefined
  older: PoolInstance<C> | undefined

  constructor(id: InstanceId, fleet: Fleet<C>, nowMs: number) {
    this.id = id
    this.fleet = fleet
    this.memoryMb = fleet.demand.memoryMb
    this.startedMs = nowMs
  }
}

/** A list through the instances themselves; `newest` is taken first, `oldest` times out first. */
class InstanceList<C extends object> {
  newest: PoolInstance<C> | undefined
  oldest: PoolInstance<C> | undefined
  size = 0

  push(instance: PoolInstance<C>): void {
    instance.newer = undefined
    instance.older = this.newest
    if (this.newest === undefined) this.oldest = instance
    else this.newest.newer = instance
    this.newest = instance
    this.size += 1
  }

  remove(instance: PoolInstance<C>): void {
    if (instance.newer === undefined) this.newest = instance.older
    else instance.newer.older = instance.older
    if (instance.older === undefined) this.oldest = instance.newer
    else instance.older.newer = instance.newer
    instance.newer = undefined
    instance.older = undefined
    this.size -= 1
  }
}

/** A call in the queue of its function. */
export class Waiter<C extends object> {
  readonly call: C
  readonly fleet: Fleet<C>
  readonly sinceMs: number
  next: Waiter<C> | undefined
  previous: Waiter<C> | undefined

  constructor(call: C, fleet: Fleet<C>, nowMs: number) {
    this.call = call
    this.fleet = fleet
    this.sinceMs = nowMs
  }
}

export class Fleet<C extends object> {
  readonly demand: Demand
  readonly instances = new Set<PoolInstance<C>>()
  readonly runTime = new Estimate(runSamplesMin)
  readonly runTimeUncrowded = new Estimate(runSamplesMin)
  readonly startTime = new Estimate(1)
  isRetired = false
  starting = 0
  ready = 0
  /** Of those that start: how many wait for what has to be fetched first. */
  fetching = 0
  freeSlots = 0
  /** Memory of idle instances that may be evicted, as the pool last added it to its sum. */
  evictableMb = 0
  /** When an arrival last made the pool look at scaling. */
  scaledAtMs = Number.NEGATIVE_INFINITY
  /** Since when the expected wait is above a start's cost; undefined while it is not. */
  pressedSinceMs: number | undefined
  startFailures = 0
  failure: { readonly code: ErrorCode; readonly detail: string | undefined } | undefined
  backoffUntilMs = 0
  /** Early exits in a row of instances that had started; they slow down `instancesMin` only. */
  exits = 0
  restartAtMs = 0

  waiting = 0
  firstWaiter: Waiter<C> | undefined
  #lastWaiter: Waiter<C> | undefined
  readonly #idle = new InstanceList<C>()
  /** By number of running calls, 1 to concurrency - 1; made when first needed. */
  readonly #partly: (InstanceList<C> | undefined)[] = []
  /** No list below this index holds an instance. */
  #partlyFrom = 1

  constructor(demand: Demand) {
    assert(demand.memoryMb > 0, 'an instance needs memory')
    assert(demand.concurrency >= 1, 'an instance takes at least one call')
    assert(demand.instancesMax >= 1, 'a function may have at least one instance')
    this.demand = demand
  }

  /** Instances that take calls or will. */
  get usable(): number {
    return this.ready + this.starting
  }

  get idle(): number {
    return this.#idle.size
  }

  get oldestIdle(): PoolInstance<C> | undefined {
    return this.#idle.oldest
  }

  /** Ready instances that run at least one call. */
  get busy(): number {
    return this.ready - this.#idle.size
  }

  /**
   * The instance for the next call. A JavaScript instance computes on one core, so calls spread
   * over idle instances until there is a busy one per core. From there on spreading gains nothing
   * and keeps instances warm for nothing: the least loaded busy one with a free slot takes the
   * call, and an idle one only when all busy ones are full. With one call per instance this is
   * plain last-in first-out.
   */
  pick(cpus: number): PoolInstance<C> | undefined {
    if (this.freeSlots === 0) return undefined
    const idle = this.#idle.newest
    if (idle !== undefined && (this.busy < cpus || this.#isAllFull())) return idle
    for (; this.#partlyFrom < this.demand.concurrency; this.#partlyFrom += 1) {
      const instance = this.#partly[this.#partlyFrom]?.newest
      if (instance !== undefined) return instance
    }
    return idle
  }

  #isAllFull(): boolean {
    return this.freeSlots === this.#idle.size * this.demand.concurrency
  }

  take(instance: PoolInstance<C>, nowMs: number): void {
    assert(instance.phase === 'ready', 'only a ready instance takes calls')
    assert(instance.running < this.demand.concurrency, 'an instance has a free slot to take')
    this.#unlist(instance)
    if (instance.running === 0) instance.progressMs = nowMs
    instance.running += 1
    this.#list(instance)
  }

  give(instance: PoolInstance<C>, nowMs: number): void {
    assert(instance.running > 0, 'a slot is given back once')
    if (instance.phase === 'ready') this.#unlist(instance)
    instance.running -= 1
    instance.progressMs = nowMs
    if (instance.running === 0) instance.idleSinceMs = nowMs
    if (instance.phase === 'ready') this.#list(instance)
  }

  add(instance: PoolInstance<C>): void {
    this.instances.add(instance)
    this.starting += 1
  }

  markReady(instance: PoolInstance<C>, nowMs: number): void {
    assert(instance.phase === 'starting', 'an instance gets ready once')
    this.starting -= 1
    this.ready += 1
    instance.phase = 'ready'
    instance.readyMs = nowMs
    instance.idleSinceMs = nowMs
    this.#list(instance)
  }

  /** Takes an instance out of use; its running calls go on. */
  doom(instance: PoolInstance<C>): void {
    if (instance.phase === 'ready') {
      this.#unlist(instance)
      this.ready -= 1
    }
    if (instance.phase === 'starting') this.starting -= 1
    instance.phase = 'doomed'
  }

  remove(instance: PoolInstance<C>): void {
    this.doom(instance)
    this.instances.delete(instance)
  }

  #list(instance: PoolInstance<C>): void {
    const { concurrency } = this.demand
    this.freeSlots += concurrency - instance.running
    if (instance.running === 0) this.#idle.push(instance)
    else if (instance.running < concurrency) {
      const list = this.#partly[instance.running] ?? new InstanceList<C>()
      this.#partly[instance.running] = list
      list.push(instance)
      if (instance.running < this.#partlyFrom) this.#partlyFrom = instance.running
    }
  }

  #unlist(instance: PoolInstance<C>): void {
    this.freeSlots -= this.demand.concurrency - instance.running
    if (instance.running === 0) this.#idle.remove(instance)
    else this.#partly[instance.running]?.remove(instance)
  }

  stats(): FnStats {
    let doomed = 0
    let running = 0
    for (const instance of this.instances) {
      running += instance.running
      if (instance.phase === 'doomed') doomed += 1
    }
    return {
      key: this.demand.key,
      waiting: this.waiting,
      starting: this.starting,
      idle: this.idle,
      busy: this.busy,
      doomed,
      running,
      isRetired: this.isRetired,
      failing: this.failure?.code,
    }
  }

  /** Age that the oldest running call has at least. Looks at every instance. */
  oldestRunningMs(nowMs: number): number {
    let oldestMs = 0
    for (const instance of this.instances) {
      if (instance.running === 0) continue
      oldestMs = Math.max(oldestMs, nowMs - instance.progressMs)
    }
    return oldestMs
  }

  enqueue(waiter: Waiter<C>): void {
    waiter.previous = this.#lastWaiter
    if (this.#lastWaiter === undefined) this.firstWaiter = waiter
    else this.#lastWaiter.next = waiter
    this.#lastWaiter = waiter
    this.waiting += 1
  }

  unqueue(waiter: Waiter<C>): void {
    if (waiter.previous === undefined) this.firstWaiter = waiter.next
    else waiter.previous.next = waiter.next
    if (waiter.next === undefined) this.#lastWaiter = waiter.previous
    else waiter.next.previous = waiter.previous
    waiter.next = undefined
    waiter.previous = undefined
    this.waiting -= 1
    if (this.waiting === 0) this.pressedSinceMs = undefined
  }
}
