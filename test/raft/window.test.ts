import { expect, test } from 'bun:test'
import { Window } from '../../src/raft/window.ts'

function windowOf(firstIndex: number, ...sizes: number[]): Window {
  const window = new Window(firstIndex)
  for (const bytes of sizes) window.push(bytes)
  return window
}

test('the newest entries within both bounds are inside', () => {
  const window = windowOf(5, 10, 20, 30, 40)
  expect(window.outside(10, 1000)).toBe(4)
  expect(window.outside(2, 1000)).toBe(6)
  expect(window.outside(10, 70)).toBe(6)
  expect(window.outside(10, 69)).toBe(7)
  expect(window.outside(0, 1000)).toBe(8)
})

test('entries leave below and come in at both ends', () => {
  const window = windowOf(5, 10, 20, 30)
  window.dropBelow(6)
  expect([window.firstIndex, window.count, window.bytes]).toEqual([6, 2, 50])
  window.dropBelow(3)
  expect([window.firstIndex, window.count, window.bytes]).toEqual([6, 2, 50])
  window.prepend([1, 2])
  expect([window.firstIndex, window.count, window.bytes]).toEqual([4, 4, 53])
  expect(window.outside(2, 1000)).toBe(5)
})
