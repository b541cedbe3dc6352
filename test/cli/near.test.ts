import { expect, test } from 'bun:test'
import { editDistance, nearNames } from '../../src/cli/near.ts'
import { formatTable } from '../../src/cli/table.ts'

test('distance counts insertions, deletions, replacements and swaps', () => {
  const cases: [string, string, number][] = [
    ['', '', 0],
    ['', 'abc', 3],
    ['abc', 'abc', 0],
    ['abc', 'acb', 1],
    ['deplyo', 'deploy', 1],
    ['kitten', 'sitting', 3],
  ]
  for (const [a, b, distance] of cases) {
    expect(editDistance(a, b)).toBe(distance)
    expect(editDistance(b, a)).toBe(distance)
  }
})

test('near names come best first, far ones not at all', () => {
  const names = ['deploy', 'doctor', 'logs', 'apps']
  expect(nearNames('Deplyo', names)).toEqual(['deploy'])
  expect(nearNames('log', names)).toEqual(['logs'])
  expect(nearNames('bogus', names)).toEqual([])
})

test('columns align by what the terminal shows, and text cannot steer it', () => {
  const rows = [
    ['日本', 'x'],
    ['a\u001b[2J', 'y'],
  ]
  expect(formatTable(['N', 'V'], rows)).toBe('N      V\n日本   x\na\ufffd[2J  y')
})
