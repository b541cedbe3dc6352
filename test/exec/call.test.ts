import { describe, expect, test } from 'bun:test'
import { AssertionError, type ErrorCode } from '../../src/errors.ts'
import { type CallEnd, CallLife, type CallState } from '../../src/exec/call.ts'

/** A call that has come as far as `state`: queued at 10, placed at 20, running at 25. */
function lifeIn(state: CallState): CallLife {
  const life = new CallLife(10)
  if (state === 'queued') return life
  life.place(20, 0, 1)
  if (state === 'placed') return life
  life.connect()
  if (state === 'starting') return life
  life.run(25)
  if (state === 'done') life.end({ what: 'answered', status: 200 }, 1, 30)
  return life
}

describe('transitions', () => {
  const steps = {
    place: (life: CallLife) => life.place(40, 0, 1),
    connect: (life: CallLife) => life.connect(),
    run: (life: CallLife) => life.run(40),
    markSent: (life: CallLife) => life.markSent(),
    markHeadPassedOn: (life: CallLife) => life.markHeadPassedOn(),
    end: (life: CallLife) => life.end({ what: 'timed-out' }, 1, 40),
  }
  const allowed: Record<CallState, Partial<Record<keyof typeof steps, CallState>>> = {
    queued: { place: 'placed', end: 'done' },
    placed: { connect: 'starting', run: 'running', end: 'done' },
    starting: { run: 'running', end: 'done' },
    running: { markSent: 'running', markHeadPassedOn: 'running', end: 'done' },
    done: {},
  }
  for (const state of Object.keys(allowed) as CallState[]) {
    for (const step of Object.keys(steps) as (keyof typeof steps)[]) {
      const to = allowed[state][step]
      test(`${state}: ${step} → ${to ?? 'a bug'}`, () => {
        const life = lifeIn(state)
        if (to === undefined) expect(() => steps[step](life)).toThrow(AssertionError)
        else {
          steps[step](life)
          expect(life.state).toBe(to)
        }
      })
    }
  }

  test('an answer cannot end a call that was never sent to a function', () => {
    const end: CallEnd = { what: 'answered', status: 200 }
    expect(() => lifeIn('placed').end(end, 1, 40)).toThrow(AssertionError)
  })
})

describe('outcomes of a call in the middle of its run', () => {
  type Verdict = 'keep' | 'unfit'
  /** What happened, the code, the instance with one call at a time, with several. */
  const rows: [CallEnd, ErrorCode | undefined, Verdict, Verdict][] = [
    [{ what: 'answered', status: 200 }, undefined, 'keep', 'keep'],
    [{ what: 'answered', status: 502 }, 'function-failed', 'keep', 'keep'],
    [{ what: 'answered', status: 504 }, 'call-timeout', 'keep', 'keep'],
    [{ what: 'answered', status: 500 }, 'function-response-invalid', 'unfit', 'unfit'],
    [{ what: 'answered', status: 204 }, 'function-response-invalid', 'unfit', 'unfit'],
    [{ what: 'closed-before-head' }, 'function-died', 'unfit', 'unfit'],
    [{ what: 'closed-in-body' }, 'function-died', 'unfit', 'unfit'],
    [{ what: 'out-of-memory' }, 'function-out-of-memory', 'unfit', 'unfit'],
    [{ what: 'timed-out' }, 'call-timeout', 'unfit', 'unfit'],
    [{ what: 'client-gone' }, 'client-gone', 'unfit', 'keep'],
    [{ what: 'request-too-large' }, 'request-body-too-large', 'unfit', 'keep'],
    [{ what: 'garbage' }, 'function-response-invalid', 'unfit', 'unfit'],
    [{ what: 'head-too-large' }, 'function-headers-too-large', 'unfit', 'unfit'],
    [{ what: 'body-too-large' }, 'function-body-too-large', 'unfit', 'unfit'],
  ]
  for (const [end, code, alone, shared] of rows) {
    const { what } = end
    const status = end.what === 'answered' ? ` ${end.status}` : ''
    test(`${what}${status} → ${code ?? 'the answer'}, ${alone}/${shared}`, () => {
      for (const [concurrency, verdict] of [
        [1, alone],
        [8, shared],
      ] as const) {
        const life = lifeIn('running')
        life.markSent()
        const isAnswerable = what !== 'client-gone'
        expect(life.end(end, concurrency, 40)).toEqual({ code, verdict, isAnswerable })
      }
    })
  }

  test('once the head is with the caller, nothing is left but to break off', () => {
    const life = lifeIn('running')
    life.markHeadPassedOn()
    expect(life.end({ what: 'closed-in-body' }, 1, 40).isAnswerable).toBe(false)
  })
})

test('a call without a slot leaves every instance alone', () => {
  const ends: [CallEnd, ErrorCode][] = [
    [{ what: 'refused', code: 'busy' }, 'busy'],
    [{ what: 'start-failed', code: 'init-timeout' }, 'init-timeout'],
    [{ what: 'client-gone' }, 'client-gone'],
  ]
  for (const [end, code] of ends) {
    expect(new CallLife(0).end(end, 1, 5)).toMatchObject({ code, verdict: 'none' })
  }
})

test('a caller who leaves before a byte was sent does not cost the instance', () => {
  expect(lifeIn('starting').end({ what: 'client-gone' }, 1, 40).verdict).toBe('keep')
})

describe('sending again', () => {
  test('a kept connection that was closed before a byte was sent is replaced by a new one', () => {
    const life = lifeIn('placed')
    life.run(22)
    expect(life.canResend).toBe(true)
    life.connect()
    expect(life.state).toBe('starting')
    life.run(30)
    expect(life.canResend).toBe(false)
    expect(life.phases(40)).toEqual({ queueMs: 10, startMs: 10, runMs: 10 })
  })

  test('never once bytes were sent, and never on a new connection', () => {
    const sent = lifeIn('placed')
    sent.run(22)
    sent.markSent()
    expect(sent.canResend).toBe(false)
    expect(() => sent.connect()).toThrow(AssertionError)
    expect(lifeIn('running').canResend).toBe(false)
  })
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
      life.place(60, startedMs, readyMs)
      life.run(60)
      life.end({ what: 'answered', status: 200 }, 1, 100)
      expect(life.phases(999)).toEqual({ ...expected, runMs: 40 })
    })
  }

  test('of a call that never got a slot: it only queued', () => {
    const life = new CallLife(10)
    expect(life.phases(30)).toEqual({ queueMs: 20, startMs: 0, runMs: 0 })
  })
})
