import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { systemClock } from '../../src/clock.ts'
import { CallOutput } from '../../src/exec/output.ts'
import { Metrics } from '../../src/watch/metrics.ts'
import { Buckets } from '../../src/watch/series.ts'
import type { PoolStats } from '../../src/watch/sources.ts'
import { parseMetrics } from './exposition.ts'
import { seed } from './seed.ts'

function labelsOf(number: number) {
  return {
    appId: `app-id-${number}`,
    appName: 'shop',
    fnId: `fn-id-${number}`,
    fnName: `fn"${number}\\`,
  }
}

function makeMetrics(fnsMax = 250): Metrics {
  return new Metrics({ clock: systemClock, version: '1.2.3', commit: 'abc', fnsMax })
}

test('calls are counted under the names of Fn', async () => {
  const metrics = makeMetrics()
  const fn = metrics.fn(labelsOf(1))
  expect(metrics.fn(labelsOf(1))).toBe(fn)
  const ends = ['completed', 'completed', 'completed', 'timeout', 'error', 'canceled'] as const
  for (const end of ends) {
    fn.queued()
    fn.start()
    fn.done(0.2, end === 'error' ? 25 : 0, 3, end)
  }
  for (const end of ['busy', 'canceled', 'error'] as const) {
    fn.queued()
    fn.leave(100, end)
  }
  fn.queued()
  fn.queued()
  fn.start()
  const parsed = parseMetrics(await metrics.scrape())
  const ids = { app_id: 'app-id-1', fn_id: 'fn-id-1' }
  const values = [
    ['fn_calls', 11],
    ['fn_queued', 1],
    ['fn_running', 1],
    ['fn_completed', 3],
    ['fn_timeouts', 1],
    ['fn_errors', 2],
    ['fn_canceled', 2],
    ['fn_server_busy', 1],
  ] as const
  for (const [name, value] of values) expect([name, parsed.value(name, ids)]).toEqual([name, value])
  const names = { app: 'shop', fn: 'fn"1\\' }
  expect(parsed.value('fnd_call_wait_seconds_count', names)).toBe(9)
  expect(parsed.value('fnd_call_run_seconds_count', names)).toBe(6)
  expect(parsed.value('fnd_call_start_seconds_count', names)).toBe(1)
  expect(parsed.value('fnd_call_start_seconds_sum', names)).toBeCloseTo(0.025)
  expect(parsed.value('fnd_call_run_seconds_bucket', { ...names, le: '0.0025' })).toBe(0)
  expect(parsed.value('fnd_call_run_seconds_bucket', { ...names, le: '0.005' })).toBe(6)
  expect(parsed.value('fnd_build_info', { version: '1.2.3', commit: 'abc' })).toBe(1)
})

test('every histogram is cumulative and agrees with its count', async () => {
  const metrics = makeMetrics()
  for (let at = 0; at < 3; at += 1) {
    const fn = metrics.fn(labelsOf(at))
    for (let call = 0; call < 100; call += 1) {
      fn.queued()
      fn.start()
      fn.done(call ** 2, call % 3, call ** 3, 'completed')
    }
  }
  const route = metrics.route('POST', '/invoke/:fn_id')
  for (let call = 0; call < 50; call += 1) {
    route.request()
    route.response(call % 2 === 0 ? 200 : 502, call * 10)
  }
  const parsed = parseMetrics(await metrics.scrape())
  // Of each function, of each status of the route, and of the Raft group.
  expect(parsed.histograms().length).toBe(3 * 3 + 2 + 3)
  for (const { bounds, counts, count } of parsed.histograms()) {
    expect(bounds.at(-1)).toBe(Number.POSITIVE_INFINITY)
    expect(bounds).toEqual([...bounds].sort((a, b) => a - b))
    expect(counts).toEqual([...counts].sort((a, b) => a - b))
    expect(counts.at(-1)).toBe(count)
  }
})

test('buckets count as a naive histogram does', () => {
  const value = fc.oneof(fc.constantFrom(1, 10, 100), fc.double({ min: 0, max: 200, noNaN: true }))
  fc.assert(
    fc.property(fc.array(value), observed => {
      const buckets = new Buckets([1, 10, 100])
      for (const one of observed) buckets.observe(one)
      const samples = [...buckets.samples('h', {})].map(sample => sample.value)
      const naive = [1, 10, 100, Number.POSITIVE_INFINITY].map(
        bound => observed.filter(one => one <= bound).length,
      )
      expect(samples.slice(0, 4)).toEqual(naive)
      expect(samples[4]).toBeCloseTo(observed.reduce((sum, one) => sum + one, 0))
      expect(samples[5]).toBe(observed.length)
    }),
    { seed },
  )
})

test('functions above the limit share one series, deleted ones have none', async () => {
  const metrics = makeMetrics(3)
  for (let at = 0; at < 10; at += 1) metrics.fn(labelsOf(at)).queued()
  metrics.forgetFn('fn-id-0')
  metrics.fn(labelsOf(20)).queued()
  const series = parseMetrics(await metrics.scrape()).samples.filter(s => s.name === 'fn_calls')
  expect(series.map(sample => [sample.labels.fn_id, sample.value])).toEqual([
    ['fn-id-1', 1],
    ['fn-id-2', 1],
    ['fn-id-20', 1],
    ['other', 7],
  ])
})

test('requests are counted per route, bounded', async () => {
  const metrics = makeMetrics()
  const route = metrics.route('GET', '/v2/apps')
  for (const status of [200, 200, 404, 500]) {
    route.request()
    route.response(status, 5)
  }
  metrics.route('BREW', '/v2/apps').request()
  for (let at = 0; at < 2000; at += 1) metrics.route('GET', `/made-up/${at}`).request()
  const parsed = parseMetrics(await metrics.scrape())
  const labels = { method: 'GET', path: '/v2/apps' }
  const answers = (status: string, blame: string) =>
    parsed.value('fn_api_response_count', { ...labels, status, blame })
  expect(parsed.value('fn_api_request_count', labels)).toBe(4)
  expect(answers('200', '')).toBe(2)
  expect(answers('404', 'user')).toBe(1)
  expect(answers('500', 'service')).toBe(1)
  const ok = { ...labels, status: '200', blame: '', le: '10' }
  expect(parsed.value('fn_api_latency_bucket', ok)).toBe(2)
  expect(parsed.value('fn_api_request_count', { method: 'other', path: '/v2/apps' })).toBe(1)
  expect(parsed.samples.filter(s => s.name === 'fn_api_request_count').length).toBeLessThan(510)
})

test('the parts of the node are read when they are there', async () => {
  const metrics = makeMetrics()
  const pool: PoolStats = {
    memoryUsedBytes: 300,
    memoryBytesMax: 1000,
    waiting: 4,
    spareWorkers: 2,
    startsTotal: 9,
    startFailuresTotal: 1,
    evictionsTotal: 5,
    instances: { wait: 0, start: 1, idle: 2, paused: 4, busy: 3 },
    fns: [
      { appId: 'a', fnId: 'f', image: 'bundle:x', wait: 0, start: 1, idle: 2, paused: 4, busy: 3 },
    ],
  }
  const output = new CallOutput({
    limits: { callLogBytesMax: 1000, logBytesMax: 10_000 },
    clock: systemClock,
  })
  metrics.watch({
    pool: () => pool,
    raft: () => ({
      ...{ term: 1, commitIndex: 8, appliedIndex: 7, lastIndex: 9, logEntries: 8 },
      ...{ isLeader: true, hasLeader: true, isVoter: true },
    }),
    logs: () => output.stats,
    dataFreeBytes: () => 12_345,
  })
  const parsed = parseMetrics(await metrics.scrape())
  const container = { app_id: 'a', fn_id: 'f', image_name: 'bundle:x' }
  expect(parsed.value('fn_util_mem_used', {})).toBe(300)
  expect(parsed.value('fn_util_mem_avail', {})).toBe(700)
  expect(parsed.value('fnd_queue_waiting', {})).toBe(4)
  expect(parsed.value('fnd_pool_instances', { state: 'busy' })).toBe(3)
  expect(parsed.value('fn_container_busy_total', container)).toBe(3)
  expect(parsed.value('fn_container_paused_total', container)).toBe(4)
  expect(parsed.value('fn_container_evictions', { container_state: 'idle' })).toBe(5)
  expect(parsed.value('fnd_raft_applied_index', {})).toBe(7)
  expect(parsed.value('fnd_raft_log_entries', {})).toBe(8)
  expect(parsed.value('fnd_log_held_bytes', {})).toBe(0)
  expect(parsed.value('fnd_data_free_bytes', {})).toBe(12_345)
  expect(parsed.value('process_resident_memory_bytes', {})).toBeGreaterThan(1e6)
  expect(parsed.value('process_cpu_seconds_total', {})).toBeGreaterThan(0)
  expect(parsed.value('process_open_fds', {})).toBeGreaterThan(2)
  expect(parsed.value('fnd_event_loop_lag_seconds', {})).toBeGreaterThanOrEqual(0)
})

test('scrapes at the same time share one reading', async () => {
  let reads = 0
  const metrics = makeMetrics()
  metrics.watch({
    dataFreeBytes: () => {
      reads += 1
      return 1
    },
  })
  const [one, two] = await Promise.all([metrics.scrape(), metrics.scrape()])
  expect(one).toBe(two)
  expect(reads).toBe(1)
})
