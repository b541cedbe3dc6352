/** What another node sends is logged only if every node can apply it. */
import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { mayBeCommand } from '../../src/store/command-shape.ts'
import type { Command } from '../../src/store/commands.ts'
import { StateDb } from '../../src/store/db.ts'
import { seeded } from '../seed.ts'
import { aFn, aJoin, anApp, aTrigger, entryOf } from './sample.ts'

const login = { appId: 'a', host: 'h', username: 'u', sealed: 's', updatedMs: 1 }
const maps = { config: { a: '1' }, annotations: { k: '1' } }
const limits = { memoryMb: 1, timeoutS: 1, idleTimeoutS: 1 }
const good: readonly Command[] = [
  { type: 'app.create', app: anApp('a', { config: { a: '1' } }) },
  { type: 'app.update', id: 'a', atMs: 5, patch: { ...maps, syslogUrl: '' } },
  { type: 'fn.create', fn: aFn('f', 'a') },
  { type: 'fn.update', id: 'f', atMs: 5, patch: { ...maps, ...limits, image: 'i' } },
  { type: 'trigger.create', trigger: aTrigger('t', 'a', 'f') },
  { type: 'trigger.update', id: 't', atMs: 5, patch: { name: 'n', source: '/s', fnId: 'f' } },
  { type: 'registry.set', login },
  { type: 'registry.delete', appId: 'a', host: 'h' },
  { type: 'node.join', ...aJoin('u') },
  { type: 'node.update', id: 1, atMs: 5, patch: { state: 'draining', name: 'm' } },
  { type: 'node.remove', id: 1 },
  { type: 'cluster.version', version: 3 },
  { type: 'trigger.delete', id: 't' },
  { type: 'fn.delete', id: 'f' },
  { type: 'app.delete', id: 'a' },
]

test('what fnd proposes is let through, and kinds of a later version too', () => {
  for (const command of good) expect([command, mayBeCommand(command)]).toEqual([command, true])
  expect(mayBeCommand({ type: 'queue.put' })).toBe(true)
  for (const wrong of [null, 1, 'x', [], {}, { type: 1 }, { type: 'app.create' }]) {
    expect(mayBeCommand(wrong)).toBe(false)
  }
})

/** Every place in a command, and the command with another value there. */
function* changedAt(value: unknown, other: unknown): Generator<unknown> {
  yield other
  if (typeof value !== 'object' || value === null) return
  for (const [key, each] of Object.entries(value)) {
    const rest = Object.fromEntries(Object.entries(value).filter(([name]) => name !== key))
    yield rest
    if (key === 'type') continue
    for (const changed of changedAt(each, other)) yield { ...rest, [key]: changed }
  }
}

const strange = [null, true, -1, 1.5, 2 ** 60, '', 'x', [], {}, { a: 1 }, [1]]

test('whatever is let through can be applied', () => {
  using db = new StateDb(':memory:')
  const base = good.filter(({ type }) => type.endsWith('create') || type === 'node.join')
  let index = 0
  const applies = (command: Command) => {
    index += 1
    db.apply([entryOf(index, command)])
  }
  let count = 0
  for (const command of good) {
    for (const other of strange) {
      for (const changed of changedAt(command, other)) {
        if (!mayBeCommand(changed)) continue
        if (!good.some(({ type }) => type === changed.type)) continue
        count += 1
        for (const one of base) applies(one)
        applies(changed)
      }
    }
  }
  expect(count).toBeGreaterThan(100)
})

test('any value is judged', () => {
  fc.assert(
    fc.property(fc.constantFrom(...good.map(({ type }) => type)), fc.jsonValue(), (type, value) => {
      const fields = typeof value === 'object' && value !== null ? value : {}
      mayBeCommand({ ...fields, type })
      mayBeCommand(value)
    }),
    seeded(),
  )
})
