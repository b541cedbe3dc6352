/** A host that has too little of something: what cannot be done fails, and all else goes on. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { binary, Fnd, openFiles, until } from './fnd.ts'

const dir = mkdtempSync(join(tmpdir(), 'fnd-scarce-'))
const openFilesMax = 60

beforeAll(() => {
  const script = `#!/bin/sh\nulimit -n ${openFilesMax}\nexec ${binary} "$@"\n`
  writeFileSync(join(dir, 'fnd'), script)
  chmodSync(join(dir, 'fnd'), 0o755)
})
afterAll(() => rmSync(dir, { recursive: true }))

const hello = { source: 'export default () => "hi"' }

test('clients that take every descriptor leave nothing stuck when they go', async () => {
  await using fnd = new Fnd({}, join(dir, 'fnd'))
  await fnd.start()
  const warm = await fnd.deploy('warm', hello)
  const cold = await fnd.deploy('cold', hello)
  expect((await fetch(warm.url)).status).toBe(200)
  // This call waits for its start with its connection open already.
  const idle = Array.from({ length: openFilesMax }, () => {
    const socket = connect(fnd.port, '127.0.0.1')
    socket.on('error', () => undefined)
    return socket
  })
  await until(() => openFiles(fnd.pid).length >= openFilesMax - 1, 'the limit')
  const refused = await fetch(cold.url, { signal: AbortSignal.timeout(10_000) }).then(
    response => response.status,
    () => 0,
  )
  expect([0, 200, 502]).toContain(refused)
  for (const socket of idle) socket.destroy()
  await until(async () => (await fetch(cold.url)).status === 200, 'a start')
  expect((await fetch(warm.url)).status).toBe(200)
  expect(fnd.process.exitCode).toBeNull()
}, 30_000)
