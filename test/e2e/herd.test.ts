/** Many calls at once, and what becomes of instances: scaling, retiring, evicting. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { availableParallelism } from 'node:os'
import { Fnd, isAlive, until } from './fnd.ts'

let fnd: Fnd
beforeAll(async () => {
  fnd = await Fnd.start()
})
afterAll(() => fnd[Symbol.asyncDispose]())

const hello = (text: string) => ({
  source: `export default { fetch() { return new Response('${text}') } }`,
})

/** Answers after \`ms\`, and tells how many calls ran at once in its instance at most. */
const sleeper = (ms: number) => ({
  source: `
    let running = 0
    let most = 0
    const name = crypto.randomUUID()
    export default { async fetch() {
      running += 1
      most = Math.max(most, running)
      await Bun.sleep(${ms})
      running -= 1
      return Response.json({ name, most })
    } }`,
})

interface Slept {
  readonly name: string
  readonly most: number
}

async function callMany<T>(url: string, count: number, read: (r: Response) => Promise<T>) {
  const answers = await Promise.all(
    Array.from({ length: count }, async () => {
      const response = await fetch(url)
      const body = await read(response)
      return { status: response.status, body }
    }),
  )
  return answers
}

const slept = (response: Response) => response.json() as Promise<Slept>

describe('a herd', () => {
  test('of 1,000 first calls starts no more instances than it needs', async () => {
    const fn = await fnd.deploy('hello', hello('hi'))
    const before = await fnd.metric('fnd_pool_starts_total')
    const answers = await callMany(fn.url, 1000, response => response.text())
    expect(answers.filter(({ status, body }) => status === 200 && body === 'hi')).toHaveLength(1000)
    const started = (await fnd.metric('fnd_pool_starts_total')) - before
    console.log(`1,000 first calls started ${started} instances`)
    expect(started).toBeGreaterThan(0)
    expect(started).toBeLessThanOrEqual(2 * availableParallelism())
  })

  test('of calls that wait gets more instances, none of them over its concurrency', async () => {
    const fn = await fnd.deploy('sleeper', sleeper(300), { settings: { concurrency: 5 } })
    const answers = await callMany(fn.url, 100, slept)
    expect(answers.every(({ status }) => status === 200)).toBe(true)
    expect(Math.max(...answers.map(({ body }) => body.most))).toBeLessThanOrEqual(5)
    expect(new Set(answers.map(({ body }) => body.name)).size).toBeGreaterThan(1)
  })

  test('of an instance that takes one call never meets in it', async () => {
    const fn = await fnd.deploy('single', sleeper(20))
    const answers = await callMany(fn.url, 60, slept)
    expect(answers.every(({ status, body }) => status === 200 && body.most === 1)).toBe(true)
  })

  test('of a function with one instance at most waits for it', async () => {
    const fn = await fnd.deploy('one', sleeper(20), { settings: { 'max-instances': 1 } })
    let most = 0
    const watch = setInterval(async () => {
      const { instances, starting } = await fnd.describe(fn.id)
      most = Math.max(most, instances.length + starting)
    }, 20)
    const answers = await callMany(fn.url, 40, slept)
    clearInterval(watch)
    expect(new Set(answers.map(({ body }) => body.name)).size).toBe(1)
    expect(most).toBe(1)
  })
})

describe('instances', () => {
  test('at least two run before any call, and again when one is killed', async () => {
    const fn = await fnd.deploy('two', hello('two'), { settings: { 'min-instances': 2 } })
    const pids = async () => (await fnd.describe(fn.id)).instances.map(({ pid }) => pid)
    await until(async () => (await pids()).length === 2, 'two run')
    const [victim = 0, other = 0] = await pids()
    process.kill(victim, 'SIGKILL')
    await until(async () => {
      const now = await pids()
      return now.length === 2 && !now.includes(victim)
    }, 'the killed one is replaced')
    expect(await pids()).toContain(other)
    const last = await pids()
    await fnd.api('DELETE', `/v2/fns/${fn.id}`)
    await until(() => last.every(pid => !isAlive(pid)), 'the processes end with their function')
  })

  test('stop when they are idle for too long', async () => {
    const fn = await fnd.deploy('idle', hello('idle'), { idle_timeout: 1 })
    await (await fetch(fn.url)).text()
    const [instance] = (await fnd.describe(fn.id)).instances
    expect(instance).toBeDefined()
    await until(() => !isAlive(instance?.pid ?? 0), 'it ends')
    await until(async () => (await fnd.describe(fn.id)).instances.length === 0, 'it is forgotten')
    expect(await (await fetch(fn.url)).text()).toBe('idle')
  })

  test('of others make room, the longest idle first, and busy ones never', async () => {
    await using small = await Fnd.start({
      FND_MAX_TOTAL_MEMORY_BYTES: String(400 * 1024 * 1024),
    })
    const code = sleeper(0)
    const first = await small.deploy('first', code)
    const second = await small.deploy('second', code)
    const third = await small.deploy('third', code)
    const fourth = await small.deploy('fourth', sleeper(600))
    for (const fn of [first, second, third]) await (await fetch(fn.url)).text()
    expect(await (await fetch(fourth.url)).json()).toMatchObject({ most: 1 })
    expect((await small.describe(first.id)).instances).toHaveLength(0)
    expect((await small.describe(second.id)).instances).toHaveLength(1)
    expect((await small.describe(third.id)).instances).toHaveLength(1)
    expect(await small.metric('fn_container_evictions')).toBe(1)
    const busy = fetch(fourth.url)
    await until(async () => (await small.describe(fourth.id)).busy === 1, 'it is busy')
    await (await fetch(first.url)).text()
    expect((await busy).status).toBe(200)
    expect((await small.describe(second.id)).instances).toHaveLength(0)
  })
})

describe('a change under load', () => {
  /** Calls without a break from \`count\` callers; every answer, in order. */
  function hammer(url: string, count: number) {
    const answers: { status: number; text: string }[] = []
    let isOn = true
    const callers = Array.from({ length: count }, async () => {
      while (isOn) {
        const response = await fetch(url)
        answers.push({ status: response.status, text: await response.text() })
      }
    })
    const stop = async () => {
      isOn = false
      await Promise.all(callers)
      return answers
    }
    return { answers, stop }
  }

  const update = async (id: string, code: Parameters<Fnd['upload']>[0]) =>
    fnd.api('PUT', `/v2/fns/${id}`, { image: await fnd.upload(code) })

  test('of the code fails no call, and the new code is served from then on', async () => {
    const fn = await fnd.deploy('changing', hello('v1'), { settings: { concurrency: 10 } })
    const load = hammer(fn.url, 50)
    await until(() => load.answers.length > 200, 'calls run')
    const old = (await fnd.describe(fn.id)).instances.map(({ pid }) => pid)
    for (const version of ['v2', 'v3', 'v4']) {
      await update(fn.id, hello(version))
      // Whoever calls after the answer to the change gets the new code.
      expect(await (await fetch(fn.url)).text()).toBe(version)
      const count = load.answers.length
      await until(() => load.answers.length > count + 200, 'calls run')
    }
    const answers = await load.stop()
    expect(answers.filter(({ status }) => status !== 200)).toEqual([])
    expect(answers.at(-1)?.text).toBe('v4')
    await until(() => old.every(pid => !isAlive(pid)), 'the old instances end')
  })

  test('of the configuration fails no call and takes effect', async () => {
    const source = 'export default { fetch() { return new Response(process.env.COLOUR ?? "") } }'
    const fn = await fnd.deploy('coloured', { source }, { config: { COLOUR: 'red' } })
    const load = hammer(fn.url, 10)
    await until(() => load.answers.length > 50, 'calls run')
    await fnd.api('PUT', `/v2/fns/${fn.id}`, { config: { COLOUR: 'blue' } })
    expect(await (await fetch(fn.url)).text()).toBe('blue')
    await fnd.api('PUT', `/v2/apps/${fn.appId}`, { config: { OTHER: '1' } })
    const answers = await load.stop()
    expect(answers.filter(({ status }) => status !== 200)).toEqual([])
  })

  test('that deletes the function lets its calls finish and then says 404', async () => {
    const fn = await fnd.deploy('doomed', sleeper(2000))
    const running = Array.from({ length: 3 }, () => fetch(fn.url))
    await until(async () => {
      const { busy, waiting } = await fnd.describe(fn.id)
      return busy > 0 && busy + waiting === running.length
    }, 'the calls are there')
    const pids = (await fnd.describe(fn.id)).instances.map(({ pid }) => pid)
    await fnd.api('DELETE', `/v2/fns/${fn.id}`)
    expect((await fetch(fn.url)).status).toBe(404)
    expect((await fetch(fn.invokeUrl, { method: 'POST' })).status).toBe(404)
    for (const response of await Promise.all(running)) expect(response.status).toBe(200)
    await until(() => pids.every(pid => !isAlive(pid)), 'its processes end')
  })
})
