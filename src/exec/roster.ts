/**
 * The instances of the node: their memory, the starts under way, what is idle and for how long.
 * Knows how to start, stop and make room; when to is the pool's affair.
 */
import { assert, type ErrorCode } from '../errors.ts'
import { chooseVictims } from './eviction.ts'
import { type Fleet, type InstanceId, PoolInstance } from './fleet.ts'

export type StopReason = 'idle' | 'evicted' | 'retired' | 'unfit' | 'draining'

export type Effect<C> =
  | { readonly do: 'start'; readonly instance: InstanceId; readonly key: string }
  | {
      readonly do: 'stop'
      readonly instance: InstanceId
      readonly key: string
      readonly why: StopReason
    }
  /** A waiting call got a slot. */
  | { readonly do: 'assign'; readonly call: C; readonly instance: InstanceId }
  | {
      readonly do: 'fail'
      readonly call: C
      readonly code: ErrorCode
      readonly detail?: string
      readonly retryAfterS?: number
    }

export class Roster<C extends object> {
  readonly fleets = new Map<string, Fleet<C>>()
  readonly memoryMbMax: number
  effects: Effect<C>[] = []
  /** Memory of all instances, starting ones too. */
  memoryMb = 0
  /** The part of it that eviction could free. */
  evictableMb = 0
  /** Starts that count against their limit: those that fetch do not. */
  starting = 0
  isDraining = false
  /** Not later than the next idle timeout; may be earlier. */
  idleWakeMs = Number.POSITIVE_INFINITY
  readonly #instances = new Map<InstanceId, PoolInstance<C>>()
  #lastId = 0

  constructor(memoryMbMax: number) {
    this.memoryMbMax = memoryMbMax
  }

  /** Undefined for an instance that was stopped or is gone. */
  find(id: InstanceId): PoolInstance<C> | undefined {
    assert(id >= 1 && id <= this.#lastId, 'the pool named every instance')
    return this.#instances.get(id)
  }

  isClosing(fleet: Fleet<C>): boolean {
    return this.isDraining || fleet.isRetired
  }

  instancesMin(fleet: Fleet<C>): number {
    if (this.isClosing(fleet)) return 0
    return Math.min(fleet.demand.instancesMin, fleet.demand.instancesMax)
  }

  start(fleet: Fleet<C>, nowMs: number): void {
    this.#lastId += 1
    const instance = new PoolInstance(this.#lastId, fleet, nowMs)
    fleet.add(instance)
    this.#instances.set(instance.id, instance)
    this.memoryMb += instance.memoryMb
    this.starting += 1
    assert(this.memoryMb <= this.memoryMbMax, 'the memory of all instances fits the node')
    this.effects.push({ do: 'start', instance: instance.id, key: fleet.demand.key })
  }

  setFetching(instance: PoolInstance<C>, isFetching: boolean): void {
    if (instance.isFetching === isFetching) return
    instance.isFetching = isFetching
    instance.fleet.fetching += isFetching ? 1 : -1
    this.starting += isFetching ? -1 : 1
  }

  stop(instance: PoolInstance<C>, why: StopReason): void {
    assert(instance.running === 0, 'an instance is stopped when its calls are done')
    this.remove(instance)
    const { key } = instance.fleet.demand
    this.effects.push({ do: 'stop', instance: instance.id, key, why })
  }

  remove(instance: PoolInstance<C>): void {
    const { fleet } = instance
    this.setFetching(instance, false)
    if (instance.phase === 'starting') this.starting -= 1
    fleet.remove(instance)
    this.#instances.delete(instance.id)
    this.memoryMb -= instance.memoryMb
    this.noteEvictable(fleet)
  }

  /** Stops the instances of a closing function that have nothing to do. */
  dismiss(fleet: Fleet<C>): void {
    const why = this.isDraining ? 'draining' : 'retired'
    for (const instance of fleet.instances) {
      if (instance.phase === 'doomed' || instance.running > 0) continue
      if (instance.phase === 'ready' || fleet.waiting === 0) this.stop(instance, why)
    }
    this.noteEvictable(fleet)
    this.forgetIfOver(fleet)
  }

  forgetIfOver(fleet: Fleet<C>): void {
    if (!fleet.isRetired || fleet.waiting > 0 || fleet.instances.size > 0) return
    this.fleets.delete(fleet.demand.key)
  }

  /** Keeps the sum of evictable memory, so that "is there room?" needs no search. */
  noteEvictable(fleet: Fleet<C>): void {
    const spare = Math.max(0, Math.min(fleet.idle, fleet.ready - this.instancesMin(fleet)))
    const evictableMb = spare * fleet.demand.memoryMb
    if (evictableMb === fleet.evictableMb) return
    this.evictableMb += evictableMb - fleet.evictableMb
    fleet.evictableMb = evictableMb
    if (fleet.oldestIdle === undefined) return
    const dueMs = fleet.oldestIdle.idleSinceMs + fleet.demand.idleTimeoutMs
    if (dueMs < this.idleWakeMs) this.idleWakeMs = dueMs
  }

  get freeMb(): number {
    return this.memoryMbMax - this.memoryMb
  }

  canMakeRoom(fleet: Fleet<C>): boolean {
    const othersMb = this.evictableMb - fleet.evictableMb
    return fleet.demand.memoryMb <= this.freeMb + othersMb
  }

  /** Evicts idle instances of other functions as far as needed; false when that is not enough. */
  makeRoom(fleet: Fleet<C>): boolean {
    const needMb = fleet.demand.memoryMb - this.freeMb
    if (needMb <= 0) return true
    if (!this.canMakeRoom(fleet)) return false
    const candidates: PoolInstance<C>[] = []
    for (const other of this.fleets.values()) {
      if (other === fleet) continue
      let spare = other.evictableMb / other.demand.memoryMb
      for (let idle = other.oldestIdle; idle !== undefined && spare > 0; idle = idle.newer) {
        candidates.push(idle)
        spare -= 1
      }
    }
    for (const victim of chooseVictims(candidates, needMb)) this.stop(victim, 'evicted')
    return true
  }

  /** Stops what is idle for too long, never below `instancesMin`. */
  expireIdle(nowMs: number): void {
    let wakeMs = Number.POSITIVE_INFINITY
    for (const fleet of this.fleets.values()) {
      while (fleet.evictableMb > 0 && fleet.oldestIdle !== undefined) {
        const dueMs = fleet.oldestIdle.idleSinceMs + fleet.demand.idleTimeoutMs
        if (dueMs > nowMs) {
          wakeMs = Math.min(wakeMs, dueMs)
          break
        }
        this.stop(fleet.oldestIdle, 'idle')
      }
    }
    this.idleWakeMs = wakeMs
  }
}
