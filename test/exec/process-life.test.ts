/** The life of the driver's own process: its sudden end, its next start, and other users. */
import { afterEach, expect, test } from 'bun:test'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Collector, eventually, refusal, specOf } from '../contract/driver.ts'
import { fixtures, Place } from './process-driver.ts'

const isRoot = process.getuid?.() === 0
const nobody = 65_534
const dirs: string[] = []

function newDataDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'fnd-life-'))
  dirs.push(dir)
  return dir
}

afterEach(() => {
  for (const dir of dirs.splice(0)) {
    // A killed host that no next start came after leaves empty groups.
    for (const group of cgroupsOf(dir))
      Bun.spawnSync(['find', group, '-depth', '-type', 'd', '-delete'])
    rmSync(dir, { recursive: true, force: true })
  }
})

interface HostReport {
  readonly level: string
  readonly measures: readonly { name: string; enforced: boolean; note: string }[]
  readonly pids: readonly number[]
  readonly answers: readonly string[]
}

const root = resolve(import.meta.dir, '../..')
const hostProgram = join(fixtures, 'driver-host.ts')

/**
 * As another user, who may not be allowed to where this tree lies: it is shown to that user under
 * a directory that is open to all, in a mount namespace of its own.
 */
function commandAsNobody(dataDir: string): string[] {
  const tree = mkdtempSync(join(tmpdir(), 'fnd-tree-'))
  dirs.push(tree)
  chmodSync(tree, 0o755)
  const shown = (path: string) => (path.startsWith(root) ? tree + path.slice(root.length) : path)
  const user = ['setpriv', `--reuid=${nobody}`, `--regid=${nobody}`, '--clear-groups']
  const script = 'mount --bind "$0" "$1" && cd "$1" && shift && exec "$@"'
  const host = [shown(process.execPath), shown(hostProgram), dataDir]
  return ['unshare', '--mount', 'sh', '-c', script, root, tree, ...user, ...host]
}

async function startHost(
  dataDir: string,
  command: readonly string[] = [process.execPath, hostProgram, dataDir],
) {
  const host = Bun.spawn([...command], {
    stdin: 'pipe',
    stdout: 'pipe',
    stderr: 'inherit',
    env: { PATH: process.env.PATH ?? '', TMPDIR: dataDir, HOME: dataDir },
  })
  const reader = host.stdout.getReader()
  const decoder = new TextDecoder()
  let text = ''
  while (!text.includes('\n')) {
    const { done, value } = await reader.read()
    if (done) throw new Error(`the host ended: ${text}`)
    text += decoder.decode(value)
  }
  return { host, report: JSON.parse(text) as HostReport }
}

/** Processes, alive, that were started on this data directory. */
function processesOf(dataDir: string): string[] {
  return readdirSync('/proc').filter(pid => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false
    try {
      if (/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))) return false
      return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(dataDir)
    } catch (cause) {
      const { code = '' } = cause as NodeJS.ErrnoException
      expect(['ENOENT', 'ESRCH', 'EACCES']).toContain(code)
      return false
    }
  })
}

function cgroupsOf(dataDir: string): string[] {
  const hash = new Bun.CryptoHasher('sha256').update(dataDir).digest('hex').slice(0, 12)
  const { stdout } = Bun.spawnSync(['find', '/sys/fs/cgroup', '-type', 'd', '-name', `fnd-${hash}`])
  return stdout.toString().split('\n').filter(Boolean)
}

// Only root may make namespaces and mounts. CI is root, and the runner counts a skip as a failure.
test.if(isRoot)('no function outlives fnd, however fnd ends', async () => {
  const dataDir = newDataDir()
  const { host, report } = await startHost(dataDir)
  expect(report).toMatchObject({ level: 'namespaces', answers: ['hello', 'hello'] })
  host.kill('SIGKILL')
  await host.exited
  await eventually(() => !report.pids.some(pid => existsSync(`/proc/${pid}`)), 'all are gone')
  await eventually(() => processesOf(dataDir).length === 0, 'the spare is gone')
})

test.if(isRoot)('the next start cleans up after one that was killed', async () => {
  const dataDir = newDataDir()
  const first = await startHost(dataDir)
  first.host.kill('SIGKILL')
  await first.host.exited
  const second = await startHost(dataDir)
  expect(second.report.answers).toEqual(['hello', 'hello'])
  second.host.stdin.end()
  expect(await second.host.exited).toBe(0)
  expect(cgroupsOf(dataDir)).toEqual([])
  expect(existsSync(join(dataDir, 'run'))).toBe(false)
})

test.if(isRoot)('without root: limits only, said so, and everything else works', async () => {
  const dataDir = newDataDir()
  chownSync(dataDir, nobody, nobody)
  chmodSync(dataDir, 0o755)
  const { host, report } = await startHost(dataDir, commandAsNobody(dataDir))
  expect(report).toMatchObject({ level: 'process', answers: ['hello', 'hello'] })
  const uid = report.measures.find(measure => measure.name === 'uid')
  expect(uid).toEqual({ name: 'uid', enforced: false, note: 'fnd does not run as root' })
  const memory = report.measures.find(measure => measure.name === 'memory')
  expect(memory?.note).toContain('watched')
  host.stdin.end()
  expect(await host.exited).toBe(0)
  expect(processesOf(dataDir)).toEqual([])
})

test.if(isRoot)('without root: what a killed fnd left is ended by the next', async () => {
  const dataDir = newDataDir()
  chownSync(dataDir, nobody, nobody)
  const first = await startHost(dataDir, commandAsNobody(dataDir))
  first.host.kill('SIGKILL')
  await first.host.exited
  await eventually(() => !first.report.pids.some(pid => existsSync(`/proc/${pid}`)), 'gone')
  const second = await startHost(dataDir, commandAsNobody(dataDir))
  second.host.stdin.end()
  await second.host.exited
  expect(processesOf(dataDir)).toEqual([])
})

test('isolation that is required and cannot be had is refused', async () => {
  const place = new Place()
  const opening = place.open({
    output: new Collector(),
    levelMax: 'process',
    env: { FND_REQUIRE_ISOLATION: '1' },
  })
  expect((await refusal(opening)).code).toBe('isolation-missing')
  place.remove()
})

test('a bundle that is on another node is brought before the start', async () => {
  const place = new Place()
  const asked: string[] = []
  await using driver = await place.open({
    output: new Collector(),
    levelMax: 'process',
    env: { FND_SPARE_WORKERS: '0' },
    ensure: async name => {
      asked.push(name)
      if (name === 'late') place.bundle('late', 'main.js', { 'main.js': '' })
    },
  })
  await driver.prepare(specOf('bundle:late'))
  await driver.prepare(specOf('bundle:late'))
  expect((await refusal(driver.prepare(specOf('bundle:nowhere')))).code).toBe('bundle-not-found')
  expect(asked).toEqual(['late', 'nowhere'])
  place.remove()
})
