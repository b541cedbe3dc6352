import { syscall } from '../../src/exec/libc.ts'

/**
 * The slice of a thread, in ns; a process's id is that of its main thread. Says loudly when this
 * kernel has none: Linux has them since 6.12.
 */
export function sliceOf(id: number): number {
  const attr = new Uint8Array(56)
  const result = syscall('sched_getattr', id, attr, attr.length, 0)
  if (result !== 0) throw new Error(`sched_getattr of ${id} fails with ${-result}`)
  const ns = Number(new DataView(attr.buffer).getBigUint64(24, true))
  if (ns === 0) throw new Error('this test needs Linux 6.12: threads have no slices of their own')
  return ns
}
