/**
 * The slices of the event loop's thread and of those that write for it: how long a thread may keep
 * a CPU before the scheduler looks for another. Since 6.12, Linux lets a thread that wakes go
 * before one that has the CPU if its own slice is the shorter one. A change waits in turn for the
 * event loops and the disks of several members; where these share CPUs with functions, or with the
 * runtime's compilers, its slowest hundredth waits for a CPU.
 *
 * The event loop's slice is short while the log is written, and as it was otherwise: what wakes
 * sooner runs in smaller pieces, and hot calls would take more CPU time. Threads of the pool only
 * wait for disks, and keep it. Children do not inherit it, nor a priority higher than the normal.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { isSystemError, syscall } from './libc.ts'

/** The shortest that there is. */
const shortNs = 100_000n
/** Two writes that are closer than this are one time of writing. */
const lingerMs = 20
/** The pool starts threads when it needs them. */
const poolLookMs = 10_000
/** As the runtime names them. */
const poolThread = /^Bun Pool/

// uapi/linux/sched/types.h: struct sched_attr, as long as kernels with slices have it.
const attrBytes = 56
const attrAt = { policy: 4, flags: 8, runtime: 24 } as const
const policies = { normal: 0, batch: 3 } as const
const resetOnFork = 1n

export class Slices implements Disposable {
  readonly #attr = new Uint8Array(attrBytes)
  readonly #view = new DataView(this.#attr.buffer)
  /** `none`: this system has no such slices, or somebody chose another policy for the process. */
  #state: 'none' | 'usual' | 'short'
  readonly #usualNs: bigint
  #untilMs = 0
  #poolDueMs = 0
  #timer: NodeJS.Timeout | undefined

  /** Throws `StartError` like every first system call. */
  constructor() {
    // Kernels without slices say 0.
    this.#usualNs = this.#read(0) ? this.#view.getBigUint64(attrAt.runtime, true) : 0n
    this.#state = this.#usualNs > shortNs ? 'usual' : 'none'
  }

  /** From here on, for as long as it is asked again soon. Called by the event loop's thread. */
  shorten(): void {
    if (this.#state === 'none') return
    const nowMs = performance.now()
    this.#untilMs = nowMs + lingerMs
    if (this.#state === 'short') return
    this.#state = this.#set(0, shortNs) ? 'short' : 'none'
    if (this.#state === 'none') return
    this.#lookIn(lingerMs)
    if (nowMs < this.#poolDueMs) return
    this.#poolDueMs = nowMs + poolLookMs
    for (const id of poolThreads()) this.#set(id, shortNs)
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
    if (this.#state === 'short') this.#set(0, this.#usualNs)
    this.#state = 'none'
  }

  /** Whether it is a policy with slices. `thread`: 0 is the calling one. */
  #read(thread: number): boolean {
    if (syscall('sched_getattr', thread, this.#attr, attrBytes, 0) !== 0) return false
    const policy = this.#view.getUint32(attrAt.policy, true)
    return policy === policies.normal || policy === policies.batch
  }

  #set(thread: number, ns: bigint): boolean {
    // Anew each time, since priority and policy are the operator's to change.
    if (!this.#read(thread)) return false
    const flags = this.#view.getBigUint64(attrAt.flags, true)
    this.#view.setBigUint64(attrAt.flags, flags | resetOnFork, true)
    this.#view.setBigUint64(attrAt.runtime, ns, true)
    return syscall('sched_setattr', thread, this.#attr, 0) === 0
  }

  #lookIn(ms: number): void {
    this.#timer = setTimeout(() => {
      const leftMs = this.#untilMs - performance.now()
      if (leftMs > 0) return this.#lookIn(leftMs)
      this.#state = this.#set(0, this.#usualNs) ? 'usual' : 'none'
    }, ms)
    this.#timer.unref()
  }
}

function poolThreads(): number[] {
  return readdirSync('/proc/self/task').filter(isOfPool).map(Number)
}

function isOfPool(id: string): boolean {
  try {
    return poolThread.test(readFileSync(`/proc/self/task/${id}/comm`, 'latin1'))
  } catch (cause) {
    // It ended.
    if (isSystemError(cause)) return false
    throw cause
  }
}
