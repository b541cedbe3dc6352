/** Random commands against a second, dumber implementation, and against themselves. */
import { expect, test } from 'bun:test'
import fc from 'fast-check'
import type { Change, Command, Outcome } from '../../src/store/commands.ts'
import { StateDb } from '../../src/store/db.ts'
import type { App, Fn, Node, RegistryLogin, Trigger } from '../../src/store/objects.ts'
import { Queries } from '../../src/store/queries.ts'
import { RouteTable } from '../../src/store/routes.ts'
import { seeded } from '../seed.ts'
import { aFn, aJoin, anApp, aTrigger, entryOf } from './sample.ts'

/** Few ids and names, so that they clash often. */
const id = fc.constantFrom('1', '2', '3')
const name = fc.constantFrom('x', 'y', 'z')
const config = fc.dictionary(
  fc.constantFrom('a', '__proto__', '1', 'B'),
  fc.constantFrom('', '1', '2'),
  { maxKeys: 3 },
)
const annotations = fc.dictionary(
  fc.constantFrom('k', 'l'),
  fc.constantFrom('""', 'null', '1', '{"a":1}'),
  { maxKeys: 2 },
)
const source = fc.constantFrom('/', '/a', '/b')
const atMs = fc.integer({ min: 2000, max: 2003 })

/** Weighted so that there is mostly something to clash with. */
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc
      .record({ id, name, config })
      .map((given): Command => ({ type: 'app.create', app: anApp(given.id, given) })),
  },
  {
    weight: 2,
    arbitrary: fc
      .record({
        id,
        atMs,
        patch: fc.record({ name, config, annotations, syslogUrl: name }, { requiredKeys: [] }),
      })
      .map((given): Command => ({ type: 'app.update', ...given })),
  },
  { weight: 1, arbitrary: id.map((given): Command => ({ type: 'app.delete', id: given })) },
  {
    weight: 5,
    arbitrary: fc
      .record({ id, appId: id, name })
      .map((given): Command => ({ type: 'fn.create', fn: aFn(given.id, given.appId, given) })),
  },
  {
    weight: 2,
    arbitrary: fc
      .record({
        id,
        atMs,
        patch: fc.record(
          { image: name, memoryMb: fc.integer({ min: 1, max: 3 }), config, annotations },
          { requiredKeys: [] },
        ),
      })
      .map((given): Command => ({ type: 'fn.update', ...given })),
  },
  { weight: 2, arbitrary: id.map((given): Command => ({ type: 'fn.delete', id: given })) },
  {
    weight: 8,
    arbitrary: fc.record({ id, appId: id, fnId: id, name, source }).map(
      (given): Command => ({
        type: 'trigger.create',
        trigger: aTrigger(given.id, given.appId, given.fnId, given),
      }),
    ),
  },
  {
    weight: 5,
    arbitrary: fc
      .record({
        id,
        atMs,
        patch: fc.record({ fnId: id, name, source, annotations }, { requiredKeys: [] }),
      })
      .map((given): Command => ({ type: 'trigger.update', ...given })),
  },
  { weight: 2, arbitrary: id.map((given): Command => ({ type: 'trigger.delete', id: given })) },
  {
    weight: 3,
    arbitrary: fc
      .record({ appId: id, host: name, username: name, sealed: name, updatedMs: atMs })
      .map((login): Command => ({ type: 'registry.set', login })),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({ appId: id, host: name })
      .map((given): Command => ({ type: 'registry.delete', ...given })),
  },
  {
    weight: 3,
    arbitrary: fc
      .record(
        { uuid: name, peerAddress: name, version: name, id: fc.integer({ min: 1, max: 4 }) },
        { requiredKeys: ['uuid', 'peerAddress', 'version'] },
      )
      .map(({ uuid, ...given }): Command => ({ type: 'node.join', ...aJoin(uuid, given) })),
  },
  {
    weight: 2,
    arbitrary: fc
      .record({
        id: fc.integer({ min: 1, max: 5 }),
        atMs,
        patch: fc.record(
          {
            peerAddress: name,
            state: fc.constantFrom('active', 'draining', 'leaving', 'replaced'),
          },
          { requiredKeys: [] },
        ),
      })
      .map((given): Command => ({ type: 'node.update', ...given })),
  },
  {
    weight: 1,
    arbitrary: fc
      .integer({ min: 1, max: 5 })
      .map((given): Command => ({ type: 'node.remove', id: given })),
  },
)

type Strings = Readonly<Record<string, string>>

/** Arrays searched from end to end, and no rule shared with the real one. */
class Model {
  apps: App[] = []
  fns: Fn[] = []
  triggers: Trigger[] = []
  registries: RegistryLogin[] = []
  nodes: Node[] = []
  usedIds = new Set<number>()

  run(given: Command): string {
    switch (given.type) {
      case 'app.create': {
        const { app } = given
        if (this.apps.some(other => other.id === app.id || other.name === app.name))
          return 'app-exists'
        this.apps.push(app)
        return 'ok'
      }
      case 'app.update': {
        const old = this.apps.find(app => app.id === given.id)
        if (old === undefined) return 'app-not-found'
        const {
          name: newName,
          config: newConfig,
          annotations: newAnnotations,
          ...rest
        } = given.patch
        if (newName !== undefined && newName !== old.name) return 'app-name-immutable'
        this.apps = replaced(
          this.apps,
          old,
          { ...old, ...rest, ...maps(old, newConfig, newAnnotations) },
          given.atMs,
        )
        return 'ok'
      }
      case 'app.delete': {
        if (!this.apps.some(app => app.id === given.id)) return 'app-not-found'
        this.apps = this.apps.filter(app => app.id !== given.id)
        this.fns = this.fns.filter(fn => fn.appId !== given.id)
        this.triggers = this.triggers.filter(trigger => trigger.appId !== given.id)
        this.registries = this.registries.filter(login => login.appId !== given.id)
        return 'ok'
      }
      case 'fn.create': {
        const { fn } = given
        if (!this.apps.some(app => app.id === fn.appId)) return 'app-not-found'
        const isTaken = (other: Fn) =>
          other.id === fn.id || (other.appId === fn.appId && other.name === fn.name)
        if (this.fns.some(isTaken)) return 'fn-exists'
        this.fns.push(fn)
        return 'ok'
      }
      case 'fn.update': {
        const old = this.fns.find(fn => fn.id === given.id)
        if (old === undefined) return 'fn-not-found'
        const { config: newConfig, annotations: newAnnotations, ...rest } = given.patch
        this.fns = replaced(
          this.fns,
          old,
          { ...old, ...rest, ...maps(old, newConfig, newAnnotations) },
          given.atMs,
        )
        return 'ok'
      }
      case 'fn.delete': {
        if (!this.fns.some(fn => fn.id === given.id)) return 'fn-not-found'
        this.fns = this.fns.filter(fn => fn.id !== given.id)
        this.triggers = this.triggers.filter(trigger => trigger.fnId !== given.id)
        return 'ok'
      }
      case 'trigger.create': {
        const { trigger } = given
        if (!this.apps.some(app => app.id === trigger.appId)) return 'app-not-found'
        const clash = this.clash(trigger, this.triggers)
        if (clash !== undefined) return clash
        if (this.triggers.some(other => other.id === trigger.id)) return 'trigger-exists'
        this.triggers.push(trigger)
        return 'ok'
      }
      case 'trigger.update': {
        const old = this.triggers.find(trigger => trigger.id === given.id)
        if (old === undefined) return 'trigger-not-found'
        const { annotations: newAnnotations, ...rest } = given.patch
        const { annotations: merged } = maps({ ...old, config: {} }, undefined, newAnnotations)
        const next = { ...old, ...rest, annotations: merged }
        const clash = this.clash(next, this.triggers)
        if (clash !== undefined) return clash
        this.triggers = replaced(this.triggers, old, next, given.atMs)
        return 'ok'
      }
      case 'trigger.delete': {
        if (!this.triggers.some(trigger => trigger.id === given.id)) return 'trigger-not-found'
        this.triggers = this.triggers.filter(trigger => trigger.id !== given.id)
        return 'ok'
      }
      case 'registry.set': {
        const { login } = given
        if (!this.apps.some(app => app.id === login.appId)) return 'app-not-found'
        const others = this.registries.filter(one => !isSameRegistry(one, login))
        this.registries = [...others, login]
        return 'ok'
      }
      case 'registry.delete': {
        const others = this.registries.filter(one => !isSameRegistry(one, given))
        if (others.length === this.registries.length) return 'registry-not-found'
        this.registries = others
        return 'ok'
      }
      case 'node.join': {
        const { id: ownId, type, atMs: joinedMs, ...rest } = given
        const known = this.nodes.find(node => node.uuid === rest.uuid)
        if (known !== undefined) Object.assign(known, rest)
        if (known !== undefined) return 'ok'
        const nodeId = ownId ?? Math.max(0, ...this.usedIds) + 1
        if (this.nodes.some(node => node.id === nodeId)) return 'node-exists'
        for (const node of this.nodes) {
          if (node.peerAddress === rest.peerAddress) Object.assign(node, { state: 'replaced' })
        }
        this.usedIds.add(nodeId)
        this.nodes.push({ id: nodeId, ...rest, state: 'active', joinedMs })
        return 'ok'
      }
      case 'node.update': {
        const node = this.nodes.find(each => each.id === given.id)
        if (node === undefined) return 'node-not-found'
        Object.assign(node, given.patch)
        return 'ok'
      }
      case 'node.remove': {
        const others = this.nodes.filter(node => node.id !== given.id)
        if (others.length === this.nodes.length) return 'node-not-found'
        this.nodes = others
        return 'ok'
      }
      case 'cluster.version':
      case 'cluster.note':
        return 'ok'
    }
  }

  clash(trigger: Trigger, all: readonly Trigger[]): string | undefined {
    const others = all.filter(other => other.id !== trigger.id && other.appId === trigger.appId)
    const fn = this.fns.find(candidate => candidate.id === trigger.fnId)
    if (fn === undefined) return 'fn-not-found'
    if (fn.appId !== trigger.appId) return 'trigger-fn-not-owned'
    if (others.some(other => other.source === trigger.source)) return 'trigger-source-exists'
    const isNamesake = (other: Trigger) =>
      other.fnId === trigger.fnId && other.name === trigger.name
    return others.some(isNamesake) ? 'trigger-exists' : undefined
  }
}

type RegistryKey = Pick<RegistryLogin, 'appId' | 'host'>

const isSameRegistry = (a: RegistryKey, b: RegistryKey) => a.appId === b.appId && a.host === b.host

function maps(
  old: { config: Strings; annotations: Strings },
  config?: Strings,
  annotations?: Strings,
) {
  return {
    config: mergedMap(old.config, config ?? {}, ['']),
    annotations: mergedMap(old.annotations, annotations ?? {}, ['""', 'null']),
  }
}

function mergedMap(old: Strings, patch: Strings, removals: readonly string[]): Strings {
  const kept = Object.entries(old).filter(([key]) => !Object.hasOwn(patch, key))
  const added = Object.entries(patch).filter(([, value]) => !removals.includes(value))
  return Object.fromEntries([...kept, ...added])
}

function replaced<T extends { id: string; updatedMs: number }>(
  all: T[],
  old: T,
  next: T,
  atMs: number,
): T[] {
  const isChanged = !Bun.deepEquals(old, next)
  return all.map(row =>
    row.id === old.id ? { ...next, updatedMs: isChanged ? atMs : old.updatedMs } : row,
  )
}

const byId = <T extends { id: string }>(rows: readonly T[]) =>
  [...rows].sort((a, b) => (a.id < b.id ? -1 : 1))

function runAll(commands: readonly Command[], batch: number) {
  const db = new StateDb(':memory:')
  const routes = new RouteTable(db.rows)
  const rows = new Map<string, unknown>()
  db.onChanges(changes => {
    routes.update(changes)
    for (const change of changes) mirror(rows, change)
  })
  const outcomes: (Outcome | undefined)[] = []
  const entries = commands.map((given, at) => entryOf(at + 1, given))
  for (let at = 0; at < entries.length; at += batch) {
    outcomes.push(...db.apply(entries.slice(at, at + batch)))
  }
  return { db, routes, rows, outcomes }
}

/** What a reader of changes alone would hold. */
function mirror(rows: Map<string, unknown>, change: Change): void {
  if (change.row === null) rows.delete(`${change.kind} ${change.id}`)
  else rows.set(`${change.kind} ${change.id}`, change.row)
}

test('apply agrees with the model, with the changes it reports, and with a replay', () => {
  fc.assert(
    fc.property(
      fc.array(command, { minLength: 20, maxLength: 120, size: 'max' }),
      fc.integer({ min: 1, max: 7 }),
      (commands, batch) => {
        const model = new Model()
        const expected = commands.map(given => model.run(given))
        const { db, routes, rows, outcomes } = runAll(commands, batch)
        expect(outcomes.map(outcome => (outcome?.ok ? 'ok' : outcome?.code))).toEqual(
          expected as never,
        )

        const queries = new Queries(db.rows)
        const page = { after: '', limit: 100 }
        const apps = queries.apps({}, page)
        const fns = apps.flatMap(app => queries.fns({ appId: app.id }, page))
        const triggers = apps.flatMap(app => queries.triggers({ appId: app.id }, page))
        expect(byId(apps)).toEqual(byId(model.apps))
        expect(byId(fns)).toEqual(byId(model.fns))
        expect(byId(triggers)).toEqual(byId(model.triggers))
        const ofModel = (appId: string) => model.registries.filter(one => one.appId === appId)
        for (const appId of ['1', '2', '3']) {
          const held = queries.registries(appId)
          expect(held).toEqual(ofModel(appId).sort((a, b) => (a.host < b.host ? -1 : 1)))
        }
        const nodes = queries.nodes()
        expect(nodes).toEqual([...model.nodes].sort((a, b) => a.id - b.id))
        expect(queries.nextNodeId()).toBe(Math.max(0, ...model.usedIds) + 1)
        expect(rows.size).toBe(apps.length + fns.length + triggers.length + nodes.length)
        for (const node of nodes) expect(rows.get(`node ${node.id}`)).toEqual(node)
        for (const fn of fns) expect(rows.get(`fn ${fn.id}`)).toEqual(fn)

        mustMatchRoutes(routes, new RouteTable(db.rows), model)
        const replay = runAll(commands, commands.length + 1)
        expect(replay.db.stateHash).toBe(db.stateHash)
        replay.db[Symbol.dispose]()
        db[Symbol.dispose]()
      },
    ),
    seeded(200),
  )
})

/** The table fed by changes and the one read from the rows answer alike. */
function mustMatchRoutes(fed: RouteTable, read: RouteTable, model: Model): void {
  for (const app of model.apps) {
    expect(fed.appByName(app.name)).toEqual(app)
    for (const path of ['/', '/a', '/b']) {
      const trigger = model.triggers.find(each => each.appId === app.id && each.source === path)
      expect(fed.fnBySource(app, path)?.fn.id).toBe(trigger?.fnId as string)
      expect(read.fnBySource(app, path)).toEqual(fed.fnBySource(app, path))
    }
  }
  for (const name of ['x', 'y', 'z']) expect(read.appByName(name)).toEqual(fed.appByName(name))
  for (const fnId of ['1', '2', '3', '4']) {
    expect(fed.fnById(fnId)).toEqual(read.fnById(fnId))
    const fn = model.fns.find(each => each.id === fnId)
    expect(fed.fnById(fnId)?.fn).toEqual(fn as Fn)
    expect(fed.fnById(fnId)?.app.id).toBe(fn?.appId as string)
  }
}
