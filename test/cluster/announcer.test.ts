import { expect, test } from 'bun:test'
import { Announcer } from '../../src/cluster/announcer.ts'
import type { Command } from '../../src/store/commands.ts'
import type { Node } from '../../src/store/objects.ts'

const own = {
  uuid: 'u',
  name: 'n',
  apiUrl: 'http://127.0.0.1:8080',
  version: '0.1.0',
  commandVersion: 3,
  peerAddress: '127.0.0.1:8081',
}

/** What a node of this id proposes, of which no row is there. */
function announcedBy(nodeId: number, nextNodeId: number, isVoter: boolean): Command[] {
  const proposed: Command[] = []
  const rows = {
    node: (): Node | undefined => undefined,
    nextNodeId: () => nextNodeId,
    propose: async (command: Command) => {
      proposed.push(command)
      return { ok: true, object: null } as const
    },
  }
  new Announcer(nodeId, rows, () => isVoter).announce(own)
  return proposed
}

test('a node without a row makes itself known, unless it was removed', () => {
  const [first] = announcedBy(1, 1, true)
  expect(first).toMatchObject({ type: 'node.join', id: 1, uuid: 'u' })
  expect(announcedBy(2, 5, false)).toEqual([])
})

test('the only node of a cluster that was restored or recovered makes itself known', () => {
  expect(announcedBy(4, 5, true)).toMatchObject([{ type: 'node.join', id: 4 }])
})
