/** A member of a group as the rest of fnd uses it: promises in place of callbacks. */
import { FndError } from '../errors.ts'
import type { Member } from './driver.ts'
import type { ConfChange, CoreStatus } from './types.ts'

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
