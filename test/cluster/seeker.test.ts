/** Members that moved all at once find each other. */
import { expect, test } from 'bun:test'
import { makeAuthority } from '../../src/cluster/certificates.ts'
import { parseEndpoint } from '../../src/cluster/hello.ts'
import { Seeker } from '../../src/cluster/seeker.ts'
import { isConnectedToAll, startPeer, stopAll, until } from './harness.ts'

test('where --join says, and where those that are found there say', async () => {
  const authority = await makeAuthority('test', Date.now())
  const [first, second, third] = await Promise.all(
    [1, 2, 3].map(nodeId => startPeer({ authority, nodeId, clusterId: 'test' })),
  )
  if (first === undefined || second === undefined || third === undefined) throw new Error('none')
  const all = [first, second, third]
  // Nothing listens where they were.
  const gone = [1, 2, 3].map(id => ({ id, address: `127.0.0.1:${id}` }))
  for (const { peers } of all) peers.setMembers(gone)
  let isLost = false
  const target = parseEndpoint(first.peers.address, 0)
  if (target === undefined) throw new Error('no address')
  const partsOf = (peers: typeof first.peers, targets: readonly (typeof target)[]) => ({
    ...{ targets, clusterId: 'test', authority: authority.certificate, isLost: () => isLost },
    peers: {
      states: () => peers.states(),
      found: (id: number, address: string) => peers.found(id, address),
      // As `Members` answers.
      call: async (to: number) => {
        const asked = all[to - 1]?.peers.states().filter(({ isConnected }) => isConnected)
        const head = asked?.map(({ id, address }) => ({ id, address })) ?? []
        return { head, body: new Uint8Array() }
      },
    },
  })
  {
    using _second = new Seeker(partsOf(second.peers, [target]))
    using _third = new Seeker(partsOf(third.peers, [target]))
    await Bun.sleep(2500)
    expect(all.some(isConnectedToAll)).toBe(false)
    isLost = true
    await until(() => all.every(isConnectedToAll), 'connections')
  }
  stopAll(all)
}, 60_000)
