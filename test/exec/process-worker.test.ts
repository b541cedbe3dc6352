/** The forms of JavaScript function that the worker serves, by the contract of fn-api.md §2.3. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { join } from 'node:path'
import type { Instance } from '../../src/exec/driver.ts'
import type { ProcessDriver } from '../../src/exec/process.ts'
import { Collector, call, eventually, noSignal, refusal, specOf } from '../contract/driver.ts'
import { Place } from './process-driver.ts'

const callId = '01HZXW5RZZ0000000000000000'
const place = new Place()
const output = new Collector()
let driver: ProcessDriver
let count = 0

beforeAll(async () => {
  driver = await place.open({ output })
})
afterAll(async () => {
  await driver[Symbol.asyncDispose]()
  place.remove()
})

function started(source: string, env: Record<string, string> = {}): Promise<Instance> {
  count += 1
  const image = place.bundle(`fn-${count}`, 'fn.js', { 'fn.js': source })
  return driver.start(specOf(image, { env }), `worker-${count}`, noSignal)
}

function trigger(method: string, url: string, headers: Record<string, string> = {}) {
  const renamed = Object.entries(headers).map(([name, value]) => [`Fn-Http-H-${name}`, value])
  return {
    'Fn-Intent': 'httprequest',
    'Fn-Http-Method': method,
    'Fn-Http-Request-Url': url,
    ...Object.fromEntries(renamed),
  }
}

const echoRequest = `export default {
  async fetch(request) {
    const { method, url, headers } = request
    const body = request.body === null ? null : await request.text()
    return Response.json({ method, url, headers: Object.fromEntries(headers), body })
  },
}`

test('fetch: a trigger call is the request that the caller made', async () => {
  const instance = await started(echoRequest)
  const headers = trigger('PUT', 'https://example.com/t/a/b?c=d', { 'X-One': '1', Accept: '*/*' })
  const answer = await call(instance, { ...headers, 'Content-Type': 'text/x' }, { body: 'body' })
  expect(await answer.json()).toEqual({
    method: 'PUT',
    url: 'https://example.com/t/a/b?c=d',
    headers: { accept: '*/*', 'x-one': '1', 'content-type': 'text/x', 'fn-call-id': callId },
    body: 'body',
  })
})

test('fetch: GET and HEAD have no body', async () => {
  const instance = await started(echoRequest)
  for (const method of ['GET', 'HEAD']) {
    const answer = await call(instance, trigger(method, 'http://h/'), { body: 'dropped' })
    expect(await answer.json()).toMatchObject({ method, body: null })
  }
})

test('fetch: a plain invocation is a POST with its headers as they are', async () => {
  const instance = await started(echoRequest)
  const answer = await call(instance, { 'X-Mine': 'a' }, { body: 'plain' })
  const seen = (await answer.json()) as { headers: object }
  expect(seen).toMatchObject({
    method: 'POST',
    url: 'http://localhost/invoke/fn-1',
    body: 'plain',
  })
  expect(seen.headers).toMatchObject({ 'x-mine': 'a', 'fn-call-id': callId })
})

test('fetch: status and headers of the Response go by the contract', async () => {
  const instance = await started(`export default { fetch: () => new Response('made', {
    status: 201, headers: { 'X-Two': '2', 'Content-Type': 'text/made', 'Set-Cookie': 'a=b' } }) }`)
  const answer = await call(instance)
  expect(answer.status).toBe(200)
  expect(await answer.text()).toBe('made')
  const headers = answer.headers
  expect(headers.get('fn-http-status')).toBe('201')
  expect(headers.get('fn-http-h-x-two')).toBe('2')
  expect(headers.get('x-two')).toBeNull()
  expect(headers.get('fn-http-h-set-cookie')).toBe('a=b')
  expect(headers.get('content-type')).toBe('text/made')
  expect(headers.get('fn-fdk-version')).toBe('fnd/0.0.1')
  expect(headers.get('fn-fdk-runtime')).toMatch(/^bun\//)
})

test('fetch: several cookies stay several', async () => {
  const instance = await started(`export default { fetch() {
    const headers = new Headers()
    headers.append('set-cookie', 'a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT')
    headers.append('set-cookie', 'b=2')
    return new Response(null, { status: 204, headers }) } }`)
  const answer = await call(instance)
  expect(answer.headers.get('fn-http-status')).toBe('204')
  const cookies = ['a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT', 'b=2']
  expect(answer.headers.getSetCookie()).toEqual(cookies)
})

test('fetch: redirects and answers of other servers pass', async () => {
  const instance = await started(`
    const headers = { 'x-o': '1' }
    const other = Bun.serve({ port: 0, fetch: () => new Response('other', { headers }) })
    export default { fetch: request => request.headers.has('x-proxy')
      ? fetch(other.url) : Response.redirect('https://example.com/', 302) }`)
  const redirect = await call(instance)
  expect(redirect.headers.get('fn-http-status')).toBe('302')
  expect(redirect.headers.get('fn-http-h-location')).toBe('https://example.com/')
  const proxied = await call(instance, { 'x-proxy': '1' })
  expect(await proxied.text()).toBe('other')
  expect(proxied.headers.get('fn-http-h-x-o')).toBe('1')
})

test('fetch: server-sent events arrive as they are sent', async () => {
  const instance = await started(`
    const waiting = []
    export default { fetch(request) {
      if (request.headers.has('x-next')) { waiting.shift()?.(); return new Response() }
      const stream = new ReadableStream({ async start(controller) {
        for (let i = 0; i < 3; i++) {
          controller.enqueue('data: ' + i + '\\n\\n')
          await new Promise(resolve => waiting.push(resolve))
        }
        controller.close()
      } })
      return new Response(stream, { headers: { 'content-type': 'text/event-stream' } })
    } }`)
  const reader = (await call(instance)).body?.getReader()
  const seen: string[] = []
  for (;;) {
    const next = await reader?.read()
    if (next === undefined || next.done) break
    seen.push(Buffer.from(next.value).toString())
    await call(instance, { 'x-next': '1' })
  }
  expect(seen).toEqual(['data: 0\n\n', 'data: 1\n\n', 'data: 2\n\n'])
})

test('fetch: what throws or is no Response is a 502 with a JSON message', async () => {
  const instance = await started(`export default { fetch(request) {
    const how = request.headers.get('x-how')
    if (how === 'throw') throw new Error('sync fault')
    if (how === 'reject') return Promise.reject(new Error('async fault'))
    return 'no response' } }`)
  for (const [how, text] of [
    ['throw', 'sync fault'],
    ['reject', 'async fault'],
    ['none', 'fetch must return a Response'],
  ] as const) {
    const answer = await call(instance, { 'x-how': how })
    expect(answer.status).toBe(502)
    const { message, detail } = (await answer.json()) as { message: string; detail: string }
    expect(message).toBe('Exception in function, consult logs for details')
    expect(detail).toContain(text)
  }
  await eventually(() => output.of(instance.id, 'stderr').includes('async fault'), 'it is logged')
  expect(output.of(instance.id, 'stderr')).toContain(`\x1e${callId}\x1fError in function:`)
})

test('other methods and paths are a 400', async () => {
  const instance = await started(echoRequest)
  const get = await fetch('http://localhost/call', { unix: instance.socketPath } as RequestInit)
  const path = await fetch('http://localhost/other/call', {
    unix: instance.socketPath,
    method: 'POST',
  } as RequestInit)
  expect([get.status, path.status]).toEqual([400, 400])
})

test('handler: input by content type', async () => {
  const instance = await started(`export default input =>
    ({ kind: input?.constructor?.name ?? typeof input, text: String(input?.a ?? input) })`)
  const kindOf = async (type: string | undefined, body: string) => {
    const headers: Record<string, string> = type === undefined ? {} : { 'content-type': type }
    return (await call(instance, headers, { body: Buffer.from(body) as never })).json()
  }
  expect(await kindOf('application/json', '{"a":1}')).toEqual({ kind: 'Object', text: '1' })
  expect(await kindOf('application/vnd.x+json', '[1]')).toEqual({ kind: 'Array', text: '1' })
  expect(await kindOf('application/json', '{bad')).toEqual({ kind: 'String', text: '{bad' })
  expect(await kindOf('text/plain', '{"a":1}')).toEqual({ kind: 'String', text: '{"a":1}' })
  expect(await kindOf('image/png', 'x')).toEqual({ kind: 'Uint8Array', text: '120' })
  expect(await kindOf(undefined, '{"a":2}')).toEqual({ kind: 'Object', text: '2' })
  expect(await kindOf(undefined, '')).toEqual({ kind: 'undefined', text: 'undefined' })
})

test('handler: answers by type', async () => {
  const instance = await started(`export default (name, ctx) => ({
    object: { a: 1 }, text: 'text', bytes: new Uint8Array([104, 105]), nothing: undefined,
    number: 7, response: new Response('r', { status: 418 }),
    stream: new Blob(['streamed']).stream(),
    pieces: (async function* () { yield 'p1'; yield { p: 2 } })(),
  })[name]`)
  const seen = async (name: string) => {
    const answer = await call(instance, { 'content-type': 'text/plain' }, { body: name })
    const status = answer.headers.get('fn-http-status')
    return [status, answer.headers.get('content-type')?.split(';')[0], await answer.text()]
  }
  expect(await seen('object')).toEqual(['200', 'application/json', '{"a":1}'])
  expect(await seen('text')).toEqual(['200', 'text/plain', 'text'])
  expect(await seen('bytes')).toEqual(['200', 'application/octet-stream', 'hi'])
  expect((await seen('nothing'))[2]).toBe('')
  expect(await seen('number')).toEqual(['200', 'application/json', '7'])
  expect(await seen('response')).toEqual(['418', 'text/plain', 'r'])
  expect(await seen('stream')).toEqual(['200', 'application/octet-stream', 'streamed'])
  expect(await seen('pieces')).toEqual(['200', 'application/octet-stream', 'p1{"p":2}\n'])
})

test('handler: the context', async () => {
  const instance = await started(
    `export default (input, ctx) => {
      ctx.setStatus(202)
      ctx.setHeader('X-Ctx', 'yes')
      ctx.setHeader('Content-Type', 'application/x-json')
      const { callId, fnId, appId, fnName, appName, deadline, config, headers, http } = ctx
      return { callId, fnId, appId, fnName, appName, deadline, colour: config.COLOUR,
        env: process.env.COLOUR, header: headers.get('fn-intent'),
        http: http && { ...http, headers: Object.fromEntries(http.headers) } } }`,
    { COLOUR: 'red' },
  )
  const headers = {
    ...trigger('GET', 'http://h/p', { A: 'b' }),
    'Fn-Deadline': '2026-11-20T10:00:00Z',
  }
  const answer = await call(instance, headers)
  expect(answer.headers.get('fn-http-status')).toBe('202')
  expect(answer.headers.get('fn-http-h-x-ctx')).toBe('yes')
  expect(answer.headers.get('content-type')).toBe('application/x-json')
  expect(await answer.json()).toMatchObject({
    callId,
    fnId: 'fn-1',
    appId: 'app-1',
    fnName: 'hello',
    appName: 'demo',
    deadline: '2026-11-20T10:00:00.000Z',
    colour: 'red',
    env: 'red',
    header: 'httprequest',
    http: { method: 'GET', url: 'http://h/p', headers: { a: 'b' } },
  })
  expect(await (await call(instance)).json()).not.toHaveProperty('http')
})

test('output is attributed to the call that wrote it, across awaits and in parallel', async () => {
  const instance = await started(`console.log('outside')
    export default async name => {
      console.log('start %s', name, { a: 1 })
      await Bun.sleep(20)
      process.stderr.write('half ')
      await Bun.sleep(20)
      process.stderr.write('line ' + name)
      return name }`)
  const ids = ['A', 'B', 'C'].map(letter => letter.repeat(26))
  await Promise.all(
    ids.map(id => call(instance, { 'fn-call-id': id }, { body: JSON.stringify(id[0]) })),
  )
  await eventually(() => output.of(instance.id, 'stderr').split('\n').length === 4, 'all arrives')
  expect(output.of(instance.id, 'stdout')).toContain('outside\n')
  for (const id of ids) {
    expect(output.of(instance.id, 'stdout')).toContain(`\x1e${id}\x1fstart ${id[0]} {`)
    expect(output.of(instance.id, 'stderr')).toContain(`\x1e${id}\x1fhalf line ${id[0]}\n`)
  }
})

test('a late rejection is logged and harmless; an uncaught exception ends it', async () => {
  const instance = await started(`export default how => {
    if (how === 'reject') setTimeout(() => Promise.reject(new Error('late rejection')))
    if (how === 'throw') setTimeout(() => { throw new Error('late fault') })
    return how }`)
  await call(instance, {}, { body: '"reject"' })
  await eventually(() => output.of(instance.id, 'stderr').includes('late rejection'), 'logged')
  await call(instance, {}, { body: '"throw"' })
  expect(await instance.exited).toMatchObject({ code: 1 })
  expect(output.of(instance.id, 'stderr')).toContain('late fault')
})

test('a module that cannot be loaded: init-failed with the reason', async () => {
  expect((await refusal(started(`import './missing.js'`))).text).toContain('missing.js')
  expect((await refusal(started(`throw new Error('bad day')`))).text).toContain('bad day')
  expect((await refusal(started('export default {'))).code).toBe('init-failed')
  expect((await refusal(started('export const x = 1'))).text).toContain('no default export')
})

test('modules of a bundle see each other, and the directory is the working directory', async () => {
  const image = place.bundle('many', 'src/main.js', {
    'src/main.js': `import { who } from '../lib/who.js'
      import { readFileSync } from 'node:fs'
      export default () => who + readFileSync('data.txt', 'utf8') + process.cwd()`,
    'lib/who.js': `export const who = 'lib '`,
    'data.txt': 'data ',
  })
  const instance = await driver.start(specOf(image), 'many', noSignal)
  expect(await (await call(instance)).text()).toBe('lib data /fn')
})

test("a program with the unmodified @fnproject/fdk, bundled as 'fnd deploy' does", async () => {
  const source = join(import.meta.dir, 'fixtures', 'fdk-hello.js')
  const built = await Bun.build({ entrypoints: [source], target: 'bun' })
  const text = (await built.outputs[0]?.text()) ?? ''
  const image = place.bundle('fdk', 'fn.js', { 'fn.js': text })
  const instance = await driver.start(specOf(image), 'fdk', noSignal)
  const answer = await call(instance, {}, { body: '{"name":"Ada"}' })
  expect(answer.status).toBe(200)
  expect(answer.headers.get('fn-fdk-version')).toMatch(/^fdk-node\//)
  expect(await answer.json()).toEqual({ message: 'Hello Ada', app: 'demo', callId })
  const failed = await call(instance, {}, { body: '{"fail":true}' })
  expect(failed.status).toBe(502)
  expect((await call(instance, {}, { body: '{}' })).status).toBe(200)
})

test('an environment larger than a pipe holds arrives whole', async () => {
  const big = 'x'.repeat(100_000)
  const env = Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`BIG_${i}`, big]))
  const instance = await started('export default name => process.env[name].length', env)
  expect(await (await call(instance, {}, { body: '"BIG_4"' })).text()).toBe('100000')
})

test('a program of a bundle is executed itself', async () => {
  const image = place.bundle(
    'program',
    'bin/run',
    {
      'bin/run': '#!/bin/sh\necho started\nexport BUN_BE_BUN=1\nexec /.fnd/fnd ./server.js\n',
      'server.js': await Bun.file(join(import.meta.dir, 'fixtures', 'contract-fn.js')).text(),
    },
    'program',
  )
  const instance = await driver.start(specOf(image, { env: { A: 'b' } }), 'program', noSignal)
  expect(await (await call(instance, {}, { body: 'x' })).text()).toBe('x')
  expect(await (await call(instance, { 'x-do': 'env' })).json()).toMatchObject({ A: 'b' })
  await eventually(() => output.of('program', 'stdout').includes('started\n'), 'plain output')
  await instance.stop(0)
})

test('a program that cannot be executed: init-failed with the reason', async () => {
  const text = async (name: string, source: string) => {
    const image = place.bundle(name, 'run', { run: source }, 'program')
    return (await refusal(driver.start(specOf(image), name, noSignal))).text
  }
  expect(await text('no-format', 'what is this')).toContain('ENOEXEC')
  expect(await text('no-interpreter', '#!/no/such\n')).toContain('ENOENT')
})

test('more memory at its start than it may have: init-failed that says so', async () => {
  const source = 'export const hoard = Buffer.alloc(64 << 20, 1); export default () => 1'
  const image = place.bundle('hoarder', 'fn.js', { 'fn.js': source })
  await eventually(() => driver.spares().count > 0, 'a spare waits')
  // Less than a spare uses before it is claimed, and less than the function asks for.
  for (const memoryMb of [1, 32]) {
    for (const network of ['host', 'none'] as const) {
      const starting = driver.start(specOf(image, { memoryMb, network }), 'hoarder', noSignal)
      const { code, text } = await refusal(starting)
      expect(code).toBe('init-failed')
      expect(text).toContain('out of memory')
    }
  }
})
