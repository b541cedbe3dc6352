import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { ChunkedDecoder, headEnd, parseHead } from '../../src/http/wire.ts'
import { seeded } from '../seed.ts'

describe('the head of a reply', () => {
  const good: [string, string, object][] = [
    ['a length', 'HTTP/1.1 200 OK\r\nContent-Length: 5', { status: 200, framing: 5 }],
    ['no reason phrase', 'HTTP/1.1 200\r\ncontent-length: 0', { status: 200, framing: 0 }],
    ['chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked', { framing: 'chunked' }],
    ['neither', 'HTTP/1.1 200 OK\r\nx: 1', { framing: 'until-close', isKeepAlive: false }],
    ['no body by status', 'HTTP/1.1 204 No Content\r\nx: 1', { framing: 0, isKeepAlive: true }],
    ['close', 'HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 1', { isKeepAlive: false }],
    ['HTTP/1.0', 'HTTP/1.0 200 OK\r\ncontent-length: 1', { isKeepAlive: false }],
    [
      'one length said twice',
      'HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3',
      { framing: 3 },
    ],
  ]
  for (const [name, text, expected] of good) {
    test(`is read: ${name}`, () => expect(parseHead(text)).toMatchObject(expected))
  }

  const bad: [string, string, string][] = [
    ['not HTTP', 'hello', 'bad-status-line'],
    ['HTTP/2', 'HTTP/2.0 200 OK', 'bad-status-line'],
    ['a status that is no number', 'HTTP/1.1 abc OK', 'bad-status-line'],
    ['a long status', 'HTTP/1.1 2000 OK', 'bad-status-line'],
    ['a bare line feed', 'HTTP/1.1 200 OK\nx: 1\r\ny: 2', 'bad-status-line'],
    ['a bare line feed alone', 'HTTP/1.1 200 OK\nx: 1', 'bad-status-line'],
    ['a header without a colon', 'HTTP/1.1 200 OK\r\nfoo', 'bad-header'],
    ['a space before the colon', 'HTTP/1.1 200 OK\r\nfoo : 1', 'bad-header'],
    ['a folded line', 'HTTP/1.1 200 OK\r\na: 1\r\n b', 'bad-header'],
    ['a bare line feed in a value', 'HTTP/1.1 200 OK\r\na: 1\nb: 2', 'bad-header'],
    ['a NUL in a value', 'HTTP/1.1 200 OK\r\na: \u0000', 'bad-header'],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2', 'bad-length'],
    ['a negative length', 'HTTP/1.1 200 OK\r\ncontent-length: -1', 'bad-length'],
    ['a length in hex', 'HTTP/1.1 200 OK\r\ncontent-length: 0x10', 'bad-length'],
    [
      'a length beside chunks',
      'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked',
      'bad-framing',
    ],
    [
      'a thousand headers too many',
      `HTTP/1.1 200 OK${'\r\na: 1'.repeat(1001)}`,
      'too-many-headers',
    ],
    ['another coding', 'HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked', 'bad-framing'],
  ]
  for (const [name, text, fault] of bad) {
    test(`is refused: ${name}`, () => expect(parseHead(text)).toBe(fault as never))
  }

  test('any text gives a head or a fault, and never throws', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary-ascii' }), text => {
        parseHead(text)
        parseHead(`HTTP/1.1 200 OK\r\n${text}`)
      }),
      seeded(),
    )
  })
})

describe('the end of a head', () => {
  test('is found wherever it is', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[\r\na]{0,30}$/), text => {
        const at = text.indexOf('\r\n\r\n')
        expect(headEnd(Buffer.from(text), 0)).toBe(at === -1 ? -1 : at + 4)
      }),
      seeded(),
    )
  })
})

describe('a chunked body', () => {
  function decode(pieces: readonly Uint8Array[]): { step: string; body: string; rest: number } {
    const decoder = new ChunkedDecoder()
    let body = ''
    let step = 'more'
    for (const piece of pieces) {
      step = decoder.feed(piece, bytes => {
        body += Buffer.from(bytes).toString('latin1')
      })
      if (step !== 'more') break
    }
    return { step, body, rest: decoder.rest }
  }

  test('comes out the same however it is cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ minLength: 1, unit: 'binary-ascii' }), { maxLength: 6 }),
        fc.array(fc.nat(200), { maxLength: 10 }),
        (chunks, cuts) => {
          const text = `${chunks
            .map((chunk, i) => `${chunk.length.toString(16)}${i % 2 ? ';x=y' : ''}\r\n${chunk}\r\n`)
            .join('')}0\r\ntrailer: 1\r\n\r\n`
          const bytes = Buffer.from(text, 'latin1')
          const at = [0, ...cuts.map(cut => cut % bytes.length), bytes.length].sort((a, b) => a - b)
          const pieces = at.slice(1).map((end, i) => bytes.subarray(at[i], end))
          expect(decode(pieces)).toEqual({ step: 'end', body: chunks.join(''), rest: 0 })
        },
      ),
      seeded(),
    )
  })

  test('is refused: trailers without end', () => {
    const pieces = ['0\r\n', ...new Array<string>(10_000).fill('trailer: 1\r\n')]
    expect(decode(pieces.map(text => Buffer.from(text))).step).toBe('bad')
  })

  for (const text of ['x\r\n', '-1\r\n', '5\nhello', '5\r\nhelloX\r\n', 'ffffffffffffff\r\n']) {
    test(`is refused: ${JSON.stringify(text)}`, () => {
      expect(decode([Buffer.from(text)]).step).toBe('bad')
    })
  }

  test('tells how much follows it', () => {
    expect(decode([Buffer.from('1\r\na\r\n0\r\n\r\nHTTP')]).rest).toBe(4)
  })
})
