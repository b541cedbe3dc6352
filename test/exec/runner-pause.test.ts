/** Pauses carried out on real processes: SIGSTOP and SIGCONT are what a container's freezer is. */
import { afterAll, describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import { systemClock } from '../../src/clock.ts'
import { FndError } from '../../src/errors.ts'
import type { Driver, FnSpec, Instance } from '../../src/exec/driver.ts'
import { Runner } from '../../src/exec/runner.ts'
import type { Reply } from '../../src/http/client.ts'
import { IdSource } from '../../src/ids.ts'
import { eventually, specOf } from '../contract/driver.ts'
import { Place } from './process-driver.ts'

const place = new Place()
afterAll(() => place.remove())
const image = place.bundle('hello', 'main.js', {
  'main.js': "export default { fetch: () => new Response('hello') }",
})

/** What the next pause or resume waits for, and whether it succeeds. */
interface Freezer {
  until: Promise<void>
  fails: 'pause' | 'resume' | undefined
}

type CallResult =
  | { readonly ok: true; readonly reply: Reply }
  | { readonly ok: false; readonly error: FndError }

/** The process driver, whose instances can be paused. */
class FreezingDriver implements Driver {
  readonly name = 'freezing'
  readonly #driver: Driver
  readonly #freezer: Freezer

  constructor(driver: Driver, freezer: Freezer) {
    this.#driver = driver
    this.#freezer = freezer
  }

  takes(): boolean {
    return true
  }
  prepare(spec: FnSpec): Promise<void> {
    return this.#driver.prepare(spec)
  }
  async start(spec: FnSpec, id: string, signal: AbortSignal): Promise<Instance> {
    const instance = await this.#driver.start(spec, id, signal)
    const send = async (what: 'pause' | 'resume') => {
      await this.#freezer.until
      if (this.#freezer.fails === what) throw new FndError('internal', { detail: what })
      process.kill(instance.pid, what === 'pause' ? 'SIGSTOP' : 'SIGCONT')
    }
    return { ...instance, pause: () => send('pause'), resume: () => send('resume') }
  }
  isolation(spec?: FnSpec): ReturnType<Driver['isolation']> {
    return this.#driver.isolation(spec)
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.#driver[Symbol.asyncDispose]() as Promise<void>
  }
}

async function open(changes: Partial<FnSpec> = {}) {
  const freezer: Freezer = { until: Promise.resolve(), fails: undefined }
  const output = { output: () => {} }
  const processes = await place.open({ output, env: { FND_SPARE_WORKERS: '0' } })
  const events: string[] = []
  const pids: number[] = []
  const runner = new Runner({
    clock: systemClock,
    ids: new IdSource(systemClock, { machine: 1n, counter: 0 }),
    drivers: [new FreezingDriver(processes, freezer)],
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
      event(event) {
        events.push(event.kind)
        if (event.kind === 'ready') pids.push(event.pid)
      },
    },
  })
  const spec = specOf(image, { pauseAfterMs: 100, ...changes })
  runner.define(spec)
  const call = () =>
    new Promise<CallResult>(resolve => {
      runner.call(spec, {
        headers: '',
        body: null,
        length: undefined,
        caller: new AbortController(),
        answered: (_, reply) => resolve({ ok: true, reply }),
        failed: (_, error) => resolve({ ok: false, error }),
      })
    })
  const isAsleep = () => pids.some(pid => /^\d+ \(.*\) T/s.test(statOf(pid)))
  const close = async () => {
    await runner.drain(1000)
    await processes[Symbol.asyncDispose]()
  }
  const count = (kind: string) => events.filter(each => each === kind).length
  return { freezer, runner, spec, call, isAsleep, count, pids, [Symbol.asyncDispose]: close }
}

/** Empty when the process is gone. */
function statOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause
    return ''
  }
}

describe('a paused process', () => {
  test('takes no processor, and the next call gets it back', async () => {
    await using world = await open()
    expect((await world.call()).ok).toBe(true)
    for (let round = 1; round <= 3; round += 1) {
      await eventually(() => world.count('paused') === round && world.isAsleep(), 'the pause')
      expect(world.runner.stats().fns[0]).toMatchObject({ idle: 0, paused: 1 })
      expect((await world.call()).ok).toBe(true)
      expect(world.isAsleep()).toBe(false)
    }
    expect([world.count('starting'), world.count('resumed')]).toEqual([1, 3])
  })

  test('that cannot be had back is ended, and the call gets another one', async () => {
    await using world = await open()
    await world.call()
    await eventually(() => world.count('paused') === 1, 'the pause')
    world.freezer.fails = 'resume'
    expect((await world.call()).ok).toBe(true)
    expect([world.count('resume-failed'), world.count('ready')]).toEqual([1, 2])
    await eventually(() => statOf(world.pids[0] ?? 0) === '', 'the end of the first')
  })

  test('ends like every other: retired, told to drain, or by itself', async () => {
    await using world = await open({ instancesMin: 1 })
    await eventually(() => world.count('paused') === 1, 'the pause')
    process.kill(world.pids[0] ?? 0, 'SIGKILL')
    await eventually(() => world.count('paused') === 2, 'the pause of the one after it')
    world.runner.retire(world.spec.key)
    await eventually(() => world.count('gone') === 2, 'the end of both')
    world.runner.define(world.spec)
    await eventually(() => world.count('paused') === 3, 'the pause of the third')
    await world.runner.drain(0)
    expect(world.pids.map(statOf)).toEqual(['', '', ''])
  })
})

describe('a pause under way', () => {
  test('is over before the resume that a call asks for', async () => {
    await using world = await open()
    await world.call()
    const { promise, resolve } = Promise.withResolvers<void>()
    world.freezer.until = promise
    await eventually(() => world.runner.stats().fns[0]?.paused === 1, 'the pause to begin')
    const answer = world.call()
    expect(world.isAsleep()).toBe(false)
    resolve()
    expect((await answer).ok).toBe(true)
    expect([world.count('paused'), world.count('resumed')]).toEqual([1, 1])
  })

  test('that fails leaves the instance to the call that came meanwhile', async () => {
    await using world = await open()
    await world.call()
    const { promise, resolve } = Promise.withResolvers<void>()
    world.freezer.until = promise
    world.freezer.fails = 'pause'
    await eventually(() => world.runner.stats().fns[0]?.paused === 1, 'the pause to begin')
    const answer = world.call()
    resolve()
    expect((await answer).ok).toBe(true)
    expect([world.count('pause-failed'), world.count('starting')]).toEqual([1, 1])
    world.freezer.fails = undefined
    await eventually(() => world.count('paused') === 1, 'the next try')
  })

  test('does not outlive its instance', async () => {
    await using world = await open()
    await world.call()
    const { promise, resolve } = Promise.withResolvers<void>()
    world.freezer.until = promise
    await eventually(() => world.runner.stats().fns[0]?.paused === 1, 'the pause to begin')
    world.runner.retire(world.spec.key)
    resolve()
    await eventually(() => world.count('gone') === 1, 'the end')
    expect(world.runner.stats().fns).toEqual([])
  })
})
