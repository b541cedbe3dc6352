/**
 * Captures what instances write, line by line, and tells which call wrote it.
 *
 * A line that starts with `\x1e<call id>\x1f` names its call; fnd's own worker writes so. It is
 * believed only if that call runs, or ran lately, on the same instance: a function can speak for
 * its own calls, never for those of others. Any other line belongs to the instance's newest running
 * call, when idle to the last one, before the first call to none.
 *
 * No instance can flood fnd: lines are cut, memory is bounded (see `LogStore`), and each instance
 * is read at about 10 MB/s once it has used up a burst, by holding back the promise of `output`.
 */
import type { Clock } from '../clock.ts'
import type { Logger } from '../log.ts'
import type { LogLine, Stream } from './call-log.ts'
import type { OutputSink } from './driver.ts'
import { Followers, type LogListener } from './follow.ts'
import { LineSplitter } from './lines.ts'
import { LogStore } from './log-store.ts'

/** `bytes` are valid only during the call. */
export interface KeptLine {
  /** `''` for output before the instance's first call. */
  readonly callId: string
  readonly stream: Stream
  readonly timeMs: number
  readonly bytes: Uint8Array
}

/** Gets each kept line of one instance, and returns at once. */
export type LineCopy = (line: KeptLine) => void

export interface CallOutputOptions {
  readonly limits: { readonly callLogBytesMax: number; readonly logBytesMax: number }
  readonly clock: Clock
  /** Gets each kept line at debug level, marked `user_log`. */
  readonly logger?: Logger
}

export interface OutputStats {
  readonly heldBytes: number
  readonly linesTotal: number
  readonly discardedBytesTotal: number
  readonly followers: number
}

const recordSeparator = 0x1e
const unitSeparator = 0x1f
const callIdLength = 26
const prefixLength = callIdLength + 2
/** Ended calls whose lines may still be on their way. */
const latelyMax = 64
const closedInstancesMax = 256
const startLinesMax = 20
const startLineBytesMax = 1024

const bytesPerMs = 10_000
const allBytesPerMs = 50_000
const burstMs = 100
/** Splitting may take a tenth of the time of a flooding instance, and no pause counts for more. */
const spentFactor = 9
const spentMsMax = 20

const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
const encoder = new TextEncoder()
const latin1 = new TextDecoder('latin1')

/** The state of one stream of an instance. */
interface Reading {
  readonly stream: Stream
  readonly lines: LineSplitter
  /** The call of the last piece, which pieces of the same line share. */
  callId: string
  isPrefixed: boolean
  /** The current call when the unfinished line began. */
  begunIn: string | undefined
}

class InstanceOutput {
  fnId: string
  copy: LineCopy | undefined
  readonly stdout: Reading
  readonly stderr: Reading
  /** In order of their beginning. */
  readonly running: string[] = []
  readonly #lately: string[] = []
  #latelyNext = 0
  lastCallId = ''
  /** Output before the first call. */
  startLines: LogLine[] = []
  /** The reader may go on from here on, on the monotonic clock. */
  paidUntilMs = 0

  constructor(
    fnId: string,
    receive: (instance: InstanceOutput, reading: Reading, bytes: Uint8Array, go: boolean) => void,
  ) {
    this.fnId = fnId
    const reading = (stream: Stream): Reading => {
      const made: Reading = {
        stream,
        lines: new LineSplitter((bytes, isContinued) => receive(this, made, bytes, isContinued)),
        callId: '',
        isPrefixed: false,
        begunIn: undefined,
      }
      return made
    }
    this.stdout = reading('stdout')
    this.stderr = reading('stderr')
  }

  begin(callId: string): void {
    this.running.push(callId)
    this.lastCallId = callId
    if (this.startLines.length > 0) this.startLines = []
  }

  end(callId: string): void {
    const at = this.running.lastIndexOf(callId)
    if (at === -1) return
    // Moving by hand: splice would allocate an array for each call.
    for (let next = at + 1; next < this.running.length; next += 1) {
      this.running[next - 1] = this.running[next] ?? ''
    }
    this.running.pop()
    this.#lately[this.#latelyNext] = callId
    this.#latelyNext = (this.#latelyNext + 1) % latelyMax
  }

  get currentCallId(): string {
    return this.running.at(-1) ?? this.lastCallId
  }

  knows(callId: string): boolean {
    return this.running.includes(callId) || this.#lately.includes(callId)
  }

  /** The call that the unfinished line belongs to, `undefined` when there is no such line. */
  unfinishedOf(reading: Reading): string | undefined {
    const bytes = reading.lines.unfinished
    if (bytes === undefined) return undefined
    if (reading.lines.isContinued) return reading.callId
    return prefixOf(bytes, this) ?? reading.begunIn
  }
}

export class CallOutput implements OutputSink {
  readonly #clock: Clock
  readonly #logger: Logger | undefined
  readonly #store: LogStore
  readonly #followers = new Followers()
  readonly #instances = new Map<string, InstanceOutput>()
  /** Instances that are gone, oldest first; kept a while for their last lines. */
  readonly #closed = new Set<string>()
  #nowMs = 0
  #paidUntilMs = 0
  #linesTotal = 0
  #discardedBytesTotal = 0

  constructor(options: CallOutputOptions) {
    this.#clock = options.clock
    this.#logger = options.logger
    this.#store = new LogStore({
      callBytesMax: options.limits.callLogBytesMax,
      bytesMax: options.limits.logBytesMax,
    })
  }

  get stats(): OutputStats {
    return {
      heldBytes: this.#store.heldBytes,
      linesTotal: this.#linesTotal,
      discardedBytesTotal: this.#discardedBytesTotal,
      followers: this.#followers.count,
    }
  }

  /**
   * To be called before the instance starts, so that its first lines have a function. `copy` gets
   * the lines that are kept here as well.
   */
  open(instanceId: string, fnId: string, copy?: LineCopy): void {
    this.#opened(instanceId, fnId).copy = copy
  }

  /** A call begins on the instance. On the invoke path: two lookups, nothing allocated. */
  begin(instanceId: string, fnId: string, callId: string): void {
    const instance = this.#instances.get(instanceId)
    if (instance !== undefined && instance.fnId === fnId) instance.begin(callId)
    else this.#opened(instanceId, fnId).begin(callId)
  }

  end(instanceId: string, callId: string): void {
    this.#instances.get(instanceId)?.end(callId)
  }

  /** The instance is gone: its unfinished lines end. Idempotent. */
  close(instanceId: string): void {
    const instance = this.#instances.get(instanceId)
    if (instance === undefined) return
    this.#nowMs = this.#clock.nowMs()
    instance.stdout.lines.flush()
    instance.stderr.lines.flush()
    this.#retire(instanceId)
  }

  /** The returned promise, when there is one, asks the reader to wait for it. */
  output(instanceId: string, stream: Stream, chunk: Uint8Array): void | Promise<void> {
    const instance = this.#instances.get(instanceId) ?? this.#stray(instanceId)
    const reading = stream === 'stdout' ? instance.stdout : instance.stderr
    const startMs = this.#clock.monotonicMs()
    this.#nowMs = this.#clock.nowMs()
    this.#endLeftLine(instance, reading)
    if (this.#isWorthless(instance, reading, chunk)) {
      this.#discardedBytesTotal += chunk.length
      reading.callId = instance.currentCallId
      reading.isPrefixed = false
      reading.lines.discard(chunk)
    } else {
      reading.lines.push(chunk)
    }
    if (reading.lines.unfinished === undefined) reading.begunIn = undefined
    else reading.begunIn ??= instance.currentCallId
    return this.#slow(instance, chunk.length, startMs)
  }

  /** `undefined`: the call is unknown, or its output made room for newer output. */
  ofCall(callId: string): LogLine[] | undefined {
    const log = callId === '' ? undefined : this.#store.callById(callId)
    const lines = log === undefined ? [] : this.#store.ofCall(log)
    let isKnown = log !== undefined
    for (const instance of this.#instances.values()) {
      if (!instance.knows(callId)) continue
      isKnown = true
      this.#addUnfinished(lines, instance, callId)
    }
    return isKnown ? lines : undefined
  }

  /** The newest `lines` lines of all calls of a function, oldest first. */
  ofFn(fnId: string, lines: number): LogLine[] {
    return this.#store.ofFn(fnId, lines)
  }

  /** What an instance wrote last, for a message about its failure to start. */
  tail(instanceId: string): LogLine[] {
    const instance = this.#instances.get(instanceId)
    if (instance === undefined) return []
    if (instance.lastCallId !== '') {
      return (this.ofCall(instance.lastCallId) ?? []).slice(-startLinesMax)
    }
    const lines = [...instance.startLines]
    this.#addUnfinished(lines, instance, '')
    return lines
  }

  /** Each kept line from now on. Throws `too-many-followers`. Returns what ends it. */
  follow(fnId: string, listener: LogListener): () => void {
    return this.#followers.add(fnId, listener)
  }

  /** The function was deleted. */
  forgetFn(fnId: string): void {
    this.#store.forgetFn(fnId)
  }

  #opened(instanceId: string, fnId: string): InstanceOutput {
    this.#closed.delete(instanceId)
    const known = this.#instances.get(instanceId)
    if (known === undefined) {
      const instance = new InstanceOutput(fnId, this.#receive)
      this.#instances.set(instanceId, instance)
      return instance
    }
    if (known.fnId === '') this.#adopt(known, fnId)
    return known
  }

  /** An instance that nobody opened, or that is long gone: no function to keep its output under. */
  #stray(instanceId: string): InstanceOutput {
    const instance = new InstanceOutput('', this.#receive)
    this.#instances.set(instanceId, instance)
    this.#retire(instanceId)
    return instance
  }

  /** What the instance said before it was known whose it is becomes output of its function. */
  #adopt(instance: InstanceOutput, fnId: string): void {
    instance.fnId = fnId
    for (const { stream, text, timeMs } of instance.startLines) {
      this.#store.append('', fnId, stream, encoder.encode(text), timeMs)
    }
  }

  #retire(instanceId: string): void {
    this.#closed.add(instanceId)
    if (this.#closed.size <= closedInstancesMax) return
    const [oldest] = this.#closed
    if (oldest === undefined) return
    this.#closed.delete(oldest)
    this.#instances.delete(oldest)
  }

  /**
   * A program that prints without a newline leaves a line open when its call ends. What the next
   * call writes must not be joined to it. A prefixed line is its worker's to end.
   */
  #endLeftLine(instance: InstanceOutput, reading: Reading): void {
    const bytes = reading.lines.unfinished
    if (bytes === undefined) return
    const { isContinued } = reading.lines
    if (isContinued ? reading.isPrefixed : bytes[0] === recordSeparator) return
    const owner = isContinued ? reading.callId : (reading.begunIn ?? '')
    if (owner === instance.currentCallId || instance.running.includes(owner)) return
    reading.lines.flush()
  }

  /** No line of the chunk could be kept, so none need be looked for. */
  #isWorthless(instance: InstanceOutput, reading: Reading, chunk: Uint8Array): boolean {
    if (!this.#store.isFull(instance.currentCallId, instance.fnId)) return false
    const { unfinished, isContinued } = reading.lines
    // An unfinished prefix may turn out to name another call.
    if (!isContinued && unfinished?.[0] === recordSeparator) return false
    const owner = isContinued ? reading.callId : (reading.begunIn ?? instance.currentCallId)
    if (!this.#store.isFull(owner, instance.fnId)) return false
    return chunk.indexOf(recordSeparator) === -1
  }

  readonly #receive = (
    instance: InstanceOutput,
    reading: Reading,
    bytes: Uint8Array,
    isContinued: boolean,
  ): void => {
    let text = bytes
    if (!isContinued) {
      const named = prefixOf(bytes, instance)
      reading.isPrefixed = named !== undefined
      reading.callId = named ?? reading.begunIn ?? instance.currentCallId
      if (named !== undefined) text = bytes.subarray(prefixLength)
    }
    reading.begunIn = undefined
    this.#keep(instance, reading, text)
  }

  #keep(instance: InstanceOutput, reading: Reading, bytes: Uint8Array): void {
    const { callId, stream } = reading
    const { fnId } = instance
    if (callId === '') {
      const text = decoder.decode(bytes.subarray(0, startLineBytesMax))
      instance.startLines.push({ callId, fnId, timeMs: this.#nowMs, stream, text })
      if (instance.startLines.length > startLinesMax) instance.startLines.shift()
    }
    const kept =
      fnId === '' ? 'discarded' : this.#store.append(callId, fnId, stream, bytes, this.#nowMs)
    this.#linesTotal += 1
    if (kept !== 'kept') this.#discardedBytesTotal += bytes.length
    if (kept === 'discarded') return
    if (instance.copy !== undefined) {
      const line = kept === 'cut' ? encoder.encode(this.#store.cutText) : bytes
      instance.copy({ callId, stream, timeMs: this.#nowMs, bytes: line })
    }
    const isEchoed = this.#logger?.isLevelEnabled('debug') === true
    if (!isEchoed && !this.#followers.has(fnId)) return
    const text = kept === 'cut' ? this.#store.cutText : decoder.decode(bytes)
    this.#followers.publish({ callId, fnId, timeMs: this.#nowMs, stream, text })
    if (isEchoed) {
      this.#logger?.debug({ user_log: true, fn_id: fnId, call_id: callId, stream }, text)
    }
  }

  #addUnfinished(lines: LogLine[], instance: InstanceOutput, callId: string): void {
    for (const reading of [instance.stdout, instance.stderr]) {
      const bytes = reading.lines.unfinished
      if (bytes === undefined || instance.unfinishedOf(reading) !== callId) continue
      if (this.#store.isFull(callId, instance.fnId)) continue
      const isNamed = !reading.lines.isContinued && prefixOf(bytes, instance) !== undefined
      const text = decoder.decode(isNamed ? bytes.subarray(prefixLength) : bytes)
      const { fnId } = instance
      lines.push({ callId, fnId, timeMs: this.#clock.nowMs(), stream: reading.stream, text })
    }
  }

  /**
   * A bucket that leaks 10 MB/s, for what was kept as much as for what was not, and for the time
   * that a flood of tiny lines takes. Instances in debt share 50 MB/s, so that many of them do not
   * starve the event loop either.
   */
  #slow(instance: InstanceOutput, bytes: number, startMs: number): Promise<void> | undefined {
    const nowMs = this.#clock.monotonicMs()
    const spentMs = Math.min(nowMs - startMs, spentMsMax)
    const price = Math.max(bytes / bytesPerMs, spentMs * spentFactor)
    instance.paidUntilMs = Math.max(instance.paidUntilMs, nowMs - burstMs) + price
    let waitMs = instance.paidUntilMs - nowMs
    if (waitMs < 1) return undefined
    this.#paidUntilMs = Math.max(this.#paidUntilMs, nowMs) + bytes / allBytesPerMs
    waitMs = Math.max(waitMs, this.#paidUntilMs - nowMs)
    return new Promise(resolve => setTimeout(resolve, waitMs))
  }
}

/** The call that a line names, if it names one that it may speak for. */
function prefixOf(line: Uint8Array, instance: InstanceOutput): string | undefined {
  if (line[0] !== recordSeparator || line[prefixLength - 1] !== unitSeparator) return undefined
  const callId = latin1.decode(line.subarray(1, prefixLength - 1))
  return instance.knows(callId) ? callId : undefined
}
