import { expect, test } from 'bun:test'
import { ActiveCall } from '../../src/exec/active-call.ts'
import type { FnSpec } from '../../src/exec/driver.ts'
import { CallCounter } from '../../src/exec/invocations.ts'
import { FnMetrics } from '../../src/watch/fn-metrics.ts'

const spec = { fnId: 'f', key: 'k1' } as FnSpec

function callOf(own: FnSpec): ActiveCall {
  const keeper = { replied: () => undefined, release: () => undefined }
  const asker = {
    headers: '',
    body: null,
    length: undefined,
    caller: { signal: new AbortController().signal },
    answered: () => undefined,
    failed: () => undefined,
  }
  return new ActiveCall(keeper, 'c', own, asker, 0)
}

test('versions of a function share their counts, which end with the function', () => {
  const made: FnMetrics[] = []
  const counter = new CallCounter(() => {
    const names = { appId: 'a', appName: 'a', fnId: 'f', fnName: 'f' }
    made.push(new FnMetrics(names))
    return made.at(-1) ?? new FnMetrics(names)
  })
  counter.queued(spec)
  counter.queued({ ...spec, key: 'k2' })
  expect(made.map(one => one.calls)).toEqual([2])
  counter.placed(callOf(spec))
  const refused = callOf(spec)
  refused.answeredMs = 40
  counter.refused(refused, 'busy')
  const samples = [...(made[0]?.waitMs.samples('wait', {}) ?? [])]
  expect(samples.find(one => one.metricName === 'wait_sum')?.value).toBe(40)
  counter.forget('f')
  // A call that outlives its function neither brings its series back nor counts below zero.
  counter.refused(callOf(spec), 'busy')
  expect(made.map(({ running, waiting }) => ({ running, waiting }))).toEqual([
    { running: 1, waiting: 0 },
  ])
})
