/** `default`: a process for each call. */
import { describe, expect, test } from 'bun:test'
import { FndError } from '../../../src/errors.ts'
import { eventually } from '../../contract/driver.ts'
import {
  bytesOf,
  call,
  headOf,
  mib,
  openCold,
  openWith,
  streamOf,
  useBridges,
} from './bridge-harness.ts'

useBridges()

describe('default', () => {
  test('each call has a process of its own', async () => {
    const { client, runs } = openCold('tr a-z A-Z')
    for (const text of ['one', 'two', '']) {
      const outcome = await call(client, { body: Buffer.from(text) })
      expect(outcome).toMatchObject({ status: 200, fault: null, refusal: undefined })
      expect(outcome.body.toString()).toBe(text.toUpperCase())
      const type = text === '' ? undefined : 'text/plain; charset=utf-8'
      expect(outcome.headers['content-type']).toBe(type as never)
      expect(outcome.headers).not.toHaveProperty('fn-http-status')
    }
    expect(runs).toHaveLength(3)
  })

  test('the environment says what the call is', async () => {
    const { client } = openCold(
      'echo $FN_METHOD $FN_PATH $FN_CALL_ID $FN_HEADER_X_OWN $FN_FORMAT',
      {
        env: { FN_FORMAT: 'default' },
      },
    )
    const head = headOf('/t/demo/a/b?c', ['fn-http-h-x-own: own'], 'PATCH')
    const { body } = await call(client, { head })
    expect(body.toString()).toBe('PATCH /a/b 01CALL own default\n')
  })

  test('the environment of IronFunctions', async () => {
    const script = 'echo $METHOD $ROUTE $HEADER_X_OWN $MY_KEY; cat'
    const { client } = openCold(script, { dialect: 'iron', env: { 'my-key': 'v' } })
    const path = '/t/demo/a/b?payload=hello'
    const get = await call(client, { head: headOf(path, ['fn-http-h-x-own: own'], 'GET') })
    expect(get.body.toString()).toBe('GET /a/b own v\nhello')
    const post = await call(client, { head: headOf(path), body: Buffer.from('body') })
    expect(post.body.toString()).toBe('POST /a/b v\nbody')
  })

  test('large bodies stream both ways', async () => {
    const { client } = openCold('cat')
    const body = bytesOf(5 * mib)
    for (const length of [body.length, undefined]) {
      const answer = await call(client, { body: streamOf([body]), length })
      expect(answer.headers['transfer-encoding']).toBe('chunked')
      expect(answer.body.equals(body)).toBe(true)
    }
  })

  test('a program need not read its input', async () => {
    const { client } = openCold('echo done')
    const body = bytesOf(4 * mib)
    for (let i = 0; i < 2; i++) {
      const answer = await call(client, { body: streamOf([body]), length: body.length })
      expect(answer).toMatchObject({ status: 200, fault: null })
      expect(answer.body.toString()).toBe('done\n')
    }
  })

  test('a failure is told with its exit code', async () => {
    const { client } = openCold('echo half; exit 3')
    const { status, refusal, body } = await call(client)
    expect({ status, body: body.length }).toEqual({ status: 502, body: 0 })
    expect(refusal).toMatchObject({ code: 'function-failed', status: 502 })
    expect(refusal?.message).toBe('function failed: exit code 3')
  })

  test('a failure behind long output breaks the answer off', async () => {
    const { client } = openCold('head -c 200000 /dev/zero; exit 3')
    const outcome = await call(client)
    expect(outcome).toMatchObject({ status: 200, fault: 'closed' })
  })

  test('running out of memory is told', async () => {
    const { client } = openCold('kill -9 $$', {}, { outOfMemory: true })
    expect((await call(client)).refusal?.code).toBe('function-out-of-memory')
  })

  test('a signal is told', async () => {
    const { client } = openCold('kill -9 $$')
    expect((await call(client)).refusal?.message).toBe('function failed: SIGKILL')
  })

  test('a caller that leaves ends the process', async () => {
    const { client, runs } = openCold('exec sleep 1000')
    const exchange = client.exchange(
      headOf('/t/demo/x'),
      { body: null, length: undefined },
      { replied: () => undefined, exchangeEnded: () => undefined },
    )
    await eventually(() => runs.length === 1, 'the process runs')
    exchange.abort('timed-out')
    expect(await runs[0]?.child.exited).toBe(137)
  })

  test('closing ends the processes of calls', async () => {
    const { client, bridge, runs } = openCold('exec sleep 1000')
    const outcome = call(client)
    await eventually(() => runs.length === 1, 'the process runs')
    await bridge.close()
    expect((await outcome).fault).toBe('closed')
    expect(await runs[0]?.child.exited).toBe(137)
  })

  test('a container that cannot be had is told as it is', async () => {
    const error = new FndError('init-failed', { detail: 'no such file' })
    const { client } = openWith({ run: () => Promise.reject(error) })
    const { status, refusal } = await call(client)
    expect(status).toBe(502)
    expect(refusal).toMatchObject({ code: 'init-failed', message: error.message })
  })

  test('output that breaks off does not pass for the whole', async () => {
    const stdout = new ReadableStream<Uint8Array>({
      start: controller => {
        controller.enqueue(Buffer.from('half'))
        setTimeout(() => controller.error(new Error('broken pipe')), 10)
      },
    })
    const { client } = openWith({
      run: async () => ({
        stdin: { write: async () => undefined, end: () => undefined },
        stdout,
        exited: Promise.resolve({ code: 0, signal: null, outOfMemory: false }),
      }),
    })
    expect(await call(client)).toMatchObject({ status: 0, fault: 'closed' })
  })
})
