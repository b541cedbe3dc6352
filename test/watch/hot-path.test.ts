import { expect, test } from 'bun:test'
import { systemClock } from '../../src/clock.ts'
import { CallOutput } from '../../src/exec/output.ts'
import { Metrics } from '../../src/watch/metrics.ts'

/** Printed, not asserted: a shared machine has no steady nanosecond. */
function measure(name: string, times: number, run: (at: number) => void): void {
  for (let at = 0; at < times / 10; at += 1) run(at)
  const startMs = performance.now()
  for (let at = 0; at < times; at += 1) run(at)
  const ns = ((performance.now() - startMs) * 1e6) / times
  console.log(`${name}: ${ns.toFixed(0)} ns`)
}

test('what watching costs a call', () => {
  const metrics = new Metrics({ clock: systemClock, version: '0', commit: '0' })
  const fn = metrics.fn({ appId: 'a', appName: 'a', fnId: 'f', fnName: 'f' })
  const route = metrics.route('POST', '/invoke/:fn_id')
  const output = new CallOutput({
    limits: { callLogBytesMax: 1 << 20, logBytesMax: 16 << 20 },
    clock: systemClock,
  })
  const callIds = Array.from({ length: 1000 }, (_, at) => `01TEST${String(at).padStart(20, '0')}`)
  measure('FnMetrics queued + start + done', 300_000, at => {
    fn.queued()
    fn.start()
    fn.done((at % 100) / 50, 0, at % 1000, 'completed')
  })
  measure('RouteMetrics request + response', 300_000, at => {
    route.request()
    route.response(200, at % 1000)
  })
  measure('CallOutput begin + end', 300_000, at => {
    const callId = callIds[at % 1000] ?? ''
    output.begin('i1', 'f', callId)
    output.end('i1', callId)
  })
  const line = new TextEncoder().encode(`\x1e${callIds[0]}\x1f${'a line of output '.repeat(5)}\n`)
  output.begin('i1', 'f', callIds[0] ?? '')
  measure('CallOutput output of one kept line', 10_000, at => {
    if (at % 50 === 0) output.begin(`i${at}`, 'f', callIds[at % 1000] ?? '')
    void output.output(`i${at - (at % 50)}`, 'stdout', line)
  })
  for (const [name, text] of [
    ['newlines', '\n'],
    ['lines of 80', `${'x'.repeat(79)}\n`],
    ['prefixed lines', `\x1e${callIds[0]}\x1fx\n`],
  ] as const) {
    const chunk = new TextEncoder().encode(text.repeat(65_536 / text.length))
    void output.output('i1', 'stdout', new Uint8Array(2 << 20))
    measure(`64 KiB of ${name}, past the limit`, 50, () => {
      void output.output('i1', 'stdout', chunk)
    })
  }
  expect(fn.calls).toBe(330_000)
})

test('a scrape of 250 functions', async () => {
  const metrics = new Metrics({ clock: systemClock, version: '0', commit: '0' })
  for (let at = 0; at < 250; at += 1) {
    const fn = metrics.fn({ appId: 'a', appName: 'app', fnId: `f${at}`, fnName: `fn${at}` })
    fn.queued()
    fn.start()
    fn.done(1, 1, 1, 'completed')
  }
  const startMs = performance.now()
  const text = await metrics.scrape()
  console.log(`scrape: ${(performance.now() - startMs).toFixed(1)} ms, ${text.length} bytes`)
  expect(text.length).toBeLessThan(3e6)
})
