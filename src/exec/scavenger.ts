/**
 * The thread in which the runtime's allocator gives memory back to the kernel. It works for some
 * milliseconds at a time, and on a machine of few cores whoever serves a call waits for it: at one
 * client of three members that was a quarter of the 99th percentile of a change.
 *
 * It gets a smaller share of the core, but not what nobody else wants (SCHED_IDLE): while it sweeps
 * the heap of a thread that waits for events, that thread spins until it is done
 * (`_mi_park_leave` in oven-sh/mimalloc), and functions that compute may want all cores for long.
 * Four busy loops on two cores held up the event loop for two seconds that way, and for 30 ms with
 * this share.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { setPriority } from 'node:os'
import { isSystemError } from './libc.ts'

const threadName = 'mi-scavenger'
/** A third of the share of others that want the core (sched(7)). */
const nice = 5

/**
 * Returns whether that could be done: the thread may be absent, or the kernel refuse it, and then
 * it runs as before.
 */
export function niceScavenger(): boolean {
  const threads = readdirSync('/proc/self/task').filter(id => {
    const name = orUndefined(() => readFileSync(`/proc/self/task/${id}/comm`, 'utf8'))
    return name?.trim() === threadName
  })
  const done = threads.map(id =>
    orUndefined(() => {
      setPriority(Number(id), nice)
      return true
    }),
  )
  return done.length > 0 && done.every(isDone => isDone === true)
}

/** Of a thread that has ended, or when the kernel refuses. */
function orUndefined<T>(ask: () => T): T | undefined {
  try {
    return ask()
  } catch (error) {
    if (isSystemError(error)) return undefined
    throw error
  }
}
