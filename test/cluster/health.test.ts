import { expect, test } from 'bun:test'
import { HealthBook } from '../../src/cluster/health.ts'

const heard = (ms: number | undefined) => new Map([[2, ms]])

test('a node is healthy for as long as it was heard often enough', () => {
  const book = new HealthBook(100)
  book.sample(heard(1000), 1000)
  book.sample(heard(1090), 1150)
  expect(book.of(2, 5, 1150)).toEqual({ silentMs: 60, healthyForMs: 150, lag: 5 })
  book.sample(heard(1090), 1200)
  expect(book.of(2, 5, 1200)).toMatchObject({ silentMs: 110, healthyForMs: undefined })
  book.sample(heard(1290), 1300)
  expect(book.of(2, 5, 1320)).toMatchObject({ silentMs: 30, healthyForMs: 20 })
})

test('a node that was never heard is not healthy, and silent since it was waited for', () => {
  const book = new HealthBook(100)
  expect(book.of(2, 0, 500)).toEqual({
    silentMs: Number.POSITIVE_INFINITY,
    healthyForMs: undefined,
    lag: 0,
  })
  book.sample(heard(undefined), 500)
  expect(book.of(2, 0, 700)).toEqual({ silentMs: 200, healthyForMs: undefined, lag: 0 })
})

test('a new leader does not count the silence before its time', () => {
  const book = new HealthBook(100)
  book.sample(heard(100), 5000)
  book.restart(5000)
  expect(book.of(2, 0, 5010)).toEqual({ silentMs: 10, healthyForMs: undefined, lag: 0 })
})

test('a node that is gone is forgotten', () => {
  const book = new HealthBook(100)
  book.sample(heard(100), 100)
  book.sample(new Map(), 150)
  expect(book.of(2, 0, 150).silentMs).toBe(Number.POSITIVE_INFINITY)
})
