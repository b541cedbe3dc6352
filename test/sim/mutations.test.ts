/**
 * The known bugs of `npm run mutations`: each can still be put back, and those that a few seeds
 * find are found. All of them take minutes and are run by hand.
 */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { rmSync } from 'node:fs'
import { copyOfSources, mutate } from '../../scripts/mutation-copy.ts'
import { mutations } from '../../scripts/mutation-list.ts'

let dir = ''

beforeAll(() => {
  dir = copyOfSources()
})

afterAll(() => rmSync(dir, { recursive: true, force: true }))

test.each(mutations.map(({ number, name }) => [number, name]))(
  '%s: %s, can be put back',
  number => {
    const mutation = mutations.find(one => one.number === number)
    if (mutation === undefined) throw new Error(`there is no mutation ${number}`)
    mutate(dir, mutation)()
  },
)

async function seedsUntilFailure(): Promise<number | undefined> {
  const command = ['scripts/simulate.ts', '--from', '1', '--count', '30', '--until-failure']
  const child = Bun.spawn([process.execPath, ...command], { cwd: dir, stdout: 'pipe' })
  const text = await new Response(child.stdout).text()
  const seeds = /^after (\d+) seeds:/m.exec(text)?.[1]
  return seeds === undefined ? undefined : Number(seeds)
}

test.each(['1', '2', '3', '10', '14', '20', '34'])(
  '%s is found by the simulation',
  async number => {
    const mutation = mutations.find(one => one.number === number)
    if (mutation === undefined) throw new Error(`there is no mutation ${number}`)
    const restore = mutate(dir, mutation)
    expect(await seedsUntilFailure()).toBeGreaterThan(0)
    restore()
  },
  300_000,
)
