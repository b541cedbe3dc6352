/**
 * One node: a disk that lasts, and one process after the other on it. The process is the real
 * driver with the real core and the real log; the ports around them are those of the simulation.
 */
import { AssertionError, FndError, StartError } from '../../src/errors.ts'
import { Member } from '../../src/raft/driver.ts'
import { noObserver } from '../../src/raft/observer.ts'
import type { LogWrite, Network } from '../../src/raft/ports.ts'
import type { ConfState, Message, NodeId, Role } from '../../src/raft/types.ts'
import type { CheckedNode, Checker } from './check.ts'
import { NodeClock, Process } from './clock.ts'
import type { SimDisk } from './disk.ts'
import { DurableMachine } from './durable.ts'
import { type LogImage, lastIndexOf } from './image.ts'
import { SimLog, takeStock } from './log.ts'
import type { MachineImage, SimMachine } from './machine.ts'
import type { SimOptions } from './options.ts'
import type { Prng } from './prng.ts'
import { Violation, type World } from './world.ts'

/** Ends a process in the middle of a call. */
class Crash extends Error {
  override readonly name = 'Crash'
}

export interface NodeContext {
  readonly world: World
  readonly checker: Checker
  /** As they are now: healing changes them. */
  options(): SimOptions
  makeMachine(image: MachineImage): SimMachine
  readonly network: (node: SimNode) => Network
}

export class SimNode implements CheckedNode {
  readonly id: NodeId
  readonly disk: SimDisk
  readonly clock: NodeClock
  /** `broken`: its data cannot be used any more. `gone`: it will never start again. */
  state: 'down' | 'up' | 'broken' | 'gone' = 'down'
  /** Stays down until somebody starts it. */
  isKeptDown = false
  /** Taken out of the configuration, it will be gone soon. */
  isRetiring = false
  member: Member | undefined
  readonly #context: NodeContext
  readonly #prng: Prng
  #process: Process | undefined
  /** Of that process the end has begun. */
  #stopping: Process | undefined
  #log: SimLog | undefined
  #machine: DurableMachine | undefined
  #lives = 0
  #events = 0
  #confBefore: ConfState

  constructor(context: NodeContext, disk: SimDisk, prng: Prng) {
    this.#context = context
    this.#prng = prng
    this.id = disk.identity.nodeId
    this.disk = disk
    this.clock = new NodeClock(context.world, prng)
    this.#confBefore = disk.floor.confState
  }

  get confStates(): readonly ConfState[] {
    const current = this.member?.status().confState
    return current === undefined ? [this.#confBefore] : [this.#confBefore, current]
  }

  get commit(): number {
    return this.member?.commit ?? 0
  }

  get role(): Role | undefined {
    return this.member?.role
  }

  get appliedIndex(): number {
    return this.#machine?.appliedIndex ?? 0
  }

  get process(): Process | undefined {
    return this.#process
  }

  get machine(): DurableMachine | undefined {
    return this.#machine
  }

  start(): void {
    const { world } = this.#context
    this.#lives += 1
    world.count('start')
    world.note('start', this.id, this.#lives)
    const process = new Process(world, this.clock, this.#prng.fork(), event => this.#run(event))
    this.#process = process
    this.state = 'up'
    this.#run(() => this.#open(process))
  }

  #open(process: Process): void {
    const { world, options } = this.#context
    let log: SimLog
    try {
      log = new SimLog(world, this.disk, process, () => options().disk, this.#prng.fork(), {
        failpoint: where => this.#failpoint(process, where),
        onWrite: (write, before) => this.#onWrite(write, before),
      })
    } catch (error) {
      if (!(error as Error).message.startsWith('EIO')) throw error
      return this.#onFatal(process, error as Error)
    }
    this.#log = log
    log.settle('a start', error => {
      // Without room it stays in the journal, and in memory.
      if (error !== undefined && error.code !== 'disk-full') this.#onFatal(process, error)
      else this.#join(process, log)
    })
  }

  #join(process: Process, log: SimLog): void {
    const { world, checker, options, makeMachine, network } = this.#context
    const failpoint = (where: string) => this.#failpoint(process, where)
    const machine = new DurableMachine(
      world,
      this.disk,
      process,
      this.disk.restore(makeMachine),
      this.#prng.fork(),
      {
        failpoint,
        onApply: entry => checker.apply(this, entry),
        onState: (index, hash) => checker.state(this, index, hash),
      },
    )
    this.#machine = machine
    this.#confBefore = machine.confState
    // What the start of the real node does before it makes the member (src/node.ts).
    const staged = this.disk.snapshots.get(log.installing)
    if (staged !== undefined && staged.index > machine.appliedIndex) {
      world.count('branch: install repeated by a start')
      machine.installNow(log.installing)
    }
    const random = this.#prng.fork()
    let ledTerm = 0
    const member = new Member({
      log,
      machine,
      network: network(this),
      scheduler: process,
      observer: {
        ...noObserver,
        leaderChanged: (role, lead, term) => {
          if (process.isOver) return
          world.note(`role ${role}`, this.id, lead, term)
          world.count(`branch: ${role}`)
          if (role !== 'leader' && ledTerm === term) world.count('branch: leader gave up its term')
          if (role === 'leader') ledTerm = term
          checker.role(this.id, role, term)
        },
      },
      random: n => random.below(n),
      onFatal: error => this.#onFatal(process, error),
      limits: options().limits,
    })
    this.member = member
    member.start()
  }

  receive(message: Message): void {
    this.#process?.dispatch(() => {
      const { world } = this.#context
      world.note(`receive ${message.type}`, message.from, this.id, message.term, message.index)
      this.member?.receive([message])
    })
  }

  /** `kind` `stop` lets it close in peace, the others end it as it is. */
  crash(kind: 'kill' | 'power' | 'stop'): void {
    if (this.state !== 'up') return
    const { world } = this.#context
    world.count(`fault: ${kind}`)
    const process = this.#process
    if (kind !== 'stop') return this.#end(kind === 'power')
    process?.dispatch(() => {
      // Still at its start: it is ended by the signal.
      if (this.member === undefined) return this.#end(false)
      if (this.#stopping === process) return
      this.#stopping = process
      this.member.close(() => {
        this.#log?.settle('an end', () => {
          if (!process.isOver) this.#end(false)
        })
      })
    })
  }

  /** It will not be back; its disk is lost. */
  vanish(): void {
    this.#end(true)
    this.state = 'gone'
  }

  #end(isPowerLoss: boolean): void {
    const { world, checker } = this.#context
    world.note('end', this.id, Number(isPowerLoss))
    if (this.member?.role === 'leader') checker.counted(this)
    this.#process?.end()
    this.member = undefined
    if ((this.#machine?.unsettledCount ?? 0) > 0) world.count('branch: applied entries lost')
    this.#machine?.inner.end()
    this.#machine = undefined
    this.#takeStock(isPowerLoss)
    checker.ended(this.id)
    if (this.state === 'up') this.state = 'down'
    const { downMs } = this.#context.options().crash
    const lives = this.#lives
    world.after(this.#prng.exponential(downMs), () => {
      if (this.state === 'down' && this.#lives === lives && !this.isKeptDown) this.start()
    })
  }

  #run(event: () => void): void {
    const { world } = this.#context
    this.#confBefore = this.#machine?.confState ?? this.#confBefore
    try {
      event()
      this.#events += 1
      const { member } = this
      const { checker } = this.#context
      // At once, while it is known by which configuration it counted.
      if (member?.role === 'leader') checker.counted(this)
      if (member?.role === 'leader' && this.#events % 4 === 0) {
        checker.progress(this, member.status())
      }
    } catch (error) {
      if (error instanceof Crash) return
      if (!(error instanceof StartError)) {
        world.violation ??= error as Error
        throw error
      }
      this.#breakDown(error)
    }
  }

  #failpoint(process: Process, where: string): void {
    // Some calls are rare and their crashes worth more.
    const weight = /install|flush|during/.test(where) ? 30 : 1
    const { failpoint } = this.#context.options().crash
    if (process.isOver || !this.#prng.chance(failpoint * weight)) return
    this.#context.world.count(`fault: crash ${where}`)
    this.#end(this.#prng.chance(this.#context.options().crash.power))
    throw new Crash(where)
  }

  #onWrite(write: LogWrite, before: LogImage): void {
    const { world, checker } = this.#context
    const [first] = write.entries
    if (first !== undefined && first.index <= lastIndexOf(before) && write.reset === undefined) {
      world.count('branch: conflicting entries replaced')
    }
    if (write.reset !== undefined) world.count('branch: log begun anew')
    if (write.dropThrough > before.baseIndex) world.count('branch: log truncated')
    world.note('write', this.id, first?.index ?? 0, write.entries.length, write.hardState.commit)
    checker.write(this, write, before)
  }

  #onFatal(process: Process, error: Error): void {
    if (process.isOver || error instanceof Crash) return
    const { world } = this.#context
    if (error instanceof Violation || error instanceof AssertionError) {
      world.violation ??= error
      return
    }
    world.count('fault: fatal')
    if (error instanceof StartError) return this.#breakDown(error)
    const isOfDisk = error instanceof FndError && error.code === 'store-failed'
    const isDue = error.message.startsWith('EIO') || (isOfDisk && this.#log?.isBroken === true)
    if (!isDue) {
      world.violation ??= error
      return
    }
    this.#end(this.#prng.chance(0.5))
  }

  /** The process ended: what is on the disk counts. */
  #takeStock(isPowerLoss: boolean): void {
    const { world } = this.#context
    const { write, transaction } = this.disk.crash(this.#prng, isPowerLoss)
    const found = takeStock(world, this.disk)
    this.#log = undefined
    if (write === 'torn' && found === 'acknowledged') world.count('fault: torn write found')
    if (write !== 'none' && found === 'pending') {
      world.count('fault: write found whole that was not acknowledged')
    }
    if (transaction !== 'none') world.count(`fault: transaction ${transaction} by a crash`)
  }

  /** Its data is damaged: a start would find the same. */
  #breakDown(error: StartError): void {
    const { world } = this.#context
    const what = error.message.includes('journal') ? 'sector' : 'record'
    world.count(`fault: damaged ${what} found`)
    if (!this.disk.isDamaged) {
      world.violation ??= error
      throw error
    }
    world.line(`node ${this.id} broken: ${error.message}`)
    this.#end(true)
    this.state = 'broken'
  }
}
