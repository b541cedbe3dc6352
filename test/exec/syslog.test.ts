import { afterAll, describe, expect, test } from 'bun:test'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { FndError } from '../../src/errors.ts'
import type { FnSpec } from '../../src/exec/driver.ts'
import { SyslogSender } from '../../src/exec/syslog.ts'
import type { SyslogLimits } from '../../src/exec/syslog-endpoint.ts'
import {
  authority,
  type Receiver,
  StreamReceiver,
  UdpReceiver,
  UnixgramReceiver,
  until,
} from './syslog-receiver.ts'

const dir = mkdtempSync(join(tmpdir(), 'fnd-syslog-'))
afterAll(() => rmSync(dir, { recursive: true }))
let paths = 0
const freshPath = (): string => {
  paths += 1
  return join(dir, `s${paths}`)
}

const spec: FnSpec = {
  key: 'k',
  fnId: '01FN',
  fnName: 'pay',
  appId: '01APP',
  appName: 'shop',
  image: '',
  memoryMb: 1,
  timeoutMs: 1,
  idleTimeoutMs: 1,
  env: {},
  concurrency: 1,
  instancesMin: 0,
  instancesMax: 1,
  network: 'host',
  format: 'http-stream',
  dialect: 'fn',
  pull: 'missing',
  pauseAfterMs: 1,
  syslogUrl: '',
}

interface LogEntry {
  readonly level: number
  readonly msg: string
  readonly reason?: string
  readonly dropped?: number
}

const encoder = new TextEncoder()
const quick = { retryMsMin: 10, retryMsMax: 50, settleMs: 100 }

/** A sender, its log, and how an instance prints to `url`. */
function senderTo(url: string, limits: Partial<SyslogLimits> = {}) {
  const entries: LogEntry[] = []
  const logger = pino({}, { write: text => entries.push(JSON.parse(text)) })
  const sender = new SyslogSender({
    logger,
    limits: { ...quick, ...limits },
    authorities: [authority],
  })
  const copy = sender.copyFor({ ...spec, syslogUrl: url }, '01INSTANCE')
  if (copy === undefined) throw new Error('no copy')
  const print = (text: string): void => {
    copy({ callId: '01CALL', stream: 'stdout', timeMs: 0, bytes: encoder.encode(text) })
  }
  return { sender, entries, print }
}

const textOf = (message: string): string => message.slice(message.indexOf('] ') + 2)
const numbers = (from: number, count: number) =>
  Array.from({ length: count }, (_, index) => `line ${from + index}`)

async function refusal(promise: Promise<void>): Promise<FndError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof FndError) return error
    throw error
  }
  throw new Error('it was not refused')
}

/** Lines, and a long one, arrive whole and in order; an idle connection is closed and reopened. */
async function carries(url: string, receiver: Receiver, isDatagram: boolean): Promise<void> {
  const { sender, print } = senderTo(url, { idleMs: 300 })
  const lines = numbers(0, 100)
  for (const line of lines) print(line)
  await until(() => receiver.messages.length === 100, 'a hundred messages')
  expect(receiver.messages[0]).toContain(
    '01INSTANCE 01CALL [fnd@32473 app_id="01APP" fn_id="01FN" app="shop" fn="pay" ' +
      'call_id="01CALL"] line 0',
  )
  expect(receiver.messages.map(textOf)).toEqual(lines)
  const long = 'x'.repeat(60_000)
  print(long)
  await until(() => receiver.messages.slice(100).map(textOf).join('') === long, 'a long line')
  const length = receiver.messages.length
  expect(length > 101).toBe(isDatagram)
  await until(() => sender.stats.connections === 0, 'the idle connection is closed')
  print('again')
  await until(() => receiver.messages.length === length + 1, 'a message after the silence')
  expect(sender.stats).toMatchObject({ sentTotal: length + 1, droppedTotal: 0, heldBytes: 0 })
  await sender[Symbol.asyncDispose]()
}

describe('messages arrive over', () => {
  test('udp', async () => {
    await using receiver = await UdpReceiver.listen(0)
    await carries(`udp://127.0.0.1:${receiver.port}`, receiver, true)
  }, 60_000)

  test('tcp', async () => {
    await using receiver = await StreamReceiver.listen({ port: 0 })
    await carries(`tcp://127.0.0.1:${receiver.port}`, receiver, false)
    expect(receiver.faults).toEqual([])
  }, 60_000)

  test('tcp+tls', async () => {
    await using receiver = await StreamReceiver.listen({ port: 0 }, { isTls: true })
    await carries(`tcp+tls://localhost:${receiver.port}`, receiver, false)
    expect(receiver.faults).toEqual([])
  }, 60_000)

  test('unix', async () => {
    const path = freshPath()
    await using receiver = await StreamReceiver.listen({ path })
    await carries(`unix://${path}`, receiver, false)
    expect(receiver.faults).toEqual([])
  }, 60_000)

  test('unixgram', async () => {
    const path = freshPath()
    await using receiver = new UnixgramReceiver(path)
    await carries(`unixgram://${path}`, receiver, true)
  }, 60_000)
})

describe('a receiver that goes away', () => {
  test('gets what came meanwhile when it is back; the log tells of both once', async () => {
    const first = await StreamReceiver.listen({ port: 0 })
    const { port } = first
    const { sender, entries, print } = senderTo(`tcp://127.0.0.1:${port}`)
    print('before')
    await until(() => first.messages.length === 1, 'the first message')
    await first[Symbol.asyncDispose]()
    await until(() => sender.stats.connections === 0, 'the loss is noticed')
    for (const line of numbers(0, 50)) print(line)
    await until(() => sender.stats.failuresTotal > 3, 'several attempts')
    await using second = await StreamReceiver.listen({ port })
    await until(() => second.messages.length === 50, 'what came meanwhile')
    expect(second.messages.map(textOf)).toEqual(numbers(0, 50))
    await until(() => entries.length === 2, 'the end of the outage')
    expect(entries.map(entry => entry.level)).toEqual([40, 30])
    expect(entries[1]).toMatchObject({ dropped: 0 })
    expect(sender.stats).toMatchObject({ sentTotal: 51, droppedTotal: 0, heldBytes: 0 })
    await sender[Symbol.asyncDispose]()
  }, 60_000)

  test('over udp is probed with one message at a time', async () => {
    const first = await UdpReceiver.listen(0)
    const { port } = first
    const { sender, entries, print } = senderTo(`udp://127.0.0.1:${port}`)
    print('before')
    await until(() => first.messages.length === 1, 'the first message')
    await first[Symbol.asyncDispose]()
    print('refused')
    await until(() => sender.stats.failuresTotal === 1, 'the refusal')
    for (const line of numbers(0, 50)) print(line)
    await until(() => sender.stats.failuresTotal > 3, 'several attempts')
    await using second = await UdpReceiver.listen(port)
    await until(() => second.messages.at(-1)?.endsWith('line 49') === true, 'what was held')
    const { droppedTotal } = sender.stats
    expect(second.messages.length).toBe(51 - droppedTotal)
    expect(entries[0]).toMatchObject({ level: 40, reason: expect.stringContaining('ECONNREFUSED') })
    await sender[Symbol.asyncDispose]()
  }, 60_000)

  test('over unixgram comes back under the same path', async () => {
    const path = freshPath()
    const first = new UnixgramReceiver(path)
    const { sender, print } = senderTo(`unixgram://${path}`)
    print('before')
    await until(() => first.messages.length === 1, 'the first message')
    await first[Symbol.asyncDispose]()
    for (const line of numbers(0, 50)) print(line)
    await until(() => sender.stats.failuresTotal > 3, 'several attempts')
    await using second = new UnixgramReceiver(path)
    await until(() => second.messages.length === 50, 'what came meanwhile')
    expect(second.messages.map(textOf)).toEqual(numbers(0, 50))
    await sender[Symbol.asyncDispose]()
  }, 60_000)
})

describe('a receiver that does not read', () => {
  const limits = { heldBytesMax: 100_000, allHeldBytesMax: 150_000 }

  async function flood(url: string, receiver: Receiver & { resume(): void }): Promise<void> {
    const { sender, entries, print } = senderTo(url, limits)
    await sender.check(url)
    const line = 'y'.repeat(1000)
    let printed = 0
    // The kernel takes some megabytes before it takes no more. What is printed in one turn fits.
    while (sender.stats.droppedTotal < 5000) {
      for (let count = 0; count < 50; count += 1) print(`${printed++} ${line}`)
      expect(sender.stats.heldBytes).toBeLessThanOrEqual(limits.heldBytesMax)
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(entries.length).toBe(1)
    expect(entries[0]?.reason).toBe('it takes messages slower than they come')
    receiver.resume()
    await until(() => sender.stats.heldBytes === 0, 'the rest is taken')
    const { sentTotal, droppedTotal } = sender.stats
    expect(sentTotal + droppedTotal).toBe(printed)
    await until(() => receiver.messages.length === sentTotal, 'all that was sent')
    expect(receiver.messages.at(-1)).toContain(` ${printed - 1} y`)
    await until(() => entries.length === 2, 'the end of the outage')
    expect(entries[1]?.dropped).toBe(droppedTotal)
    await sender[Symbol.asyncDispose]()
  }

  test('tcp: memory is bounded, the oldest messages are dropped and counted', async () => {
    await using receiver = await StreamReceiver.listen({ port: 0 }, { isPaused: true })
    await flood(`tcp://127.0.0.1:${receiver.port}`, receiver)
    expect(receiver.faults).toEqual([])
  }, 60_000)

  test('tcp+tls', async () => {
    await using receiver = await StreamReceiver.listen({ port: 0 }, { isTls: true, isPaused: true })
    await flood(`tcp+tls://localhost:${receiver.port}`, receiver)
    expect(receiver.faults).toEqual([])
  }, 60_000)

  test('unixgram', async () => {
    const path = freshPath()
    await using receiver = new UnixgramReceiver(path, { isPaused: true })
    await flood(`unixgram://${path}`, receiver)
  }, 60_000)

  test('is left after a while for a new connection', async () => {
    await using receiver = await StreamReceiver.listen({ port: 0 }, { isPaused: true })
    const url = `tcp://127.0.0.1:${receiver.port}`
    const { sender, entries, print } = senderTo(url, { ...limits, stallMs: 200 })
    await sender.check(url)
    // What the kernel has room for is no sign of a receiver, so it is filled up again and again.
    await until(() => {
      for (let count = 0; count < 50; count += 1) print('z'.repeat(1000))
      return receiver.connections > 1
    }, 'a second connection')
    expect(entries[0]?.level).toBe(40)
    await sender[Symbol.asyncDispose]()
    expect(sender.stats.heldBytes).toBe(0)
  }, 60_000)

  test('all receivers together have a bound as well', async () => {
    await using a = await StreamReceiver.listen({ port: 0 })
    const urls = [1, 2].map(() => `unix://${freshPath()}`)
    const { sender, print } = senderTo(`tcp://127.0.0.1:${a.port}`, limits)
    const bytes = encoder.encode('z'.repeat(1000))
    for (const url of urls) {
      const copy = sender.copyFor({ ...spec, syslogUrl: url }, 'i')
      for (let count = 0; count < 200; count += 1) {
        copy?.({ callId: '', stream: 'stderr', timeMs: 0, bytes })
      }
    }
    expect(sender.stats.heldBytes).toBeLessThanOrEqual(limits.allHeldBytesMax)
    expect(sender.stats.droppedTotal).toBeGreaterThan(200)
    print('passes')
    await until(() => a.messages.length === 1, 'one that has a receiver')
    await sender[Symbol.asyncDispose]()
  }, 60_000)
})

describe('check', () => {
  test('connects, and the connection is used', async () => {
    await using receiver = await StreamReceiver.listen({ port: 0 })
    const url = `tcp://127.0.0.1:${receiver.port}`
    const { sender, print } = senderTo(url)
    await Promise.all([sender.check(url), sender.check(url)])
    await sender.check(url)
    print('hello')
    await until(() => receiver.messages.length === 1, 'the message')
    expect(receiver.connections).toBe(1)
    await sender[Symbol.asyncDispose]()
  }, 60_000)

  test('takes udp that has an address, and a unix datagram socket', async () => {
    const path = freshPath()
    await using _ = new UnixgramReceiver(path)
    const { sender } = senderTo('udp://127.0.0.1:9')
    await sender.check('udp://127.0.0.1:9')
    await sender.check(`unixgram://${path}`)
    await sender[Symbol.asyncDispose]()
  })

  const unusable: readonly [string, string | RegExp][] = [
    ['ftp://h', /invalid scheme/],
    ['tcp://127.0.0.1:1', 'ECONNREFUSED'],
    ['tcp+tls://127.0.0.1:1', /ECONNREFUSED/],
    ['udp://no-such-host.invalid', /no-such-host\.invalid/],
    ['tcp://no-such-host.invalid', /no-such-host\.invalid/],
    ['unix:///no/such/socket', /ENOENT/],
    ['unixgram:///no/such/socket', /ENOENT/],
  ]
  for (const [url, reason] of unusable) {
    test(`refuses ${url} and says why`, async () => {
      const { sender } = senderTo('udp://127.0.0.1:9')
      const error = await refusal(sender.check(url))
      expect([error.code, error.status]).toEqual(['syslog-unavailable', 500])
      expect(error.message).toStartWith(`Syslog Unavailable: ${url}: `)
      expect(error.message).toMatch(reason)
      await sender[Symbol.asyncDispose]()
    }, 60_000)
  }

  test('refuses a certificate of an unknown authority, and one of another host', async () => {
    await using receiver = await StreamReceiver.listen({ port: 0 }, { isTls: true })
    const stranger = new SyslogSender({ logger: pino({ level: 'silent' }), authorities: [] })
    const unknown = await refusal(stranger.check(`tcp+tls://localhost:${receiver.port}`))
    expect(unknown.message).toMatch(/certificate/)
    await stranger[Symbol.asyncDispose]()
    const { sender } = senderTo('udp://127.0.0.1:9')
    const other = await refusal(sender.check(`tcp+tls://127.0.0.1:${receiver.port}`))
    expect(other.message).toMatch(/altnames/)
    expect(receiver.messages).toEqual([])
    await sender[Symbol.asyncDispose]()
  }, 60_000)

  test('gives up a handshake that does not come', async () => {
    await using silent = await StreamReceiver.listen({ port: 0 })
    const { sender } = senderTo('udp://127.0.0.1:9', { checkMs: 100, connectMs: 200 })
    const error = await refusal(sender.check(`tcp+tls://127.0.0.1:${silent.port}`))
    expect(error.message).toEndWith('no connection in 100 ms')
    await until(() => sender.stats.failuresTotal === 1, 'the attempt ends')
    await sender[Symbol.asyncDispose]()
  }, 60_000)
})

test('closing sends what is held, and counts what cannot be sent', async () => {
  await using receiver = await StreamReceiver.listen({ port: 0 })
  const { sender, print } = senderTo(`tcp://127.0.0.1:${receiver.port}`)
  for (const line of numbers(0, 1000)) print(line)
  await sender[Symbol.asyncDispose]()
  await until(() => receiver.messages.length === 1000, 'what was held')
  print('too late')
  expect(sender.stats).toMatchObject({ sentTotal: 1000, droppedTotal: 1, heldBytes: 0 })

  const lost = senderTo('tcp://127.0.0.1:1')
  for (const line of numbers(0, 10)) lost.print(line)
  await lost.sender[Symbol.asyncDispose]()
  expect(lost.sender.stats).toMatchObject({ droppedTotal: 10, heldBytes: 0 })
  expect(lost.entries.at(-1)).toMatchObject({ level: 40, dropped: 10 })
}, 60_000)

test('an app without a receiver, or with an address that fnd does not know, has no copies', () => {
  const { sender, entries } = senderTo('udp://127.0.0.1:9')
  expect(sender.copyFor(spec, 'i')).toBeUndefined()
  expect(entries).toEqual([])
  expect(sender.copyFor({ ...spec, syslogUrl: 'tcp://' }, 'i')).toBeUndefined()
  expect(entries[0]).toMatchObject({ level: 40, reason: 'no host, as in tcp://host' })
})
