/**
 * The state machine of one process on the disk of its node: what it settled survives a kill, and a
 * loss of power from the last flush on only by chance.
 */
import { FndError } from '../../src/errors.ts'
import type { CommittedEntry, Scheduler, StateMachine } from '../../src/raft/ports.ts'
import type { ConfState } from '../../src/raft/types.ts'
import type { SimDisk } from './disk.ts'
import type { SimMachine } from './machine.ts'
import type { Prng } from './prng.ts'
import type { World } from './world.ts'

const flushMeanMs = 10
const installMeanMs = 50

export interface MachineEvents {
  /** Before it has an effect; `hash` of the state after it is told by `onState`. */
  onApply(entry: CommittedEntry): void
  onState(index: number, hash: string): void
  failpoint(where: string): void
}

export class DurableMachine implements StateMachine {
  readonly inner: SimMachine
  readonly #world: World
  readonly #disk: SimDisk
  readonly #prng: Prng
  readonly #scheduler: Scheduler
  readonly #events: MachineEvents
  #isInstalling = false
  /** What only this process has. */
  #unsettled: (readonly CommittedEntry[])[] = []

  constructor(
    world: World,
    disk: SimDisk,
    scheduler: Scheduler,
    inner: SimMachine,
    prng: Prng,
    events: MachineEvents,
  ) {
    this.#world = world
    this.#scheduler = scheduler
    this.#disk = disk
    this.inner = inner
    this.#prng = prng
    this.#events = events
  }

  get appliedIndex(): number {
    return this.inner.appliedIndex
  }

  get unsettledCount(): number {
    return this.#unsettled.length
  }

  get appliedTerm(): number {
    return this.inner.appliedTerm
  }

  get confState(): ConfState {
    return this.inner.confState
  }

  apply(entries: readonly CommittedEntry[]): readonly unknown[] {
    this.#events.failpoint('before an apply')
    // Mostly it is memory that it takes, until it is settled.
    if (this.#world.nowMs < this.#disk.fullUntilMs && this.#prng.chance(0.7)) {
      this.#world.count('fault: no room to apply')
      throw new FndError(this.#prng.pick(['disk-full', 'write-overload']))
    }
    if (this.#isInstalling) this.#world.fail('applies while a snapshot is being installed')
    if (this.#disk.pending !== undefined) {
      this.#world.count('branch: applied while the log was being written')
    }
    let due = this.inner.appliedIndex + 1
    for (const entry of entries) {
      if (entry.index !== due) this.#world.fail(`applies ${entry.index} where ${due} is due`)
      this.#events.onApply(entry)
      due += 1
    }
    const results = this.inner.apply(entries)
    this.#unsettled.push(entries)
    this.#events.onState(this.inner.appliedIndex, this.inner.hash)
    this.#world.note('apply', this.#disk.identity.nodeId, this.inner.appliedIndex)
    this.#events.failpoint('after an apply')
    return results
  }

  settle(): void {
    this.#events.failpoint('before a settle')
    // It may fit into what the file has already.
    if (this.#world.nowMs < this.#disk.fullUntilMs && this.#prng.chance(0.5)) {
      this.#world.count('fault: no room to settle')
      throw new FndError(this.#prng.pick(['disk-full', 'write-overload']))
    }
    this.#settle()
    this.#world.count('branch: state settled')
    this.#events.failpoint('after a settle')
  }

  #settle(): void {
    this.inner.settle()
    this.#disk.batches.push(...this.#unsettled)
    this.#unsettled = []
  }

  flush(done: (error: undefined, durableIndex: number) => void): void {
    this.#events.failpoint('before a flush')
    const disk = this.#disk
    if (this.#world.nowMs < disk.fullUntilMs) {
      this.#world.count('branch: flushed what was flushed before')
      const { index } = disk.floor
      return void this.#scheduler.soon(() => done(undefined, index))
    }
    this.#settle()
    const image = this.inner.image()
    const { batches } = disk
    const count = batches.length
    this.#scheduler.after(this.#prng.exponential(flushMeanMs), () => {
      // Unless a snapshot took the place of all of it.
      if (disk.batches === batches) disk.flushedTo(image, count)
      this.#world.count('branch: state flushed')
      if (this.inner.appliedIndex > image.index) {
        this.#world.count('branch: applied while the state was being flushed')
      }
      this.#events.failpoint('after a flush')
      done(undefined, image.index)
    })
  }

  install(name: string, done: (error: undefined) => void): void {
    this.#events.failpoint('before an install')
    this.#isInstalling = true
    this.#scheduler.after(this.#prng.exponential(installMeanMs), () => {
      this.#isInstalling = false
      this.#install(name)
      done(undefined)
    })
  }

  /** As a start does it, before anything else. */
  installNow(name: string): void {
    this.#events.failpoint('before an install')
    this.#install(name)
  }

  #install(name: string): void {
    const image = this.#disk.snapshots.get(name)
    if (image === undefined) this.#world.fail(`installs snapshot ${name}, which is not there`)
    // A start repeats an install of which it does not know whether it was done.
    if (image.index < this.inner.appliedIndex) {
      this.#world.fail(`goes back from ${this.inner.appliedIndex} to a snapshot at ${image.index}`)
    }
    this.inner.become(image)
    this.#unsettled = []
    this.#disk.flushed(this.inner)
    this.#events.onState(image.index, image.hash)
    this.#world.count('branch: snapshot installed')
    this.#world.note('install', this.#disk.identity.nodeId, image.index)
    this.#events.failpoint('after an install')
  }
}
