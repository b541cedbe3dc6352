/** The connection to a daemon that is none, breaks off, or hangs: nothing of it may end fnd. */
import { afterEach, beforeEach, expect, test } from 'bun:test'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readConfig } from '../../../src/config.ts'
import { assert, FndError } from '../../../src/errors.ts'
import { DockerRefusal, Engine, type EngineState } from '../../../src/exec/docker/engine.ts'
import { eventually } from '../../contract/driver.ts'

const open: { engine?: Engine; server?: Server } = {}
let dir = ''
const connections = new Set<Socket>()

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-engine-'))
})
afterEach(() => {
  open.engine?.close()
  open.server?.close()
  for (const socket of connections) socket.destroy()
  rmSync(dir, { recursive: true })
})

/** Something that listens where a daemon should, and does this to whoever sends a request. */
async function listener(answer: (socket: Socket, request: string) => void): Promise<string> {
  const path = join(dir, 'docker.sock')
  const server = createServer(socket => {
    connections.add(socket)
    socket.on('close', () => connections.delete(socket))
    socket.on('error', () => undefined)
    socket.on('data', bytes => answer(socket, String(bytes)))
  })
  open.server = server
  await new Promise<void>(resolve => server.listen(path, resolve))
  return path
}

function engineOn(env: Record<string, string>): { engine: Engine; states: EngineState[] } {
  const read = readConfig({}, env)
  assert(read.ok, 'the configuration of a test is valid')
  const states: EngineState[] = []
  const engine = new Engine({ config: read.config.docker, onState: state => states.push(state) })
  open.engine = engine
  return { engine, states }
}

const head = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n'
const ok = (body: string) => `${head}Content-Length: ${body.length}\r\n\r\n${body}`
const half = `${head}Content-Length: 99\r\n\r\n{"a":`

const refusers: Record<string, (socket: Socket) => void> = {
  'closes at once': socket => void socket.destroy(),
  'ends its side': socket => void socket.end(),
  'speaks another protocol': socket => void socket.end('SSH-2.0-OpenSSH\r\n'),
  'sends elsewhere': socket =>
    void socket.end('HTTP/1.1 301 Moved\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n'),
  'breaks off in the head': socket => {
    socket.write('HTTP/1.1 200 O')
    setTimeout(() => socket.destroy(), 10)
  },
}
for (const [what, answer] of Object.entries(refusers)) {
  test(`what listens ${what}: unavailable`, async () => {
    const { engine, states } = engineOn({ DOCKER_HOST: `unix://${await listener(answer)}` })
    const cause = await engine.ask(docker => docker.info()).catch(cause => cause)
    expect(cause).toBeInstanceOf(FndError)
    expect(cause.code).toBe('docker-unavailable')
    expect(cause.message).toContain(join(dir, 'docker.sock'))
    await eventually(() => states.at(-1)?.kind === 'down', 'the daemon is known as down')
  })
}

test('an answer that breaks off, or is none, ends in time', async () => {
  let reply = half
  const path = await listener((socket, request) => {
    if (request.includes('/_ping')) return void socket.write(ok('OK'))
    socket.write(reply)
    setTimeout(() => socket.destroy(), 10)
  })
  const { engine } = engineOn({ DOCKER_HOST: `unix://${path}` })
  const info = () => engine.ask(docker => docker.info(), 300)
  await expect(info()).rejects.toThrow('no answer in 0.3 s')
  expect(engine.state.kind).toBe('up')
  reply = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n'
  await expect(info()).rejects.toThrow('no answer')
  reply = 'HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n'
  await expect(info()).rejects.toBeInstanceOf(DockerRefusal)
  reply = ok('<html>')
  await info()
  expect((await engine.facts().catch(cause => cause)).version).toBeUndefined()
})

test('a daemon that hangs is found down, keeps no connection, and may come back', async () => {
  let isHanging = true
  const path = await listener(socket => {
    if (!isHanging) socket.write(ok('{}'))
  })
  const { engine, states } = engineOn({ DOCKER_HOST: `unix://${path}` })
  const asks = Array.from({ length: 20 }, () =>
    engine.ask(docker => docker.getContainer('x').inspect()).catch(cause => cause.code),
  )
  expect(new Set(await Promise.all(asks))).toEqual(new Set(['docker-unavailable']))
  expect(engine.state.kind).toBe('down')
  await eventually(() => connections.size <= 1, 'only a probe is connected')
  const atOnce = engine.ask(docker => docker.info())
  await expect(atOnce).rejects.toThrow(path)
  isHanging = false
  await eventually(() => states.at(-1)?.kind === 'up', 'the daemon is back')
  await engine.ask(docker => docker.getContainer('x').inspect())
}, 20_000)

test('a bug in what is asked is no fault of the daemon', async () => {
  const path = await listener(socket => void socket.write(ok('{}')))
  const { engine } = engineOn({ DOCKER_HOST: `unix://${path}` })
  const bug = engine.ask(async () => {
    const nothing = undefined as unknown as { name: string }
    return nothing.name
  })
  await expect(bug).rejects.toBeInstanceOf(TypeError)
})

test('certificates that cannot be read or are none: unavailable, and read anew', async () => {
  const certs = join(dir, 'certs')
  const env = { DOCKER_HOST: 'tcp://127.0.0.1:1', DOCKER_TLS_VERIFY: '1', DOCKER_CERT_PATH: certs }
  const { engine } = engineOn(env)
  const info = () => engine.ask(docker => docker.info())
  await expect(info()).rejects.toThrow('ca.pem')
  mkdirSync(certs)
  for (const name of ['ca', 'cert', 'key']) writeFileSync(join(certs, `${name}.pem`), 'none')
  let text = ''
  await eventually(() => {
    void info().catch(cause => {
      assert(cause instanceof FndError, 'it is the fault of the world')
      text = cause.message
    })
    return /PEM/i.test(text)
  }, 'the new files were read')
}, 20_000)

test('where no daemon was named and none is there, one may come', async () => {
  const read = readConfig({}, { DOCKER_HOST: `unix://${join(dir, 'docker.sock')}` })
  assert(read.ok, 'the configuration of a test is valid')
  const states: EngineState[] = []
  const config = { ...read.config.docker, isHostGiven: false }
  const engine = new Engine({ config, onState: state => states.push(state) })
  open.engine = engine
  expect(engine.state.kind).toBe('absent')
  await expect(engine.ask(docker => docker.ping())).rejects.toThrow('there is none at')
  await listener(socket => void socket.write(ok('{}')))
  await engine.ask(docker => docker.ping())
  expect(states).toEqual([{ kind: 'up' }])
})
