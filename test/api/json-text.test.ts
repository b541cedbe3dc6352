import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { parseExact, parseFirstObject, stringifyExact } from '../../src/api/json-text.ts'

const seed = Number(process.env.FND_SEED ?? Date.now() % 2 ** 31)

describe(`JSON as Go reads it (FND_SEED=${seed})`, () => {
  const accepted: readonly [string, object][] = [
    ['{}', {}],
    [' \t\r\n{"a":1}', { a: 1 }],
    ['{"a":"}"} rest {', { a: '}' }],
    ['{"a":"\\"}"}]', { a: '"}' }],
    ['{"a":[{"b":{}}]}{}', { a: [{ b: {} }] }],
    ['null', {}],
    ['null ', {}],
    ['null,', {}],
    ['{"a":"\\ud800"}', { a: '\ufffd' }],
  ]
  for (const [text, value] of accepted) {
    test(`accepts ${text}`, () => expect(parseFirstObject(text)).toEqual({ ...value }))
  }

  const refused = [
    '',
    '  ',
    '1',
    '"a"',
    'true',
    '[]',
    '{',
    '{"a":}',
    '{]',
    '}',
    'nullx',
    '\ufeff{}',
  ]
  for (const text of refused) {
    test(`refuses ${JSON.stringify(text)}`, () => expect(parseFirstObject(text)).toBeUndefined())
  }

  test('whatever follows the first object changes nothing', () => {
    const value = fc.dictionary(fc.string(), fc.jsonValue())
    const property = fc.property(value, fc.string(), (object, rest) => {
      const text = JSON.stringify(object)
      expect(stringifyExact(parseFirstObject(text + rest))).toBe(stringifyExact(parseExact(text)))
    })
    fc.assert(property, { seed })
  })

  test('numbers keep their text', () => {
    const digits = fc.stringMatching(/^-?(0|[1-9]\d{0,40})(\.\d{1,20})?([eE][+-]?\d{1,4})?$/)
    const property = fc.property(fc.array(digits, { minLength: 1 }), numbers => {
      const text = `[${numbers.join(',')}]`
      expect(stringifyExact(parseExact(text))).toBe(text)
    })
    fc.assert(property, { seed })
  })

  test('the number of a body keeps its text too, at any depth', () => {
    const text = '{"a":"b","c":{"d":[true,1.0,12345678901234567890]}}'
    expect(stringifyExact(parseFirstObject(text))).toBe(text)
  })

  test('500 levels are read, deeper ones refused', () => {
    const nested = (levels: number) => `${'{"a":'.repeat(levels)}null${'}'.repeat(levels)}`
    expect(JSON.stringify(parseFirstObject(nested(500)))).toBe(nested(500))
    for (const levels of [501, 100_000]) expect(parseFirstObject(nested(levels))).toBeUndefined()
  })

  test('__proto__ is a key like any other', () => {
    const text = '{"__proto__":{"a":1}}'
    expect(stringifyExact(parseFirstObject(text))).toBe(text)
  })
})
