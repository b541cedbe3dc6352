import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import {
  addressRefusal,
  joinRefusal,
  type UpgradeView,
  upgradeRefusal,
  versionToRaise,
} from '../../src/cluster/upgrade.ts'
import type { NodeState } from '../../src/store/objects.ts'
import { seeded } from '../seed.ts'
import { rowOf } from './autopilot-world.ts'
import { confOf } from './bundle-world.ts'

const node = (id: number, commandVersion: number, state: NodeState = 'active') => ({
  id,
  name: `host-${id}`,
  version: `0.${commandVersion}.0`,
  commandVersion,
  state,
})

function viewOf(clusterVersion: number, versions: readonly number[]): UpgradeView {
  const nodes = versions.map((version, at) => node(at + 1, version))
  return { clusterVersion, conf: confOf(nodes.map(({ id }) => id)), nodes }
}

describe('the version of a cluster', () => {
  test('is raised when the last node is upgraded', () => {
    expect(versionToRaise(viewOf(3, [3, 3, 3]))).toBeUndefined()
    expect(versionToRaise(viewOf(3, [4, 4, 3]))).toBeUndefined()
    expect(versionToRaise(viewOf(3, [4, 4, 4]))).toBe(4)
    expect(versionToRaise(viewOf(3, [6, 5, 7]))).toBe(5)
    expect(versionToRaise(viewOf(4, [4, 4, 4]))).toBeUndefined()
  })

  test('waits for learners, and for members whose row is not there yet', () => {
    const view = viewOf(3, [4, 4, 3])
    const conf = confOf([1, 2], { learners: [3] })
    expect(versionToRaise({ ...view, conf })).toBeUndefined()
    for (const extra of [{ learners: [9] }, { learnersNext: [9] }, { votersOutgoing: [9] }]) {
      const missing = { ...viewOf(3, [4, 4]), conf: confOf([1, 2], extra) }
      expect(versionToRaise(missing)).toBeUndefined()
    }
    expect(versionToRaise({ ...viewOf(3, []), conf: confOf([]) })).toBeUndefined()
  })

  test('does not wait for a node that another took the place of', () => {
    const view = viewOf(3, [4, 4])
    const nodes = [...view.nodes, node(3, 3, 'replaced')]
    expect(versionToRaise({ ...view, nodes })).toBe(4)
    expect(upgradeRefusal(4, { ...view, nodes })?.detail).toBe('all are upgraded: a moment more')
  })

  test('is never above what a node understands, and never falls', () => {
    const versions = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 7 })
    fc.assert(
      fc.property(versions, fc.integer({ min: 1, max: 9 }), (of, current) => {
        const raised = versionToRaise(viewOf(current, of))
        if (raised === undefined) return of.some(version => version <= current)
        return raised > current && of.every(version => version >= raised)
      }),
      seeded(),
    )
  })
})

describe('a command of a later version', () => {
  test('is refused, naming the nodes that hold it back', () => {
    const error = upgradeRefusal(4, viewOf(3, [4, 3, 3]))
    expect(error).toMatchObject({ code: 'upgrade-pending', status: 409 })
    expect(error?.detail).toBe('node 2 (host-2) runs 0.3.0, node 3 (host-3) runs 0.3.0')
  })

  test('is refused in the moment between the last upgrade and the raise', () => {
    expect(upgradeRefusal(4, viewOf(3, [4, 4]))?.detail).toBe('all are upgraded: a moment more')
  })

  test('is taken from then on', () => {
    expect(upgradeRefusal(4, viewOf(4, [4, 4]))).toBeUndefined()
    expect(upgradeRefusal(3, viewOf(3, [4, 3]))).toBeUndefined()
  })

  test('that nobody knows is refused by all', () => {
    const error = upgradeRefusal(Number.POSITIVE_INFINITY, viewOf(3, [3]))
    expect(error?.detail).toBe('node 1 (host-1) runs 0.3.0')
  })
})

test('a node joins unless it is older than the cluster', () => {
  expect(joinRefusal(4, viewOf(3, [3]))).toBeUndefined()
  expect(joinRefusal(3, viewOf(3, [4, 4]))).toBeUndefined()
  expect(joinRefusal(3, viewOf(4, [4, 5]))).toMatch(/version 3, .* version 4; .*0\.4\.0 or 0\.5\.0/)
})

test('nobody joins with the address of a node that is there', () => {
  const nodes = [rowOf(1), rowOf(2)]
  const [, second] = nodes
  const given = { uuid: 'new', address: second?.peerAddress ?? '' }
  expect(addressRefusal(given, nodes, () => true)).toContain('is the address of node 2')
  // Its wiped self, or the same one once more.
  expect(addressRefusal(given, nodes, id => id !== 2)).toBeUndefined()
  expect(addressRefusal({ ...given, uuid: second?.uuid ?? '' }, nodes, () => true)).toBeUndefined()
  expect(addressRefusal({ ...given, address: '10.9.9.9:1' }, nodes, () => true)).toBeUndefined()
})
