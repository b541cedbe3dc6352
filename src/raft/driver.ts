/**
 * One member of a Raft group: the loop around the pure core. What it promises:
 *
 * - A vote, an acknowledgement, a refusal leaves after what it rests on is on the disk; appends of
 *   a leader may leave earlier (thesis §10.2.1). One write at a time, one fsync for each.
 * - An entry is applied once it is committed and on this disk, in order, and only then answered.
 * - Heartbeats wait for neither: what may leave at once is sent between the steps of a write.
 * - While one write runs, proposals collect; the next takes them all, up to a bound. There is no
 *   timer for that, so an idle member answers after one round.
 * - After a write that failed other than for want of room, nothing more is said or done: the
 *   process must end, because a later fsync may falsely succeed. Without room a member neither
 *   stands for election nor stays leader where anyone else can be.
 *
 * Callbacks and no promises, so that a simulation can run it (test/sim).
 */
import { assert, FndError } from '../errors.ts'
import { Applier } from './applier.ts'
import { LogCache } from './cache.ts'
import type { RaftCore } from './core.ts'
import { isOnlyVoter, successorOf } from './electorate.ts'
import { type MemberLimits, type MemberOptions, memberLimits, newCore } from './member-options.ts'
import { Outbox } from './outbox.ts'
import { type ProposalDone, Proposals, type Refusal } from './proposals.ts'
import { type ReadDone, Reads } from './reads.ts'
import { splitAt } from './split.ts'
import { LogTail } from './tail.ts'
import { Ticker } from './ticker.ts'
import type { ConfChange, CoreStatus, Entry, HardState, Message, NodeId, Ready } from './types.ts'

/** Readys without a write that are handled in one turn. */
const readysPerTurn = 16
/** A turn that took longer than that, in ms, is gone on with behind whatever else waits. */
const turnMsMax = 5

export class Member {
  readonly #options: MemberOptions
  readonly #limits: MemberLimits
  readonly #core: RaftCore
  readonly #cache: LogCache
  readonly #applier: Applier
  readonly #outbox: Outbox
  readonly #ticker: Ticker
  readonly #tail: LogTail
  readonly #proposals: Proposals
  readonly #reads = new Reads()
  #inbox: Message[] = []
  #state: 'new' | 'open' | 'closing' | 'failed' | 'closed' = 'new'
  /** A `Ready` is out: its write is under way, or what it commits could not be applied yet. */
  #isBusy = false
  /**
   * While a write is under way, the last entry that was on the disk before it: up to there can be
   * applied meanwhile. Otherwise 0.
   */
  #stableIndex = 0
  /** Those who wait for something to be applied know of it up to here. */
  #toldIndex: number
  /** There is no room: set until a write or an apply succeeds again. */
  #isStarved = false
  #isTurnDue = false
  /** The configuration of an earlier snapshot is not noted as installed yet. */
  #isInstallOpen: boolean
  #hard: HardState
  #soft: Pick<CoreStatus, 'role' | 'lead' | 'term'> = { role: 'follower', lead: 0, term: 0 }
  /** When this member last ceased to be leader, last heard of a leader. */
  #deposedMs = 0
  #heardMs = 0
  #onQuiet: (() => void) | undefined
  readonly #listeners = new Set<() => void>()

  /** Throws `StartError` when log and state machine do not fit together, or a record is damaged. */
  constructor(options: MemberOptions) {
    const { log, machine, observer, scheduler } = options
    this.#options = options
    this.#limits = { ...memberLimits, ...options.limits }
    const limits = this.#limits
    this.#hard = log.hardState
    this.#isInstallOpen = log.installing !== ''
    this.#toldIndex = machine.appliedIndex
    this.#proposals = new Proposals(observer)
    this.#outbox = new Outbox(options, limits.holdMs)
    this.#ticker = new Ticker({
      ...{ scheduler, observer, tickMs: limits.tickMs },
      isNeeded: () => !this.#isAlone(),
      onTicks: count => this.#tick(count),
    })
    this.#cache = new LogCache(log, limits.cacheBytesMax, () => {
      const { appliedIndex: index, appliedTerm: term, confState } = machine
      return index === 0 ? undefined : { index, term, confState, data: '' }
    })
    const onFail = (error: Error) => this.#fail(error)
    this.#tail = new LogTail({ log, machine, scheduler, limits, onFail })
    this.#tail.open(this.#cache)
    this.#core = newCore(options, limits, this.#cache)
    this.#applier = new Applier({
      core: this.#core,
      machine,
      observer,
      scheduler,
      limits,
      onApplied: (entry, result) => this.#proposals.applied(entry.index, entry.term, result),
      onStall: () => {
        this.#starve()
        // What could not be applied is applied from the log by the next start.
        if (this.#state === 'closing') this.#onQuiet?.()
      },
      onResume: () => {
        this.#isStarved = false
      },
      onFail,
    })
  }

  /** Begins to take part. The only voter of its group stands for election at once. */
  start(): void {
    assert(this.#state === 'new', 'a member is started once')
    this.#state = 'open'
    this.#heardMs = this.#options.scheduler.monotonicMs()
    this.#tellSoft()
    if (this.#isOnlyVoter()) this.#core.campaign()
    this.#ticker.arm()
    this.#turnSoon()
  }

  /** From the network, in the order of arrival. */
  receive(messages: readonly Message[]): void {
    if (!this.#isRunning()) return
    for (const message of messages) {
      if (this.#inbox.length >= this.#limits.inboxMax) break
      this.#inbox.push(message)
    }
    this.#turnSoon()
  }

  /** `done` with the result of applying it here, once it is durable on a majority. */
  propose(bytes: Uint8Array, done: ProposalDone): void {
    this.#submit(bytes, undefined, done)
  }

  /** One change of the configuration; `done` when it is applied here. */
  proposeConf(change: ConfChange, done: ProposalDone): void {
    this.#submit(new Uint8Array(), change, done)
  }

  /** `done(true)` when what is applied here includes all that was acknowledged before this call. */
  read(done: ReadDone): void {
    if (this.#state !== 'open') return done(false)
    this.#reads.add(done)
    this.#turnSoon()
  }

  /** `done(true)` once `index` is applied here, `done(false)` when that cannot come any more. */
  whenApplied(index: number, done: ReadDone): void {
    if (!this.#isRunning()) return done(false)
    this.#reads.waitFor(index, this.#options.machine.appliedIndex, done)
  }

  /** Somebody at another member waits to read what is committed: it is told without delay. */
  tellCommit(): void {
    if (this.#isRunning()) this.#outbox.release()
  }

  /** Asks to hand leadership over. What comes of it shows in `status`. */
  transfer(to: NodeId): void {
    if (!this.#isRunning()) return
    this.#core.transferLeader(to)
    this.#turnSoon()
  }

  /** The transport lost its connection to this peer. */
  unreachable(peer: NodeId): void {
    if (this.#isRunning()) this.#core.reportUnreachable(peer)
  }

  status(): CoreStatus {
    return this.#core.status()
  }

  get role(): CoreStatus['role'] {
    return this.#core.role
  }

  get lead(): NodeId {
    return this.#core.lead
  }

  /** Index of the last entry that this member knows to be committed. */
  get commit(): number {
    return this.#core.commit
  }

  get appliedIndex(): number {
    return this.#options.machine.appliedIndex
  }

  /** There is no room on the disk, for the log or for the state. */
  get isStarved(): boolean {
    return this.#isStarved
  }

  /** Called when role, leader or term changed, and after entries were applied. Returns its end. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Takes no more proposals, and waits for what is under way on the disk. */
  close(done: () => void): void {
    if (this.#state === 'failed' || this.#state === 'closed') return done()
    this.#state = 'closing'
    this.#proposals.refuseWaiting('shutting-down')
    this.#onQuiet = () => {
      this.#state = 'closed'
      this.#endParts()
      this.#proposals.endLogged('outcome-unknown')
      this.#reads.endAll()
      done()
    }
    // What could not be applied is applied from the log by the next start.
    if (this.#applier.isStalled) this.#onQuiet()
    else this.#turnSoon()
  }

  // Turns.

  #isRunning(): boolean {
    return this.#state === 'open' || this.#state === 'closing'
  }

  #submit(bytes: Uint8Array, change: ConfChange | undefined, done: ProposalDone): void {
    const refusal = this.#refusal(bytes.length)
    if (refusal === undefined) {
      this.#proposals.add({ bytes, change, done })
      this.#turnSoon()
    } else if (refusal instanceof FndError) done(refusal, undefined)
    else this.#proposals.refuse(done, refusal)
  }

  #refusal(bytes: number): Refusal | FndError | undefined {
    if (this.#state === 'failed') return new FndError('store-failed')
    if (this.#state !== 'open') return 'shutting-down'
    if (this.#core.role !== 'leader') return 'no-leader'
    if (this.#isStarved) return 'disk-full'
    if (bytes > this.#limits.entryBytesMax) return new FndError('request-too-large')
    return this.#proposals.hasRoom(bytes, this.#limits) ? undefined : 'write-overload'
  }

  #turnSoon(): void {
    if (this.#isTurnDue) return
    this.#isTurnDue = true
    this.#options.scheduler.soon(this.#dueTurn)
  }

  readonly #dueTurn = (): void => {
    this.#isTurnDue = false
    this.#turn()
  }

  #turn(): void {
    if (!this.#isRunning()) return
    const { scheduler } = this.#options
    const untilMs = scheduler.monotonicMs() + turnMsMax
    const inbox = this.#inbox
    if (inbox.length > 0) this.#inbox = []
    for (const message of inbox) this.#step(message)
    for (let count = 0; count < readysPerTurn && this.#isRunning(); count++) {
      if (count > 0 && scheduler.monotonicMs() > untilMs) break
      if (!this.#isBusy) this.#logProposals()
      if (this.#reads.hasFresh) this.#reads.asked(this.#core.readIndex())
      this.#route(this.#core.takeMessages())
      if (this.#stableIndex > 0) this.#applyMeanwhile(this.#stableIndex)
      const ready = this.#isBusy ? undefined : this.#core.ready()
      if (ready === undefined) break
      this.#handle(ready)
    }
    if (this.#isBusy || !this.#isRunning()) return
    if (this.#core.hasReady()) this.#turnSoon()
    else this.#onQuiet?.()
  }

  #step(message: Message): void {
    const { type } = message
    const isOfLeader = type === 'MsgApp' || type === 'MsgHeartbeat' || type === 'MsgSnap'
    // Changes reach a leader as calls, which it checks (cluster/forward.ts), and never this way.
    if (type === 'MsgProp') return
    // Whoever cannot write must not be elected, nor collect answers that cannot leave.
    if (this.#isStarved && (type === 'MsgTimeoutNow' || type === 'MsgApp')) return
    this.#core.step(message)
    if (!isOfLeader || message.from !== this.#core.lead) return
    const nowMs = this.#options.scheduler.monotonicMs()
    this.#options.observer.heartbeatGap(nowMs - this.#heardMs)
    this.#heardMs = nowMs
  }

  #logProposals(): void {
    if (this.#proposals.waitingCount === 0) return
    if (this.#core.role !== 'leader') return this.#proposals.refuseWaiting('no-leader')
    // Asked before anything is logged: afterwards there is no way to take it back.
    if (!this.#options.log.hasRoom()) return this.#proposals.refuseWaiting('disk-full')
    const taken = this.#proposals.take(this.#limits.batchMax, this.#limits.batchBytesMax)
    const change = taken[0]?.change
    const proposed =
      change === undefined
        ? this.#core.propose(taken.map(({ bytes }) => bytes))
        : this.#core.proposeConf('conf-v2', change)
    if (!proposed.ok) return this.#proposals.refuseTaken(taken, proposed.reason)
    assert(proposed.index > 0, 'a leader logs what it is asked to')
    this.#proposals.logged(taken, proposed.index, proposed.term)
  }

  // What the core wants done.

  #handle(ready: Ready): void {
    this.#isBusy = true
    if (ready.hard !== undefined) this.#hard = ready.hard
    if (ready.soft !== undefined || this.#core.term !== this.#soft.term) this.#tellSoft()
    this.#route(ready.messages)
    const { appliedIndex } = this.#options.machine
    for (const { read, index } of ready.reads) this.#reads.answered(read, index, appliedIndex)
    if (!ready.mustSync && ready.snapshot === undefined) {
      this.#route(ready.answers)
      this.#apply(ready.committed)
      return
    }
    const firstIndex = ready.entries[0]?.index ?? Number.POSITIVE_INFINITY
    const stableIndex = Math.min(this.#options.log.lastIndex, firstIndex - 1)
    const [early, late] = splitAt(ready.committed, stableIndex)
    this.#write(ready, late)
    // A snapshot takes the place of what could be applied.
    if (ready.snapshot !== undefined) return this.#applier.add(early)
    this.#stableIndex = stableIndex
    // The log gives the write to the disk in a later turn, which must not wait for this.
    this.#applier.addSoon(early, this.#tellApplied)
  }

  /** What was committed since the write began, and need not wait for it. */
  #applyMeanwhile(stableIndex: number): void {
    if (this.#applier.isHeldUp) return
    this.#applier.add(this.#core.takeCommitted(stableIndex))
    this.#tellApplied()
  }

  #write(ready: Ready, late: readonly Entry[]): void {
    const { log, scheduler, observer } = this.#options
    const startedMs = scheduler.monotonicMs()
    const { snapshot } = ready
    const isInstalled = this.#isInstallOpen && snapshot === undefined
    log.write(
      {
        entries: ready.entries,
        hardState: this.#hard,
        dropThrough: this.#tail.droppableIndex,
        reset: snapshot,
        isInstalled,
      },
      error => {
        if (this.#state === 'failed' || this.#state === 'closed') return
        if (error === undefined) {
          observer.fsync(scheduler.monotonicMs() - startedMs)
          if (isInstalled) this.#isInstallOpen = false
          this.#isStarved = this.#applier.isStalled
          this.#written(ready, late)
        } else if ((error as { code?: unknown }).code === 'disk-full') {
          this.#starve()
          if (this.#onQuiet !== undefined) return this.#onQuiet()
          scheduler.after(this.#limits.retryMs, () => {
            if (this.#isRunning()) this.#write(ready, late)
          })
        } else this.#fail(error)
      },
    )
  }

  #written(ready: Ready, late: readonly Entry[]): void {
    const { snapshot } = ready
    if (snapshot === undefined) return this.#logged(ready, late)
    const { machine, observer, scheduler } = this.#options
    this.#isInstallOpen = true
    this.#cache.reset()
    this.#tail.reset(snapshot.index)
    const startedMs = scheduler.monotonicMs()
    machine.install(snapshot.data, error => {
      if (!this.#isRunning()) return
      const event = error === undefined ? 'installed' : 'install-failed'
      observer.snapshot(event, 0, 0, scheduler.monotonicMs() - startedMs)
      if (error === undefined) this.#logged(ready, late)
      else this.#fail(error)
    })
  }

  /** What the answers rest on is on the disk. */
  #logged(ready: Ready, late: readonly Entry[]): void {
    this.#stableIndex = 0
    this.#cache.appended(ready.entries)
    this.#tail.appended(ready.entries)
    this.#route(ready.answers)
    this.#apply(late)
    // At once: what collected meanwhile goes to the disk before anything else.
    this.#turn()
  }

  #apply(entries: readonly Entry[]): void {
    this.#applier.add(entries)
    this.#applier.whenDrained(this.#drained)
  }

  readonly #drained = (): void => {
    if (!this.#isRunning()) return
    this.#core.advance()
    this.#isBusy = false
    this.#tellApplied()
    this.#turnSoon()
  }

  /** Also of what was held up when it was handed over, by whoever comes here first. */
  readonly #tellApplied = (): void => {
    const { appliedIndex } = this.#options.machine
    if (appliedIndex === this.#toldIndex) return
    this.#toldIndex = appliedIndex
    this.#reads.applied(appliedIndex)
    for (const peer of this.#tail.heldPeers()) {
      if (this.#core.status().progress.get(peer)?.state !== 'snapshot') this.#tail.release(peer)
    }
    this.#tail.maybeFlush()
    for (const listener of this.#listeners) listener()
    this.#ticker.arm()
  }

  #route(messages: readonly Message[]): void {
    if (messages.length === 0) return
    for (const message of this.#outbox.send(messages)) this.#sendSnapshot(message)
  }

  #sendSnapshot(message: Message): void {
    const peer = message.to
    this.#tail.hold(peer, message.snapshot?.index ?? 0)
    this.#options.network.sendSnapshot(message, isOk => {
      if (!this.#isRunning()) return
      if (!isOk) this.#tail.release(peer)
      this.#core.reportSnapshot(peer, isOk)
      this.#turnSoon()
    })
  }

  #tellSoft(): void {
    const { role, lead, term } = this.#core
    const before = this.#soft
    if (role === before.role && lead === before.lead && term === before.term) return
    this.#soft = { role, lead, term }
    const { observer, scheduler } = this.#options
    // Silence counts from the first word of a leader on, or from the last of one's own.
    if (lead !== before.lead) this.#heardMs = scheduler.monotonicMs()
    if (before.role === 'leader' && role !== 'leader') {
      this.#deposedMs = scheduler.monotonicMs()
      this.#outbox.endBeats()
    }
    // Whoever is alone has nobody to wait for.
    if (role === 'pre-candidate' && !this.#isOnlyVoter()) observer.electionTimeout(term)
    observer.leaderChanged(role, lead, term)
    for (const listener of this.#listeners) listener()
  }

  // Time.

  /** The only voter of its group: its heartbeats would go to nobody. */
  #isAlone(): boolean {
    const { learners } = this.#options.machine.confState
    return this.#core.role === 'leader' && learners.length === 0 && this.#isOnlyVoter()
  }

  #isOnlyVoter(): boolean {
    const { log, machine } = this.#options
    return isOnlyVoter(machine.confState, log.identity.nodeId)
  }

  #tick(count: number): void {
    if (!this.#isRunning()) return
    for (let each = 0; each < count; each++) {
      if (!this.#isStarved || this.#core.role === 'leader') this.#core.tick()
    }
    this.#route(this.#core.takeMessages())
    const isDeposed = this.#core.role !== 'leader' && this.#proposals.loggedCount > 0
    const deposedForMs = this.#options.scheduler.monotonicMs() - this.#deposedMs
    if (isDeposed && deposedForMs > this.#limits.unknownAfterMs) {
      this.#proposals.endLogged('outcome-unknown')
    }
    this.#turnSoon()
  }

  #endParts(): void {
    this.#ticker.stop()
    this.#tail.close()
    this.#applier.close()
    this.#outbox.close()
  }

  // Faults.

  #starve(): void {
    if (!this.#isStarved) this.#options.observer.diskFull()
    this.#isStarved = true
    this.#proposals.refuseWaiting('disk-full')
    if (this.#core.role !== 'leader') return
    const successor = successorOf(this.#core.status())
    if (successor === undefined) return
    this.#core.transferLeader(successor)
    this.#route(this.#core.takeMessages())
  }

  #fail(error: Error): void {
    if (this.#state === 'failed' || this.#state === 'closed') return
    this.#state = 'failed'
    this.#endParts()
    this.#proposals.fail(new FndError('store-failed', { cause: error }))
    this.#reads.endAll()
    this.#options.onFatal(error)
  }
}
