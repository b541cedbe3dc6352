import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { FndError } from '../../../src/errors.ts'
import { goName, ironPayload, readCall } from '../../../src/exec/docker/format-call.ts'
import { callEnv, containerEnv } from '../../../src/exec/docker/format-env.ts'
import {
  AnswerBodyReader,
  AnswerHeadReader,
  requestHead,
} from '../../../src/exec/docker/format-http.ts'
import { answerFrom, ObjectScanner, requestText } from '../../../src/exec/docker/format-json.ts'
import { replyHead } from '../../../src/exec/docker/format-reply.ts'
import { invalidAnswer, refusalFrom, refusalReply } from '../../../src/exec/docker/refusal.ts'
import { sniffedType } from '../../../src/exec/docker/sniff.ts'
import type { FnSpec } from '../../../src/exec/driver.ts'
import { parseHead } from '../../../src/http/wire.ts'
import { specOf } from '../../contract/driver.ts'
import { seeded } from '../../seed.ts'

function specFor(overrides: Partial<FnSpec> = {}): FnSpec {
  const { FN_LISTENER: _, ...env } = specOf('img').env
  return { ...specOf('img'), format: 'default', ...overrides, env: { ...env, ...overrides.env } }
}

const triggerHead = [
  'POST /call HTTP/1.1',
  'host: localhost',
  'fn-call-id: 01CALL',
  'fn-deadline: 2026-01-30T16:52:39Z',
  'fn-intent: httprequest',
  'fn-http-method: PUT',
  'fn-http-request-url: http://fnd.test:8080/t/demo/hello/you?q=a%20b',
  'fn-http-h-host: fnd.test:8080',
  'content-type: text/plain',
  'fn-http-h-x-own: \xc3\xa4',
  'fn-http-h-x-twice: a',
  'fn-http-h-x-twice: b',
  'fn-http-h-expect: 100-continue',
  'fn-http-h-content-length: 5',
  'content-length: 5',
].join('\r\n')
const trigger = readCall(triggerHead, 'fn-1')
const invokeHead = [
  'POST /call HTTP/1.1',
  'host: localhost',
  'fn-call-id: 01CALL',
  'fn-deadline: 2026-01-30T16:52:39Z',
  'x-own: a',
  'transfer-encoding: chunked',
].join('\r\n')
const invoke = readCall(invokeHead, 'fn-1')
const get = readCall(
  triggerHead.replace('PUT', 'GET').replace('q=a%20b', 'payload=%7B%22a%22%3A1%7D'),
  'fn-1',
)

describe('readCall', () => {
  test('of a trigger, it has what the caller sent', () => {
    expect(trigger).toEqual({
      id: '01CALL',
      deadline: '2026-01-30T16:52:39Z',
      isTrigger: true,
      method: 'PUT',
      url: 'http://fnd.test:8080/t/demo/hello/you?q=a%20b',
      path: '/hello/you',
      contentType: 'text/plain',
      headers: [
        ['Content-Type', 'text/plain'],
        ['X-Own', '\xc3\xa4'],
        ['X-Twice', 'a'],
        ['X-Twice', 'b'],
        ['Content-Length', '5'],
      ],
    })
  })

  test('of an invocation, it has the invocation itself', () => {
    expect(invoke).toMatchObject({
      isTrigger: false,
      method: 'POST',
      url: 'http://localhost/invoke/fn-1',
      path: '/invoke/fn-1',
      headers: [['X-Own', 'a']],
    })
  })

  test('a method that is none does not get into a request line', () => {
    const call = readCall(triggerHead.replace('PUT', 'GET /evil HTTP/1.1'), 'fn-1')
    expect(call.method).toBe('POST')
  })

  test.each([
    ['content-type', 'Content-Type'],
    ['FN_CALL_ID', 'Fn_call_id'],
    ['x-a-1b', 'X-A-1b'],
  ])('goName(%s)', (name, expected) => {
    expect(goName(name)).toBe(expected)
  })
})

describe('environment', () => {
  test('of a hot container of Fn', () => {
    const env = containerEnv(specFor({ format: 'http', env: { low: 'x', FN_FORMAT: 'http' } }))
    expect(env).toMatchObject({ low: 'x', FN_PATH: '/hello', FN_TMPSIZE: '0', FN_FORMAT: 'http' })
    expect(env).not.toHaveProperty('FN_CALL_ID')
  })

  test('http-stream gets no more than its spec says', () => {
    const spec = specOf('img')
    expect(containerEnv(spec)).toEqual({ ...spec.env })
  })

  test('of a call of Fn', () => {
    expect(callEnv(specFor(), trigger)).toMatchObject({
      FN_APP_NAME: 'demo',
      FN_MEMORY: '128',
      FN_TYPE: 'sync',
      FN_PATH: '/hello/you',
      FN_CALL_ID: '01CALL',
      FN_METHOD: 'PUT',
      FN_DEADLINE: '2026-01-30T16:52:39Z',
      FN_REQUEST_URL: 'http://fnd.test:8080/t/demo/hello/you?q=a%20b',
      'FN_HEADER_X-Own': 'ä',
      FN_HEADER_X_OWN: 'ä',
      'FN_HEADER_X-Twice': 'a, b',
      'FN_HEADER_Content-Type': 'text/plain',
      'FN_HEADER_Content-Length': '5',
    })
  })

  test('of a call of IronFunctions: names in capitals, fnd’s own win', () => {
    const spec = specFor({ dialect: 'iron', env: { 'my-key': 'v', 'fn-memory': '9999' } })
    const env = callEnv(spec, trigger)
    expect(env).toMatchObject({
      MY_KEY: 'v',
      FN_MEMORY: '128',
      METHOD: 'PUT',
      ROUTE: '/hello/you',
      APP_NAME: 'demo',
      CALL_ID: '01CALL',
      REQUEST_URL: 'http://fnd.test:8080/t/demo/hello/you?q=a%20b',
      HEADER_X_TWICE: 'a b',
      HEADER_CONTENT_TYPE: 'text/plain',
    })
    expect(Object.keys(env).filter(name => name !== name.toUpperCase())).toEqual([])
  })

  test('a config name that turns into a reserved one is dropped', () => {
    const spec = specFor({ dialect: 'iron', env: { 'fn-listener': 'x' } })
    expect(containerEnv(spec)).not.toHaveProperty('FN_LISTENER')
  })

  test('the payload of IronFunctions', () => {
    expect(ironPayload(invoke)).toBeUndefined()
    expect(ironPayload(trigger)?.toString()).toBe('')
    expect(ironPayload(get)?.toString()).toBe('{"a":1}')
  })
})

describe('http', () => {
  test('a request of Fn', () => {
    expect(requestHead(trigger, specFor({ format: 'http' }), 5).toString('utf8')).toBe(
      [
        'PUT /t/demo/hello/you?q=a%20b HTTP/1.1',
        'Host: fnd.test:8080',
        'Content-Type: text/plain',
        'X-Own: ä',
        'X-Twice: a',
        'X-Twice: b',
        'Fn_deadline: 2026-01-30T16:52:39Z',
        'Fn_method: PUT',
        'Fn_request_url: http://fnd.test:8080/t/demo/hello/you?q=a%20b',
        'Fn_call_id: 01CALL',
        'Content-Length: 5',
        '',
        '',
      ].join('\r\n'),
    )
  })

  test('HEAD is asked for as GET', () => {
    const head = readCall(triggerHead.replace('PUT', 'HEAD'), 'fn-1')
    const text = requestHead(head, specFor({ format: 'http' }), undefined).toString()
    expect(text).toStartWith('GET /t/demo')
    expect(text).toContain('\r\nFn_method: HEAD\r\n')
    expect(text).toEndWith('\r\nTransfer-Encoding: chunked\r\n\r\n')
  })

  test('a request of IronFunctions', () => {
    const env = { key: 'two\nlines ä', 'no token': 'x' }
    const spec = specFor({ format: 'http', dialect: 'iron', env })
    const lines = requestHead(trigger, spec, 5).toString('utf8').split('\r\n')
    expect(lines[0]).toBe('GET / HTTP/1.1')
    expect(lines).toContain('Key: two lines ä')
    expect(lines).toContain('Header_x_own: ä')
    expect(lines).toContain('Request_url: http://fnd.test:8080/t/demo/hello/you?q=a%20b')
    expect(lines).toContain('Task-Id: 01CALL')
    expect(lines.slice(-3)).toEqual(['Content-Length: 5', '', ''])
    expect(lines.join()).not.toContain('token')
  })

  /** Reads an answer that comes in pieces of these sizes, the last one again and again. */
  function read(bytes: Buffer, sizes: readonly number[]) {
    const head = new AnswerHeadReader(4096)
    let body: AnswerBodyReader | undefined
    const parts: Uint8Array[] = []
    let status = 0
    for (let at = 0, i = 0; at < bytes.length; i++) {
      const size = sizes[Math.min(i, sizes.length - 1)] ?? 1
      let piece: Uint8Array = bytes.subarray(at, at + size)
      at += size
      if (body === undefined) {
        const step = head.feed(piece)
        if (step === 'more') continue
        if (step === 'too-large' || 'fault' in step) return step
        status = step.head.status
        body = new AnswerBodyReader(step.head.framing)
        piece = step.rest
      }
      const step = body.feed(piece)
      if (step === 'bad') return step
      parts.push(step.body)
      if (step.isEnd) {
        const rest = Buffer.concat([step.rest, bytes.subarray(at)]).toString()
        return { status, body: Buffer.concat(parts).toString(), rest }
      }
    }
    return 'unfinished'
  }

  test('an answer is the same in whatever pieces it comes', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 })
    const body = fc.string({ maxLength: 50 })
    const framing = fc.constantFrom('length', 'chunked')
    const lineEnd = fc.constantFrom('\r\n', '\n')
    fc.assert(
      fc.property(sizes, body, framing, lineEnd, (cuts, text, kind, eol) => {
        const length = Buffer.byteLength(text)
        const framed =
          kind === 'length'
            ? `Content-Length: ${length}${eol}${eol}${text}`
            : `Transfer-Encoding: chunked${eol}${eol}${
                length === 0 ? '' : `${length.toString(16)}\r\n${text}\r\n`
              }0\r\n\r\n`
        const bytes = Buffer.from(`\n HTTP/1.1 201 OK${eol}A: b${eol}${framed}rest`)
        expect(read(bytes, cuts)).toEqual({ status: 201, body: text, rest: 'rest' })
      }),
      seeded(),
    )
  })

  test.each([
    ['no HTTP', 'hello world', { fault: 'malformed HTTP response "hello world"' }],
    [
      'no status',
      'HTTP/1.1 abc\r\n\r\n',
      { fault: 'malformed HTTP response "HTTP/1.1 abc": its status line is none' },
    ],
    [
      'two lengths',
      'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
      { fault: 'malformed HTTP response "HTTP/1.1 200 OK": its length is none' },
    ],
    [
      'a switch of protocols',
      'HTTP/1.1 101 X\r\n\r\n',
      { fault: 'malformed HTTP response "HTTP/1.1 101 X": nobody asked for it' },
    ],
    ['a long head', `HTTP/1.1 200 OK\r\nA: ${'b'.repeat(5000)}`, 'too-large'],
    ['many headers', `HTTP/1.1 200 OK\r\n${'A:b\r\n'.repeat(1001)}\r\n`, 'too-large'],
    ['bad chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', 'bad'],
    ['half a body', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf', 'unfinished'],
  ])('%s', (_, text, expected) => {
    expect(read(Buffer.from(text), [100_000])).toEqual(expected as never)
  })
})

describe('json', () => {
  test('a request', () => {
    const text = requestText(trigger, Buffer.from('h\xff"\n', 'latin1'))
    expect(text).toEndWith('}\n')
    expect(text.split('\n')).toHaveLength(2)
    expect(JSON.parse(text)).toEqual({
      call_id: '01CALL',
      content_type: 'text/plain',
      deadline: '2026-01-30T16:52:39Z',
      body: 'h\ufffd"\n',
      protocol: {
        type: 'http',
        method: 'PUT',
        request_url: 'http://fnd.test:8080/t/demo/hello/you?q=a%20b',
        headers: {
          'Content-Type': ['text/plain'],
          'X-Own': ['ä'],
          'X-Twice': ['a', 'b'],
          'Content-Length': ['5'],
        },
      },
    })
  })

  test('a header may have any name', () => {
    const call = { ...invoke, headers: [['__proto__', 'a']] as const }
    expect(requestText(call, Buffer.alloc(0))).toContain('"__proto__":["a"]')
  })

  test('an object ends where it ends, in whatever pieces it comes', () => {
    const objects = fc.dictionary(fc.string({ unit: 'grapheme' }), fc.jsonValue())
    const size = fc.integer({ min: 1, max: 30 })
    fc.assert(
      fc.property(objects, size, fc.boolean(), (object, cut, isPretty) => {
        const text = JSON.stringify(object, null, isPretty ? 2 : 0)
        const bytes = Buffer.from(` \n${text}{next`)
        const scanner = new ObjectScanner(10_000_000)
        for (let at = 0; at < bytes.length; at += cut) {
          const step = scanner.feed(bytes.subarray(at, at + cut))
          if (step === 'more') continue
          if (step === 'too-large' || 'fault' in step) throw new Error('refused')
          const rest = Buffer.concat([step.rest, bytes.subarray(at + cut)]).toString()
          expect({ text: step.text, rest }).toEqual({ text, rest: '{next' })
          return
        }
        throw new Error('never ended')
      }),
      seeded(),
    )
  })

  test('no object', () => {
    expect(new ObjectScanner(10).feed(Buffer.from(' x'))).toEqual({
      fault: "invalid character 'x' looking for beginning of value",
    })
  })

  test('an object over the bound', () => {
    const scanner = new ObjectScanner(10)
    expect(scanner.feed(Buffer.from('    {"a": 1'))).toBe('more')
    expect(scanner.feed(Buffer.from('23456'))).toBe('too-large')
  })

  test('an answer', () => {
    const text = JSON.stringify({
      body: 'ä',
      content_type: 'text/x; a=ä',
      protocol: { status_code: 201, headers: { 'content-type': ['gone'], A: ['1', '2'], B: '3' } },
    })
    expect(answerFrom(text)).toEqual({
      status: 201,
      headers: ['Content-Type', 'text/x; a=\xc3\xa4', 'A', '1', 'A', '2', 'B', '3'],
      body: Buffer.from('ä'),
    })
  })

  test('the type may be among the headers', () => {
    const answer = answerFrom('{"protocol": {"headers": {"content-type": ["a/b"]}}}')
    expect(answer).toMatchObject({ status: 200, headers: ['content-type', 'a/b'] })
  })

  test.each([
    ['{"body": {}}', '"body" must'],
    ['{"content_type": 1}', '"content_type" must'],
    ['{"content_type": "a\\nb"}', '"content_type" must'],
    ['{"protocol": []}', '"protocol" must'],
    ['{"protocol": {"status_code": "200"}}', '"protocol.status_code" must'],
    ['{"protocol": {"status_code": 99}}', '"protocol.status_code" must'],
    ['{"protocol": {"headers": {"a b": ["c"]}}}', '"protocol.headers" must'],
    ['{"protocol": {"headers": {"a": ["c\\r\\nd: e"]}}}', '"protocol.headers" must'],
    ['{"protocol": {"headers": {"a": [1]}}}', '"protocol.headers" must'],
  ])('%s is refused', (text, fault) => {
    const answer = answerFrom(text)
    expect('fault' in answer ? answer.fault : '').toStartWith(fault)
  })

  test('any answer that is taken makes a head that is one', () => {
    const value = fc.string({ unit: 'binary' })
    const headers = fc.dictionary(fc.string(), fc.array(value))
    fc.assert(
      fc.property(value, headers, fc.integer(), (type, told, status) => {
        const protocol = { status_code: status, headers: told }
        const answer = answerFrom(JSON.stringify({ content_type: type, protocol }))
        if ('fault' in answer) return
        const head = replyHead(trigger, answer, '', 3).toString('latin1')
        expect(parseHead(head.slice(0, -4))).toMatchObject({ status: 200, framing: 3 })
      }),
      seeded(),
    )
  })
})

describe('replies', () => {
  const answer = {
    status: 404,
    headers: ['X-Own', 'a', 'connection', 'close', 'Content-Length', '9', 'content-type', 'a/b'],
  }

  test('callers of triggers get headers by their prefix', () => {
    expect(replyHead(trigger, answer, 'sniffed/type', 'chunked').toString()).toBe(
      'HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nfn-http-status: 404\r\nFn-Http-H-X-Own: a\r\n' +
        'transfer-encoding: chunked\r\n\r\n',
    )
  })

  test('others get them as they are', () => {
    expect(replyHead(invoke, answer, '', 7).toString()).toBe(
      'HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nfn-http-status: 404\r\nX-Own: a\r\n' +
        'content-length: 7\r\n\r\n',
    )
  })

  test('a function that cannot say has the type that its body looks like', () => {
    expect(replyHead(trigger, null, 'text/plain', 0).toString()).toBe(
      'HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n',
    )
  })

  test('a refusal comes through with its code and words, whatever they are', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 400 }), fc.boolean(), (why, isFit) => {
        const error = invalidAnswer('json', why)
        const text = refusalReply(error, isFit).toString('latin1')
        const head = parseHead(text.slice(0, -4))
        if (typeof head === 'string') throw new Error(head)
        expect(head.status).toBe(isFit ? 502 : 500)
        const told = refusalFrom(head.headers)
        expect(told?.code).toBe('function-response-invalid')
        expect(told?.message).toBe(error.message.toWellFormed())
      }),
      seeded(),
    )
    expect(refusalFrom(['content-length', '0'])).toBeUndefined()
    const failed = new FndError('function-failed', { detail: 'exit code 3' })
    expect(failed.message).toBe('function failed: exit code 3')
  })
})

describe('sniffedType', () => {
  test.each([
    ['', ''],
    ['hello', 'text/plain; charset=utf-8'],
    ['{"a": 1}', 'text/plain; charset=utf-8'],
    ['  \n<!DOCTYPE html>', 'text/html; charset=utf-8'],
    ['<HTML><body>', 'text/html; charset=utf-8'],
    ['<p>', 'text/html; charset=utf-8'],
    ['<!-- x', 'text/html; charset=utf-8'],
    ['<pre>', 'text/plain; charset=utf-8'],
    ['<?xml version="1.0"?>', 'text/xml; charset=utf-8'],
    ['\x00\x01', 'application/octet-stream'],
    ['\x89PNG\r\n\x1a\n\x00', 'image/png'],
    ['\xff\xd8\xff\xe0', 'image/jpeg'],
    ['GIF89a\x00', 'image/gif'],
    ['\x1f\x8b\x08\x00', 'application/x-gzip'],
    ['%PDF-1.4', 'application/pdf'],
    ['\xc3\xa4', 'text/plain; charset=utf-8'],
  ])('%j', (text, type) => {
    expect(sniffedType(Buffer.from(text, 'latin1'))).toBe(type)
  })
})
