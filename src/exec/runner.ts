/**
 * Carries out what the pool decides: starts and stops instances, and takes each call through
 * queued → placed → running → done. The invoke path allocates one `ActiveCall` and one exchange,
 * sets no timer and touches no disk; deadlines are looked after by one sweep.
 */
import type { Clock } from '../clock.ts'
import { assert, type ErrorCode, FndError } from '../errors.ts'
import { Client, type Reply } from '../http/client.ts'
import { ExchangeError } from '../http/exchange-error.ts'
import type { IdSource } from '../ids.ts'
import { ActiveCall, type CallAsker, type Running } from './active-call.ts'
import { type CallEnd, codeOf, verdictOf } from './call.ts'
import { CallList } from './call-list.ts'
import { refusalFrom } from './docker/refusal.ts'
import type { Driver, FnSpec, Instance } from './driver.ts'
import type { CallObserver, InstanceEvent, InstanceObserver } from './observers.ts'
import { canPause, Pauses } from './pauses.ts'
import { type Effect, type InstanceId, Pool, type PoolLimits } from './pool.ts'

export interface RunnerOptions {
  readonly clock: Clock
  readonly ids: IdSource
  readonly drivers: readonly Driver[]
  readonly pool: PoolLimits
  readonly headBytesMax: number
  /** 0 = no limit. */
  readonly bodyBytesMax: number
  /** Whether the cores were full since it was last asked. */
  readonly isSaturated: () => boolean
  readonly calls: CallObserver
  readonly instances: InstanceObserver
}

/** How often deadlines, idle timeouts and waiting calls are looked at. */
const sweepMs = 50
/** Calls that run or wait for this long are worth the cost of hearing that their caller left. */
const watchedFromMs = 100
/** Sweeps between looks at the cores: ten ticks of the kernel's clock, and `settleMs`. */
const coresEvery = 2
/** Sweeps between looks at the CPU time of instances: twenty ticks of the kernel's clock. */
const sharesEvery = 4
/** An instance that is told to go gets this long before it is killed. */
const stopGraceMs = 500
/** A start waits this long at most: a container whose daemon hangs ends nobody knows when. */
const stopsWaitMs = 2000
/** What a start needs is fetched if it is not there after this time. */
const fetchingFromMs = 250
/** How long to wait for the reason of an instance's death before its callers are answered. */
const deathReasonMs = 250

export class Runner {
  readonly #options: RunnerOptions
  readonly #pool: Pool<ActiveCall>
  readonly #specs = new Map<string, FnSpec>()
  /** Specs to forget once the pool has: until then it may still start them for waiting calls. */
  readonly #retired = new Set<string>()
  readonly #instances = new Map<InstanceId, Running>()
  /** Calls that wait for a slot or hold one. */
  readonly #calls = new CallList()
  readonly #pauses = new Pauses()
  /** Stops under way: a start waits a while for them, so that memory is not used twice. */
  readonly #stopping = new Set<Promise<void>>()
  readonly #sweep: ReturnType<typeof setInterval>
  #isDraining = false
  #isCarryOutDue = false
  #deadlineS = 0
  #sweeps = 0
  #deadline = ''
  #onQuiet: (() => void) | null = null

  constructor(options: RunnerOptions) {
    this.#options = options
    this.#pool = new Pool<ActiveCall>(options.pool)
    this.#sweep = setInterval(() => this.#onSweep(), sweepMs)
  }

  stats(): ReturnType<Pool<ActiveCall>['stats']> {
    return this.#pool.stats()
  }

  knownSpecs(): FnSpec[] {
    return [...this.#specs.values()]
  }

  /** The ready instances of a spec, for people. */
  instancesOf(key: string): { id: string; pid: number; memoryBytes: number | undefined }[] {
    const found = []
    for (const { name, spec, instance } of this.#instances.values()) {
      if (spec.key !== key || instance === null) continue
      found.push({ id: name, pid: instance.pid, memoryBytes: instance.memoryBytes() })
    }
    return found
  }

  /** Makes a spec known, and starts its `instancesMin`. */
  define(spec: FnSpec): void {
    const isKnown = this.#pool.has(spec.key) && this.#specs.has(spec.key)
    // One that is on its way out, and meant again because a change was taken back, is kept.
    if (isKnown && !this.#retired.has(spec.key)) return
    this.#retired.delete(spec.key)
    this.#specs.set(spec.key, spec)
    this.#pool.define(spec, this.#now())
    this.#carryOut()
  }

  /** The function changed or went: its instances go as they fall idle. */
  retire(key: string): void {
    if (!this.#specs.has(key)) return
    this.#pool.retire(key, this.#now())
    this.#retired.add(key)
    this.#carryOut()
  }

  /**
   * Runs one call of a defined spec; `asker` hears of it when the head of its reply is here,
   * perhaps within this call. By callbacks, because each promise on the way would cost as much as
   * the pool.
   */
  call(spec: FnSpec, asker: CallAsker): void {
    const call = new ActiveCall(this, this.#options.ids.next(), spec, asker, this.#now())
    this.#options.calls.queued(spec)
    if (this.#isDraining) return this.#refuse(call, new FndError('shutting-down'))
    this.#place(call, call.arrivedMs)
    this.#carryOutSoon()
  }

  /** Ends a call that came to nothing before it could be placed. */
  refuse(spec: FnSpec, asker: CallAsker, error: FndError): void {
    this.#options.calls.queued(spec)
    this.#refuse(new ActiveCall(this, this.#options.ids.next(), spec, asker, this.#now()), error)
  }

  #place(call: ActiveCall, nowMs: number): void {
    const { spec } = call
    // The function may have changed while this call was on its way in.
    const isStale = !this.#pool.has(spec.key)
    if (isStale) this.define(spec)
    const placement = this.#pool.acquire(spec.key, call, nowMs)
    if (isStale) this.retire(spec.key)
    if (placement === 'busy') return this.#refuse(call, new FndError('busy'))
    if (placement === 'too-large') return this.#refuse(call, new FndError('node-too-small'))
    this.#calls.add(call)
    if (typeof placement === 'number') this.#assign(call, placement, nowMs)
  }

  /** The call ends without a slot. */
  #refuse(call: ActiveCall, error: FndError): void {
    this.#calls.delete(call)
    call.answeredMs = this.#now()
    this.#options.calls.refused(call, error.code)
    this.#fail(call, error)
    if (this.#isDraining) this.#checkQuiet()
  }

  #fail(call: ActiveCall, error: FndError): void {
    call.answeredMs = this.#now()
    call.asker.failed(call, error)
  }

  /** The caller went away. */
  #abandon(call: ActiveCall): void {
    call.isAbandoned = true
    call.exchange?.abort('aborted')
    if (!this.#pool.cancel(call, this.#now())) return
    this.#refuse(call, new FndError('client-gone'))
    this.#carryOut()
  }

  /** Gives a call its slot, and sends it to the instance. */
  #assign(call: ActiveCall, id: InstanceId, nowMs: number): void {
    const running = this.#instances.get(id)
    const client = running?.client
    if (running === undefined || client === null || client === undefined || client.isClosed) {
      // It ended since the pool decided. Nothing was sent, so the call may go elsewhere.
      this.#calls.delete(call)
      this.#place(call, nowMs)
      return this.#carryOutSoon()
    }
    call.running = running
    call.run(nowMs, running.startedMs, running.readyMs)
    call.deadlineMs = nowMs + call.spec.timeoutMs
    this.#options.instances.begin(running.name, call.spec.fnId, call.id)
    this.#options.calls.placed(call)
    const head =
      `POST /call HTTP/1.1\r\nhost: localhost\r\nfn-call-id: ${call.id}\r\n` +
      `fn-deadline: ${this.#deadlineOf(call.spec)}\r\n${call.asker.headers}`
    call.exchange = client.exchange(head, call.asker, call)
    if (call.isAbandoned) call.exchange.abort('aborted')
  }

  /** The head of the reply is here; what is not 200 is a failure, whose body is for nobody. */
  replied(call: ActiveCall, reply: Reply): void {
    if (reply.status !== 200) return this.#fail(call, refusalOf(call.spec, reply))
    call.answeredMs = this.#now()
    call.asker.answered(call, reply)
  }

  /** Fn-Deadline has whole seconds, so calls of one second share its text. */
  #deadlineOf(spec: FnSpec): string {
    const deadlineS = Math.floor((this.#options.clock.nowMs() + spec.timeoutMs) / 1000)
    if (deadlineS !== this.#deadlineS) {
      this.#deadlineS = deadlineS
      this.#deadline = `${new Date(deadlineS * 1000).toISOString().slice(0, 19)}Z`
    }
    return this.#deadline
  }

  /** The reply broke before its head. How an instance died is known only when it is gone. */
  async #failBroken(call: ActiveCall, code: ErrorCode): Promise<void> {
    if (code !== 'function-died') return this.#fail(call, new FndError(code))
    const exit = await Promise.race([call.running?.instance?.exited, Bun.sleep(deathReasonMs)])
    this.#fail(call, new FndError(exit?.outOfMemory ? 'function-out-of-memory' : code))
  }

  /** The exchange is over, whole or broken: the slot is free. */
  release(call: ActiveCall, end: CallEnd): void {
    const { running } = call
    assert(running !== null, 'only a placed call has a slot to give back')
    this.#calls.delete(call)
    const nowMs = this.#now()
    call.end(nowMs)
    this.#options.instances.end(running.name, call.id)
    this.#options.calls.released(call, end)
    const verdict = verdictOf(end, call.spec.concurrency)
    this.#pool.release(running.id, call.phases(nowMs).runMs, verdict, nowMs)
    const code = codeOf(end)
    if (call.answeredMs === 0 && code !== undefined) void this.#failBroken(call, code)
    this.#carryOutSoon()
    if (this.#isDraining) this.#checkQuiet()
  }

  /**
   * At the end of this turn of the event loop, so that the calls that get the slots of many replies
   * are sent together: an instance that is woken for each of them takes half as long again.
   */
  #carryOutSoon(): void {
    if (this.#isCarryOutDue || !this.#pool.hasEffects) return
    this.#isCarryOutDue = true
    setImmediate(() => {
      this.#isCarryOutDue = false
      this.#carryOut()
    })
  }

  #carryOut(): void {
    for (const effect of this.#pool.takeEffects()) this.#carryOutOne(effect)
  }

  #carryOutOne(effect: Effect<ActiveCall>): void {
    switch (effect.do) {
      case 'assign':
        return this.#assign(effect.call, effect.instance, this.#now())
      case 'fail': {
        const { code, call } = effect
        const detail = effect.detail ?? (code === 'busy' ? this.#awaited(call.spec) : undefined)
        const error = new FndError(code, detail === undefined ? {} : { detail })
        return this.#refuse(effect.call, error)
      }
      case 'start':
        void this.#start(effect.instance, effect.key)
        return
      case 'stop':
        void this.#stop(effect.instance, effect.why)
        return
      case 'pause':
        void this.#pause(effect.instance)
        return
      case 'resume':
        void this.#resume(effect.instance)
        return
    }
  }

  async #start(id: InstanceId, key: string): Promise<void> {
    const spec = this.#specs.get(key)
    assert(spec !== undefined, 'the pool starts only what is defined')
    const running: Running = {
      id,
      name: this.#options.ids.next(),
      spec,
      instance: null,
      client: null,
      starting: new AbortController(),
      startedMs: this.#now(),
      readyMs: 0,
    }
    this.#instances.set(id, running)
    this.#event(running, { kind: 'starting' })
    const started = await this.#startWithDriver(running)
    const nowMs = this.#now()
    if (started instanceof FndError) {
      this.#instances.delete(id)
      this.#event(running, { kind: 'start-failed', error: started })
      if (running.starting.signal.aborted) this.#pool.gone(id, nowMs)
      else this.#pool.failed(id, started.code, started.detail, nowMs)
    } else {
      running.instance = started
      running.readyMs = nowMs
      const { headBytesMax, bodyBytesMax } = this.#options
      running.client = new Client(started.socketPath, { headBytesMax, bodyBytesMax })
      this.#event(running, { kind: 'ready', pid: started.pid, startMs: nowMs - running.startedMs })
      void this.#watch(running, started)
      if (running.starting.signal.aborted) void this.#stop(id, 'draining')
      else this.#pool.ready(id, nowMs, canPause(started))
    }
    this.#carryOut()
  }

  /** An image may take minutes to come; others need not wait their turn behind it. */
  async #prepare({ id, spec }: Running, driver: Driver): Promise<void> {
    const fetching = (isFetching: boolean) => {
      this.#pool.fetching(id, isFetching, this.#now())
      this.#carryOut()
    }
    let isLong = false
    const timer = setTimeout(() => {
      isLong = true
      fetching(true)
    }, fetchingFromMs)
    try {
      await driver.prepare(spec)
    } finally {
      clearTimeout(timer)
    }
    // When it failed the pool hears of that alone, lest it starts one more in between.
    if (isLong) fetching(false)
  }

  /** Why a call waited in vain, where it was not for want of room. */
  #awaited(spec: FnSpec): string | undefined {
    return this.#options.drivers.find(candidate => candidate.takes(spec.image))?.awaited?.(spec)
  }

  async #startWithDriver(running: Running): Promise<Instance | FndError> {
    const { spec, name, starting } = running
    const driver = this.#options.drivers.find(candidate => candidate.takes(spec.image))
    if (driver === undefined) {
      return new FndError('image-driver-missing', {
        detail: `'${spec.image}': no driver on this node runs such images`,
      })
    }
    try {
      if (this.#stopping.size > 0) {
        await Promise.race([Promise.all(this.#stopping), Bun.sleep(stopsWaitMs)])
      }
      await this.#prepare(running, driver)
      return await driver.start(spec, name, starting.signal)
    } catch (cause) {
      if (cause instanceof FndError) return cause
      throw cause
    }
  }

  /** Waits for the end of an instance, however it comes. */
  async #watch(running: Running, instance: Instance): Promise<void> {
    const exit = await instance.exited
    running.client?.close()
    this.#instances.delete(running.id)
    this.#pauses.forget(running.id)
    const reason = exit.outOfMemory ? 'out of memory' : (exit.signal ?? `exit code ${exit.code}`)
    this.#event(running, { kind: 'gone', reason })
    this.#pool.gone(running.id, this.#now())
    this.#carryOut()
    if (this.#isDraining) this.#checkQuiet()
  }

  async #stop(id: InstanceId, why: string): Promise<void> {
    const running = this.#instances.get(id)
    if (running === undefined) return
    this.#event(running, { kind: 'stopping', why })
    if (running.instance === null) return running.starting.abort()
    const stop = this.#stopInstance(id, running.instance)
    this.#stopping.add(stop)
    await stop
    this.#stopping.delete(stop)
  }

  async #stopInstance(id: InstanceId, instance: Instance): Promise<void> {
    await this.#pauses.settled(id)
    await instance.stop(stopGraceMs)
  }

  async #pause(id: InstanceId): Promise<void> {
    const running = this.#instances.get(id)
    // It may have ended since the pool decided; the pool has heard of that.
    if (running === undefined || running.instance === null) return
    const end = await this.#pauses.pause(id, running.instance)
    if (!this.#instances.has(id)) return
    if (!(end instanceof FndError)) return this.#event(running, { kind: 'paused' })
    this.#event(running, { kind: 'pause-failed', error: end })
    this.#pool.pauseFailed(id, this.#now())
    this.#carryOut()
  }

  async #resume(id: InstanceId): Promise<void> {
    const running = this.#instances.get(id)
    if (running === undefined || running.instance === null) return
    const end = await this.#pauses.resume(id, running.instance)
    if (end === 'not-paused' || !this.#instances.has(id)) return
    if (end === 'done') {
      this.#event(running, { kind: 'resumed' })
      this.#pool.resumed(id, this.#now())
    } else {
      this.#event(running, { kind: 'resume-failed', error: end })
      this.#pool.resumeFailed(id, this.#now())
    }
    this.#carryOut()
  }

  #event(running: Running, event: DistributiveOmit<InstanceEvent, 'instanceId' | 'spec'>): void {
    this.#options.instances.event({ instanceId: running.name, spec: running.spec, ...event })
  }

  #onSweep(): void {
    const nowMs = this.#now()
    for (const call of this.#calls.copy()) {
      if (call.deadlineMs <= nowMs) call.exchange?.abort('timed-out')
      if (!call.isWatched && nowMs - call.arrivedMs >= watchedFromMs) this.#watchCaller(call)
    }
    this.#sweeps += 1
    if (this.#sweeps % coresEvery === 0) this.#pool.isSaturated = this.#options.isSaturated()
    if (this.#sweeps % sharesEvery === 0) this.#measure(nowMs)
    this.#pool.tick(nowMs)
    this.#carryOut()
    for (const key of this.#retired) {
      if (this.#pool.has(key)) continue
      this.#retired.delete(key)
      this.#specs.delete(key)
    }
  }

  #measure(nowMs: number): void {
    const cpuMsOf = new Map<InstanceId, number | undefined>()
    for (const id of this.#pool.toMeasure()) {
      cpuMsOf.set(id, this.#instances.get(id)?.instance?.cpuMs?.())
    }
    if (cpuMsOf.size > 0) this.#pool.observe(cpuMsOf, nowMs)
  }

  /** Only calls of some age are watched; shorter ones end before it would matter. */
  #watchCaller(call: ActiveCall): void {
    call.isWatched = true
    const { signal } = call.asker.caller
    if (signal.aborted) this.#abandon(call)
    else signal.addEventListener('abort', () => this.#abandon(call), { once: true })
  }

  /**
   * Takes no more calls, lets those it has come to their end for at most `timeoutMs`, then stops
   * every instance. Resolves when none is left.
   */
  async drain(timeoutMs: number): Promise<void> {
    this.#isDraining = true
    this.#pool.drain(this.#now())
    this.#carryOut()
    const isQuiet = new Promise<void>(resolve => {
      this.#onQuiet = resolve
    })
    this.#checkQuiet()
    await Promise.race([isQuiet, Bun.sleep(timeoutMs)])
    clearInterval(this.#sweep)
    for (const call of this.#calls.copy()) {
      if (this.#pool.cancel(call, this.#now())) this.#refuse(call, new FndError('shutting-down'))
    }
    await Promise.all([...this.#instances.keys()].map(id => this.#stop(id, 'draining')))
  }

  #checkQuiet(): void {
    if (this.#calls.isEmpty) this.#onQuiet?.()
  }

  #now(): number {
    return this.#options.clock.monotonicMs()
  }
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never

/**
 * Fn's contract for replies that are not 200 (fn-api §2.3); their bodies are for nobody. Behind the
 * older formats is a bridge of fnd's own, which knows more than the contract can say.
 */
function refusalOf({ format }: FnSpec, reply: Reply): FndError {
  if (reply.body instanceof ReadableStream) void discard(reply.body)
  const told = format === 'http-stream' ? undefined : refusalFrom(reply.headers)
  return told ?? new FndError(codeOf(reply.status) ?? 'internal')
}

/** Reads a body to its end, so that the connection and the instance stay usable. */
async function discard(body: ReadableStream<Uint8Array>): Promise<void> {
  const reader = body.getReader()
  try {
    while (!(await reader.read()).done);
  } catch (cause) {
    // The exchange broke meanwhile; the runner has heard of that already, through its release.
    if (!(cause instanceof ExchangeError)) throw cause
  }
}
