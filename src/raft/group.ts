/** A member of a group as the rest of fnd uses it: promises in place of callbacks. */
import { FndError } from '../errors.ts'
import type { Member } from './driver.ts'
import type { ConfChange, CoreStatus, NodeId } from './types.ts'

export interface Applied {
  /** Where the change stands in the log. */
  readonly index: number
  /** The state machine's result. */
  readonly result: unknown
}

export class Group {
  readonly #member: Member

  constructor(member: Member) {
    this.#member = member
  }

  get isLeader(): boolean {
    return this.#member.role === 'leader'
  }

  /** 0 while none is known. */
  get lead(): NodeId {
    return this.#member.lead
  }

  status(): CoreStatus {
    return this.#member.status()
  }

  /**
   * Resolves once the entry is durable on a majority and applied here. Rejects with `FndError`:
   * `outcome-unknown` when it may still come to be applied; with any other code it has no effect,
   * now or later.
   */
  propose(bytes: Uint8Array): Promise<Applied> {
    return new Promise((resolve, reject) => {
      this.#member.propose(bytes, (error, applied) => {
        if (applied !== undefined) resolve(applied)
        else reject(error)
      })
    })
  }

  /** Resolves when it is applied here; that it had an effect shows in `status`. */
  proposeConf(change: ConfChange): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#member.proposeConf(change, error => {
        if (error === undefined) resolve()
        else reject(error)
      })
    })
  }

  /**
   * Resolves when reading here sees everything that was acknowledged before the call, anywhere.
   * Rejects with `no-leader` when that cannot be confirmed in time.
   */
  async read(timeoutMs: number): Promise<void> {
    const endMs = performance.now() + timeoutMs
    for (;;) {
      const leftMs = endMs - performance.now()
      if (leftMs <= 0) throw new FndError('no-leader')
      if (await withTimeout(leftMs, done => this.#member.read(done))) return
      await this.#change(Math.min(50, leftMs))
    }
  }

  /** Resolves once `index` is applied here. Rejects with `not-fresh` when it is not in time. */
  async whenApplied(index: number, timeoutMs: number): Promise<void> {
    const isApplied = await withTimeout(timeoutMs, done => this.#member.whenApplied(index, done))
    if (!isApplied) throw new FndError('not-fresh', { detail: `it has not reached ${index}` })
  }

  /** Resolves when a leader is known, or with false when none came in time. */
  async whenLed(timeoutMs: number): Promise<boolean> {
    const endMs = performance.now() + timeoutMs
    while (this.#member.lead === 0) {
      const leftMs = endMs - performance.now()
      if (leftMs <= 0) return false
      await this.#change(leftMs)
    }
    return true
  }

  /** Hands leadership to `to`. Rejects with `transfer-failed` when it is still here after that. */
  async transfer(to: NodeId, timeoutMs: number): Promise<void> {
    const endMs = performance.now() + timeoutMs
    this.#member.transfer(to)
    while (this.#member.lead !== to) {
      const leftMs = endMs - performance.now()
      if (leftMs <= 0) {
        throw new FndError('transfer-failed', { detail: `node ${to} did not become leader` })
      }
      await this.#change(leftMs)
    }
  }

  onChange(listener: () => void): () => void {
    return this.#member.onChange(listener)
  }

  /** Waits for what is under way on the disk. The log is still to be closed. */
  close(): Promise<void> {
    return new Promise(resolve => this.#member.close(resolve))
  }

  #change(timeoutMs: number): Promise<boolean> {
    return withTimeout(timeoutMs, done => {
      const end = this.#member.onChange(() => {
        end()
        done(true)
      })
      return end
    })
  }
}

/** What `begin` is told, or false after `timeoutMs`; then what `begin` returned is called. */
function withTimeout(
  timeoutMs: number,
  begin: (done: (isOk: boolean) => void) => (() => void) | void,
): Promise<boolean> {
  return new Promise(resolve => {
    const timer = setTimeout(() => {
      cancel?.()
      resolve(false)
    }, timeoutMs)
    const cancel = begin(isOk => {
      clearTimeout(timer)
      resolve(isOk)
    })
  })
}
