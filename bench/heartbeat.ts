/**
 * Whether heartbeats wait for anything: three members with a large state, every one of them with as
 * many calls of a function as it can take, and a wiped follower that is sent a snapshot. What is
 * taken is the longest gap between two heartbeats that any member tells (`/metrics`), at rest,
 * under calls, and under calls with a snapshot on the way; and whether there was an election.
 * Beside it stands how long the event loops of the members were held, that of the node which
 * receives the snapshot too, and that of this process, which has nothing to do: what the machine
 * itself keeps from everybody.
 *
 * npm run bench:heartbeat -- [--megabytes N] [--connections N] [--seconds S]
 *
 * Members remember the longest gap of the last minute, so that a phase lasts a minute or longer.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Figure, printFigures } from './figures.ts'
import { binary, helloSource, table } from './fnd.ts'
import { BenchCluster, type BenchMember } from './members.ts'
import { type PumpResult, runPump } from './pump.ts'

const { values } = parseArgs({
  options: {
    megabytes: { type: 'string', default: '1000' },
    connections: { type: 'string', default: '64' },
    seconds: { type: 'string', default: '62' },
  },
})
const megabytes = Number(values.megabytes)
const phaseMs = Number(values.seconds) * 1000
/** The default of FND_ELECTION_TIMEOUT. */
const electionTimeoutMs = 400
const writers = 4

/** Apps of a megabyte each. */
async function fill(leader: BenchMember): Promise<void> {
  let made = 0
  const writer = async () => {
    while (made < megabytes) {
      made += 1
      const config = { v: 'v'.repeat(1_000_000) }
      const answer = await leader.api('POST', '/v2/apps', { name: `app-${made}`, config })
      if (!answer.ok) throw new Error(`cannot create an app: ${await answer.text()}`)
    }
  }
  await Promise.all(Array.from({ length: writers }, writer))
}

async function deploy(member: BenchMember): Promise<string> {
  const file = join(member.dir, 'hello.ts')
  await Bun.write(file, helloSource)
  const server = ['--url', member.url, '--token', member.token]
  const args = [binary, 'deploy', file, '--app', 'bench', '--json', ...server]
  const run = Bun.spawnSync(args, { env: { PATH: process.env.PATH ?? '', HOME: member.dir } })
  if (run.exitCode !== 0) throw new Error(`deploy failed: ${run.stderr.toString()}`)
  return new URL((JSON.parse(run.stdout.toString()) as { invoke_url: string }).invoke_url).pathname
}

function callsOf(members: readonly BenchMember[], path: string, ms: number): Promise<PumpResult> {
  return runPump({
    ports: members.map(member => member.port),
    connections: Number(values.connections) * members.length,
    durationMs: ms,
    // The body's counter needs eight bytes.
    request: { kind: 'http', method: 'POST', path, headers: {}, body: '00000000', tail: 0 },
  })
}

/** The longest of the last minute that any of the members tells. */
async function longestMs(
  what: 'heartbeat_gap' | 'stall',
  members: readonly BenchMember[],
): Promise<number> {
  const metric = new RegExp(`^fnd_raft_${what}_seconds\\{since="minute"\\} (\\S+)$`, 'm')
  const found = members.map(async member => {
    const [, seconds] = metric.exec(await member.metrics()) ?? []
    if (seconds === undefined) throw new Error(`no metric of ${what}`)
    return Number(seconds) * 1000
  })
  return Math.max(...(await Promise.all(found)))
}

/** How late a timer of this process is at worst, until it is told to end. */
function idleStall(): () => number {
  const tickMs = 20
  let longestMs = 0
  let dueMs = performance.now() + tickMs
  const timer = setInterval(() => {
    const nowMs = performance.now()
    longestMs = Math.max(longestMs, nowMs - dueMs)
    dueMs = nowMs + tickMs
  }, tickMs)
  return () => {
    clearInterval(timer)
    return longestMs
  }
}

const terms = async (cluster: BenchCluster) =>
  Math.max(
    ...(await Promise.all(cluster.members.map(async one => (await one.status())?.term ?? 0))),
  )

interface Phase {
  readonly name: string
  /** Of all members that were there all the time. */
  readonly gapMs: number
  readonly stallMs: number
  readonly victimStallMs: number
  readonly idleStallMs: number
  readonly elections: number
  readonly callsPerSecond: number
}

await using cluster = await BenchCluster.start(3)
const leader = await cluster.leader()
const path = await deploy(leader)
await fill(leader)
await cluster.whole()
const victim = cluster.members.find(member => member !== leader)
if (victim === undefined) throw new Error('a cluster has followers')
const steady = cluster.members.filter(member => member !== victim)
await callsOf(cluster.members, path, 2000)

async function phase(name: string, run: () => Promise<number>): Promise<Phase> {
  const termBefore = await terms(cluster)
  const idle = idleStall()
  const callsPerSecond = await run()
  const idleStallMs = idle()
  return {
    name,
    gapMs: await longestMs('heartbeat_gap', steady),
    stallMs: await longestMs('stall', steady),
    victimStallMs: victim === undefined ? 0 : await longestMs('stall', [victim]),
    idleStallMs,
    elections: (await terms(cluster)) - termBefore,
    callsPerSecond,
  }
}

const phases: Phase[] = []
phases.push(
  await phase('at rest', async () => {
    await Bun.sleep(phaseMs)
    return 0
  }),
)
phases.push(
  await phase('calls', async () => (await callsOf(cluster.members, path, phaseMs)).perSecond),
)
let snapshotMs = 0
phases.push(
  await phase('calls and a snapshot', async () => {
    const calls = callsOf(steady, path, phaseMs)
    await victim.kill()
    rmSync(join(victim.dir, 'data'), { recursive: true, force: true })
    const startedMs = performance.now()
    victim.spawn(leader.peerPort)
    await victim.answers()
    await cluster.whole()
    snapshotMs = performance.now() - startedMs
    return (await calls).perSecond
  }),
)
console.log(
  `Three members, a state of ${megabytes} MB; sent and installed in ${Math.round(snapshotMs)} ms`,
)
table([
  ['longest, ms', 'gap', 'stall', 'of the third', 'idle', 'elections', 'calls/s'],
  ...phases.map(one => [
    one.name,
    one.gapMs,
    one.stallMs,
    one.victimStallMs,
    one.idleStallMs,
    one.elections,
    one.callsPerSecond,
  ]),
])
const figures: Figure[] = phases.slice(1).flatMap(one => [
  {
    name: `longest heartbeat gap, ${one.name}`,
    value: one.gapMs,
    unit: 'ms',
    targetMax: Math.floor(electionTimeoutMs / 3),
  },
  { name: `elections, ${one.name}`, value: one.elections, unit: '', targetMax: 0 },
])
printFigures(figures)
