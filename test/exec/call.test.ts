import { describe, expect, test } from 'bun:test'
import { AssertionError, type ErrorCode } from '../../src/errors.ts'
import { type CallEnd, CallLife, type CallState, codeOf, verdictOf } from '../../src/exec/call.ts'

/** A call that has come as far as `state`: queued at 10, running at 25, done at 30. */
function lifeIn(state: CallState): CallLife {
  const life = new CallLife(10)
  if (state !== 'queued') life.run(25, 0, 1)
  if (state === 'done') life.end(30)
  return life
}

describe('transitions', () => {
  const steps = {
    run: (life: CallLife) => life.run(40, 0, 1),
    end: (life: CallLife) => life.end(40),
  }
  const allowed: Record<CallState, Partial<Record<keyof typeof steps, CallState>>> = {
    queued: { run: 'running' },
    running: { end: 'done' },
    done: {},
  }
  for (const state of Object.keys(allowed) as CallState[]) {
    for (const step of Object.keys(steps) as (keyof typeof steps)[]) {
      const to = allowed[state][step]
      test(`${state}: ${step} → ${to ?? 'a bug'}`, () => {
        const life = lifeIn(state)
        expect(life.state).toBe(state)
        if (to === undefined) expect(() => steps[step](life)).toThrow(AssertionError)
        else {
          steps[step](life)
          expect(life.state).toBe(to)
        }
      })
    }
  }
})

describe('what an end comes to', () => {
  type Verdict = 'keep' | 'unfit'
  /** What happened, the code, the instance with one call at a time, with several. */
  const rows: [CallEnd, ErrorCode | undefined, Verdict, Verdict][] = [
    [200, undefined, 'keep', 'keep'],
    [502, 'function-failed', 'keep', 'keep'],
    [504, 'call-timeout', 'keep', 'keep'],
    [500, 'function-response-invalid', 'unfit', 'unfit'],
    [204, 'function-response-invalid', 'unfit', 'unfit'],
    ['closed-before-head', 'function-died', 'unfit', 'unfit'],
    ['closed-in-body', 'function-died', 'unfit', 'unfit'],
    ['timed-out', 'call-timeout', 'unfit', 'unfit'],
    ['client-gone', 'client-gone', 'unfit', 'keep'],
    ['garbage', 'function-response-invalid', 'unfit', 'unfit'],
    ['head-too-large', 'function-headers-too-large', 'unfit', 'unfit'],
    ['body-too-large', 'function-body-too-large', 'unfit', 'unfit'],
  ]
  for (const [end, code, alone, shared] of rows) {
    test(`${end} → ${code ?? 'the answer'}, ${alone}/${shared}`, () => {
      expect(codeOf(end)).toBe(code)
      expect(verdictOf(end, 1)).toBe(alone)
      expect(verdictOf(end, 8)).toBe(shared)
    })
  }
})

describe('phases', () => {
  /** Queued at 10 and placed at 60, on an instance started and ready at these times. */
  const rows: [string, number, number, { queueMs: number; startMs: number }][] = [
    ['a warm instance that was busy', 0, 5, { queueMs: 50, startMs: 0 }],
    ['an instance started for the call', 10, 60, { queueMs: 0, startMs: 50 }],
    ['one whose start was half over', 0, 30, { queueMs: 30, startMs: 20 }],
    ['one started while the call waited', 30, 60, { queueMs: 20, startMs: 30 }],
  ]
  for (const [title, startedMs, readyMs, expected] of rows) {
    test(title, () => {
      const life = new CallLife(10)
      life.run(60, startedMs, readyMs)
      expect(life.phases(80)).toEqual({ ...expected, runMs: 20 })
      life.end(100)
      expect(life.phases(999)).toEqual({ ...expected, runMs: 40 })
    })
  }

  test('of a call that never got a slot: it only queued', () => {
    const life = new CallLife(10)
    expect(life.phases(30)).toEqual({ queueMs: 20, startMs: 0, runMs: 0 })
  })
})
