/** Settings of a cluster: places, defaults, and what is refused. */
import { expect, test } from 'bun:test'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ConfigFlags, readConfig } from '../src/config.ts'
import { type ClusterConfig, parsePlace, placeText } from '../src/config-cluster.ts'

function clusterFrom(env: Record<string, string>, flags: ConfigFlags = {}): ClusterConfig {
  const read = readConfig(flags, env)
  if (!read.ok) throw new Error(read.faults.join('; '))
  return read.config.cluster
}

test('a place is a name or an address, with or without a port', () => {
  expect(parsePlace('10.0.0.1', 8081)).toEqual({ host: '10.0.0.1', port: 8081 })
  expect(parsePlace('node-1.example:9000', 8081)).toEqual({ host: 'node-1.example', port: 9000 })
  expect(parsePlace('[fd00::1]:9000', 8081)).toEqual({ host: 'fd00::1', port: 9000 })
  expect(parsePlace('[::1]', 8081)).toEqual({ host: '::1', port: 8081 })
  for (const text of ['', ':8081', 'a b', 'http://a:1', 'a:70000', 'fd00::1', 'a:', '[::1']) {
    expect([text, parsePlace(text, 8081)]).toEqual([text, undefined])
  }
  expect(placeText({ host: 'fd00::1', port: 1 })).toBe('[fd00::1]:1')
  expect(placeText({ host: 'a', port: 1 })).toBe('a:1')
})

test('peers are listened for one port above the HTTP port, on the same address', () => {
  expect(clusterFrom({}).peerListen).toEqual({ host: '0.0.0.0', port: 8081 })
  const own = clusterFrom({ FND_LISTEN: '127.0.0.1:9000' })
  expect(own.peerListen).toEqual({ host: '127.0.0.1', port: 9001 })
  expect(clusterFrom({ FND_LISTEN: '127.0.0.1:0' }).peerListen.port).toBe(0)
  expect(clusterFrom({ FND_PEER_LISTEN: ':7000' }).peerListen).toEqual({
    host: '0.0.0.0',
    port: 7000,
  })
  expect(clusterFrom({ FND_PEER_LISTEN: ':7000' }, { peerListen: '7001' }).peerListen.port).toBe(
    7001,
  )
})

test('members to join, with the default port', () => {
  expect(clusterFrom({}).join).toEqual([])
  expect(clusterFrom({ FND_JOIN: '10.0.0.1, n2:9000,' }).join).toEqual([
    { host: '10.0.0.1', port: 8081 },
    { host: 'n2', port: 9000 },
  ])
  expect(clusterFrom({ FND_JOIN: 'a' }, { join: 'b' }).join).toEqual([{ host: 'b', port: 8081 }])
})

test('the join token may lie in a file', () => {
  const dir = mkdtempSync(join(tmpdir(), 'fnd-config-'))
  try {
    const path = join(dir, 'token')
    const token = `fnd-${'A'.repeat(43)}.rkckw0.${'b'.repeat(22)}`
    writeFileSync(path, `${token}\n`)
    expect(clusterFrom({ FND_JOIN_TOKEN_FILE: path }).joinToken).toBe(token)
  } finally {
    rmSync(dir, { recursive: true })
  }
})

test('a node has a name, that of its host unless it is given', () => {
  expect(clusterFrom({}).name).toMatch(/^[A-Za-z0-9._-]{1,63}$/)
  expect(clusterFrom({ FND_NAME: 'a' }, { name: 'b' }).name).toBe('b')
})

test('defaults of the cluster', () => {
  expect(clusterFrom({})).toMatchObject({
    votersMax: 5,
    voterDeadAfterMs: 60_000,
    electionTimeoutMs: 400,
    advertise: undefined,
    joinToken: '',
  })
  expect(clusterFrom({ FND_ADVERTISE: 'n1' }).advertise).toEqual({ host: 'n1', port: 0 })
})

test.each([
  ['FND_JOIN', 'http://a', '--join'],
  ['FND_JOIN', 'a:0', '--join'],
  ['FND_JOIN_TOKEN', 'secret', '--join-token'],
  ['FND_PEER_LISTEN', 'here', '--peer-listen'],
  ['FND_LISTEN', '127.0.0.1:65535', '--peer-listen'],
  ['FND_ADVERTISE', '0.0.0.0', '--advertise'],
  ['FND_ADVERTISE', '[::]:1', '--advertise'],
  ['FND_NAME', 'a b', '--name'],
  ['FND_VOTERS', '4', 'FND_VOTERS'],
  ['FND_VOTERS', '9', 'FND_VOTERS'],
  ['FND_ELECTION_TIMEOUT', '50ms', 'FND_ELECTION_TIMEOUT'],
  ['FND_VOTER_DEAD_AFTER', '500ms', 'FND_VOTER_DEAD_AFTER'],
])('%s=%s is refused by name', (name, value, named) => {
  const read = readConfig({}, { [name]: value })
  expect(read.ok ? [] : read.faults).toEqual([expect.stringContaining(named)])
})
