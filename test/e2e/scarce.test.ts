/** A host that has too little of something: what cannot be done fails, and all else goes on. */
import { afterAll, expect, test } from 'bun:test'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { binary, Fnd, openFiles, processesOf, until } from './fnd.ts'

const dir = mkdtempSync(join(tmpdir(), 'fnd-scarce-'))
const openFilesMax = 60
const isRoot = process.getuid?.() === 0

afterAll(() => rmSync(dir, { recursive: true }))

/** A program that becomes fnd once the lines of shell before that have run. */
function after(name: string, lines: string): string {
  const path = join(dir, name)
  writeFileSync(path, `#!/bin/sh\n${lines}\nexec ${binary} "$@"\n`, { mode: 0o755 })
  return path
}

const hello = { source: 'export default () => "hi"' }

test('clients that take every descriptor leave nothing stuck when they go', async () => {
  await using fnd = new Fnd()
  await fnd.start(after('few-files', `ulimit -n ${openFilesMax}`))
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

/** Runs the lines in a mount namespace of their own. */
function mounted(name: string, lines: string): string {
  const inner = after(`${name}-inside`, lines)
  const path = join(dir, name)
  writeFileSync(path, `#!/bin/sh\nexec unshare -m ${inner} "$@"\n`, { mode: 0o755 })
  return path
}

const readOnlyGroups = `
for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do
  mount -o remount,bind,ro "$dir" 2>/dev/null
done`

// Only root may make namespaces and mounts. CI is root, and the runner counts a skip as a failure.
test.if(isRoot)(
  'control groups that became read-only are done without',
  async () => {
    await using fnd = new Fnd()
    await fnd.start()
    const fn = await fnd.deploy('hello', hello)
    // Killed, it leaves its groups behind.
    await fnd.stop('SIGKILL')
    await until(() => processesOf(fnd.dataDir).length === 0)
    await fnd.start(mounted('read-only-groups', readOnlyGroups))
    expect((await fetch(`${fnd.url}${new URL(fn.url).pathname}`)).status).toBe(200)
  },
  30_000,
)

test('a home that cannot be written costs only the record for the command line', async () => {
  await using fnd = await Fnd.start({ XDG_STATE_HOME: '/proc/none' })
  expect((await fetch(`${fnd.url}/readyz`)).status).toBe(200)
})

// As above; and where temporary files lie elsewhere, /tmp says nothing.
test.if(isRoot && tmpdir() === '/tmp')(
  'a /tmp that cannot be written is not needed',
  async () => {
    await using fnd = new Fnd()
    const bind = `mount -o bind /tmp /tmp && mount -o bind ${fnd.dir} ${fnd.dir}`
    await fnd.start(mounted('read-only-tmp', `${bind} && mount -o remount,bind,ro /tmp`))
    const fn = await fnd.deploy('hello', hello)
    expect((await fetch(fn.url)).status).toBe(200)
  },
  30_000,
)
