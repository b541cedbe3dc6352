import { expect, test } from 'bun:test'
import { readdirSync, readFileSync } from 'node:fs'
import { niceScavenger } from '../../src/exec/scavenger.ts'

/** Nice value and policy of each thread of this name, as proc(5) has them in `stat`. */
function schedulingOf(name: string): (number | undefined)[][] {
  const stats = readdirSync('/proc/self/task').map(id =>
    readFileSync(`/proc/self/task/${id}/stat`, 'utf8'),
  )
  return stats
    .filter(stat => stat.includes(`(${name})`))
    .map(stat => stat.slice(stat.lastIndexOf(')') + 2).split(' '))
    .map(fields => [Number(fields[16]), Number(fields[38])])
}

test('the thread that gives memory back has a smaller share, but one, of a busy machine', () => {
  expect(niceScavenger()).toBe(true)
  const normal = 0
  // What runs only when nothing else wants the core may hold the heap of a thread that does.
  expect(schedulingOf('mi-scavenger')).toEqual([[5, normal]])
})
