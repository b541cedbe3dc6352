import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import {
  formatEndpoint,
  type Hello,
  hostOf,
  isLoopbackHost,
  judgeHello,
  parseEndpoint,
  parseHello,
} from '../../src/cluster/hello.ts'
import { seeded } from '../seed.ts'

const hello: Hello = {
  ...{ purpose: 'raft', protocolMin: 1, protocolMax: 1, clusterId: 'test', nodeId: 1, groupId: 1 },
  ...{ incarnation: 'x', commandVersion: 2, version: '0.1.0', address: '10.0.0.1:8081', wallMs: 5 },
}

describe('addresses', () => {
  test('are host, host:port or [v6]:port', () => {
    const cases = [
      ['10.0.0.7', { host: '10.0.0.7', port: 8081 }],
      ['node-1.example:9000', { host: 'node-1.example', port: 9000 }],
      ['[fd00::7]:9000', { host: 'fd00::7', port: 9000 }],
      ['[fd00::7]', { host: 'fd00::7', port: 8081 }],
      ['fd00::7', undefined],
      ['host:0', undefined],
      ['host:65536', undefined],
      ['host:x', undefined],
      [':8081', undefined],
      ['', undefined],
      ['http://host:8081', undefined],
      ['a b', undefined],
    ] as const
    for (const [text, endpoint] of cases) expect(parseEndpoint(text, 8081)).toEqual(endpoint)
    for (const text of ['10.0.0.7:1', '[fd00::7]:9000']) {
      const endpoint = parseEndpoint(text, 0)
      expect(endpoint && formatEndpoint(endpoint)).toBe(text)
    }
  })

  test('of the loopback are known in each spelling', () => {
    const loopback = [
      '127.0.0.1:1',
      '127.9.9.9:1',
      '[::1]:1',
      'localhost:1',
      '[::ffff:127.0.0.1]:1',
    ]
    expect(loopback.map(hostOf).filter(host => !isLoopbackHost(host))).toEqual([])
    const others = ['10.0.0.1:1', '128.0.0.1:1', '[fd00::1]:1', 'localhost.example:1']
    expect(others.map(hostOf).filter(isLoopbackHost)).toEqual([])
  })
})

describe('a hello', () => {
  test('is known from anything else', () => {
    expect(parseHello(hello)).toEqual(hello)
    const without = Object.keys(hello).map(name => ({ ...hello, [name]: undefined }))
    expect(without.filter(wrong => parseHello(wrong) !== undefined)).toEqual([])
    const wrong = [{ purpose: 'x' }, { nodeId: -1 }, { nodeId: 1.5 }, { clusterId: 'a/b' }]
    expect(wrong.filter(part => parseHello({ ...hello, ...part }) !== undefined)).toEqual([])
    fc.assert(
      fc.property(fc.jsonValue(), value => parseHello(value) === undefined),
      seeded(),
    )
  })

  test('of a later version with more fields is understood', () => {
    const theirs = parseHello({ ...hello, nodeId: 2, protocolMax: 7, zone: 'a' }) as Hello
    const name = { clusterId: 'test', nodeId: 2 }
    const sight = { remoteAddress: '10.0.0.2', localAddress: '10.0.0.1', strangeName: undefined }
    expect(judgeHello(hello, theirs, { ...sight, name })).toBeUndefined()
  })
})
