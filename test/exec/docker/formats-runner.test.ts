/** Older formats under the runner: what callers are told, and what becomes of the instances. */
import { afterEach, describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import { systemClock } from '../../../src/clock.ts'
import type { FndError } from '../../../src/errors.ts'
import { type OneShot, openBridge } from '../../../src/exec/docker/bridge.ts'
import type { Driver, FnSpec, Instance } from '../../../src/exec/driver.ts'
import { Runner } from '../../../src/exec/runner.ts'
import type { Reply } from '../../../src/http/client.ts'
import { IdSource } from '../../../src/ids.ts'
import { eventually, specOf } from '../../contract/driver.ts'
import { bridgeDir, exitOf, headOf, limits, spawn, stdioOf, useBridges } from './bridge-harness.ts'

useBridges()
const runners: Runner[] = []
afterEach(async () => {
  for (const runner of runners.splice(0)) await runner.drain(0)
})

/** Runs processes as the Docker driver runs containers. */
class FormatDriver implements Driver {
  readonly name = 'formats'
  started = 0
  /** For `default`: the commands that calls ran. */
  runs = 0
  readonly #command: readonly string[]

  constructor(command: readonly string[]) {
    this.#command = command
  }

  takes(): boolean {
    return true
  }

  async prepare(): Promise<void> {}

  async start(spec: FnSpec, id: string): Promise<Instance> {
    this.started += 1
    const bridgeOf = (talk: Parameters<typeof openBridge>[0]['talk']) =>
      openBridge({ socketPath: join(bridgeDir(), `${this.started}.sock`), spec, limits, talk })
    if (spec.format === 'default') {
      const ended = Promise.withResolvers<{ code: 0; signal: null; outOfMemory: false }>()
      const bridge = bridgeOf({ kind: 'cold', oneShot: this.#oneShot() })
      const stop = async () => {
        await bridge.close()
        ended.resolve({ code: 0, signal: null, outOfMemory: false })
      }
      const { socketPath } = bridge
      return { id, pid: 0, socketPath, exited: ended.promise, stop, memoryBytes: () => undefined }
    }
    const child = spawn(this.#command)
    const bridge = bridgeOf({ kind: 'hot', stdio: stdioOf(child) })
    const stop = async () => {
      await bridge.close()
      child.kill('SIGKILL')
      await child.exited
    }
    void bridge.broken.then(stop)
    const { socketPath } = bridge
    const exited = exitOf(child)
    return { id, pid: child.pid, socketPath, exited, stop, memoryBytes: () => undefined }
  }

  #oneShot(): OneShot {
    return {
      run: async (env, signal) => {
        this.runs += 1
        const child = spawn(this.#command, env)
        signal.addEventListener('abort', () => child.kill('SIGKILL'))
        return { ...stdioOf(child), exited: exitOf(child) }
      },
    }
  }

  isolation() {
    return { level: 'process', measures: [] } as const
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

function open(command: readonly string[], overrides: Partial<FnSpec>) {
  const driver = new FormatDriver(command)
  const runner = new Runner({
    clock: systemClock,
    ids: new IdSource(systemClock, { machine: 1n, counter: 1 }),
    drivers: [driver],
    pool: {
      memoryMbMax: 10_000,
      startsMax: 4,
      cpus: 2,
      waitingPerFnMax: 100,
      waitingMax: 100,
      waitMs: 30_000,
    },
    ...limits,
    isSaturated: () => false,
    calls: {
      queued: () => undefined,
      placed: () => undefined,
      refused: () => undefined,
      released: () => undefined,
    },
    instances: { begin: () => undefined, end: () => undefined, event: () => undefined },
  })
  runners.push(runner)
  const spec = specOf('img', overrides)
  runner.define(spec)
  const call = (text: string, path = '/t/demo/about', signal = new AbortController().signal) =>
    new Promise<CallResult>(resolve => {
      // The runner writes the first lines of a head itself.
      const headers = headOf(path).split('\r\n').slice(4).join('\r\n')
      const body = Buffer.from(text)
      runner.call(spec, {
        headers,
        body,
        length: undefined,
        caller: { signal },
        answered: (_, reply) => resolve({ ok: true, reply }),
        failed: (_, error) => resolve({ ok: false, error }),
      })
    })
  return { driver, runner, call }
}

type CallResult =
  | { readonly ok: true; readonly reply: Reply }
  | { readonly ok: false; readonly error: FndError }

async function textOf(result: CallResult): Promise<string> {
  if (!result.ok) return `${result.error.status} ${result.error.code}: ${result.error.message}`
  return new Response(result.reply.body as Uint8Array<ArrayBuffer>).text()
}

const fixture = (name: string) => ['node', join(import.meta.dir, 'fixtures', `${name}-fn.mjs`)]

describe('hot', () => {
  test('many callers at once get their own answers', async () => {
    const { call, driver } = open(fixture('json'), { format: 'json', instancesMax: 2 })
    const texts = Array.from({ length: 40 }, (_, i) => `call ${i}`)
    const answers = await Promise.all(texts.map(async text => textOf(await call(text))))
    expect(answers).toEqual(texts)
    expect(driver.started).toBeLessThanOrEqual(2)
  })

  test('an invalid answer is told in Fn’s words, and a new instance starts', async () => {
    const { call, driver } = open(fixture('json'), { format: 'json' })
    expect(await textOf(await call('list'))).toBe(
      '502 function-response-invalid: ' +
        'invalid json response from function err: "body" must be a string',
    )
    expect(await textOf(await call('next'))).toBe('next')
    expect(driver.started).toBe(2)
  })

  test('an end in the middle of a call', async () => {
    const { call, driver } = open(fixture('http'), { format: 'http' })
    const died = '502 function-died: error receiving function response'
    expect(await textOf(await call('', '/t/demo/exit'))).toBe(died)
    expect(await textOf(await call('x', '/t/demo/echo'))).toBe('x')
    expect(driver.started).toBe(2)
  })

  test('a timeout ends the instance', async () => {
    const { call, driver } = open(fixture('http'), { format: 'http', timeoutMs: 1000 })
    expect(await textOf(await call('', '/t/demo/hang'))).toBe('504 call-timeout: Timed out')
    expect(await textOf(await call('x', '/t/demo/echo'))).toBe('x')
    expect(driver.started).toBe(2)
  })

  test('output between calls ends the instance before the next call', async () => {
    const { call, driver, runner } = open(fixture('http'), { format: 'http' })
    expect(await textOf(await call('a', '/t/demo/late'))).toBe('a')
    await eventually(() => runner.instancesOf('key').length === 0, 'the instance is gone')
    expect(await textOf(await call('b', '/t/demo/echo'))).toBe('b')
    expect(driver.started).toBe(2)
  })
})

describe('cold', () => {
  test('a container per call, one after the other in one instance', async () => {
    const { call, driver } = open(['busybox', 'sh', '-c', 'cat; [ "$FN_PATH" != /fail ]'], {
      format: 'default',
      instancesMax: 1,
    })
    expect(await textOf(await call('one'))).toBe('one')
    expect(await textOf(await call('two', '/t/demo/fail'))).toBe(
      '502 function-failed: function failed: exit code 1',
    )
    expect(await textOf(await call('three'))).toBe('three')
    expect(driver).toMatchObject({ started: 1, runs: 3 })
  })

  test('a caller that leaves', async () => {
    const { call, driver } = open(['busybox', 'sleep', '1000'], { format: 'default' })
    const caller = new AbortController()
    const result = call('', '/t/demo/x', caller.signal)
    await eventually(() => driver.runs === 1, 'the call runs')
    caller.abort()
    expect(await textOf(await result)).toStartWith('444 client-gone')
  })
})
