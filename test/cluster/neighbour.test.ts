import { afterEach, expect, test } from 'bun:test'
import { type Ends, inodeOf, isTrustedNeighbour } from '../../src/cluster/neighbour.ts'
import { until } from './harness.ts'

const stops: (() => void)[] = []

afterEach(() => {
  for (const stop of stops.splice(0)) stop()
})

/** A listener, and the ends of what connects to it. */
function listen(hostname: string) {
  const seen: Ends[] = []
  const listener = Bun.listen({
    hostname,
    port: 0,
    socket: {
      open: socket => {
        const { remoteAddress, remotePort, localAddress, localPort } = socket
        seen.push({ remoteAddress, remotePort, localAddress, localPort })
      },
      data: () => undefined,
    },
  })
  stops.push(() => listener.stop(true))
  return { port: listener.port, seen }
}

async function trustOf(hostname: string, target: string, wrapper: readonly string[]) {
  const { port, seen } = listen(hostname)
  const script = `exec 3<>/dev/tcp/${target}/${port}; sleep 60`
  const child = Bun.spawn([...wrapper, 'bash', '-c', script], { stdio: ['ignore', 'ignore', 2] })
  stops.push(() => child.kill())
  await until(() => seen.length === 1, 'the connection')
  return await isTrustedNeighbour(seen[0] as Ends)
}

const nobody = ['setpriv', '--reuid', '65534', '--clear-groups', '--bounding-set=-all']

test('a process of this user is trusted, over every way to this machine', async () => {
  expect(await trustOf('127.0.0.1', '127.0.0.1', [])).toBe(true)
  expect(await trustOf('::', '127.0.0.1', [])).toBe(true)
  expect(await trustOf('::1', '::1', [])).toBe(true)
})

test('one of another user is not', async () => {
  expect(await trustOf('127.0.0.1', '127.0.0.1', nobody)).toBe(false)
  expect(await trustOf('::', '127.0.0.1', nobody)).toBe(false)
})

test('root in a container on the network of the host is not', async () => {
  const container = ['unshare', '--pid', '--fork', '--kill-child']
  expect(await trustOf('127.0.0.1', '127.0.0.1', container)).toBe(false)
})

test('nor is a connection that this machine does not know', async () => {
  const ends = { remoteAddress: '127.0.0.1', remotePort: 1, localAddress: '127.0.0.1' }
  expect(await isTrustedNeighbour({ ...ends, localPort: 2 })).toBe(false)
})

test('lines of the kernel are read as it writes them', () => {
  const table = [
    '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout',
    '   0: 0100007F:1F91 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 11 1',
    '   1: 0100007F:C350 0100007F:1F91 01 00000000:00000000 00:00000000 00000000  1000        0 22 1',
    '   2: 0100007F:C351 0100007F:1F91 06 00000000:00000000 00:00000000 00000000     0        0 0 1',
    '   3: 00000000000000000000000001000000:C352 00000000000000000000000001000000:1F91 01 ' +
      '00000000:00000000 00:00000000 00000000     0        0 33 1',
    '   4: 0000000000000000FFFF00000100007F:C353 0000000000000000FFFF00000100007F:1F91 01 ' +
      '00000000:00000000 00:00000000 00000000     0        0 44 1',
    '',
  ].join('\n')
  const of = (address: string, remotePort: number) =>
    inodeOf(table, { remoteAddress: address, remotePort, localAddress: address, localPort: 8081 })
  expect([0xc350, 0xc351, 0xc352, 0xc353].map(port => of('127.0.0.1', port))).toEqual([
    '22',
    undefined,
    undefined,
    '44',
  ])
  expect(of('::1', 0xc352)).toBe('33')
  expect(of('::ffff:127.0.0.1', 0xc350)).toBe('22')
  expect(of('127.0.0.2', 0xc350)).toBeUndefined()
})
