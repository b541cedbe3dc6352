/**
 * The instances of the node: their memory, the starts under way, what is idle and for how long.
 * Knows how to start, stop and make room; when to is the pool's affair.
 */
import { assert, type ErrorCode } from '../errors.ts'
import { chooseVictims } from './eviction.ts'
import type { Fleet, FnStats, InstanceId } from './fleet.ts'
import { PoolInstance } from './pool-instance.ts'
import { shareBetween } from './spread.ts'

export type StopReason = 'idle' | 'evicted' | 'retired' | 'unfit' | 'draining'

export type Effect<C> =
  | { readonly do: 'start'; readonly instance: InstanceId; readonly key: string }
  | {
      readonly do: 'stop'
      readonly instance: InstanceId
      readonly key: string
      readonly why: StopReason
    }
  /** `pauseFailed` tells that it did not come about. */
  | { readonly do: 'pause'; readonly instance: InstanceId; readonly key: string }
  /** After the pause, which may still be under way. `resumed` or `resumeFailed` tells the end. */
  | { readonly do: 'resume'; readonly instance: InstanceId; readonly key: string }
  /** A waiting call got a slot. */
  | { readonly do: 'assign'; readonly call: C; readonly instance: InstanceId }
  | {
      readonly do: 'fail'
      readonly call: C
      readonly code: ErrorCode
      readonly detail?: string
      readonly retryAfterS?: number
    }

/** Instances whose CPU time is read with one look, or a few more. */
const measuredMax = 32

export interface RosterStats {
  readonly memoryMbUsed: number
  readonly memoryMbAvailable: number
  /** The part of what is used that eviction could free. */
  readonly memoryMbEvictable: number
  /** Starts that take their turn; those that fetch do not. */
  readonly starting: number
  readonly fns: readonly FnStats[]
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
  /** Not later than the next idle timeout or pause; may be earlier. */
  idleWakeMs = Number.POSITIVE_INFINITY
  readonly #instances = new Map<InstanceId, PoolInstance<C>>()
  #lastId = 0
  /** Counts the functions that were measured, to give each its turn. */
  #measured = 0

  constructor(memoryMbMax: number) {
    this.memoryMbMax = memoryMbMax
  }

  /** Undefined for an instance that was stopped or is gone. */
  find(id: InstanceId): PoolInstance<C> | undefined {
    assert(id >= 1 && id <= this.#lastId, 'the pool named every instance')
    return this.#instances.get(id)
  }

  stats(): RosterStats {
    return {
      memoryMbUsed: this.memoryMb,
      memoryMbAvailable: this.freeMb,
      memoryMbEvictable: this.evictableMb,
      starting: this.starting,
      fns: Array.from(this.fleets.values(), fleet => fleet.stats()),
    }
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

  pause(instance: PoolInstance<C>): void {
    instance.fleet.pause(instance)
    const { key } = instance.fleet.demand
    this.effects.push({ do: 'pause', instance: instance.id, key })
    this.noteEvictable(instance.fleet)
  }

  /** Needs neither memory nor a start: the paused instance has both already. */
  resume(fleet: Fleet<C>): void {
    const instance = fleet.resume()
    this.effects.push({ do: 'resume', instance: instance.id, key: fleet.demand.key })
    this.noteEvictable(fleet)
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
      const mayHelp = instance.phase === 'starting' || instance.phase === 'resuming'
      if (!mayHelp || fleet.waiting === 0) this.stop(instance, why)
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
    const { idle, paused, ready } = fleet
    const spare = Math.max(0, Math.min(idle, ready - this.instancesMin(fleet)) + paused)
    const evictableMb = spare * fleet.demand.memoryMb
    if (fleet.pauseDueMs < this.idleWakeMs) this.idleWakeMs = fleet.pauseDueMs
    if (evictableMb === fleet.evictableMb) return
    this.evictableMb += evictableMb - fleet.evictableMb
    fleet.evictableMb = evictableMb
    const { oldestUnused } = fleet
    if (oldestUnused === undefined) return
    const dueMs = oldestUnused.idleSinceMs + fleet.demand.idleTimeoutMs
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
      if (spare === 0) continue
      for (const unused of other.unused()) {
        candidates.push(unused)
        spare -= 1
        if (spare === 0) break
      }
    }
    for (const victim of chooseVictims(candidates, needMb)) this.stop(victim, 'evicted')
    return true
  }

  /**
   * Instances of functions with several calls at a time, as far as their number is not settled by
   * how long calls wait. Each is worth a few reads of files, so there is a limit, and functions
   * beyond it take turns.
   */
  toMeasure(cpus: number): InstanceId[] {
    const fleets = [...this.fleets.values()].filter(fleet => fleet.isMeasured(cpus))
    const found: InstanceId[] = []
    for (let turn = 0; turn < fleets.length && found.length < measuredMax; turn += 1) {
      this.#measured += 1
      const instances = fleets[this.#measured % fleets.length]?.instances ?? []
      for (const { phase, id } of instances) if (phase === 'ready') found.push(id)
    }
    return found
  }

  /** Cores that each function has filled since its last reading; undefined if one is missing. */
  sharesOf(
    cpuMsOf: ReadonlyMap<InstanceId, number | undefined>,
    nowMs: number,
  ): Map<Fleet<C>, number | undefined> {
    const shares = new Map<Fleet<C>, number | undefined>()
    for (const [id, cpuMs] of cpuMsOf) {
      const instance = this.find(id)
      if (instance === undefined) continue
      const { fleet, cpu } = instance
      const sum = shares.has(fleet) ? shares.get(fleet) : 0
      instance.cpu = cpuMs === undefined ? undefined : { cpuMs, atMs: nowMs }
      const share = instance.cpu === undefined ? undefined : shareBetween(cpu, instance.cpu)
      shares.set(fleet, sum === undefined || share === undefined ? undefined : sum + share)
    }
    return shares
  }

  /** Stops what is idle for too long, never below `instancesMin`, and pauses what may rest. */
  rest(nowMs: number): void {
    let wakeMs = Number.POSITIVE_INFINITY
    for (const fleet of this.fleets.values()) {
      while (fleet.evictableMb > 0 && fleet.oldestUnused !== undefined) {
        const dueMs = fleet.oldestUnused.idleSinceMs + fleet.demand.idleTimeoutMs
        if (dueMs > nowMs) {
          wakeMs = Math.min(wakeMs, dueMs)
          break
        }
        this.stop(fleet.oldestUnused, 'idle')
      }
      if (fleet.pauseDueMs <= nowMs) {
        for (const instance of fleet.takeDueForPause(nowMs)) this.pause(instance)
      }
      wakeMs = Math.min(wakeMs, fleet.pauseDueMs)
    }
    this.idleWakeMs = wakeMs
  }
}
