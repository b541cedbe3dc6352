/** One instance as the pool sees it, and the lists that instances hang in. */
import type { Fleet, InstanceId } from './fleet.ts'
import type { CpuReading } from './spread.ts'

export type InstancePhase = 'starting' | 'ready' | 'paused' | 'resuming' | 'doomed'

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
  canPause = false
  /** Where the time begins after which it is paused while idle. */
  pauseFromMs = 0
  /**
   * When a call last ended here, or the first began. While calls run, one of them is at least as
   * old as this, which is what scaling wants to know, without a record per call.
   */
  progressMs = 0
  /** Its CPU time when last looked at. */
  cpu: CpuReading | undefined
  newer: PoolInstance<C> | undefined
  older: PoolInstance<C> | undefined

  constructor(id: InstanceId, fleet: Fleet<C>, nowMs: number) {
    this.id = id
    this.fleet = fleet
    this.memoryMb = fleet.demand.memoryMb
    this.startedMs = nowMs
  }
}

/**
 * A list through the instances themselves, in the order in which they fell idle where that is what
 * they are: `newest` is taken first, `oldest` times out first.
 */
export class InstanceList<C extends object> {
  newest: PoolInstance<C> | undefined
  oldest: PoolInstance<C> | undefined
  size = 0

  push(instance: PoolInstance<C>): void {
    this.#putAfter(this.newest, instance)
  }

  /** Where it belongs by when it fell idle; nearly always that is the end. */
  insert(instance: PoolInstance<C>): void {
    let older = this.newest
    while (older !== undefined && older.idleSinceMs > instance.idleSinceMs) older = older.older
    this.#putAfter(older, instance)
  }

  #putAfter(older: PoolInstance<C> | undefined, instance: PoolInstance<C>): void {
    const newer = older === undefined ? this.oldest : older.newer
    instance.newer = newer
    instance.older = older
    if (newer === undefined) this.newest = instance
    else newer.older = instance
    if (older === undefined) this.oldest = instance
    else older.newer = instance
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
