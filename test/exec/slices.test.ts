import { expect, test } from 'bun:test'
import { readdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { getPriority, setPriority } from 'node:os'
import { Slices } from '../../src/exec/slices.ts'
import { eventually } from '../contract/driver.ts'
import { sliceOf } from './slice-of.ts'

const shortNs = 100_000
const self = process.pid

test('the slice is short once asked for, and as it was when not asked again', async () => {
  using slices = new Slices()
  const usualNs = sliceOf(self)
  expect(usualNs).toBeGreaterThan(shortNs)
  for (let round = 0; round < 3; round++) {
    slices.shorten()
    expect(sliceOf(self)).toBe(shortNs)
    await eventually(() => sliceOf(self) === usualNs, 'the slice is as it was')
  }
})

test('whoever is started meanwhile has the usual slice', async () => {
  using slices = new Slices()
  const usualNs = sliceOf(self)
  slices.shorten()
  expect(sliceOf(self)).toBe(shortNs)
  await using child = Bun.spawn(['sleep', '60'])
  expect(sliceOf(child.pid)).toBe(usualNs)
})

test('threads that write to disks keep the short one', async () => {
  using slices = new Slices()
  // The pool has a thread by then.
  await writeFile('/dev/null', 'x')
  slices.shorten()
  const threads = readdirSync('/proc/self/task').filter(id =>
    readFileSync(`/proc/self/task/${id}/comm`, 'latin1').startsWith('Bun Pool'),
  )
  expect(threads).not.toEqual([])
  for (const id of threads) expect(sliceOf(Number(id))).toBe(shortNs)
})

test('a priority that an operator gave stays', () => {
  const before = getPriority(self)
  using slices = new Slices()
  try {
    setPriority(self, before + 1)
    slices.shorten()
    expect(getPriority(self)).toBe(before + 1)
  } finally {
    setPriority(self, before)
  }
})

// Only root may take a higher priority.
test.if(process.getuid?.() === 0)('a higher priority is not inherited', async () => {
  using slices = new Slices()
  const before = getPriority(self)
  try {
    setPriority(self, -5)
    slices.shorten()
    await using child = Bun.spawn(['sleep', '60'])
    expect({ own: getPriority(self), child: getPriority(child.pid) }).toEqual({ own: -5, child: 0 })
  } finally {
    setPriority(self, before)
  }
})

test('its end restores the slice', () => {
  const usualNs = sliceOf(self)
  const slices = new Slices()
  slices.shorten()
  slices[Symbol.dispose]()
  expect(sliceOf(self)).toBe(usualNs)
  slices.shorten()
  expect(sliceOf(self)).toBe(usualNs)
})
