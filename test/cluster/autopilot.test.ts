/** Which node becomes a voter, case by case; `autopilot-model.test.ts` plays what comes to mind. */
import { describe, expect, test } from 'bun:test'
import { type Action, plan, planDemotion, planPromotion } from '../../src/cluster/autopilot.ts'
import { type Given, settle, viewOf } from './autopilot-world.ts'

/** What the cluster ends as, in words: `1,2,3+4` are voters and learners, the leader starred. */
function ends(given: Given): string {
  return settle(given).text
}

function stepsOf(given: Given): Action[] {
  return settle(given).steps
}

describe('the number of voters', () => {
  test.each([
    [{ voters: [1], rows: 1 }, '*1'],
    [{ voters: [1], rows: 2 }, '*1+2'],
    [{ voters: [1], rows: 3 }, '*1,2,3'],
    [{ voters: [1], rows: 4 }, '*1,2,3+4'],
    [{ voters: [1, 2, 3], rows: 5 }, '*1,2,3,4,5'],
    [{ voters: [1, 2, 3], rows: 6 }, '*1,2,3,4,5+6'],
    [{ voters: [1, 2, 3, 4, 5], rows: 7, votersMax: 7 }, '*1,2,3,4,5,6,7'],
    [{ voters: [1], rows: 9, votersMax: 7 }, '*1,2,3,4,5,6,7+8,9'],
    [{ voters: [1, 2, 3, 4, 5, 6, 7], rows: 7, votersMax: 5 }, '*1,2,3,4,5+6,7'],
    [{ voters: [1, 2, 3, 4, 5], rows: 5, votersMax: 1 }, '*1+2,3,4,5'],
  ] satisfies [Given, string][])('%j ends as %s', (given, end) => {
    expect(ends(given)).toBe(end)
  })

  test('a leader with a high number keeps its seat', () => {
    expect(ends({ voters: [1, 2, 3, 4, 5], rows: 5, votersMax: 3, leader: 5 })).toBe('1,2,*5+3,4')
  })

  test('several voters come in one joint change', () => {
    const steps = stepsOf({ voters: [1], rows: 3, learners: [2, 3] })
    expect(steps).toHaveLength(1)
    expect(steps[0]).toMatchObject({
      type: 'change',
      change: {
        transition: 'auto',
        changes: [
          { type: 'add-voter', nodeId: 2 },
          { type: 'add-voter', nodeId: 3 },
        ],
      },
    })
  })

  test.each([
    ['behind', { lag: 100_000 }],
    ['silent', { silentMs: 5000, healthyForMs: undefined }],
    ['back for a moment only', { healthyForMs: 10 }],
  ])('a learner that is %s is not promoted', (_, health) => {
    expect(ends({ voters: [1], rows: 3, learners: [2, 3], health: { 3: health } })).toBe('*1+2,3')
  })
})

const dead = { silentMs: 3_600_000, healthyForMs: undefined, lag: 9 }
const suspect = { silentMs: 20_000, healthyForMs: undefined, lag: 9 }

describe('a voter that is lost', () => {
  test('a learner takes the seat of a dead voter in one step', () => {
    const given = { voters: [1, 2, 3], rows: 4, learners: [4], health: { 3: dead } }
    expect(ends(given)).toBe('*1,2,4+3')
    expect(stepsOf(given)).toMatchObject([
      {
        change: {
          changes: [
            { type: 'add-learner', nodeId: 3 },
            { type: 'add-voter', nodeId: 4 },
          ],
        },
      },
    ])
  })

  test('not before it is dead', () => {
    const given = { voters: [1, 2, 3], rows: 4, learners: [4], health: { 3: suspect } }
    expect(ends(given)).toBe('*1,2,3+4')
  })

  test('without a learner its seat stays', () => {
    expect(ends({ voters: [1, 2, 3], rows: 3, health: { 3: dead } })).toBe('*1,2,3')
    const five = { voters: [1, 2, 3, 4, 5], rows: 5, health: { 4: dead, 5: dead } }
    expect(ends(five)).toBe('*1,2,3,4,5')
  })

  test('two dead, one learner: one is replaced', () => {
    const health = { 4: dead, 5: dead }
    const given = { voters: [1, 2, 3, 4, 5], rows: 6, learners: [6], health }
    expect(ends(given)).toBe('*1,2,3,4,6+5')
  })

  test('a wiped node is replaced by its new self, and its row goes', () => {
    const health = { 3: dead }
    const states = { 3: 'replaced' } as const
    expect(ends({ voters: [1, 2, 3], rows: 4, health, states })).toBe('*1,2,4')
    const alone = { voters: [1, 2, 3], rows: 3, health, states }
    expect(ends(alone)).toBe('*1,2,3')
    // Rows 1, 2 and 4 are left.
    expect(settle({ voters: [1, 2, 3], rows: 4, health, states }).rowIds).toEqual([1, 2, 4])
  })

  test('nothing is done where no majority is heard', () => {
    const health = { 2: dead, 3: dead }
    const view = viewOf({ voters: [1, 2, 3], rows: 4, learners: [4], health })
    expect(plan(view)).toBeUndefined()
  })
})

describe('leaving and draining', () => {
  test('a follower leaves, and its row goes', () => {
    const given = { voters: [1, 2, 3], rows: 4, learners: [4], states: { 3: 'leaving' } } as const
    expect(ends(given)).toBe('*1,2,4')
    expect(settle(given).rowIds).toEqual([1, 2, 4])
  })

  test('the leader hands over first', () => {
    const given = { voters: [1, 2, 3, 4, 5], rows: 5, states: { 1: 'leaving' } } as const
    expect(stepsOf(given).map(step => step.type)).toEqual(['transfer', 'change', 'remove-row'])
    expect(ends(given)).toBe('*2,3,4+5')
  })

  test('of three, one that leaves leaves two: none is left alone', () => {
    expect(ends({ voters: [1, 2, 3], rows: 3, states: { 3: 'leaving' } })).toBe('*1,2')
    expect(ends({ voters: [1, 2], rows: 2 })).toBe('*1,2')
    expect(ends({ voters: [1, 2], rows: 3 })).toBe('*1,2,3')
  })

  test('of two, one may leave; also the leader', () => {
    expect(ends({ voters: [1, 2], rows: 2, states: { 2: 'leaving' } })).toBe('*1')
    expect(ends({ voters: [1, 2], rows: 2, states: { 1: 'leaving' } })).toBe('*2')
  })

  test('the only voter hands over to a learner by way of two voters', () => {
    const given = { voters: [1], rows: 2, learners: [2], states: { 1: 'leaving' } } as const
    expect(ends(given)).toBe('*2')
    expect(stepsOf(given).map(step => step.type)).toEqual([
      'change',
      'transfer',
      'change',
      'remove-row',
    ])
  })

  test('the last node cannot leave', () => {
    expect(ends({ voters: [1], rows: 1, states: { 1: 'leaving' } })).toBe('*1')
  })

  test('a node that is needed for the quorum stays until another is back', () => {
    const given = { voters: [1, 2, 3], rows: 3, health: { 3: dead }, states: { 2: 'leaving' } }
    expect(ends(given as Given)).toBe('*1,2,3')
  })

  test('a dead node that an operator removes goes without a successor', () => {
    const given = { voters: [1, 2, 3], rows: 3, health: { 3: dead }, states: { 3: 'leaving' } }
    expect(ends(given as Given)).toBe('*1,2')
  })

  test('a member without a row is taken out', () => {
    expect(ends({ voters: [1, 2, 3], rows: 2 })).toBe('*1,2')
    expect(ends({ voters: [1], learners: [2], rows: 1 })).toBe('*1')
  })

  test('a draining voter gives its seat to a learner, and keeps it where there is none', () => {
    const states = { 3: 'draining' } as const
    expect(ends({ voters: [1, 2, 3], rows: 4, learners: [4], states })).toBe('*1,2,4+3')
    expect(ends({ voters: [1, 2, 3], rows: 3, states })).toBe('*1,2,3')
  })

  test('a draining leader hands over, and does not get it back', () => {
    const given = { voters: [1, 2, 3], rows: 3, states: { 1: 'draining' } } as const
    expect(ends(given)).toBe('1,*2,3')
  })

  test('five with one dead and one leaving become three', () => {
    const given = {
      voters: [1, 2, 3, 4, 5],
      rows: 5,
      health: { 4: dead },
      states: { 5: 'leaving' },
    } as const
    expect(ends(given)).toBe('*1,2,3+4')
  })
})

describe('the version of commands', () => {
  test('is raised when every node understands it', () => {
    const newer = { 1: 4, 2: 4, 3: 4 }
    expect(stepsOf({ voters: [1, 2, 3], rows: 3, commandVersions: newer })).toMatchObject([
      { type: 'raise-version', version: 4 },
    ])
    const mixed = { 1: 4, 2: 4, 3: 3 }
    expect(stepsOf({ voters: [1, 2, 3], rows: 3, commandVersions: mixed })).toEqual([])
    const withDead = { voters: [1, 2, 3], rows: 3, commandVersions: mixed, health: { 3: dead } }
    expect(stepsOf(withDead)).toEqual([])
  })
})

describe('wishes of an operator', () => {
  const four = { voters: [1, 2, 3], rows: 4, learners: [4] }

  test('promote swaps the worst voter out, and it stays so', () => {
    const planned = planPromotion(viewOf(four), 4)
    expect(planned).toMatchObject({
      ok: true,
      change: {
        changes: [
          { type: 'add-learner', nodeId: 3 },
          { type: 'add-voter', nodeId: 4 },
        ],
      },
    })
    expect(ends({ voters: [1, 2, 4], rows: 4, learners: [3] })).toBe('*1,2,4+3')
  })

  test('demote lets a learner take the seat, and it stays so', () => {
    const planned = planDemotion(viewOf(four), 2)
    expect(planned).toMatchObject({
      ok: true,
      change: {
        changes: [
          { type: 'add-learner', nodeId: 2 },
          { type: 'add-voter', nodeId: 4 },
        ],
      },
    })
    expect(ends({ voters: [1, 3, 4], rows: 4, learners: [2] })).toBe('*1,3,4+2')
    expect(planDemotion(viewOf({ voters: [1, 2], rows: 2 }), 2)).toMatchObject({
      change: { changes: [{ type: 'add-learner', nodeId: 2 }] },
    })
  })

  test.each([
    [{ ...four, isBusy: true }, 4, 'cluster-busy'],
    [four, 9, 'node-not-found'],
    [four, 2, 'node-is-voter'],
    [{ ...four, states: { 4: 'draining' } }, 4, 'node-draining'],
    [{ ...four, health: { 4: dead } }, 4, 'node-unreachable'],
    [{ ...four, health: { 4: { lag: 5000 } } }, 4, 'node-behind'],
    [{ voters: [1], rows: 2, learners: [2] }, 2, 'voters-even'],
  ] satisfies [Given, number, string][])('promote, %j, %d: %s', (given, id, refusal) => {
    expect(planPromotion(viewOf(given), id)).toMatchObject({ ok: false, refusal })
  })

  test.each([
    [{ ...four, isBusy: true }, 2, 'cluster-busy'],
    [four, 9, 'node-not-found'],
    [four, 4, 'node-is-learner'],
    [four, 1, 'node-is-leader'],
    [{ voters: [1, 2, 3], rows: 3 }, 2, 'no-successor'],
    [{ voters: [1, 2, 3], rows: 4, learners: [4], health: { 4: dead } }, 2, 'no-successor'],
  ] satisfies [Given, number, string][])('demote, %j, %d: %s', (given, id, refusal) => {
    expect(planDemotion(viewOf(given), id)).toMatchObject({ ok: false, refusal })
  })
})
