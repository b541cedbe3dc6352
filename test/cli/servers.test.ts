import { afterAll, beforeAll, expect, test } from 'bun:test'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readClientConfig } from '../../src/config.ts'
import { announceServer, findServer, findServers, isThisHost } from '../../src/servers.ts'
import { startFixtureServer } from './fixture-server.ts'
import { runCli } from './run-cli.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-servers-'))
})
afterAll(() => rmSync(dir, { recursive: true }))

const one = { url: 'http://0.0.0.0:9001', dataDir: '/data/one', pid: process.pid }

test('a server is found by any address of this machine, until it ends', () => {
  const state = join(dir, 'a')
  const remove = announceServer(state, one)
  for (const url of ['http://127.0.0.1:9001', 'http://localhost:9001/', 'http://[::1]:9001']) {
    expect(findServer(state, url)).toMatchObject(one)
  }
  for (const url of ['http://127.0.0.1:9002', 'https://127.0.0.1:9001', 'http://192.0.2.1:9001']) {
    expect(findServer(state, url)).toBeUndefined()
  }
  remove()
  expect(findServers(state)).toEqual([])
  remove()
})

test('records are for the user alone and hold no token', () => {
  const state = join(dir, 'b')
  announceServer(state, one)
  const servers = join(state, 'servers')
  expect(statSync(servers).mode & 0o777).toBe(0o700)
  const [name = ''] = readdirSync(servers)
  expect(readdirSync(servers)).toHaveLength(1)
  expect(statSync(join(servers, name)).mode & 0o777).toBe(0o600)
  expect(Object.keys(JSON.parse(readFileSync(join(servers, name), 'utf8'))).sort()).toEqual([
    'dataDir',
    'pid',
    'startedAt',
    'url',
  ])
})

test('records of processes that ended, and torn ones, are passed over', () => {
  const state = join(dir, 'c')
  const servers = join(state, 'servers')
  mkdirSync(servers, { recursive: true })
  const write = (name: string, text: string) => writeFileSync(join(servers, name), text)
  write('dead.json', JSON.stringify({ ...one, pid: 4_194_304, startedAt: '1' }))
  // The pid is in use, but by a process that began at another time.
  write('reused.json', JSON.stringify({ ...one, startedAt: '1' }))
  write('torn.json', '{"url":"http://0.0.')
  write('other.json', '{"url":"nonsense","pid":1,"dataDir":"/x","startedAt":"1"}')
  expect(findServers(state)).toEqual([])
  expect(findServers(join(dir, 'none'))).toEqual([])
})

test('a server that took over the data directory keeps its record', () => {
  const state = join(dir, 'd')
  const remove = announceServer(state, one)
  announceServer(state, { ...one, pid: process.ppid })
  remove()
  expect(findServers(state).map(server => server.pid)).toEqual([process.ppid])
})

test('tokens of files go to addresses of this machine only', () => {
  expect(isThisHost('127.0.0.1')).toBe(true)
  expect(isThisHost('[::1]')).toBe(true)
  expect(isThisHost('example.com')).toBe(false)
  expect(isThisHost('192.0.2.7')).toBe(false)
})

test('the command line takes the token of the announced server', async () => {
  using server = startFixtureServer()
  const state = join(dir, 'e')
  const dataDir = join(dir, 'e-data')
  mkdirSync(dataDir)
  writeFileSync(join(dataDir, 'admin.token'), server.token)
  announceServer(join(state, 'fnd'), { url: server.url, dataDir, pid: process.pid })
  const env = { XDG_STATE_HOME: state }
  const args = ['apps', 'list', '--url', server.url]
  expect((await runCli(args, { env })).exitCode).toBe(0)
  expect((await runCli(args)).exitCode).toBe(4)
  const elsewhere = await runCli(['apps', 'list', '--url', 'http://127.0.0.1:1'], { env })
  expect(elsewhere.stderr).toContain(`a server of yours runs at ${server.url}`)
})

test('settings of the client', () => {
  const urlOf = (env: Record<string, string>, url?: string) => {
    const read = readClientConfig(url === undefined ? {} : { url }, env)
    return read.ok ? read.config.url : read.faults
  }
  expect(urlOf({})).toBe('http://127.0.0.1:8080')
  expect(urlOf({ FND_URL: 'https://h:1/base/', FN_API_URL: 'http://no' })).toBe('https://h:1/base')
  expect(urlOf({ FN_API_URL: 'http://h:1/v1/' })).toBe('http://h:1')
  expect(urlOf({ FND_URL: 'http://no' }, 'h:8080')).toBe('http://h:8080')
  expect(urlOf({}, 'file:///x')).toEqual([expect.stringContaining('is not a URL')])
})
