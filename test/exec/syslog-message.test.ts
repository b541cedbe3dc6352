import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { datagramBytesMax, syslogHead, syslogMessages } from '../../src/exec/syslog-message.ts'
import { seed } from '../watch/seed.ts'

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

const source = {
  hostname: 'node1',
  appId: '01APP',
  appName: 'shop',
  fnId: '01FN',
  fnName: 'pay',
  instanceId: '01INSTANCE',
}
const line = {
  callId: '01CALL',
  stream: 'stdout',
  timeMs: Date.UTC(2026, 0, 31, 10, 0, 0, 7),
  bytes: encoder.encode('hello'),
} as const

/** A strict reading of RFC 5424 §6, apart from the code under test. */
const grammar = new RegExp(
  [
    /^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)/,
    / ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32})/,
    / \[([!-~]+)((?: \w+="(?:[^"\\\]]|\\["\\\]])*")*)\](?: ([\s\S]*))?$/,
  ]
    .map(part => part.source)
    .join(''),
)

function read(message: Uint8Array) {
  const match = grammar.exec(decoder.decode(message))
  if (match === null) throw new Error(`not RFC 5424: ${decoder.decode(message)}`)
  const [, priority, time, host, app, proc, id, dataId, params = '', text] = match
  const data = [...params.matchAll(/ (\w+)="((?:[^"\\\]]|\\.)*)"/g)].map(([, name, value]) => [
    name,
    value?.replace(/\\(.)/g, '$1'),
  ])
  return { priority, time, host, app, proc, id, dataId, data: Object.fromEntries(data), text }
}

function only(messages: readonly Uint8Array[]): Uint8Array {
  expect(messages.length).toBe(1)
  return messages[0] ?? new Uint8Array(0)
}

describe('a message', () => {
  test('is the line in the form of RFC 5424', () => {
    const [message] = syslogMessages(syslogHead(source), line, 'datagram')
    expect(decoder.decode(message)).toBe(
      '<14>1 2026-01-31T10:00:00.007Z node1 pay 01INSTANCE 01CALL ' +
        '[fnd@32473 app_id="01APP" fn_id="01FN" app="shop" fn="pay" call_id="01CALL"] hello',
    )
  })

  test('of stderr is an error; before the first call there is no call', () => {
    const start = { ...line, callId: '', stream: 'stderr' } as const
    const message = read(only(syslogMessages(syslogHead(source), start, 'datagram')))
    expect(message).toMatchObject({ priority: '11', id: '-', text: 'hello' })
    expect(Object.keys(message.data)).toEqual(['app_id', 'fn_id', 'app', 'fn'])
  })

  test('of an empty line has no text; an unknown host is the nil value', () => {
    const head = syslogHead({ ...source, hostname: '' })
    const message = only(syslogMessages(head, { ...line, bytes: new Uint8Array(0) }, 'datagram'))
    expect(read(message)).toMatchObject({ host: '-', text: undefined })
    expect(message.at(-1)).toBe(']'.charCodeAt(0))
  })

  test('on a stream its length in bytes precedes it', () => {
    const bytes = encoder.encode('größe')
    const plain = only(syslogMessages(syslogHead(source), { ...line, bytes }, 'datagram'))
    const framed = only(syslogMessages(syslogHead(source), { ...line, bytes }, 'octets'))
    expect(decoder.decode(framed)).toBe(`${plain.length} ${decoder.decode(plain)}`)
  })

  test('keeps bytes that are no text', () => {
    const bytes = new Uint8Array([0xff, 0x00, 0x80])
    const message = only(syslogMessages(syslogHead(source), { ...line, bytes }, 'octets'))
    expect([...message.slice(-4)]).toEqual([0x20, 0xff, 0x00, 0x80])
  })
})

test('whatever the names are, it can be read back', () => {
  const names = fc.string({ unit: 'binary', maxLength: 300 })
  fc.assert(
    fc.property(names, names, names, names, (appName, fnName, hostname, callId) => {
      const head = syslogHead({ ...source, appName, fnName, hostname })
      const { data, text } = read(only(syslogMessages(head, { ...line, callId }, 'datagram')))
      expect(data).toMatchObject({ app: appName.toWellFormed(), fn: fnName.toWellFormed() })
      expect(text).toBe('hello')
    }),
    { seed, numRuns: 1000 },
  )
})

test('a line longer than a datagram becomes several, none cut inside a character', () => {
  const strings = fc.string({ unit: fc.constantFrom('x', 'é', '語', '🙂'), minLength: 1 })
  fc.assert(
    fc.property(strings, fc.integer({ min: 0, max: 30_000 }), (unit, length) => {
      const text = unit.repeat(Math.ceil(length / unit.length))
      const bytes = encoder.encode(text)
      const messages = syslogMessages(syslogHead(source), { ...line, bytes }, 'datagram')
      for (const message of messages) expect(message.length).toBeLessThanOrEqual(datagramBytesMax)
      expect(messages.map(message => read(message).text ?? '').join('')).toBe(text)
    }),
    { seed, numRuns: 100 },
  )
  const noise = new Uint8Array(20_000).fill(0x80)
  const messages = syslogMessages(syslogHead(source), { ...line, bytes: noise }, 'datagram')
  const sum = messages.reduce((bytes, message) => bytes + message.filter(b => b === 0x80).length, 0)
  expect(sum).toBe(noise.length)
})
