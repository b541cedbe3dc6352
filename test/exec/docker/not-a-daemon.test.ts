/** Servers in place of a daemon: one that lets nobody ask what it is, and one that is none. */
import { afterAll, expect, test } from 'bun:test'
import { FndError } from '../../../src/errors.ts'
import { Collector, specOf } from '../../contract/driver.ts'
import { openDockerDriver } from '../../docker/docker-driver.ts'

const proxy = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  fetch: request => {
    const { pathname } = new URL(request.url)
    if (pathname.endsWith('/_ping')) return new Response('OK')
    if (pathname.endsWith('/containers/json')) return Response.json([])
    if (pathname.endsWith('/info')) return new Response('forbidden', { status: 403 })
    return Response.json({ message: 'no such image' }, { status: 404 })
  },
})
afterAll(() => proxy.stop(true))

test('the call fails for an image that is not there, and nothing else does', async () => {
  const env = { DOCKER_HOST: `tcp://127.0.0.1:${proxy.port}` }
  await using docker = await openDockerDriver({ env, output: new Collector() })
  const spec = specOf('hello:1')
  const causes = await Promise.allSettled([
    docker.driver.prepare(spec),
    docker.images.prepare(spec, false),
  ])
  const reasons = causes.map(cause => (cause.status === 'rejected' ? cause.reason : cause))
  expect(reasons.every(reason => reason instanceof FndError)).toBe(true)
  expect(reasons[0].message).toContain('forbidden')
})

test('a web server that has a page for every path ends no node, and runs no function', async () => {
  const web = Bun.serve({ hostname: '127.0.0.1', port: 0, fetch: () => new Response('<html>') })
  try {
    const env = { DOCKER_HOST: `tcp://127.0.0.1:${web.port}` }
    await using docker = await openDockerDriver({ env, output: new Collector() })
    const start = docker.driver.start(specOf('hello:1'), 'x', new AbortController().signal)
    const reason = await start.catch(cause => cause)
    expect(reason).toBeInstanceOf(FndError)
  } finally {
    await web.stop(true)
  }
})
