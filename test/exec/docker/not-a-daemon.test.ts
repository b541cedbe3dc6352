/** A proxy before a daemon, which lets nobody ask what the daemon is. */
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
