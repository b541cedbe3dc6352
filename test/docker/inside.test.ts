/** fnd itself in a container, with the daemon's socket and a directory of the host mounted. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type Docker from 'dockerode'
import { eventually } from '../contract/driver.ts'
import { binary } from '../e2e/fnd.ts'
import { Daemon, freePort } from './daemon.ts'
import { makeImages } from './images.ts'

const setUpMs = 120_000
const dir = mkdtempSync(join(tmpdir(), 'fnd-in-'))
const port = freePort()
const url = `http://127.0.0.1:${port}`
let daemon: Daemon
let outer: Docker.Container

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true })
  // The image with Node has the libraries of libc, which is all that the executable needs.
  await makeImages(daemon.docker, ['fn-contract', 'fn-static'])
  mkdirSync(join(dir, 'sockets'))
  outer = await daemon.docker.createContainer({
    Image: 'fn-contract:1',
    Entrypoint: ['/fnd', '--no-auth', '--data', '/data'],
    Env: [
      `FND_LISTEN=127.0.0.1:${port}`,
      'FN_IOFS_PATH=/iofs',
      `FN_IOFS_DOCKER_PATH=${join(dir, 'sockets')}`,
      'FND_SPARE_WORKERS=0',
    ],
    HostConfig: {
      NetworkMode: 'host',
      Binds: [
        `${binary}:/fnd:ro`,
        `${join(dir, 'sockets')}:/iofs`,
        `${daemon.socketPath}:/var/run/docker.sock`,
      ],
      Tmpfs: { '/data': '', '/tmp': '' },
    },
  })
  await outer.start()
  await eventually(() => answers(), 'fnd answers')
}, setUpMs)

afterAll(async () => {
  await outer.remove({ force: true })
  await daemon[Symbol.asyncDispose]()
  rmSync(dir, { recursive: true, force: true })
}, setUpMs)

async function answers(): Promise<boolean> {
  try {
    return (await fetch(`${url}/healthz`)).ok
  } catch {
    return false
  }
}

async function post(path: string, body: object): Promise<{ readonly id: string }> {
  const answer = await fetch(`${url}${path}`, { method: 'POST', body: JSON.stringify(body) })
  expect(answer.status).toBe(200)
  return (await answer.json()) as { id: string }
}

test('its functions are called through the directory that both see', async () => {
  const { id: app_id } = await post('/v2/apps', { name: 'demo' })
  const { id } = await post('/v2/fns', { name: 'echo', app_id, image: 'fn-static:1' })
  const answer = await fetch(`${url}/invoke/${id}`, { method: 'POST', body: 'hello' })
  expect({ status: answer.status, text: await answer.text() }).toEqual({
    status: 200,
    text: 'hello',
  })
}, 60_000)

test('SIGTERM leaves none of its containers', async () => {
  await outer.kill({ signal: 'SIGTERM' })
  await outer.wait()
  const left = await daemon.docker.listContainers({ all: true })
  expect(left.map(({ Id }) => Id)).toEqual([outer.id])
}, 60_000)
