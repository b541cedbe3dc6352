/**
 * The output that this node remembers, in memory and bounded: `callBytesMax` for one call (then one
 * line says that it was cut), `bytesMax` for all. At the total limit the functions that hold the
 * most give their oldest calls up first, down to one common level, so that a noisy function cannot
 * push out the quiet ones.
 */
import { CallLog, type LineAt, type LogLine, type Stream } from './call-log.ts'

export interface LogLimits {
  readonly callBytesMax: number
  readonly bytesMax: number
}

interface FnLogs {
  readonly fnId: string
  /** Oldest first; insertion order is age. */
  readonly calls: Set<CallLog>
  heldBytes: number
}

/** What one function's place in the maps weighs. */
const fnOverheadBytes = 512
const encoder = new TextEncoder()

export class LogStore {
  readonly #limits: LogLimits
  readonly #fns = new Map<string, FnLogs>()
  readonly #calls = new Map<string, CallLog>()
  #heldBytes = 0
  #lastNumber = 0

  constructor(limits: LogLimits) {
    this.#limits = {
      bytesMax: limits.bytesMax,
      // One call never takes more than a part of everything, so that dropping can be gradual.
      callBytesMax: Math.min(limits.callBytesMax, Math.floor(limits.bytesMax / 8)),
    }
  }

  get heldBytes(): number {
    return this.#heldBytes
  }

  get fnCount(): number {
    return this.#fns.size
  }

  /** The log of a call; `''` stands for what an instance says before its first call. */
  call(callId: string, fnId: string): CallLog | undefined {
    return this.#calls.get(keyOf(callId, fnId))
  }

  callById(callId: string): CallLog | undefined {
    return this.#calls.get(callId)
  }

  isFull(callId: string, fnId: string): boolean {
    return this.call(callId, fnId)?.isFull ?? false
  }

  /** Returns what was kept: the line, the line that says that the log was cut, or nothing. */
  append(
    callId: string,
    fnId: string,
    stream: Stream,
    bytes: Uint8Array,
    timeMs: number,
  ): 'kept' | 'cut' | 'discarded' {
    const log = this.call(callId, fnId) ?? this.#open(callId, fnId)
    if (log.isFull) return 'discarded'
    this.#lastNumber += 1
    const cost = CallLog.costOf(bytes.length)
    if (callId === '') {
      // Every instance of the function adds to it, so it is a window, not a beginning.
      while (log.heldBytes + cost > this.#limits.callBytesMax && log.chunkCount > 0) {
        this.#hold(fnId, -log.dropOldestChunk())
      }
    }
    const isOver = callId !== '' && log.takenBytes + cost > this.#limits.callBytesMax
    if (isOver) log.isFull = true
    const kept = isOver ? encoder.encode(this.cutText) : bytes
    const grown = log.append(kept, stream, timeMs, this.#lastNumber)
    this.#hold(fnId, grown)
    return isOver ? 'cut' : 'kept'
  }

  get cutText(): string {
    const { callBytesMax } = this.#limits
    return `----- more than ${callBytesMax} bytes of output, the rest is discarded -----`
  }

  ofCall(log: CallLog): LogLine[] {
    return withDropped(
      log,
      log.places().map(at => log.read(at)),
    )
  }

  /** The newest `lines` lines of a function, oldest first. */
  ofFn(fnId: string, lines: number): LogLine[] {
    const fn = this.#fns.get(fnId)
    if (fn === undefined || lines === 0) return []
    const logs = [...fn.calls].sort((a, b) => b.lastNumber - a.lastNumber)
    let places: LineAt[] = []
    let floor = 0
    for (const log of logs) {
      if (log.lastNumber < floor) break
      places = places.concat(log.places())
      if (places.length < lines) continue
      places.sort((a, b) => a.number - b.number)
      places = places.slice(-lines)
      floor = places[0]?.number ?? 0
    }
    places.sort((a, b) => a.number - b.number)
    return places.map(at => at.log.read(at))
  }

  forgetFn(fnId: string): void {
    const fn = this.#fns.get(fnId)
    if (fn === undefined) return
    for (const log of fn.calls) this.#calls.delete(keyOf(log.callId, fnId))
    this.#heldBytes -= fn.heldBytes
    this.#fns.delete(fnId)
  }

  #open(callId: string, fnId: string): CallLog {
    const log = new CallLog(callId, fnId)
    let fn = this.#fns.get(fnId)
    if (fn === undefined) {
      fn = { fnId, calls: new Set(), heldBytes: fnOverheadBytes }
      this.#fns.set(fnId, fn)
      this.#heldBytes += fnOverheadBytes
    }
    fn.calls.add(log)
    this.#calls.set(keyOf(callId, fnId), log)
    fn.heldBytes += log.heldBytes
    this.#heldBytes += log.heldBytes
    return log
  }

  #hold(fnId: string, bytes: number): void {
    if (bytes === 0) return
    const fn = this.#fns.get(fnId)
    if (fn !== undefined) fn.heldBytes += bytes
    this.#heldBytes += bytes
    // A sixteenth is freed at once, so that the sort below is paid once per many lines.
    if (this.#heldBytes > this.#limits.bytesMax) this.#shrinkTo((this.#limits.bytesMax * 15) / 16)
  }

  /** Finds the level that all functions fit under together, then cuts each down to it. */
  #shrinkTo(target: number): void {
    const ascending = [...this.#fns.values()].sort((a, b) => a.heldBytes - b.heldBytes)
    let left = target
    let level = 0
    for (const [index, fn] of ascending.entries()) {
      level = left / (ascending.length - index)
      if (fn.heldBytes > level) break
      left -= fn.heldBytes
    }
    for (const fn of ascending) {
      let hasMore = true
      while (hasMore && fn.heldBytes > level) hasMore = this.#dropOldest(fn)
    }
  }

  /** Drops the oldest piece of the function's oldest call. */
  #dropOldest(fn: FnLogs): boolean {
    const [oldest] = fn.calls
    if (oldest === undefined) {
      this.#heldBytes -= fn.heldBytes
      this.#fns.delete(fn.fnId)
      return false
    }
    let freed = oldest.dropOldestChunk()
    if (oldest.chunkCount === 0) {
      freed += oldest.heldBytes
      fn.calls.delete(oldest)
      this.#calls.delete(keyOf(oldest.callId, fn.fnId))
    }
    fn.heldBytes -= freed
    this.#heldBytes -= freed
    return true
  }
}

/** Call ids are unique in the node; what comes before the first call is kept once per function. */
function keyOf(callId: string, fnId: string): string {
  return callId === '' ? `start ${fnId}` : callId
}

function withDropped(log: CallLog, lines: LogLine[]): LogLine[] {
  const first = lines[0]
  if (log.droppedLines === 0 || first === undefined) return lines
  const text = `----- ${log.droppedLines} earlier lines made room for newer output -----`
  return [{ ...first, stream: 'stderr', text }, ...lines]
}
