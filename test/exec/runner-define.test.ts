/** A change of a function that is taken back while the version before it still runs calls. */
import { afterAll, expect, test } from 'bun:test'
import { systemClock } from '../../src/clock.ts'
import { Runner } from '../../src/exec/runner.ts'
import { IdSource } from '../../src/ids.ts'
import { specOf } from '../contract/driver.ts'
import { Place } from './process-driver.ts'

const place = new Place()
afterAll(() => place.remove())
const image = place.bundle('slow', 'main.js', {
  'main.js': 'export default { fetch: async () => (await Bun.sleep(500), new Response("hi")) }',
})

test('it is in use again, and its instance stays', async () => {
  const processes = await place.open({
    output: { output: () => {} },
    env: { FND_SPARE_WORKERS: '0' },
  })
  let starts = 0
  const runner = new Runner({
    clock: systemClock,
    ids: new IdSource(systemClock, { machine: 1n, counter: 0 }),
    drivers: [processes],
    pool: {
      memoryMbMax: 4096,
      startsMax: 4,
      cpus: 2,
      waitingPerFnMax: 100,
      waitingMax: 100,
      waitMs: 60_000,
    },
    headBytesMax: 65_536,
    bodyBytesMax: 0,
    isSaturated: () => false,
    calls: { queued() {}, placed() {}, refused() {}, released() {} },
    instances: {
      begin() {},
      end() {},
      event({ kind }) {
        if (kind === 'starting') starts += 1
      },
    },
  })
  const spec = specOf(image)
  runner.define(spec)
  const call = () =>
    new Promise<number | string>(resolve => {
      runner.call(spec, {
        headers: '',
        body: null,
        length: undefined,
        caller: new AbortController(),
        answered: (_, { status }) => resolve(status),
        failed: (_, { code }) => resolve(code),
      })
    })
  const first = call()
  runner.retire(spec.key)
  runner.define(spec)
  expect(runner.stats().fns[0]).toMatchObject({ key: spec.key, isRetired: false })
  expect([await first, await call(), await call(), starts]).toEqual([200, 200, 200, 1])
  await runner.drain(1000)
  await processes[Symbol.asyncDispose]()
})
