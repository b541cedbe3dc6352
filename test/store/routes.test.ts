import { expect, test } from 'bun:test'
import type { Change, Command } from '../../src/store/commands.ts'
import { StateDb } from '../../src/store/db.ts'
import { type RouteChange, RouteTable } from '../../src/store/routes.ts'
import { aFn, anApp, aTrigger, entryOf } from './sample.ts'

const empty = { all: () => [] }

function tableWith(...changes: Change[]) {
  const table = new RouteTable(empty)
  table.update(changes)
  const told: RouteChange[] = []
  const stop = table.onChange(change => told.push(change))
  return { table, told, stop }
}

const app = (id: string, changes = {}): Change => ({ kind: 'app', id, row: anApp(id, changes) })
const fn = (id: string, appId: string, changes = {}): Change => ({
  kind: 'fn',
  id,
  row: aFn(id, appId, changes),
})
const trigger = (id: string, appId: string, fnId: string, source: string): Change => ({
  kind: 'trigger',
  id,
  row: aTrigger(id, appId, fnId, { source }),
})
const gone = (kind: 'app' | 'fn' | 'trigger', id: string): Change => ({ kind, id, row: null })

test('a change of an app replaces the routes of its functions, and of no others', () => {
  const { table, told } = tableWith(app('A'), app('B'), fn('F', 'A'), fn('G', 'A'), fn('H', 'B'))
  const before = ['F', 'G', 'H'].map(id => table.fnById(id))
  table.update([app('A', { config: { a: '1' } })])
  const after = ['F', 'G', 'H'].map(id => table.fnById(id))
  expect(after[0]).not.toBe(before[0])
  expect(after[2]).toBe(before[2] as never)
  expect(after[0]?.app.config).toEqual({ a: '1' })
  expect(after[0]?.fn).toBe(before[0]?.fn as never)
  expect(told).toEqual([
    { fnId: 'F', before: before[0], after: after[0] },
    { fnId: 'G', before: before[1], after: after[1] },
  ])
})

test('a change of a trigger leaves the route of its function as it is', () => {
  const { table, told } = tableWith(app('A'), fn('F', 'A'), trigger('T', 'A', 'F', '/a'))
  const route = table.fnById('F')
  const a = anApp('A')
  expect(table.fnBySource(a, '/a')).toBe(route as never)
  table.update([trigger('T', 'A', 'F', '/b')])
  expect(table.fnBySource(a, '/a')).toBeUndefined()
  expect(table.fnBySource(a, '/b')).toBe(route as never)
  expect(told).toEqual([])
})

test('two triggers that trade their sources in one batch both arrive', () => {
  const { table } = tableWith(
    app('A'),
    fn('F', 'A'),
    fn('G', 'A'),
    trigger('T', 'A', 'F', '/a'),
    trigger('U', 'A', 'G', '/b'),
  )
  table.update([
    trigger('T', 'A', 'F', '/c'),
    trigger('U', 'A', 'G', '/a'),
    trigger('T', 'A', 'F', '/b'),
  ])
  const a = anApp('A')
  expect(['/a', '/b', '/c'].map(path => table.fnBySource(a, path)?.fn.id)).toEqual([
    'G',
    'F',
    undefined,
  ] as never)
})

test('a removed app takes its name along, unless another took it in the same batch', () => {
  const { table, told } = tableWith(app('A', { name: 'x' }), fn('F', 'A'))
  const before = table.fnById('F')
  table.update([gone('fn', 'F'), gone('app', 'A'), app('B', { name: 'x' })])
  expect(table.appByName('x')?.id).toBe('B')
  expect(told).toEqual([{ fnId: 'F', before, after: undefined }])
  table.update([gone('app', 'B')])
  expect(table.appByName('x')).toBeUndefined()
})

test('a listener sees the table as it is after the batch, and can stop', () => {
  const { table, told, stop } = tableWith(app('A'))
  const seen: (string | undefined)[] = []
  table.onChange(change => seen.push(table.fnById(change.fnId)?.fn.image))
  table.update([fn('F', 'A', { image: 'old' }), fn('F', 'A', { image: 'new' })])
  expect(seen).toEqual(['new', 'new'])
  expect(told.map(change => change.before?.fn.image)).toEqual([undefined, 'old'] as never)
  stop()
  table.update([gone('fn', 'F')])
  expect(told).toHaveLength(2)
})

test('after a reset only what differs is told, and the rest keeps its identity', () => {
  using before = new StateDb(':memory:')
  using after = new StateDb(':memory:')
  const fns = ['same', 'changed', 'gone', 'added'] as const
  const fill = (db: StateDb, names: readonly string[], image: string) => {
    const commands: Command[] = [
      { type: 'app.create', app: anApp('A') },
      ...names.map((id): Command => {
        const changes = id === 'changed' ? { image } : {}
        return { type: 'fn.create', fn: aFn(id, 'A', changes) }
      }),
      { type: 'trigger.create', trigger: aTrigger(`T${image}`, 'A', 'same', { source: image }) },
    ]
    db.apply(commands.map((command, at) => entryOf(at + 1, command)))
  }
  fill(before, fns.slice(0, 3), '/old')
  fill(after, ['same', 'changed', 'added'], '/new')
  const table = new RouteTable(before.rows)
  const [same, changed, gone] = fns.map(id => table.fnById(id))
  const told: RouteChange[] = []
  table.onChange(change => told.push(change))
  let steps = 0
  for (const _ of table.reset(after.rows)) {
    steps += 1
    // Whole until the new one is: then the listeners are told.
    if (told.length === 0) expect(table.fnById('gone') ?? table.fnById('added')).toBeDefined()
  }
  expect(steps).toBeGreaterThan(5)
  expect(table.fnById('same')).toBe(same as never)
  expect(table.fnById('changed')?.fn.image).toBe('/new')
  expect(table.fnById('gone')).toBeUndefined()
  expect(table.fnBySource(anApp('A'), '/old')).toBeUndefined()
  expect(table.fnBySource(anApp('A'), '/new')).toBe(same as never)
  expect(told).toEqual([
    { fnId: 'added', before: undefined, after: table.fnById('added') },
    { fnId: 'changed', before: changed, after: table.fnById('changed') },
    { fnId: 'gone', before: gone, after: undefined },
  ])
})

test('changes of nodes leave the table alone', () => {
  const { table, told } = tableWith(app('A'), fn('F', 'A'))
  table.update([{ kind: 'node', id: 1, row: null }])
  expect(table.fnById('F')).toBeDefined()
  expect(told).toEqual([])
})
