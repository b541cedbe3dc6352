/** The commands for clusters, against the real API over three nodes in memory. */
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from 'bun:test'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FndError } from '../../src/errors.ts'
import { ClusterFixture } from '../api/cluster-fixture.ts'
import { type Harness, openApi, token } from '../api/harness.ts'
import { runCli } from './run-cli.ts'

// Each test starts processes, on a machine that may be busy with others.
setDefaultTimeout(60_000)

const cluster = new ClusterFixture()
let api: Harness
let listener: Bun.Server<unknown>
let dir: string
let isBackupCut = false
let isLed = true

async function* backup() {
  yield new TextEncoder().encode('first ')
  await Bun.sleep(1)
  if (isBackupCut) throw new Error('the disk broke')
  yield new TextEncoder().encode('second')
}

const backups = {
  open: async () => ({ body: backup(), index: 77, fileName: 'fnd-c-1-77.backup', missing: [] }),
}

function serve() {
  return Bun.serve({ port: 0, hostname: '127.0.0.1', fetch: request => api.app.fetch(request) })
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'fnd-cli-cluster-'))
  const fresh = {
    linear: async () => {
      if (!isLed) throw new FndError('no-quorum', { detail: '1 of 3' })
    },
    atLeast: async () => undefined,
    appliedIndex: 7,
  }
  api = await openApi({ cluster, backups, fresh })
  await api.call('POST', '/v2/apps', { name: 'shop' })
  listener = serve()
})
afterAll(async () => {
  await listener.stop(true)
  await api[Symbol.asyncDispose]()
  rmSync(dir, { recursive: true })
})
beforeEach(() => {
  cluster.asked.length = 0
  cluster.states.clear()
  cluster.gone.clear()
  cluster.failure = undefined
  cluster.leaderId = 1
  cluster.warnings = []
  cluster.health = 'healthy'
  isBackupCut = false
  isLed = true
})

const run = (args: string[]) =>
  runCli(args, { server: { url: `http://127.0.0.1:${listener.port}`, token }, cwd: dir })

describe('nodes', () => {
  test('bare, they are listed in a table', async () => {
    const { stdout, exitCode } = await run(['nodes'])
    expect(exitCode).toBe(0)
    expect(stdout).toBe(
      [
        'ID  NAME  ROLE     STATE   HEALTH  LAG    RTT     VERSION  ADDRESS',
        '1   n1    leader   active  up      0      -       0.1.0    10.0.0.1:8081',
        '2   n2    voter    active  down    -      1.3 ms  0.1.0    10.0.0.2:8081',
        '3   n3    learner  active  slow    70000  1.3 ms  0.1.0    10.0.0.3:8081',
        '',
      ].join('\n'),
    )
    expect((await run(['nodes', 'ls'])).stdout).toBe(stdout)
    expect(JSON.parse((await run(['nodes', '--json'])).stdout)).toMatchObject({
      leader_id: 1,
      items: [{ id: 1 }, { id: 2, lag: null }, { id: 3 }],
    })
  })

  test('without the leader the list says whose view it is', async () => {
    cluster.leaderId = undefined
    expect((await run(['nodes'])).stdout).toContain('as node 1 sees it; it knows no leader')
  })

  test('wishes take a name or an id', async () => {
    expect((await run(['nodes', 'drain', 'n2'])).stdout).toBe('node n2 (2) drained\n')
    expect((await run(['nodes', 'undrain', '2'])).stdout).toBe('node n2 (2) takes calls again\n')
    expect((await run(['nodes', 'promote', 'n3'])).stdout).toBe('node n3 (3) is a voter\n')
    expect((await run(['nodes', 'demote', 'n2'])).stdout).toBe('node n2 (2) is a learner\n')
    expect((await run(['nodes', 'transfer', 'n2'])).stdout).toBe('node 2 leads\n')
    expect((await run(['nodes', 'transfer'])).stdout).toBe('node 2 leads\n')
    expect(cluster.asked).toEqual([
      'drain 2',
      'undrain 2',
      'promote 3',
      'demote 2',
      'transfer 2',
      'transfer undefined',
    ])
  })

  test('an unknown name is not found, with what is near', async () => {
    const { exitCode, stderr } = await run(['nodes', 'drain', 'n22'])
    expect({ exitCode, stderr }).toMatchObject({
      exitCode: 5,
      stderr: expect.stringContaining('there is no node n22\nhint: did you mean n2'),
    })
  })

  test('rm waits until the node is out', async () => {
    expect((await run(['nodes', 'rm', 'n3'])).stdout).toBe('removed node n3 (3)\n')
    expect((await run(['nodes', 'rm', '--force', 'n2'])).stdout).toBe('removed node n2 (2)\n')
    expect(cluster.asked).toEqual(['remove 3', 'remove 2 by force'])
    cluster.gone.clear()
    cluster.isStuck = true
    const { stdout } = await run(['nodes', 'rm', 'n3', '--no-wait'])
    cluster.isStuck = false
    expect(stdout).toBe('node n3 (3) is on its way out\n')
  })

  test('refusals come as they are, with when to try again', async () => {
    cluster.failure = 'no-quorum'
    const { exitCode, stderr } = await run(['nodes', 'promote', 'n3'])
    expect({ exitCode, stderr }).toEqual({
      exitCode: 1,
      stderr: 'error: A majority of the voters cannot be reached\nhint: try again in 5 s\n',
    })
  })

  test('who waits to join, and approval', async () => {
    const { stdout } = await run(['nodes', 'pending'])
    expect(stdout).toContain('FINGERPRINT  NAME  ADDRESS        FROM')
    expect(stdout).toContain('ab12-cd34    n4    10.0.0.4:8081  10.0.0.4')
    expect((await run(['nodes', 'approve', 'ab12-cd34'])).stdout).toBe('node 4 joins\n')
    expect((await run(['nodes', 'approve', 'x'])).exitCode).toBe(5)
  })

  test('names of nodes are completed', async () => {
    const { stdout } = await run(['complete', '--', 'nodes', 'drain', ''])
    expect(stdout).toBe('n1\t\nn2\t\nn3\t\n:space\n')
  })
})

test('without a quorum reads are answered from what the server knows, with a word', async () => {
  isLed = false
  const { stdout, stderr, exitCode } = await run(['apps', 'list'])
  expect(exitCode).toBe(0)
  expect(stdout).toContain('shop')
  expect(stderr).toBe(
    'warning: A majority of the voters cannot be reached: 1 of 3; ' +
      `this is what http://127.0.0.1:${listener.port} knows\n`,
  )
  isLed = true
  expect((await run(['apps', 'list'])).stderr).toBe('')
})

describe('status', () => {
  test('all on one screen', async () => {
    const { stdout, stderr, exitCode } = await run(['status'])
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
    expect(stdout).toContain('cluster    healthy (c-1)\n')
    expect(stdout).toContain('leader     n1 (node 1), term 7\n')
    expect(stdout).toContain('quorum     1 of 2 alive, 2 needed\n')
    expect(stdout).toContain('nodes      2 voters, 1 learner\n')
    expect(stdout).toContain('log        applied 119, 1 committed and not applied, last 121\n')
    expect(stdout.split('\n').length).toBeLessThan(24)
  })

  test('warnings say what to do, and the exit code that there are some', async () => {
    cluster.health = 'degraded'
    cluster.warnings = [{ code: 'voter-down', message: 'n2 is down', hint: 'start fnd there' }]
    const { stdout, stderr, exitCode } = await run(['status'])
    expect({ exitCode, stderr }).toEqual({
      exitCode: 6,
      stderr: 'error: it works, with 1 warning\n',
    })
    expect(stdout).toContain('Warnings:\n  n2 is down\n        → start fnd there\n')
  })

  test('without a quorum it answers, and the exit code says so', async () => {
    cluster.health = 'no-quorum'
    cluster.leaderId = undefined
    const { stdout, exitCode } = await run(['status', '--json'])
    expect(exitCode).toBe(7)
    expect(JSON.parse(stdout).cluster).toMatchObject({ health: 'no-quorum', leader_id: null })
  })
})

test('token prints the token alone where nobody looks', async () => {
  const { stdout, stderr } = await run(['token', '--ttl', '2h'])
  expect({ stdout, stderr }).toEqual({ stdout: 'fnd-abc.1.def\n', stderr: '' })
  await run(['token'])
  expect(cluster.asked).toEqual(['token 7200000', 'token 86400000'])
  expect((await run(['token', '--ttl', 'soon'])).exitCode).toBe(2)
  expect((await run(['token', '--ttl', '60d'])).stderr).toContain('error:')
})

test('leave waits until the node has ended', async () => {
  cluster.onLeave = () => void setTimeout(() => listener.stop(true), 300)
  const { stdout, exitCode } = await run(['leave'])
  cluster.onLeave = () => {}
  listener = serve()
  expect(exitCode).toBe(0)
  expect(stdout).toContain('left the cluster')
  cluster.failure = 'last-node'
  expect((await run(['leave'])).stderr).toContain('There is no other node')
})

describe('backup and restore', () => {
  test('a backup is whole or not there, and for its owner alone', async () => {
    const { stdout } = await run(['backup'])
    expect(stdout).toBe('saved entry 77 to fnd-c-1-77.backup: 12 bytes\n')
    const path = join(dir, 'fnd-c-1-77.backup')
    expect(readFileSync(path, 'utf8')).toBe('first second')
    expect(statSync(path).mode & 0o777).toBe(0o600)
    const again = await run(['backup'])
    expect(again).toMatchObject({ exitCode: 2 })
    expect(again.stderr).toContain('--force')
    expect((await run(['backup', '--force', '--json'])).stdout).toContain('"index": 77')
    expect((await run(['backup', '-'])).stdout).toBe('first second')
    isBackupCut = true
    const cut = await run(['backup', 'cut'])
    expect(cut.exitCode).toBe(1)
    expect(cut.stderr).toContain('the backup broke off')
    expect(existsSync(join(dir, 'cut'))).toBe(false)
    expect(existsSync(join(dir, 'cut.part'))).toBe(false)
  })

  test('restore needs a file, and a directory that is empty', async () => {
    mkdirSync(join(dir, 'full'), { recursive: true })
    writeFileSync(join(dir, 'full', 'x'), '')
    writeFileSync(join(dir, 'some.backup'), '')
    expect((await run(['restore', 'none', '--data', 'new'])).stderr).toContain('no file none')
    const full = await run(['restore', 'some.backup', '--data', 'full'])
    expect(full).toMatchObject({ exitCode: 2 })
    expect(full.stderr).toContain('is not empty')
    expect((await run(['restore', 'some.backup'])).exitCode).toBe(2)
  })
})
