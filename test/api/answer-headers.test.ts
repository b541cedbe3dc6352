import { expect, test } from 'bun:test'
import { AnswerHeaders } from '../../src/api/answer-headers.ts'
import { ActiveCall } from '../../src/exec/active-call.ts'
import type { FnSpec } from '../../src/exec/driver.ts'

const asker = {
  headers: '',
  body: null,
  length: undefined,
  caller: new Request('http://fnd.test/'),
  answered: () => undefined,
  failed: () => undefined,
}

function aCall(id: string, queueMs: number): ActiveCall {
  const keeper = { replied: () => undefined, release: () => undefined }
  const call = new ActiveCall(keeper, id, {} as FnSpec, asker, 10)
  call.run(10 + queueMs, 0, 1)
  call.answeredMs = 20
  return call
}

test('answers that share their headers keep their own ids and times', () => {
  const headers = new AnswerHeaders([
    ['X-Own', '1'],
    ['Set-Cookie', 'a=1'],
    ['set-cookie', 'b=2'],
  ])
  const first = new Response('', { headers: headers.of(aCall('one', 2)) })
  const second = new Response('', { headers: headers.of(aCall('two', 4)) })
  expect(first.headers.get('fn-call-id')).toBe('one')
  expect(first.headers.get('server-timing')).toBe('queue;dur=2, start;dur=0, run;dur=8')
  expect(second.headers.get('fn-call-id')).toBe('two')
  expect(second.headers.get('server-timing')).toBe('queue;dur=4, start;dur=0, run;dur=6')
  for (const { headers: own } of [first, second]) {
    expect(own.get('x-own')).toBe('1')
    expect(own.getSetCookie()).toEqual(['a=1', 'b=2'])
  }
})

test("a function's own timing follows that of fnd, once", () => {
  const headers = new AnswerHeaders([['server-timing', 'db;dur=3']])
  for (const id of ['one', 'two']) {
    expect(headers.of(aCall(id, 2)).get('server-timing')).toBe(
      'queue;dur=2, start;dur=0, run;dur=8, db;dur=3',
    )
  }
})
