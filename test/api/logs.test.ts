import { afterAll, describe, expect, test } from 'bun:test'
import { connect } from 'node:net'
import { Elysia } from 'elysia'
import { logsApi } from '../../src/api/logs.ts'
import { systemClock } from '../../src/clock.ts'
import { FndError } from '../../src/errors.ts'
import { CallOutput } from '../../src/exec/output.ts'

const callId = '01TEST00000000000000000001'
const encoder = new TextEncoder()

const output = new CallOutput({
  limits: { callLogBytesMax: 64 << 20, logBytesMax: 1 << 30 },
  clock: systemClock,
})
const api = new Elysia()
  .onError(({ error, set }) => {
    set.status = error instanceof FndError ? error.status : 500
    return { message: String(error) }
  })
  .use(logsApi({ output, hasFn: fnId => fnId.startsWith('f'), heartbeatMs: 20 }))
  .listen({ port: 0, hostname: '127.0.0.1' })
const port = api.server?.port ?? 0
const url = `http://127.0.0.1:${port}/fnd/v1`

afterAll(() => api.stop(true))

function write(instanceId: string, text: string): void {
  void output.output(instanceId, 'stdout', encoder.encode(text))
}

async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; tries < 1000 && !holds(); tries += 1) await Bun.sleep(5)
  expect(holds()).toBe(true)
}

function parse(text: string): { text: string }[] {
  return text
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line))
}

output.begin('i1', 'f1', callId)
for (let line = 0; line < 200; line += 1) write('i1', `line ${line} é\n`)

describe('what is kept', () => {
  test('of a function: the newest lines, one object a line', async () => {
    const answer = await fetch(`${url}/fns/f1/logs?lines=2`)
    expect(answer.headers.get('content-type')).toBe('application/x-ndjson')
    const lines = parse(await answer.text())
    expect(lines).toEqual([
      {
        call_id: callId,
        fn_id: 'f1',
        time: expect.any(String),
        stream: 'stdout',
        text: 'line 198 é',
      },
      {
        call_id: callId,
        fn_id: 'f1',
        time: expect.any(String),
        stream: 'stdout',
        text: 'line 199 é',
      },
    ] as never)
    expect(parse(await (await fetch(`${url}/fns/f1/logs`)).text()).length).toBe(100)
    expect(await (await fetch(`${url}/fns/f-silent/logs`)).text()).toBe('')
  })

  test('of a call: all lines', async () => {
    expect(parse(await (await fetch(`${url}/calls/${callId}/log`)).text()).length).toBe(200)
  })

  test('unknown ids and bad numbers are refused', async () => {
    const statuses = [
      'fns/none/logs',
      'calls/none/log',
      'fns/f1/logs?lines=x',
      'fns/f1/logs?follow=2',
    ]
    const answers = await Promise.all(statuses.map(path => fetch(`${url}/${path}`)))
    expect(answers.map(answer => answer.status)).toEqual([404, 404, 400, 400])
  })
})

describe('following', () => {
  test('begins with the past, goes on, beats, and ends with the client', async () => {
    const abort = new AbortController()
    const answer = await fetch(`${url}/fns/f1/logs?follow=1&lines=1`, { signal: abort.signal })
    expect(output.stats.followers).toBe(1)
    let text = ''
    const reading = (async () => {
      for await (const chunk of answer.body ?? []) text += new TextDecoder().decode(chunk)
    })()
    const ended = reading.then(
      () => 'ended',
      () => 'aborted',
    )
    await until(() => text.includes('line 199'))
    write('i1', 'something new\n')
    await until(() => text.includes('something new'))
    await until(() => text.includes('\n\n\n'))
    expect(parse(text).map(line => line.text)).toEqual(['line 199 é', 'something new'])
    abort.abort()
    await until(() => output.stats.followers === 0)
    expect(await ended).toBe('aborted')
  })

  test('a client that does not read loses lines, and memory stays bounded', async () => {
    output.begin('i2', 'f2', '01TEST00000000000000000002')
    let received = ''
    const socket = connect(port, '127.0.0.1', () => {
      socket.write('GET /fnd/v1/fns/f2/logs?follow=1 HTTP/1.1\r\nHost: fnd\r\n\r\n')
    })
    socket.pause()
    await until(() => output.stats.followers === 1)
    const line = `${'x'.repeat(999)}\n`
    for (let sent = 0; sent < 300; sent += 1) {
      write('i2', line.repeat(100))
      if (sent % 10 === 0) await Bun.sleep(1)
    }
    write('i2', 'the last line\n')
    socket.on('data', chunk => {
      received += chunk.toString()
    })
    socket.resume()
    await until(() => received.includes('the last line'))
    expect(received).toMatch(/\d+ lines were dropped/)
    socket.destroy()
    await until(() => output.stats.followers === 0)
  })
})

test('HEAD of a followed log is answered, and follows nothing', async () => {
  const before = output.stats.followers
  const answer = await fetch(`${url}/fns/f1/logs?follow=1`, { method: 'HEAD' })
  expect(answer.status).toBe(200)
  expect(answer.headers.get('content-type')).toBe('application/x-ndjson')
  expect(output.stats.followers).toBe(before)
})
