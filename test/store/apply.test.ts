import { describe, expect, test } from 'bun:test'
import { StartError } from '../../src/errors.ts'
import {
  commandVersion,
  decodeCommand,
  encodeCommand,
  versionNeeded,
} from '../../src/store/codec.ts'
import type { Change, Command, Outcome } from '../../src/store/commands.ts'
import { StateDb } from '../../src/store/db.ts'
import { Queries } from '../../src/store/queries.ts'
import { aFn, anApp, aTrigger, entryOf } from './sample.ts'

class Bench implements Disposable {
  readonly db = new StateDb(':memory:')
  readonly queries = new Queries(this.db.rows)
  changes: readonly Change[] = []

  constructor(...commands: Command[]) {
    this.db.onChanges(changes => {
      this.changes = changes
    })
    for (const command of commands) expect(this.run(command)).toMatchObject({ ok: true })
  }

  run(command: Command): Outcome | undefined {
    const index = this.db.appliedIndex + 1
    return this.db.apply([entryOf(index, command)])[0]
  }

  [Symbol.dispose](): void {
    this.db[Symbol.dispose]()
  }
}

const twoApps: Command[] = [
  { type: 'app.create', app: anApp('A') },
  { type: 'app.create', app: anApp('B') },
  { type: 'fn.create', fn: aFn('F', 'A') },
  { type: 'fn.create', fn: aFn('G', 'A') },
  { type: 'fn.create', fn: aFn('H', 'B') },
  { type: 'trigger.create', trigger: aTrigger('T', 'A', 'F') },
  { type: 'trigger.create', trigger: aTrigger('U', 'A', 'G') },
]

const many = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, at) => [`key${at}`, '1']))
const patch = { atMs: 2000 }

const conflicts: [string, Command, string][] = [
  [
    'an app of a taken name',
    { type: 'app.create', app: anApp('C', { name: 'app-A' }) },
    'app-exists',
  ],
  ['an app of a taken id', { type: 'app.create', app: anApp('A', { name: 'new' }) }, 'app-exists'],
  [
    'an app with too many annotations',
    { type: 'app.create', app: anApp('C', { annotations: many(101) }) },
    'annotation-too-many',
  ],
  ['an unknown app', { type: 'app.update', id: 'C', ...patch, patch: {} }, 'app-not-found'],
  [
    'another name',
    { type: 'app.update', id: 'A', ...patch, patch: { name: 'x' } },
    'app-name-immutable',
  ],
  [
    'too many annotations',
    { type: 'app.update', id: 'A', ...patch, patch: { annotations: many(101) } },
    'annotation-too-many',
  ],
  ['removing an unknown app', { type: 'app.delete', id: 'C' }, 'app-not-found'],
  ['a function of no app', { type: 'fn.create', fn: aFn('X', 'C') }, 'app-not-found'],
  [
    'a function of a taken name',
    { type: 'fn.create', fn: aFn('X', 'A', { name: 'fn-F' }) },
    'fn-exists',
  ],
  ['a function of a taken id', { type: 'fn.create', fn: aFn('F', 'B') }, 'fn-exists'],
  ['an unknown function', { type: 'fn.update', id: 'X', ...patch, patch: {} }, 'fn-not-found'],
  [
    'too many annotations of a function',
    { type: 'fn.update', id: 'F', ...patch, patch: { annotations: many(101) } },
    'annotation-too-many',
  ],
  ['removing an unknown function', { type: 'fn.delete', id: 'X' }, 'fn-not-found'],
  [
    'a trigger of no app',
    { type: 'trigger.create', trigger: aTrigger('X', 'C', 'F') },
    'app-not-found',
  ],
  [
    'a trigger of no function',
    { type: 'trigger.create', trigger: aTrigger('X', 'A', 'X') },
    'fn-not-found',
  ],
  [
    'a trigger on a function of another app',
    { type: 'trigger.create', trigger: aTrigger('X', 'A', 'H') },
    'trigger-fn-not-owned',
  ],
  [
    'a trigger of a taken source',
    { type: 'trigger.create', trigger: aTrigger('X', 'A', 'G', { source: '/T' }) },
    'trigger-source-exists',
  ],
  [
    'a trigger of a taken name',
    { type: 'trigger.create', trigger: aTrigger('X', 'A', 'F', { name: 'trigger-T' }) },
    'trigger-exists',
  ],
  [
    'a trigger of a taken id',
    { type: 'trigger.create', trigger: aTrigger('T', 'A', 'F', { source: '/x', name: 'x' }) },
    'trigger-exists',
  ],
  [
    'an unknown trigger',
    { type: 'trigger.update', id: 'X', ...patch, patch: {} },
    'trigger-not-found',
  ],
  [
    'moving a trigger to no function',
    { type: 'trigger.update', id: 'T', ...patch, patch: { fnId: 'X' } },
    'fn-not-found',
  ],
  [
    'moving a trigger to a function of another app',
    { type: 'trigger.update', id: 'T', ...patch, patch: { fnId: 'H' } },
    'trigger-fn-not-owned',
  ],
  [
    'moving a trigger onto a taken source',
    { type: 'trigger.update', id: 'T', ...patch, patch: { source: '/U' } },
    'trigger-source-exists',
  ],
  [
    'moving a trigger onto a taken name',
    { type: 'trigger.update', id: 'T', ...patch, patch: { fnId: 'G', name: 'trigger-U' } },
    'trigger-exists',
  ],
  [
    'too many annotations of a trigger',
    { type: 'trigger.update', id: 'T', ...patch, patch: { annotations: many(101) } },
    'annotation-too-many',
  ],
  ['removing an unknown trigger', { type: 'trigger.delete', id: 'X' }, 'trigger-not-found'],
]

describe('conflicts', () => {
  test.each(conflicts)('%s is refused and changes nothing', (_, command, code) => {
    using bench = new Bench(...twoApps)
    const before = JSON.stringify(allRows(bench.queries))
    expect(bench.run(command)).toEqual({ ok: false, code } as Outcome)
    expect(bench.changes).toEqual([])
    expect(JSON.stringify(allRows(bench.queries))).toBe(before)
  })
})

function allRows(queries: Queries): unknown[] {
  const page = { after: '', limit: 1000 }
  const apps = queries.apps({}, page)
  return apps.map(app => [
    app,
    queries.fns({ appId: app.id }, page),
    queries.triggers({ appId: app.id }, page),
  ])
}

describe('merging', () => {
  test('a key replaces or adds, and the empty text deletes', () => {
    using bench = new Bench({
      type: 'app.create',
      app: anApp('A', { config: { b: '1', a: '2' }, annotations: { x: '1', y: '2', z: '3' } }),
    })
    const outcome = bench.run({
      type: 'app.update',
      id: 'A',
      atMs: 2000,
      patch: {
        config: { b: '', c: '3' },
        annotations: { x: '""', y: 'null', w: '9007199254740993' },
        syslogUrl: 'tcp://log:1',
      },
    })
    const expected = anApp('A', {
      config: { a: '2', c: '3' },
      annotations: { w: '9007199254740993', z: '3' },
      syslogUrl: 'tcp://log:1',
      updatedMs: 2000,
    })
    expect(outcome).toEqual({ ok: true, object: expected })
    expect(bench.queries.app('A')).toEqual(expected)
    expect(bench.changes).toEqual([{ kind: 'app', id: 'A', row: expected }])
  })

  test('an update that changes nothing does not move the time', () => {
    using bench = new Bench(...twoApps)
    const outcome = bench.run({
      type: 'fn.update',
      id: 'F',
      atMs: 2000,
      patch: { image: 'example/hello:1', memoryMb: 128, config: { absent: '' }, annotations: {} },
    })
    expect(outcome).toEqual({ ok: true, object: aFn('F', 'A') })
    expect(bench.changes).toEqual([])
  })

  test('names that objects of JavaScript are born with are ordinary keys', () => {
    const config = JSON.parse('{"__proto__": "1", "constructor": "2", "10": "3", "9": "4"}')
    using bench = new Bench({ type: 'app.create', app: anApp('A', { config }) })
    expect(JSON.stringify(bench.queries.app('A')?.config)).toBe(
      '{"9":"4","10":"3","__proto__":"1","constructor":"2"}',
    )
    const gone = JSON.parse('{"__proto__": ""}')
    bench.run({ type: 'app.update', id: 'A', atMs: 2000, patch: { config: gone } })
    expect(JSON.stringify(bench.queries.app('A')?.config)).toBe(
      '{"9":"4","10":"3","constructor":"2"}',
    )
  })

  test('a function has the shape of its app', () => {
    using bench = new Bench({ type: 'app.create', app: anApp('A', { shape: 'GENERIC_ARM' }) })
    bench.run({ type: 'fn.create', fn: aFn('F', 'A', { shape: 'GENERIC_X86' }) })
    expect(bench.queries.fn('F')?.shape).toBe('GENERIC_ARM')
  })

  test('a trigger keeps its own name and source', () => {
    using bench = new Bench(...twoApps)
    const same = { name: 'trigger-T', source: '/T', fnId: 'F' }
    const outcome = bench.run({ type: 'trigger.update', id: 'T', atMs: 2000, patch: same })
    expect(outcome).toEqual({ ok: true, object: aTrigger('T', 'A', 'F') })
  })
})

describe('removal', () => {
  test('an app takes its functions and triggers along', () => {
    using bench = new Bench(...twoApps)
    expect(bench.run({ type: 'app.delete', id: 'A' })).toEqual({ ok: true, object: null })
    expect(bench.changes.map(change => `${change.kind} ${change.id}`)).toEqual([
      'trigger T',
      'trigger U',
      'fn F',
      'fn G',
      'app A',
    ])
    expect(bench.changes.every(change => change.row === null)).toBe(true)
    expect(bench.queries.trigger('T')).toBeUndefined()
    expect(bench.queries.fn('H')).toBeDefined()
  })

  test('a function takes its triggers along', () => {
    using bench = new Bench(...twoApps)
    expect(bench.run({ type: 'fn.delete', id: 'F' })).toEqual({ ok: true, object: null })
    expect(bench.changes.map(change => `${change.kind} ${change.id}`)).toEqual([
      'trigger T',
      'fn F',
    ])
    expect(bench.queries.triggerBySource('A', '/T')).toBeUndefined()
    expect(bench.queries.triggerBySource('A', '/U')?.id).toBe('U')
  })
})

describe('the bytes of a command', () => {
  test('come back as they were', () => {
    const command: Command = { type: 'app.create', app: anApp('A', { name: 'ä\u{1f600}\0' }) }
    expect(decodeCommand(encodeCommand(command, 3))).toEqual(command)
  })

  test('of an unknown version are refused', () => {
    const bytes = encodeCommand({ type: 'app.delete', id: 'A' }, 3)
    bytes[0] = 4
    expect(() => decodeCommand(bytes)).toThrow(StartError)
    using bench = new Bench()
    const entry = { ...entryOf(1, { type: 'app.delete', id: 'A' }), bytes }
    expect(() => bench.db.apply([entry])).toThrow(/newer fnd/)
    expect(bench.db.appliedIndex).toBe(0)
  })

  test('say the version that the cluster is at, as older fnds wrote them', () => {
    const given: Command = { type: 'registry.delete', appId: 'A', host: 'h' }
    expect(encodeCommand(given, 2)[0]).toBe(2)
    expect(encodeCommand(given, 3)[0]).toBe(3)
    expect(decodeCommand(encodeCommand(given, 2))).toEqual(given)
  })

  test('are refused while a member would not understand them', () => {
    const given: Command = { type: 'registry.delete', appId: 'A', host: 'h' }
    expect(versionNeeded(given)).toBe(2)
    const refused = expect.objectContaining({ code: 'upgrade-pending', status: 409 })
    expect(() => encodeCommand(given, 1)).toThrow(refused)
    expect(encodeCommand({ type: 'app.delete', id: 'A' }, 1)[0]).toBe(1)
  })

  test('of the next version, or of a kind that is not known here, are refused', () => {
    const note: Command = { type: 'cluster.note', text: 'x' }
    expect(versionNeeded(note)).toBe(commandVersion + 1)
    const refused = expect.objectContaining({ code: 'upgrade-pending' })
    expect(() => encodeCommand(note, commandVersion)).toThrow(refused)
    for (const type of ['cluster.later', 'toString', '__proto__']) {
      const later = { type } as unknown as Command
      expect(versionNeeded(later)).toBe(Number.POSITIVE_INFINITY)
      expect(() => encodeCommand(later, 255)).toThrow(refused)
    }
  })
})

describe('the state machine', () => {
  test('skips what it applied, and takes no gap', () => {
    using db = new StateDb(':memory:')
    const first = entryOf(1, { type: 'app.create', app: anApp('A') })
    const second = entryOf(2, { type: 'app.delete', id: 'A' })
    expect(db.apply([first])).toMatchObject([{ ok: true }])
    const hash = db.stateHash
    expect(db.apply([first])).toEqual([undefined])
    expect(db.stateHash).toBe(hash)
    expect(db.apply([first, second])).toMatchObject([undefined, { ok: true }])
    expect(() => db.apply([entryOf(4, { type: 'app.delete', id: 'A' })])).toThrow(/without gaps/)
    expect(db.appliedIndex).toBe(2)
  })

  test('a batch that throws leaves nothing behind', () => {
    using db = new StateDb(':memory:')
    const bad = { ...entryOf(2, { type: 'app.delete', id: 'A' }), bytes: new Uint8Array([9]) }
    expect(() => db.apply([entryOf(1, { type: 'app.create', app: anApp('A') }), bad])).toThrow()
    expect(db.appliedIndex).toBe(0)
    expect(new Queries(db.rows).app('A')).toBeUndefined()
  })
})

describe('lists', () => {
  test('come in byte order of the names, and continue after one', () => {
    const names = ['b', 'B', 'a', 'é', '\u{1f600}', '\uffee', 'a-', 'a_', '10', '9']
    using bench = new Bench(
      ...names.map((name, at): Command => ({ type: 'app.create', app: anApp(`${at}`, { name }) })),
    )
    const sorted = [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    const all = bench.queries.apps({}, { after: '', limit: 100 })
    expect(all.map(app => app.name)).toEqual(sorted)
    const paged: string[] = []
    for (let after = ''; ; ) {
      const page = bench.queries.apps({}, { after, limit: 3 })
      paged.push(...page.map(app => app.name))
      after = page.at(-1)?.name ?? ''
      if (page.length < 3) break
    }
    expect(paged).toEqual(sorted)
    expect(bench.queries.apps({ name: 'é' }, { after: '', limit: 9 })).toHaveLength(1)
  })

  test('are filtered by app, function and name', () => {
    using bench = new Bench(...twoApps)
    const page = { after: '', limit: 100 }
    const names = (rows: { name: string }[]) => rows.map(row => row.name)
    expect(names(bench.queries.fns({ appId: 'A' }, page))).toEqual(['fn-F', 'fn-G'])
    expect(names(bench.queries.fns({ appId: 'A', name: 'fn-G' }, page))).toEqual(['fn-G'])
    expect(bench.queries.fns({ appId: 'none' }, page)).toEqual([])
    expect(names(bench.queries.triggers({ appId: 'A', fnId: 'G' }, page))).toEqual(['trigger-U'])
    expect(bench.queries.triggers({ appId: 'B', name: 'trigger-U' }, page)).toEqual([])
  })
})
