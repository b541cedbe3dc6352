/**
 * The state machine of one process on the disk of its node: what it applied survives a kill, and a
 * loss of power from the last flush on only by chance. Each batch is one transaction.
 */
import { FndError } from '../../src/errors.ts'
import type { CommittedEntry, StateMachine } from '../../src/raft/ports.ts'
import type { ConfState } from '../../src/raft/types.ts'
import type { SimDisk } from './disk.ts'
import type { SimMachine } from './machine.ts'
import type { Prng } from './prng.ts'
import type { World } from './world.ts'

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
  readonly #events: MachineEvents

  constructor(world: World, disk: SimDisk, inner: SimMachine, prng: Prng, events: MachineEvents) {
    this.#world = world
    this.#disk = disk
    this.inner = inner
    this.#prng = prng
    this.#events = events
  }

  get appliedIndex(): number {
    return this.inner.appliedIndex
  }

  get appliedTerm(): number {
    return this.inner.appliedTerm
  }

  get confState(): ConfState {
    return this.inner.confState
  }

  apply(entries: readonly CommittedEntry[]): readonly unknown[] {
    this.#events.failpoint('before an apply')
    if (this.#world.nowMs < this.#disk.fullUntilMs) {
      this.#world.count('fault: no room to apply')
      throw new FndError(this.#prng.pick(['disk-full', 'write-overload']))
    }
    let due = this.inner.appliedIndex + 1
    for (const entry of entries) {
      if (entry.index !== due) this.#world.fail(`applies ${entry.index} where ${due} is due`)
      this.#events.onApply(entry)
      due += 1
    }
    const results = this.inner.apply(entries)
    this.#disk.batches.push(entries)
    this.#events.onState(this.inner.appliedIndex, this.inner.hash)
    this.#world.note('apply', this.#disk.identity.nodeId, this.inner.appliedIndex)
    this.#events.failpoint('after an apply')
    return results
  }

  flush(): void {
    this.#events.failpoint('before a flush')
    this.#disk.flushed(this.inner)
    this.#world.count('branch: state flushed')
    this.#events.failpoint('after a flush')
  }

  install(name: string): void {
    this.#events.failpoint('before an install')
    const image = this.#disk.snapshots.get(name)
    if (image === undefined) this.#world.fail(`installs snapshot ${name}, which is not there`)
    // A start repeats an install of which it does not know whether it was done.
    if (image.index < this.inner.appliedIndex) {
      this.#world.fail(`goes back from ${this.inner.appliedIndex} to a snapshot at ${image.index}`)
    }
    this.inner.become(image)
    this.#disk.flushed(this.inner)
    this.#events.onState(image.index, image.hash)
    this.#world.count('branch: snapshot installed')
    this.#world.note('install', this.#disk.identity.nodeId, image.index)
    this.#events.failpoint('after an install')
  }
}
