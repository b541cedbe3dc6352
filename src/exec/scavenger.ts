/**
 * The thread in which the runtime's allocator gives memory back to the kernel. It works for some
 * milliseconds at a time, and on a machine of few cores whoever serves a call waits for it: at one
 * client of three members that was a quarter of the 99th percentile of a change.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { isSystemError, syscall } from './libc.ts'

const threadName = 'mi-scavenger'
/** As sched(7): for what is to run when nothing else wants the core. */
const schedIdle = 5

/**
 * Lets it run only when nothing else wants the core. Returns whether that could be done: the thread
 * may be absent, or the kernel refuse it, and then it runs as before.
 */
export function idleScavenger(): boolean {
  const threads = readdirSync('/proc/self/task').filter(id => nameOf(id) === threadName)
  const param = new Int32Array([0])
  const results = threads.map(id => syscall('sched_setscheduler', Number(id), schedIdle, param))
  return results.length > 0 && results.every(result => result === 0)
}

/** Undefined when it has ended. */
function nameOf(thread: string): string | undefined {
  try {
    return readFileSync(`/proc/self/task/${thread}/comm`, 'utf8').trim()
  } catch (error) {
    if (isSystemError(error)) return undefined
    throw error
  }
}
