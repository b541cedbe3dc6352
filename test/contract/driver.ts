/**
 * What every driver promises (src/exec/driver.ts), with a function that speaks http-stream by
 * itself: `test/exec/fixtures/contract-fn.js`, in whatever form the driver runs.
 */
import { afterEach, describe, expect, test } from 'bun:test'
import { existsSync } from 'node:fs'
import { Agent, request as httpRequest } from 'node:http'
import type { Driver, FnSpec, Instance, OutputSink } from '../../src/exec/driver.ts'

export interface DriverUnderTest {
  readonly name: string
  /** Opens a driver whose instances have `startTimeoutMs` to get ready. */
  open(options: { output: OutputSink; startTimeoutMs: number }): Promise<Driver>
  /** An image that runs `contract-fn.js`. */
  readonly image: string
  /** An image of the driver's kind that does not exist. */
  readonly missingImage: string
  /** Memory in which the function runs, and beyond which it must not get. */
  readonly memoryMb: number
}

/** Collects the start of what instances write, and counts the rest. */
export class Collector implements OutputSink {
  readonly text = new Map<string, string>()
  readonly #decoder = new TextDecoder()
  /** Awaited before each chunk is taken. */
  gate: Promise<void> = Promise.resolve()
  bytes = 0

  async output(instanceId: string, stream: string, chunk: Uint8Array): Promise<void> {
    await this.gate
    this.bytes += chunk.length
    const key = `${instanceId} ${stream}`
    const old = this.text.get(key) ?? ''
    if (old.length < 100_000) this.text.set(key, old + this.#decoder.decode(chunk))
  }

  of(instanceId: string, stream: 'stdout' | 'stderr'): string {
    return this.text.get(`${instanceId} ${stream}`) ?? ''
  }
}

export function specOf(image: string, overrides: Partial<FnSpec> = {}): FnSpec {
  const { env, ...rest } = overrides
  return {
    key: 'key',
    fnId: 'fn-1',
    fnName: 'hello',
    appId: 'app-1',
    appName: 'demo',
    image,
    memoryMb: 128,
    timeoutMs: 30_000,
    idleTimeoutMs: 30_000,
    env: {
      FN_FORMAT: 'http-stream',
      FN_LISTENER: 'unix:/tmp/iofs/lsnr.sock',
      FN_FN_ID: 'fn-1',
      FN_APP_ID: 'app-1',
      FN_FN_NAME: 'hello',
      FN_APP_NAME: 'demo',
      FN_MEMORY: '128',
      FN_TYPE: 'sync',
      ...env,
    },
    concurrency: 1,
    instancesMin: 0,
    instancesMax: 10,
    network: 'host',
    format: 'http-stream',
    dialect: 'fn',
    pull: 'missing',
    pauseAfterMs: Number.POSITIVE_INFINITY,
    syslogUrl: '',
    ...rest,
  }
}

export function call(
  instance: Instance,
  headers: Record<string, string> = {},
  init: RequestInit = {},
): Promise<Response> {
  return fetch('http://localhost/call', {
    unix: instance.socketPath,
    method: 'POST',
    ...init,
    headers: { 'fn-call-id': '01HZXW5RZZ0000000000000000', ...headers },
  } as RequestInit)
}

export async function eventually(
  holds: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> {
  for (let i = 0; i < 2000; i++) {
    if (await holds()) return
    await Bun.sleep(5)
  }
  throw new Error(`never became true: ${what}`)
}

/** A zombie is dead: whether init has reaped an orphan yet is no business of a driver. */
export function isAlive(pid: number): boolean {
  if (!existsSync(`/proc/${pid}`)) return false
  const { stdout } = Bun.spawnSync(['ps', '-o', 'stat=', '-p', String(pid)])
  return !/^(Z.*)?$/.test(stdout.toString().trim())
}

export const noSignal = new AbortController().signal

export async function refusal(start: Promise<unknown>): Promise<{ code: string; text: string }> {
  const outcome = await start.then(
    () => undefined,
    cause => cause,
  )
  if (outcome === undefined) throw new Error('the start was expected to fail')
  return { code: outcome.code, text: outcome.message }
}

export function testDriver(under: DriverUnderTest): void {
  const open: { driver?: Promise<Driver> } = {}
  let output = new Collector()
  let count = 0

  const driverWith = async (startTimeoutMs = 20_000): Promise<Driver> => {
    output = new Collector()
    open.driver = under.open({ output, startTimeoutMs })
    return open.driver
  }
  const spec = (env: Record<string, string> = {}, rest: Partial<FnSpec> = {}) =>
    specOf(under.image, { memoryMb: under.memoryMb, ...rest, env })
  const started = async (env: Record<string, string> = {}, rest: Partial<FnSpec> = {}) => {
    count += 1
    const id = `instance-${count}`
    const driver = await (open.driver ?? driverWith())
    return driver.start(spec(env, rest), id, noSignal)
  }
  afterEach(async () => {
    const driver = await open.driver
    delete open.driver
    await driver?.[Symbol.asyncDispose]()
  })

  describe(`driver contract: ${under.name}`, () => {
    testCalls(started)
    testStarts({ driverWith, started, spec, under })
    testEnds({ started, driver: () => open.driver, output: () => output })
    testOutput(started, () => output)
  })
}

type Started = (env?: Record<string, string>, rest?: Partial<FnSpec>) => Promise<Instance>

function testCalls(started: Started): void {
  test('an instance answers, with the body it was sent', async () => {
    const instance = await started()
    const response = await call(instance, {}, { body: 'hello' })
    expect(response.status).toBe(200)
    expect(await response.text()).toBe('hello')
  })

  test('the environment is that of the spec, and FN_LISTENER the one that works', async () => {
    const instance = await started({ COLOUR: 'grün', EMPTY: '', MULTI: 'a\nb=c' })
    const answer = await call(instance, { 'x-do': 'env' })
    const env = (await answer.json()) as Record<string, string>
    expect(env).toMatchObject({
      COLOUR: 'grün',
      EMPTY: '',
      MULTI: 'a\nb=c',
      FN_FN_ID: 'fn-1',
      FN_FORMAT: 'http-stream',
    })
    expect(env.FN_LISTENER).toMatch(/^unix:\/.*\/lsnr\.sock$/)
    const ours = Object.keys(env).filter(name => /^(FND_|BUN_|npm_|SSH_|HOSTNAME)/.test(name))
    expect(ours).toEqual([])
  })

  test('headers arrive as they were sent', async () => {
    const instance = await started()
    const response = await call(instance, { 'x-do': 'headers', 'fn-deadline': 'soon', 'x-a': 'b' })
    expect(await response.json()).toMatchObject({ 'fn-deadline': 'soon', 'x-a': 'b' })
  })

  test('a failed call leaves the instance usable', async () => {
    const instance = await started()
    expect((await call(instance, { 'x-do': 'fail' })).status).toBe(502)
    expect((await call(instance)).status).toBe(200)
  })

  test('a request body streams: its start is there before its end is sent', async () => {
    const instance = await started()
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>()
    const writer = writable.getWriter()
    const answer = call(instance, { 'x-do': 'first-chunk' }, { body: readable as never })
    await writer.write(Buffer.from('one'))
    const reader = (await answer).body?.getReader()
    expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('got one\n')
    await writer.close()
    expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('end\n')
  })

  test('a response body streams: each piece arrives before the next is made', async () => {
    const instance = await started()
    const reader = (await call(instance, { 'x-do': 'drip' })).body?.getReader()
    const seen: string[] = []
    for (;;) {
      const next = await reader?.read()
      if (next === undefined || next.done) break
      seen.push(Buffer.from(next.value).toString())
      await call(instance, { 'x-do': 'let-drip' })
    }
    expect(seen).toEqual(['piece 0\n', 'piece 1\n', 'piece 2\n', 'end\n'])
  })

  test('connections are kept alive', async () => {
    const instance = await started()
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const once = () =>
      new Promise<string>((resolve, reject) => {
        const options = {
          socketPath: instance.socketPath,
          path: '/call',
          method: 'POST',
          agent,
          headers: { 'x-do': 'connections' },
        }
        const req = httpRequest(options, res => {
          let text = ''
          res.on('data', chunk => {
            text += chunk
          })
          res.on('end', () => resolve(text))
        })
        req.on('error', reject).end()
      })
    const [first, second, third] = [await once(), await once(), await once()]
    expect([second, third]).toEqual([first, first])
    agent.destroy()
  })

  test('an instance takes many calls at a time', async () => {
    const instance = await started()
    const answers = Array.from({ length: 20 }, (_, i) => call(instance, {}, { body: `call ${i}` }))
    const texts = await Promise.all(answers.map(async answer => (await answer).text()))
    expect(texts).toEqual(Array.from({ length: 20 }, (_, i) => `call ${i}`))
  })

  test('instances of one spec are separate', async () => {
    const [a, b] = await Promise.all([started(), started()])
    expect(a.socketPath).not.toBe(b.socketPath)
    expect(a.pid).not.toBe(b.pid)
    await a.stop(0)
    expect((await call(b)).status).toBe(200)
  })

  test('a large body passes whole, both ways', async () => {
    const instance = await started()
    const body = Buffer.alloc(20 << 20, 'abcdefg')
    const back = Buffer.from(await (await call(instance, {}, { body })).arrayBuffer())
    expect(back.equals(body)).toBe(true)
  })
}

interface StartTests {
  readonly driverWith: (startTimeoutMs?: number) => Promise<Driver>
  readonly started: Started
  readonly spec: (env?: Record<string, string>, rest?: Partial<FnSpec>) => FnSpec
  readonly under: DriverUnderTest
}

function testStarts({ driverWith, started, spec, under }: StartTests): void {
  test('takes its own images, and no others', async () => {
    const driver = await driverWith()
    expect(driver.takes(under.image)).toBe(true)
    expect(driver.takes('no-such-scheme://thing')).toBe(false)
  })

  test('an image that does not exist is refused by prepare', async () => {
    const driver = await driverWith()
    await driver.prepare(spec())
    const { code } = await refusal(driver.prepare(specOf(under.missingImage)))
    expect(code).not.toBe('internal')
  })

  test('a function that is not ready in time: init-timeout', async () => {
    await driverWith(500)
    const { code } = await refusal(started({ MODE: 'never' }))
    expect(code).toBe('init-timeout')
  })

  test('a function that exits before it is ready: init-failed, with its last words', async () => {
    const { code, text } = await refusal(started({ MODE: 'exit' }))
    expect(code).toBe('init-failed')
    expect(text).toContain('cannot start today')
    expect(text).toContain('exit code 3')
  })

  for (const mode of ['link-absolute', 'link-up', 'link-slash', 'link-file', 'link-chain']) {
    test(`a socket shown in a way that is not allowed: init-failed (${mode})`, async () => {
      const { code } = await refusal(started({ MODE: mode }))
      expect(code).toBe('init-failed')
    })
  }

  test('a link that points to nothing: init-failed', async () => {
    const { code } = await refusal(started({ MODE: 'link-nothing' }))
    expect(code).toBe('init-failed')
  })

  test('a start can be cancelled', async () => {
    const driver = await driverWith()
    const cancel = new AbortController()
    const starting = driver.start(spec({ MODE: 'never' }), 'cancelled', cancel.signal)
    setTimeout(() => cancel.abort(), 50)
    expect((await refusal(starting)).code).toBe('init-failed')
  })

  test('the socket stays the one that was checked, whatever the link says later', async () => {
    const instance = await started()
    expect(await (await call(instance, { 'x-do': 'relink' })).text()).toBe('relinked')
    expect((await call(instance)).status).toBe(200)
  })

  test('isolation names its measures', async () => {
    const driver = await driverWith()
    const { measures } = driver.isolation(spec())
    expect(measures.length).toBeGreaterThan(3)
    for (const measure of measures) expect(measure.note).not.toBe('')
  })
}

interface EndTests {
  readonly started: Started
  readonly driver: () => Promise<Driver> | undefined
  readonly output: () => Collector
}

function testEnds({ started, driver, output }: EndTests): void {
  test('stop ends the process, and exited settles', async () => {
    const instance = await started()
    await instance.stop(0)
    await instance.exited
    expect(isAlive(instance.pid)).toBe(false)
    await expect(call(instance)).rejects.toThrow()
  })

  test('stop may be asked for twice, and after the end', async () => {
    const instance = await started()
    await Promise.all([instance.stop(0), instance.stop(0)])
    await instance.stop(1000)
    expect(isAlive(instance.pid)).toBe(false)
  })

  test('a function gets SIGTERM and time to end by itself', async () => {
    const instance = await started({ MODE: 'polite' })
    await instance.stop(10_000)
    expect(await instance.exited).toMatchObject({ code: 5, signal: null })
    expect(output().of(instance.id, 'stdout')).toContain('goodbye')
  })

  test('a function that ignores SIGTERM is killed after its time', async () => {
    const instance = await started({ MODE: 'stubborn' })
    await instance.stop(50)
    expect(await instance.exited).toMatchObject({ signal: 'SIGKILL', outOfMemory: false })
    expect(isAlive(instance.pid)).toBe(false)
  })

  test('what a function left running ends with it', async () => {
    const instance = await started()
    const before = sleepers()
    await call(instance, { 'x-do': 'children' })
    await eventually(() => sleepers().length > before.length, 'the child runs')
    const mine = sleepers().filter(pid => !before.includes(pid))
    await instance.stop(0)
    expect(mine.filter(isAlive)).toEqual([])
  })

  test('a crash in a call: the connection breaks, and the exit code is told', async () => {
    const instance = await started()
    await expect(call(instance, { 'x-do': 'crash' })).rejects.toThrow()
    expect(await instance.exited).toMatchObject({ code: 7, outOfMemory: false })
  })

  test('a crash in half an answer', async () => {
    const instance = await started()
    const response = await call(instance, { 'x-do': 'half' }).catch(cause => cause)
    if (response instanceof Response) await expect(response.text()).rejects.toThrow()
    expect((await instance.exited).code).toBe(8)
  })

  test('memory beyond the limit ends the instance, and is told apart from a crash', async () => {
    const instance = await started()
    await expect(call(instance, { 'x-do': 'allocate' })).rejects.toThrow()
    expect(await instance.exited).toMatchObject({ outOfMemory: true })
  })

  test('memory in use is known while it runs', async () => {
    const instance = await started()
    expect(instance.memoryBytes()).toBeGreaterThan(0)
    await instance.stop(0)
    expect(instance.memoryBytes()).toBeUndefined()
  })

  test('CPU time, where it is told, grows with work and ends with the instance', async () => {
    const instance = await started()
    const { cpuMs = () => undefined } = instance
    const before = cpuMs()
    const hasGrown = () => before === undefined || (cpuMs() ?? 0) > before
    while (!hasGrown()) await (await call(instance)).text()
    await instance.stop(0)
    expect(cpuMs()).toBeUndefined()
  })

  test('closing the driver leaves no instance', async () => {
    const instances = await Promise.all([started(), started({ MODE: 'stubborn' })])
    await (await driver())?.[Symbol.asyncDispose]()
    expect(instances.map(instance => isAlive(instance.pid))).toEqual([false, false])
    for (const instance of instances) await instance.exited
  })
}

/** Processes that `children` starts. */
function sleepers(): number[] {
  const { stdout } = Bun.spawnSync(['ps', '-eo', 'pid,args'])
  const lines = stdout.toString().split('\n')
  return lines
    .filter(line => line.includes('/bin/sleep 1000'))
    .map(line => Number.parseInt(line, 10))
}

function testOutput(started: Started, output: () => Collector): void {
  test('both output streams arrive, with the id of the instance', async () => {
    const instance = await started()
    await call(instance, { 'x-do': 'log' })
    await eventually(() => output().of(instance.id, 'stderr') !== '', 'stderr arrives')
    await eventually(() => output().of(instance.id, 'stdout') !== '', 'stdout arrives')
    expect(output().of(instance.id, 'stdout')).toContain('to stdout\n')
    expect(output().of(instance.id, 'stderr')).toContain('to stderr\n')
  })

  test('a receiver that takes its time holds the function back, and gets everything', async () => {
    const instance = await started()
    const { promise, resolve } = Promise.withResolvers<void>()
    output().gate = promise
    let isDone = false
    const done = call(instance, { 'x-do': 'log-much', 'x-lines': '8192' }).then(response => {
      isDone = true
      return response.text()
    })
    await Bun.sleep(200)
    expect(isDone).toBe(false)
    expect(output().bytes).toBe(0)
    resolve()
    expect(await done).toBe('8192')
    await eventually(() => output().bytes === 8192 * 1024, 'all output arrives')
  })

  test('output written just before the end arrives before exited settles', async () => {
    const instance = await started({ MODE: 'polite' })
    await instance.stop(10_000)
    expect(output().of(instance.id, 'stdout')).toContain('goodbye\n')
  })
}
