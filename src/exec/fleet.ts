/**
 * The instances and the waiting calls of one function. Instances with a free slot hang in lists by
 * how many calls they run, each list last-in first-out, so that taking and giving back a slot move
 * one instance from one list to its neighbour and allocate nothing.
 */
import { assert, type ErrorCode } from '../errors.ts'
import { InstanceList, type PoolInstance } from './pool-instance.ts'
import { Estimate, runSamplesMin } from './scale.ts'
import { Spread } from './spread.ts'

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
  /** An idle instance is paused after this time if it can be; Infinity: never. */
  readonly pauseAfterMs: number
}

export interface FnStats {
  readonly key: string
  readonly waiting: number
  readonly starting: number
  readonly idle: number
  readonly busy: number
  /** Those that are being resumed included. */
  readonly paused: number
  /** Instances that only finish their last calls. */
  readonly doomed: number
  /** Calls on all instances. */
  readonly running: number
  readonly isRetired: boolean
  /** Why the last start failed, until one succeeds. */
  readonly failing: ErrorCode | undefined
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

/** After a pause that failed, the next one is tried no sooner than this. */
export const pauseRetryMs = 1000

export class Fleet<C extends object> {
  readonly demand: Demand
  readonly instances = new Set<PoolInstance<C>>()
  readonly runTime = new Estimate(runSamplesMin)
  readonly runTimeUncrowded = new Estimate(runSamplesMin)
  readonly startTime = new Estimate(1)
  readonly spread = new Spread()
  isRetired = false
  starting = 0
  ready = 0
  resuming = 0
  /** Of those that start: how many wait for what has to be fetched first. */
  fetching = 0
  freeSlots = 0
  /** Memory of idle instances that may be evicted, as the pool last added it to its sum. */
  evictableMb = 0
  /** Not later than when the first idle instance is to be paused; may be earlier. */
  pauseDueMs = Number.POSITIVE_INFINITY
  /** When an arrival last made the pool look at scaling. */
  scaledAtMs = Number.NEGATIVE_INFINITY
  /** Since when the expected wait is above a start's cost; undefined while it is not. */
  pressedSinceMs: number | undefined
  /** Since when there have been waiting calls, while there are. */
  waitingSinceMs = 0
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
  readonly #paused = new InstanceList<C>()
  /** By number of running calls, 1 to concurrency - 1; made when first needed. */
  readonly #partly: (InstanceList<C> | undefined)[] = []
  /** No list below the first index holds an instance, nor one above the second. */
  #partlyFrom = 1
  #partlyTo = 0

  constructor(demand: Demand) {
    assert(demand.memoryMb > 0, 'an instance needs memory')
    assert(demand.concurrency >= 1, 'an instance takes at least one call')
    assert(demand.instancesMax >= 1, 'a function may have at least one instance')
    this.demand = demand
  }

  /** Instances that take calls or will. */
  get usable(): number {
    return this.ready + this.starting + this.resuming
  }

  get paused(): number {
    return this.#paused.size
  }

  get idle(): number {
    return this.#idle.size
  }

  /** Of the idle and the paused instances, the one that has been without calls for longest. */
  get oldestUnused(): PoolInstance<C> | undefined {
    return older(this.#idle.oldest, this.#paused.oldest)
  }

  /** The idle and the paused instances, the longest without calls first. */
  *unused(): Generator<PoolInstance<C>> {
    let idle = this.#idle.oldest
    let paused = this.#paused.oldest
    for (;;) {
      const next = older(idle, paused)
      if (next === undefined) return
      if (next === idle) idle = idle.newer
      else paused = paused?.newer
      yield next
    }
  }

  /** Ready instances that run at least one call. */
  get busy(): number {
    return this.ready - this.#idle.size
  }

  /** Calls on instances that take more. */
  get running(): number {
    return this.ready * this.demand.concurrency - this.freeSlots
  }

  /**
   * Over how many instances calls spread. Of those that take one call at a time, every busy one is
   * full, so there is nothing to choose; but each idles while its answer is on its way, so one per
   * core is worth having from the first.
   */
  widthOf(cpus: number): number {
    return this.demand.concurrency === 1 ? cpus : this.spread.width
  }

  /** Whether its calls might spread over more instances, or fewer, than they do. */
  isMeasured(cpus: number): boolean {
    if (this.demand.concurrency === 1 || cpus === 1) return false
    return this.ready <= 2 * cpus && (this.spread.width > 1 || this.running > 1)
  }

  /**
   * The instance for the next call. Calls spread over idle instances until as many are busy as
   * `spread` says. From there on the least loaded busy one takes the call, and an idle one only
   * when all busy ones are full. Of too many busy ones the most loaded takes it, so that the others
   * fall idle. With one call per instance this is plain last-in first-out.
   */
  pick(): PoolInstance<C> | undefined {
    if (this.freeSlots === 0) return undefined
    const idle = this.#idle.newest
    const { width } = this.spread
    if (idle !== undefined && (this.busy < width || this.#isAllFull())) return idle
    return (this.busy > width ? this.#mostLoaded() : this.#leastLoaded()) ?? idle
  }

  #leastLoaded(): PoolInstance<C> | undefined {
    for (; this.#partlyFrom < this.demand.concurrency; this.#partlyFrom += 1) {
      const instance = this.#partly[this.#partlyFrom]?.newest
      if (instance !== undefined) return instance
    }
    return undefined
  }

  #mostLoaded(): PoolInstance<C> | undefined {
    for (; this.#partlyTo > 0; this.#partlyTo -= 1) {
      const instance = this.#partly[this.#partlyTo]?.newest
      if (instance !== undefined) return instance
    }
    return undefined
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
    if (instance.running === 0) {
      instance.idleSinceMs = nowMs
      instance.pauseFromMs = nowMs
    }
    if (instance.phase === 'ready') this.#list(instance)
  }

  add(instance: PoolInstance<C>): void {
    this.instances.add(instance)
    this.starting += 1
  }

  markReady(instance: PoolInstance<C>, nowMs: number): void {
    assert(instance.phase === 'starting', 'an instance gets ready once')
    this.starting -= 1
    instance.readyMs = nowMs
    this.#beginIdle(instance, nowMs)
  }

  markResumed(instance: PoolInstance<C>, nowMs: number): void {
    assert(instance.phase === 'resuming', 'what is resumed was asked for')
    this.resuming -= 1
    this.#beginIdle(instance, nowMs)
  }

  #beginIdle(instance: PoolInstance<C>, nowMs: number): void {
    instance.idleSinceMs = nowMs
    instance.pauseFromMs = nowMs
    this.#enterReady(instance)
  }

  #enterReady(instance: PoolInstance<C>): void {
    this.ready += 1
    instance.phase = 'ready'
    this.#list(instance)
  }

  pause(instance: PoolInstance<C>): void {
    assert(instance.phase === 'ready' && instance.running === 0, 'only idle instances are paused')
    this.#unlist(instance)
    this.ready -= 1
    instance.phase = 'paused'
    this.#paused.insert(instance)
  }

  /** Begins to resume the paused instance that was used last. */
  resume(): PoolInstance<C> {
    const instance = this.#paused.newest
    assert(instance !== undefined, 'there is a paused instance to resume')
    this.#paused.remove(instance)
    this.resuming += 1
    instance.phase = 'resuming'
    return instance
  }

  /** The pause did not come about. It is idle for as long as it was, and is tried again later. */
  undoPause(instance: PoolInstance<C>, nowMs: number): void {
    if (instance.phase === 'paused') this.#paused.remove(instance)
    else this.resuming -= 1
    instance.pauseFromMs = nowMs + Math.max(0, pauseRetryMs - this.demand.pauseAfterMs)
    this.#enterReady(instance)
  }

  /** The idle instances whose pause is due, and since this is known then, when the next one is. */
  takeDueForPause(nowMs: number): PoolInstance<C>[] {
    const found: PoolInstance<C>[] = []
    this.pauseDueMs = Number.POSITIVE_INFINITY
    for (let each = this.#idle.oldest; each !== undefined; each = each.newer) {
      const dueMs = this.#pauseDueMsOf(each)
      if (dueMs <= nowMs) found.push(each)
      else this.pauseDueMs = Math.min(this.pauseDueMs, dueMs)
    }
    return found
  }

  #pauseDueMsOf({ canPause, pauseFromMs }: PoolInstance<C>): number {
    return canPause ? pauseFromMs + this.demand.pauseAfterMs : Number.POSITIVE_INFINITY
  }

  /** Takes an instance out of use; its running calls go on. */
  doom(instance: PoolInstance<C>): void {
    if (instance.phase === 'ready') {
      this.#unlist(instance)
      this.ready -= 1
    }
    if (instance.phase === 'starting') this.starting -= 1
    if (instance.phase === 'resuming') this.resuming -= 1
    if (instance.phase === 'paused') this.#paused.remove(instance)
    instance.phase = 'doomed'
  }

  remove(instance: PoolInstance<C>): void {
    this.doom(instance)
    this.instances.delete(instance)
  }

  #list(instance: PoolInstance<C>): void {
    const { concurrency } = this.demand
    this.freeSlots += concurrency - instance.running
    if (instance.running === 0) {
      this.#idle.insert(instance)
      this.pauseDueMs = Math.min(this.pauseDueMs, this.#pauseDueMsOf(instance))
    } else if (instance.running < concurrency) {
      const list = this.#partly[instance.running] ?? new InstanceList<C>()
      this.#partly[instance.running] = list
      list.push(instance)
      if (instance.running < this.#partlyFrom) this.#partlyFrom = instance.running
      if (instance.running > this.#partlyTo) this.#partlyTo = instance.running
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
      paused: this.paused + this.resuming,
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
    if (this.waiting === 0) this.waitingSinceMs = waiter.sinceMs
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

function older<I extends { readonly idleSinceMs: number }>(
  a: I | undefined,
  b: I | undefined,
): I | undefined {
  if (a === undefined || b === undefined) return a ?? b
  return b.idleSinceMs < a.idleSinceMs ? b : a
}
