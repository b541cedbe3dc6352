/**
 * Random lives of a cluster: nodes join, die, come back, are wiped, drain and leave, and the
 * autopilot does what it does. After each of its steps the new configuration must be one that the
 * living can work with, and with nothing else happening it must come to rest.
 */
import { expect, test } from 'bun:test'
import fc from 'fast-check'
import {
  type Action,
  type AutopilotView,
  majority,
  type NodeHealth,
  plan,
  planDemotion,
  planPromotion,
} from '../../src/cluster/autopilot.ts'
import type { NodeState } from '../../src/store/objects.ts'
import { seeded } from '../seed.ts'
import { changed, done, fine, rowOf, settleView, viewOf } from './autopilot-world.ts'

const dead: NodeHealth = { silentMs: 90_000, healthyForMs: undefined, lag: 50 }
const suspect: NodeHealth = { silentMs: 9000, healthyForMs: undefined, lag: 50 }
const behind: NodeHealth = { silentMs: 40, healthyForMs: 60_000, lag: 1_000_000 }
const young: NodeHealth = { silentMs: 40, healthyForMs: 20, lag: 0 }

type Event =
  | { readonly type: 'join' }
  | { readonly type: 'health'; readonly at: number; readonly health: NodeHealth }
  | { readonly type: 'state'; readonly at: number; readonly state: NodeState }
  | { readonly type: 'wipe'; readonly at: number }
  | { readonly type: 'forget'; readonly at: number }
  | { readonly type: 'voters'; readonly max: number }
  | { readonly type: 'wish'; readonly at: number; readonly wish: 'promote' | 'demote' }
  | { readonly type: 'run' }

const at = fc.nat(30)
const event: fc.Arbitrary<Event> = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ type: 'join' } as const) },
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constant('health' as const),
      at,
      health: fc.constantFrom(fine, fine, fine, dead, suspect, behind, young),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('state' as const),
      at,
      state: fc.constantFrom<NodeState>('active', 'draining', 'leaving'),
    }),
  },
  fc.record({ type: fc.constant('wipe' as const), at }),
  fc.record({ type: fc.constant('forget' as const), at }),
  fc.record({ type: fc.constant('voters' as const), max: fc.constantFrom(1, 3, 5, 7) }),
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('wish' as const),
      at,
      wish: fc.constantFrom('promote' as const, 'demote' as const),
    }),
  },
  { weight: 6, arbitrary: fc.constant({ type: 'run' } as const) },
)

/** The view of whoever leads; `leaderId` 0 while nobody can. */
function elected(view: AutopilotView): AutopilotView {
  const { voters } = view.confState
  const alive = voters.filter(id => healthOf(view, id).healthyForMs !== undefined)
  const isLed = alive.includes(view.leaderId)
  if (alive.length < majority(voters.length)) return { ...view, leaderId: 0 }
  return isLed ? view : { ...view, leaderId: alive[0] ?? 0 }
}

function healthOf(view: AutopilotView, id: number): NodeHealth {
  return view.health.get(id) ?? dead
}

function rowAt(view: AutopilotView, at: number) {
  return view.rows[at % Math.max(1, view.rows.length)]
}

function withRow(view: AutopilotView, id: number, state: NodeState): AutopilotView {
  return { ...view, rows: view.rows.map(row => (row.id === id ? { ...row, state } : row)) }
}

class World {
  view: AutopilotView = viewOf({ voters: [1], rows: 1 })
  nextId = 2

  join(): void {
    const id = this.nextId++
    const health = new Map(this.view.health).set(id, fine)
    this.view = { ...this.view, rows: [...this.view.rows, rowOf(id)], health }
  }

  apply(event: Event): void {
    if (event.type === 'join') return this.view.rows.length < 10 ? this.join() : undefined
    if (event.type === 'voters') {
      const settings = { ...this.view.settings, votersMax: event.max }
      this.view = { ...this.view, settings }
      return
    }
    if (event.type === 'run') {
      if (this.view.leaderId !== 0) this.view = settleView(this.view, check).view
      return
    }
    const row = rowAt(this.view, event.at)
    if (row === undefined) return
    this.#touch(event, row.id, row.state)
  }

  #touch(event: Exclude<Event, { type: 'join' | 'voters' | 'run' }>, id: number, was: NodeState) {
    switch (event.type) {
      case 'health':
        // A wiped node's old self does not come back.
        if (was !== 'replaced') {
          this.view = { ...this.view, health: new Map(this.view.health).set(id, event.health) }
        }
        break
      case 'state':
        if (was !== 'replaced' || event.state === 'leaving') {
          this.view = withRow(this.view, id, event.state)
        }
        break
      case 'wipe':
        this.view = withRow(this.view, id, 'replaced')
        this.view = { ...this.view, health: new Map(this.view.health).set(id, dead) }
        this.join()
        break
      case 'forget':
        this.view = { ...this.view, rows: this.view.rows.filter(row => row.id !== id) }
        break
      case 'wish': {
        if (this.view.leaderId === 0) break
        const wish = event.wish === 'promote' ? planPromotion : planDemotion
        const planned = wish(this.view, id)
        if (planned.ok) {
          const action = { type: 'change', change: planned.change, reason: '' } as const
          const after = done(this.view, action)
          checkVoters(this.view, after, id)
          this.view = after
        }
        break
      }
    }
    this.view = elected(this.view)
  }
}

function healthyOf(view: AutopilotView, voters: readonly number[]): number[] {
  return voters.filter(id => id === view.leaderId || healthOf(view, id).healthyForMs !== undefined)
}

function isLiving(view: AutopilotView, id: number): boolean {
  return id === view.leaderId || healthOf(view, id).silentMs < 60_000
}

/** How many more healthy voters may be lost. */
function tolerance(view: AutopilotView): number {
  const { voters } = view.confState
  return healthyOf(view, voters).length - majority(voters.length)
}

/** `asked`: whom an operator promotes need not have been well for long. */
function checkVoters(before: AutopilotView, after: AutopilotView, asked = 0): void {
  const { voters } = after.confState
  expect(voters.length).toBeGreaterThan(0)
  expect(voters).toContain(before.leaderId)
  expect(tolerance(after)).toBeGreaterThanOrEqual(0)
  for (const id of voters.filter(one => !before.confState.voters.includes(one))) {
    const { lag, healthyForMs } = healthOf(before, id)
    expect(before.rows.find(row => row.id === id)?.state).toBe('active')
    expect(healthyForMs).toBeGreaterThanOrEqual(id === asked ? 0 : 2000)
    expect(lag).toBeLessThanOrEqual(1000)
  }
}

function check(before: AutopilotView, action: Action, after: AutopilotView): void {
  const stateOf = (id: number) => before.rows.find(row => row.id === id)?.state ?? 'leaving'
  if (action.type === 'transfer') {
    expect(before.confState.voters).toContain(action.to)
    expect(stateOf(action.to)).toBe('active')
    expect(healthyOf(before, [action.to])).toEqual([action.to])
  }
  if (action.type === 'remove-row') {
    expect(['leaving', 'replaced']).toContain(stateOf(action.id))
    const { voters, learners } = before.confState
    expect([...voters, ...learners]).not.toContain(action.id)
  }
  if (action.type !== 'change') return
  const [old, next] = [before.confState.voters, after.confState.voters]
  expect(changed(before.confState, action.change.changes)).toEqual(after.confState)
  checkVoters(before, after)
  const isAnyDeparting = old.some(id => stateOf(id) === 'leaving')
  const isOverfull = old.length > before.settings.votersMax
  const isAnyDraining = old.some(id => stateOf(id) === 'draining')
  // Of its own accord it never makes the cluster weaker.
  if (!isAnyDeparting && !isOverfull && !isAnyDraining) {
    expect(tolerance(after)).toBeGreaterThanOrEqual(tolerance(before))
  }
  // Nor does it drop a living voter that wants to stay, save to make the number odd.
  const dropped = old.filter(id => !next.includes(id))
  const willing = dropped.filter(id => stateOf(id) === 'active' && isLiving(before, id))
  if (willing.length > 0 && !isOverfull) expect(next.length % 2).toBe(1)
  if (next.length < old.length && before.settings.votersMax > 1) {
    const able = old.filter(id => stateOf(id) === 'active' && isLiving(before, id))
    const kept = next.filter(id => isLiving(before, id))
    expect(kept.length).toBeGreaterThanOrEqual(
      majority(Math.min(able.length, before.settings.votersMax)),
    )
  }
}

/** With everybody well and nobody leaving, the configuration is the one that is wanted. */
function checkRested(view: AutopilotView): void {
  const ids = view.rows.map(row => row.id).sort((a, b) => a - b)
  const { voters, learners } = view.confState
  expect([...voters, ...learners].sort((a, b) => a - b)).toEqual(ids)
  const most = Math.min(ids.length, view.settings.votersMax)
  const wanted = most % 2 === 0 ? most - 1 : most
  if (ids.length === 2 && voters.length === 2 && view.settings.votersMax > 1) return
  expect(voters.length).toBe(wanted)
}

test('nodes that come and go for a moment move nobody', () => {
  const momentary = fc.constantFrom(fine, suspect, behind, young)
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 9 }),
      fc.constantFrom(3, 5, 7),
      fc.array(fc.array(momentary, { minLength: 10, maxLength: 10 }), { maxLength: 30 }),
      (rows, votersMax, moments) => {
        const { view } = settleView(viewOf({ voters: [1], rows, votersMax }))
        for (const moment of moments) {
          const health = new Map(view.rows.map(({ id }) => [id, moment[id] ?? fine]))
          expect(plan({ ...view, health })).toBeUndefined()
        }
      },
    ),
    seeded(1000),
  )
})

test('random lives', () => {
  fc.assert(
    fc.property(fc.array(event, { minLength: 5, maxLength: 60 }), events => {
      const world = new World()
      for (const one of events) world.apply(one)
      if (world.view.leaderId !== 0) {
        const rested = settleView(world.view, check)
        expect(settleView(rested.view).steps).toEqual([])
        world.view = rested.view
      }
      // Everybody comes back and wants to stay: then all is as it should be.
      const rows = world.view.rows
        .filter(row => row.state !== 'replaced' && row.state !== 'leaving')
        .map(row => ({ ...row, state: 'active' as const }))
      const health = new Map([...world.view.health.keys()].map(id => [id, fine] as const))
      const view = elected({ ...world.view, health })
      if (view.leaderId === 0 || rows.length === 0) return
      if (!rows.some(row => view.confState.voters.includes(row.id))) return
      checkRested(settleView({ ...view, rows }, check).view)
    }),
    seeded(3000),
  )
}, 120_000)
