/** The parts that tests of containers stand on: daemons, images and registries of their own. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Docker from 'dockerode'
import { Daemon } from './daemon.ts'
import { followed, type ImageName, makeImages } from './images.ts'
import { removeLeftovers } from './leftovers.ts'
import { Registry } from './registry.ts'

let daemon: Daemon
beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
})
afterAll(async () => {
  await daemon?.stop()
})

async function eventually<T>(what: string, attempt: () => Promise<T | undefined>): Promise<T> {
  const deadlineMs = performance.now() + 30_000
  for (;;) {
    const value = await attempt().catch(() => undefined)
    if (value !== undefined) return value
    if (performance.now() > deadlineMs) throw new Error(`never came: ${what}`)
    await Bun.sleep(10)
  }
}

/** Starts a function without fnd, and answers what it says to `body`. */
async function callRaw(docker: Docker, dir: string, image: ImageName, body: string) {
  const sockets = join(dir, `io-${image}`)
  mkdirSync(sockets)
  chmodSync(sockets, 0o777)
  const container = await docker.createContainer({
    Image: `${image}:1`,
    User: '1000:1000',
    Env: ['FN_FORMAT=http-stream', 'FN_LISTENER=unix:/tmp/iofs/lsnr.sock'],
    HostConfig: {
      NetworkMode: 'none',
      ReadonlyRootfs: true,
      Binds: [`${sockets}:/tmp/iofs`],
      Tmpfs: { '/tmp': '' },
    },
  })
  await container.start()
  const unix = join(sockets, 'lsnr.sock')
  const call = () => fetch('http://localhost/call', { unix, method: 'POST', body })
  const answer = await eventually(`an answer of ${image}`, call)
  const said = { status: answer.status, text: await answer.text() }
  await container.remove({ force: true })
  return said
}

/** Sends `input` to a container's stdin; its exit code and what it said on stdout. */
async function run(image: ImageName, input: string, env: string[] = []) {
  const container = await daemon.docker.createContainer({
    Image: `${image}:1`,
    Env: env,
    OpenStdin: true,
    StdinOnce: true,
    AttachStdin: true,
    AttachStdout: true,
    HostConfig: { NetworkMode: 'none' },
  })
  const attach = { stream: true, stdin: true, stdout: true, hijack: true }
  const stream = await container.attach(attach)
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  const ended = new Promise(resolve => stream.on('end', resolve))
  await container.start()
  stream.end(input)
  const { StatusCode: code } = (await container.wait()) as { StatusCode: number }
  await ended
  await container.remove({ force: true })
  // Frames: a byte for the stream, three of nothing, four of length.
  const bytes = Buffer.concat(chunks)
  let text = ''
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at + 4)
    text += bytes.toString('utf8', at + 8, at + 8 + length)
    at += 8 + length
  }
  return { code, text }
}

describe('images', () => {
  test('http-stream functions answer: in C, in Node with an FDK, that of contracts', async () => {
    await makeImages(daemon.docker, ['fn-static', 'fn-node-fdk', 'fn-contract'])
    const hello = await callRaw(daemon.docker, daemon.dir, 'fn-static', '')
    expect(hello).toEqual({ status: 200, text: 'hello' })
    const echo = await callRaw(daemon.docker, daemon.dir, 'fn-contract', 'abc')
    expect(echo).toEqual({ status: 200, text: 'abc' })
    const greeting = await callRaw(daemon.docker, daemon.dir, 'fn-node-fdk', '{"name":"Jo"}')
    expect(JSON.parse(greeting.text)).toMatchObject({ message: 'Hello Jo' })
  })

  test('functions of stdin and stdout answer call after call', async () => {
    await makeImages(daemon.docker, ['fn-default', 'fn-http', 'fn-json'])
    expect(await run('fn-default', 'abc')).toEqual({ code: 0, text: 'abc' })
    expect((await run('fn-default', '', ['MODE=exit'])).code).toBe(3)
    const request = 'POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc'
    const chunked = 'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n'
    const exit = 'POST / HTTP/1.1\r\nX-Do: exit\r\n\r\n'
    const http = await run('fn-http', request + chunked + exit)
    expect(http.code).toBe(3)
    expect(http.text.match(/\r\n\r\n(abc|ab)/g)).toEqual(['\r\n\r\nabc', '\r\n\r\nab'])
    const objects = '{"call_id":"1","protocol":{"body":"no"},"body":"a\\"}"}\n\n{"body":"exit"}'
    const json = await run('fn-json', objects)
    expect(json.code).toBe(3)
    expect(JSON.parse(json.text).body).toBe('a"}')
  })

  test('broken ones are broken in the way that their name says', async () => {
    const { docker } = daemon
    const broken = ['fn-volume', 'fn-no-entrypoint', 'fn-no-command', 'fn-exits', 'fn-oom'] as const
    await makeImages(docker, broken)
    const { Config } = await docker.getImage('fn-volume:1').inspect()
    expect(Object.keys(Config.Volumes)).toEqual(['/data'])
    const HostConfig = { NetworkMode: 'none', Memory: 32 << 20, MemorySwap: 32 << 20 }
    const create = (name: ImageName) => docker.createContainer({ Image: `${name}:1`, HostConfig })
    await expect(create('fn-no-command')).rejects.toThrow('No command')
    await expect((await create('fn-no-entrypoint')).start()).rejects.toThrow('no such file')
    const exits = await create('fn-exits')
    await exits.start()
    expect(((await exits.wait()) as { StatusCode: number }).StatusCode).toBe(3)
    const oom = await create('fn-oom')
    await oom.start()
    await oom.wait()
    expect((await oom.inspect()).State).toMatchObject({ ExitCode: 137, OOMKilled: true })
  })
})

describe('registry', () => {
  test('an image is pushed and pulled, with the password and only with it', async () => {
    const { docker, gateway = '' } = daemon
    await using registry = await Registry.start({ address: gateway })
    await makeImages(docker, ['fn-static'])
    const name = await registry.push(docker, 'fn-static:1', 'team/static:2')
    expect(name).toBe(`${registry.name}/team/static:2`)
    await expect(docker.getImage(name).inspect()).rejects.toThrow('no such image')
    await expect(docker.pull(name)).rejects.toThrow('no basic auth credentials')
    registry.requests.length = 0
    await followed(docker, await docker.pull(name, { authconfig: registry.authconfig }))
    expect(registry.pulls).toBeGreaterThan(0)
    await docker.getImage(name).remove()
  })

  test('a registry that is held back answers when it is let go', async () => {
    await using registry = await Registry.start()
    const name = await registry.push(daemon.docker, 'fn-static:1', 'held:1')
    registry.hold()
    registry.requests.length = 0
    const pulled = daemon.docker
      .pull(name, { authconfig: registry.authconfig })
      .then(stream => followed(daemon.docker, stream))
    await eventually('a request', async () => registry.requests[0])
    const early = await Promise.race([pulled.then(() => 'done'), Bun.sleep(100)])
    expect(early).toBeUndefined()
    registry.release()
    await pulled
    await daemon.docker.getImage(name).remove()
  })

  test('its certificate is checked where it is not on loopback', async () => {
    const { docker, gateway = '' } = daemon
    await using trusted = await Registry.start({ address: gateway })
    await using untrusted = await Registry.start({ address: gateway, isUntrusted: true })
    await trusted.push(docker, 'fn-static:1', 'a:1')
    await expect(untrusted.push(docker, 'fn-static:1', 'a:1')).rejects.toThrow('certificate')
  })
})

describe('daemon', () => {
  test('a client with a certificate is served over TCP, and no other', async () => {
    await using other = await Daemon.start({ tls: true })
    const url = new URL(other.tcpHost ?? '')
    const target = { host: url.hostname, port: url.port, protocol: 'https' as const }
    const file = (name: string) => readFileSync(join(other.certDir, name))
    const ca = file('ca.pem')
    const known = new Docker({ ...target, ca, cert: file('cert.pem'), key: file('key.pem') })
    expect(String(await known.ping())).toBe('OK')
    await expect(new Docker({ ...target, ca }).ping()).rejects.toThrow()
  })

  test('a restarted and a killed one have what they had; a frozen one is silent', async () => {
    await using other = await Daemon.start({ bridge: true, storage: 'vfs' })
    await makeImages(other.docker, ['fn-static'])
    await other.restart()
    await other.kill()
    await expect(other.docker.ping()).rejects.toThrow()
    await other.start()
    expect((await other.docker.getImage('fn-static:1').inspect()).Size).toBeGreaterThan(0)
    other.freeze()
    const ping = other.docker.ping()
    expect(await Promise.race([ping, Bun.sleep(200)])).toBeUndefined()
    other.thaw()
    await ping
  })

  test('a small disk gets full', async () => {
    await using other = await Daemon.start({ diskMb: 30 })
    await makeImages(other.docker, ['fn-static'])
    await expect(makeImages(other.docker, ['fn-contract'])).rejects.toThrow('no space left')
  })

  test('containers of a daemon with live restore outlive it, and end with stop', async () => {
    const other = await Daemon.start({ liveRestore: true })
    await makeImages(other.docker, ['fn-never'])
    const container = await other.docker.createContainer({ Image: 'fn-never:1' })
    await container.start()
    const { Pid: pid } = (await container.inspect()).State
    await other.restart()
    expect((await container.inspect()).State).toMatchObject({ Running: true, Pid: pid })
    await other.stop()
    await eventually('its end', async () => (existsSync(`/proc/${pid}/exe`) ? undefined : true))
    expect(existsSync(other.dir)).toBe(false)
  })

  test('what a crashed run left behind is removed', async () => {
    const other = await Daemon.start({ bridge: true, diskMb: 50 })
    await makeImages(other.docker, ['fn-never'])
    const container = await other.docker.createContainer({ Image: 'fn-never:1' })
    await container.start()
    const { Pid: pid } = (await container.inspect()).State
    const ownerPath = join(other.dir, 'owner.json')
    const owner = JSON.parse(readFileSync(ownerPath, 'utf8')) as { bridge: string }
    writeFileSync(ownerPath, JSON.stringify({ ...owner, startTime: 'long ago' }))
    removeLeftovers()
    expect(existsSync(other.dir)).toBe(false)
    expect(existsSync(`/proc/${pid}/exe`)).toBe(false)
    expect(existsSync(`/sys/class/net/${owner.bridge}`)).toBe(false)
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(other.dir)
  })
})
