/**
 * The pool decides, and does nothing: which instance takes a call, when one more is started, which
 * idle one is paused or makes room. It is pure and synchronous; time comes in as an argument,
 * decisions go out as effects that the runner carries out in their order.
 *
 * Always true after an operation: the memory of all instances fits the node; no call waits while an
 * instance of its function has a free slot, or is paused and not asked for; every call that waits
 * is assigned, failed or cancelled exactly once. A stopped instance counts as gone at once: a
 * runner that wants memory never to be used twice awaits the stops before a start that follows
 * them. What is reported of an instance after its stop is ignored, because the two can cross.
 */
import { assert, type ErrorCode } from '../errors.ts'
import { type Demand, Fleet, type InstanceId, Waiter } from './fleet.ts'
import type { PoolInstance } from './pool-instance.ts'
import { type Effect, Roster, type RosterStats } from './roster.ts'
import type { Pressure } from './scale.ts'
import { backoffMs, backoffMsMax, expectedWaitMs, startMsDefault, wantsStart } from './scale.ts'

export type { Demand, FnStats, InstanceId } from './fleet.ts'
export type { Effect, StopReason } from './roster.ts'

export interface PoolLimits {
  readonly memoryMbMax: number
  /** Instances of the node that start at the same time. */
  readonly startsMax: number
  readonly cpus: number
  readonly waitingPerFnMax: number
  readonly waitingMax: number
  readonly waitMs: number
}

/** `waiting`: an `assign` or `fail` effect for the call follows, perhaps already with this turn. */
export type Placement = InstanceId | 'waiting' | 'busy' | 'too-large'

/** While calls wait, scaling and their deadlines are looked at this often; about two starts of a
 * process, so that a growing backlog is met as fast as instances can come. */
export const rescaleMs = 50

/** Between two looks at scaling for arrivals of one function. */
const rescaleMsMin = 5

const noEffects: readonly never[] = Object.freeze([])

export class Pool<C extends object> {
  readonly #limits: PoolLimits
  readonly #roster: Roster<C>
  readonly #waiters = new Map<C, Waiter<C>>()
  /** Functions with waiting calls. */
  readonly #hungry = new Set<Fleet<C>>()
  /** Those of them that want an instance and found no memory, or too many starts under way. */
  readonly #blocked = new Set<Fleet<C>>()
  /** The least memory that a blocked function asks for, or less: a cheap reason not to look. */
  #blockedMbMin = Number.POSITIVE_INFINITY
  /** Functions with fewer instances than `instancesMin`. */
  readonly #short = new Set<Fleet<C>>()
  /** Not later than the next moment when something is due; may be earlier. */
  #shortWakeMs = Number.POSITIVE_INFINITY
  #waitWakeMs = Number.POSITIVE_INFINITY
  /** Told from outside: whether the host's cores are busy. Slows growth beyond one per core. */
  isSaturated = false

  constructor(limits: PoolLimits) {
    assert(limits.startsMax >= 1, 'an instance may start')
    assert(limits.cpus >= 1, 'a node has a core')
    this.#limits = limits
    this.#roster = new Roster(limits.memoryMbMax)
  }

  /** When to call `tick` next; Infinity when nothing is due. Costs nothing to ask. */
  get nextWakeMs(): number {
    return Math.min(this.#roster.idleWakeMs, this.#shortWakeMs, this.#waitWakeMs)
  }

  has(key: string): boolean {
    return this.#roster.fleets.has(key)
  }

  /** Makes a function known; again is harmless, and takes a retired key back into use. */
  define(demand: Demand, nowMs: number): void {
    let fleet = this.#roster.fleets.get(demand.key)
    if (fleet === undefined) {
      fleet = new Fleet(demand)
      this.#roster.fleets.set(demand.key, fleet)
    } else if (!fleet.isRetired) return
    fleet.isRetired = false
    this.#roster.noteEvictable(fleet)
    this.#keepMin(fleet, nowMs)
  }

  /** The function changed or is gone: what is idle stops now, what is busy when it is done. */
  retire(key: string, nowMs: number): void {
    const fleet = this.#roster.fleets.get(key)
    if (fleet === undefined || fleet.isRetired) return
    fleet.isRetired = true
    this.#short.delete(fleet)
    this.#roster.dismiss(fleet)
    this.#feed(nowMs)
  }

  /** SIGTERM: refuses new calls and stops what is idle. Waiting calls are still served. */
  drain(nowMs: number): void {
    this.#roster.isDraining = true
    this.#short.clear()
    for (const fleet of this.#roster.fleets.values()) this.#roster.dismiss(fleet)
    this.#feed(nowMs)
  }

  /** Hot: no allocation and no search when an instance has a free slot. */
  acquire(key: string, call: C, nowMs: number): Placement {
    const fleet = this.#roster.fleets.get(key)
    assert(fleet !== undefined, 'a function is defined before it is called')
    if (this.#roster.isDraining) return 'busy'
    const instance = fleet.pick()
    if (instance === undefined) return this.#queue(fleet, call, nowMs)
    fleet.take(instance, nowMs)
    this.#roster.noteEvictable(fleet)
    return instance.id
  }

  #queue(fleet: Fleet<C>, call: C, nowMs: number): Placement {
    const { demand, failure } = fleet
    if (demand.memoryMb > this.#limits.memoryMbMax) return 'too-large'
    assert(!this.#waiters.has(call), 'a call waits once')
    const isHelpless = fleet.usable + fleet.paused === 0
    if (failure !== undefined && isHelpless && nowMs < fleet.backoffUntilMs) {
      this.#fail(call, failure.code, failure.detail)
      return 'waiting'
    }
    if (fleet.waiting >= this.#limits.waitingPerFnMax) return 'busy'
    if (this.#waiters.size >= this.#limits.waitingMax) return 'busy'
    if (fleet.instances.size === 0 && !this.#roster.canMakeRoom(fleet)) return 'busy'
    const waiter = new Waiter(call, fleet, nowMs)
    fleet.enqueue(waiter)
    this.#waiters.set(call, waiter)
    this.#hungry.add(fleet)
    this.#waitWakeMs = Math.min(this.#waitWakeMs, nowMs + rescaleMs)
    this.#wake(fleet)
    // The age of running calls is left to `tick`, which need not look at them for each arrival. Nor
    // does an arrival say much more than the one before it, once there are the instances that could
    // be started without looking at how long calls wait.
    if (
      fleet.usable < fleet.widthOf(this.#limits.cpus) ||
      nowMs - fleet.scaledAtMs >= rescaleMsMin
    ) {
      fleet.scaledAtMs = nowMs
      while (this.#maybeStart(fleet, nowMs, 0));
    }
    return 'waiting'
  }

  /** The caller of a waiting call went away. False when the call does not wait. */
  cancel(call: C, nowMs: number): boolean {
    const waiter = this.#waiters.get(call)
    if (waiter === undefined) return false
    const { fleet } = waiter
    this.#unqueue(waiter)
    if (fleet.waiting === 0 && this.#roster.isClosing(fleet)) {
      this.#roster.dismiss(fleet)
      this.#feed(nowMs)
    }
    return true
  }

  /** A start came to its good end. `canPause` says whether the instance may get `pause` effects. */
  ready(id: InstanceId, nowMs: number, canPause = false): void {
    const instance = this.#roster.find(id)
    if (instance === undefined) return
    const { fleet } = instance
    instance.canPause = canPause
    this.#roster.setFetching(instance, false)
    fleet.startTime.add(nowMs - instance.startedMs)
    fleet.markReady(instance, nowMs)
    this.#roster.starting -= 1
    fleet.startFailures = 0
    fleet.failure = undefined
    fleet.backoffUntilMs = 0
    this.#serve(instance, nowMs)
  }

  /** A paused instance runs again. */
  resumed(id: InstanceId, nowMs: number): void {
    const instance = this.#roster.find(id)
    if (instance === undefined) return
    instance.fleet.markResumed(instance, nowMs)
    this.#serve(instance, nowMs)
  }

  /** A paused instance cannot be had back; it is stopped, and calls get another. */
  resumeFailed(id: InstanceId, nowMs: number): void {
    const instance = this.#roster.find(id)
    if (instance === undefined) return
    assert(instance.phase === 'resuming', 'what is resumed was asked for')
    this.#roster.stop(instance, 'unfit')
    this.#afterChange(instance.fleet, nowMs)
  }

  /** An instance runs that was to be paused. If it was to be resumed meanwhile, this ends that. */
  pauseFailed(id: InstanceId, nowMs: number): void {
    const instance = this.#roster.find(id)
    if (instance === undefined) return
    instance.fleet.undoPause(instance, nowMs)
    this.#serve(instance, nowMs)
  }

  /** Gives an instance that became ready what waits for it. */
  #serve(instance: PoolInstance<C>, nowMs: number): void {
    const { fleet } = instance
    while (fleet.firstWaiter !== undefined && instance.running < fleet.demand.concurrency) {
      this.#assign(fleet.firstWaiter, instance, nowMs)
    }
    this.#roster.noteEvictable(fleet)
    if (fleet.waiting === 0 && this.#roster.isClosing(fleet)) this.#roster.dismiss(fleet)
    this.#afterChange(fleet, nowMs)
  }

  /**
   * A start waits for something to be fetched, or does so no more. That takes nothing of this
   * machine that other starts need; but no further start of its function begins, to wait as well.
   */
  fetching(id: InstanceId, isFetching: boolean, nowMs: number): void {
    const instance = this.#roster.find(id)
    if (instance?.phase !== 'starting') return
    this.#roster.setFetching(instance, isFetching)
    this.#afterChange(instance.fleet, nowMs)
  }

  /** A start failed, and nothing of it is left. */
  failed(id: InstanceId, code: ErrorCode, detail: string | undefined, nowMs: number): void {
    const instance = this.#roster.find(id)
    if (instance === undefined) return
    assert(instance.phase === 'starting', 'only a start can fail')
    const { fleet } = instance
    this.#roster.remove(instance)
    // Starts that fail together count once: they say no more than one of them.
    if (nowMs >= fleet.backoffUntilMs) {
      fleet.startFailures += 1
      fleet.backoffUntilMs = nowMs + backoffMs(fleet.startFailures)
    }
    fleet.failure = { code, detail }
    if (fleet.usable === 0) {
      while (fleet.firstWaiter !== undefined) {
        const { call } = fleet.firstWaiter
        this.#unqueue(fleet.firstWaiter)
        this.#fail(call, code, detail)
      }
    }
    this.#afterChange(fleet, nowMs)
  }

  /** One call ended. `runMs` 0 says that it never ran. `unfit`: no further call goes there. */
  release(id: InstanceId, runMs: number, verdict: 'keep' | 'unfit', nowMs: number): void {
    const instance = this.#roster.find(id)
    if (instance === undefined) return
    const { fleet } = instance
    if (runMs > 0) {
      fleet.runTime.add(runMs)
      if (fleet.busy <= this.#limits.cpus) fleet.runTimeUncrowded.add(runMs)
    }
    fleet.give(instance, nowMs)
    if (verdict === 'keep') fleet.exits = 0
    else if (instance.phase === 'ready') fleet.doom(instance)
    if (instance.phase === 'doomed') {
      if (instance.running === 0) this.#roster.stop(instance, 'unfit')
      this.#afterChange(fleet, nowMs)
      return
    }
    if (fleet.firstWaiter !== undefined) this.#assign(fleet.firstWaiter, instance, nowMs)
    this.#roster.noteEvictable(fleet)
    if (fleet.waiting === 0 && this.#roster.isClosing(fleet)) {
      this.#roster.dismiss(fleet)
      this.#feed(nowMs)
    } else if (this.#blocked.size > 0) this.#feed(nowMs)
  }

  /** The process exited by itself. Calls that ran on it are over; releasing them is harmless. */
  gone(id: InstanceId, nowMs: number): void {
    const instance = this.#roster.find(id)
    if (instance === undefined) return
    if (instance.phase === 'starting') {
      this.failed(id, 'init-failed', undefined, nowMs)
      return
    }
    const { fleet } = instance
    if (instance.phase === 'ready') {
      fleet.exits = nowMs - instance.readyMs < backoffMsMax ? fleet.exits + 1 : 0
      if (fleet.exits > 0) fleet.restartAtMs = nowMs + backoffMs(fleet.exits)
    }
    this.#roster.remove(instance)
    this.#afterChange(fleet, nowMs)
  }

  tick(nowMs: number): void {
    for (const fleet of this.#hungry) this.#expireWaiting(fleet, nowMs)
    if (nowMs >= this.#roster.idleWakeMs) this.#roster.rest(nowMs)
    this.#share(this.#hungry, nowMs)
    if (nowMs >= this.#shortWakeMs) this.#shortWakeMs = Number.POSITIVE_INFINITY
    for (const fleet of this.#short) this.#keepMin(fleet, nowMs)
    this.#waitWakeMs = this.#hungry.size > 0 ? nowMs + rescaleMs : Number.POSITIVE_INFINITY
  }

  /** Instances whose CPU time `observe` wants to know just now; a bounded number. */
  toMeasure(): InstanceId[] {
    return this.#roster.toMeasure(this.#limits.cpus)
  }

  /** What came of `toMeasure`; undefined where the host cannot tell. */
  observe(cpuMsOf: ReadonlyMap<InstanceId, number | undefined>, nowMs: number): void {
    const { cpus } = this.#limits
    for (const [fleet, share] of this.#roster.sharesOf(cpuMsOf, nowMs)) {
      if (share === undefined) fleet.spread.giveUp(cpus)
      else fleet.spread.look(share, fleet.running, cpus, this.isSaturated)
      const isShort = fleet.usable < Math.min(fleet.spread.width, fleet.running)
      if (isShort && !this.#roster.isClosing(fleet)) this.#grow(fleet, nowMs)
    }
  }

  get hasEffects(): boolean {
    return this.#roster.effects.length > 0
  }

  /** What to do since the last time, in order. */
  takeEffects(): readonly Effect<C>[] {
    const { effects } = this.#roster
    if (effects.length === 0) return noEffects
    this.#roster.effects = []
    return effects
  }

  stats(): RosterStats & { readonly waiting: number } {
    return { ...this.#roster.stats(), waiting: this.#waiters.size }
  }

  #assign(waiter: Waiter<C>, instance: PoolInstance<C>, nowMs: number): void {
    this.#unqueue(waiter)
    waiter.fleet.take(instance, nowMs)
    this.#roster.effects.push({ do: 'assign', call: waiter.call, instance: instance.id })
  }

  #fail(call: C, code: ErrorCode, detail?: string): void {
    this.#roster.effects.push(
      detail === undefined ? { do: 'fail', call, code } : { do: 'fail', call, code, detail },
    )
  }

  #unqueue(waiter: Waiter<C>): void {
    const { fleet } = waiter
    fleet.unqueue(waiter)
    this.#waiters.delete(waiter.call)
    if (fleet.waiting > 0) return
    this.#hungry.delete(fleet)
    this.#blocked.delete(fleet)
  }

  #expireWaiting(fleet: Fleet<C>, nowMs: number): void {
    for (;;) {
      const waiter = fleet.firstWaiter
      if (waiter === undefined || nowMs - waiter.sinceMs < this.#limits.waitMs) break
      this.#unqueue(waiter)
      this.#fail(waiter.call, 'busy')
    }
    if (fleet.waiting === 0 && this.#roster.isClosing(fleet)) this.#roster.dismiss(fleet)
  }

  /** A paused instance is had back sooner than a new one, and at no cost. */
  #wake(fleet: Fleet<C>): void {
    const { concurrency } = fleet.demand
    while (fleet.paused > 0 && fleet.waiting > fleet.resuming * concurrency) {
      this.#roster.resume(fleet)
    }
  }

  /** After an instance came or went: its function may need another, and so may others. */
  #afterChange(fleet: Fleet<C>, nowMs: number): void {
    this.#wake(fleet)
    this.#roster.noteEvictable(fleet)
    this.#roster.forgetIfOver(fleet)
    if (fleet.waiting > 0) this.#block(fleet)
    this.#feed(nowMs)
    this.#keepMin(fleet, nowMs)
  }

  /** Starts one more instance for waiting calls if they need it and the node has room. */
  #maybeStart(fleet: Fleet<C>, nowMs: number, oldestMs: number): boolean {
    if (!wantsStart(this.#pressure(fleet, nowMs, oldestMs))) return false
    return this.#grow(fleet, nowMs)
  }

  /** Resumes or starts one more, unless something forbids it; without room, `feed` tries again. */
  #grow(fleet: Fleet<C>, nowMs: number): boolean {
    if (fleet.paused > 0) {
      this.#roster.resume(fleet)
      return true
    }
    if (fleet.instances.size >= fleet.demand.instancesMax) return false
    if (fleet.isRetired && fleet.usable > 0) return false
    if (nowMs < fleet.backoffUntilMs || fleet.fetching > 0) return false
    if (this.#roster.starting >= this.#limits.startsMax || !this.#roster.makeRoom(fleet)) {
      if (fleet.waiting > 0) this.#block(fleet)
      return false
    }
    fleet.pressedSinceMs = undefined
    this.#roster.start(fleet, nowMs)
    return true
  }

  #block(fleet: Fleet<C>): void {
    this.#blocked.add(fleet)
    this.#blockedMbMin = Math.min(this.#blockedMbMin, fleet.demand.memoryMb)
  }

  #pressure(fleet: Fleet<C>, nowMs: number, oldestMs: number): Pressure {
    const pressure = {
      waiting: fleet.waiting,
      instances: fleet.usable,
      starting: fleet.starting + fleet.resuming,
      concurrency: fleet.demand.concurrency,
      width: fleet.widthOf(this.#limits.cpus),
      runMs: fleet.runTime.ms,
      runMsUncrowded: fleet.runTimeUncrowded.ms,
      oldestMs,
      startMs: fleet.startTime.ms ?? startMsDefault,
      oldestWaitMs: fleet.firstWaiter === undefined ? 0 : nowMs - fleet.firstWaiter.sinceMs,
      isSaturated: this.isSaturated,
      waitingMs: fleet.waiting === 0 ? 0 : nowMs - fleet.waitingSinceMs,
      pressedMs: 0,
    }
    if ((expectedWaitMs(pressure) ?? 0) <= pressure.startMs) fleet.pressedSinceMs = undefined
    else {
      fleet.pressedSinceMs ??= nowMs
      pressure.pressedMs = nowMs - fleet.pressedSinceMs
    }
    return pressure
  }

  /** Room or a start became free: functions that wait for it come first, then `instancesMin`. */
  #feed(nowMs: number): void {
    if (this.#roster.starting >= this.#limits.startsMax) return
    if (this.#blocked.size === 0) this.#blockedMbMin = Number.POSITIVE_INFINITY
    else if (this.#roster.freeMb + this.#roster.evictableMb >= this.#blockedMbMin) {
      this.#share(this.#blocked, nowMs)
    }
    if (this.#short.size === 0) return
    for (const fleet of this.#short) if (this.#roster.freeMb > 0) this.#keepMin(fleet, nowMs)
  }

  /**
   * Gives each function one start in turn until none wants or gets more. Those without any instance
   * come first, because they make no progress at all; then whose first call waits the longest.
   */
  #share(fleets: Set<Fleet<C>>, nowMs: number): void {
    if (fleets.size === 0) return
    const inTurn = Array.from(fleets).sort(
      (a, b) =>
        Math.min(a.usable, 1) - Math.min(b.usable, 1) ||
        (a.firstWaiter?.sinceMs ?? 0) - (b.firstWaiter?.sinceMs ?? 0),
    )
    for (let isAny = true; isAny; ) {
      isAny = false
      for (const fleet of inTurn) {
        this.#blocked.delete(fleet)
        if (fleet.waiting === 0) continue
        if (this.#maybeStart(fleet, nowMs, fleet.oldestRunningMs(nowMs))) isAny = true
      }
    }
  }

  /** `instancesMin` uses free memory only: what others keep warm is worth no less. */
  #keepMin(fleet: Fleet<C>, nowMs: number): void {
    const { demand } = fleet
    const min = this.#roster.instancesMin(fleet)
    const dueMs = Math.max(fleet.backoffUntilMs, fleet.restartAtMs)
    while (
      fleet.usable + fleet.paused < min &&
      fleet.instances.size < demand.instancesMax &&
      nowMs >= dueMs
    ) {
      if (this.#roster.starting >= this.#limits.startsMax || fleet.fetching > 0) break
      if (demand.memoryMb > this.#roster.freeMb) break
      this.#roster.start(fleet, nowMs)
    }
    if (fleet.usable + fleet.paused >= min) this.#short.delete(fleet)
    else {
      this.#short.add(fleet)
      if (nowMs < dueMs) this.#shortWakeMs = Math.min(this.#shortWakeMs, dueMs)
    }
  }
}
