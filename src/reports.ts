/** What a node says of itself: to `/fnd/v1/*`, to `fnd doctor`, and to the metrics. */
import type { NodeReports } from './api/fnd/node.ts'
import type { ReadyCheck } from './api/health.ts'
import type { PeerStatus } from './cluster/peers.ts'
import type { Config } from './config.ts'
import type { DockerParts } from './exec/docker/open.ts'
import type { FnSpec, Isolation } from './exec/driver.ts'
import type { InstanceWatch } from './exec/instance-watch.ts'
import type { Invocations } from './exec/invocations.ts'
import type { CallOutput } from './exec/output.ts'
import type { ProcessDriver } from './exec/process.ts'
import type { Runner } from './exec/runner.ts'
import type { SyslogSender } from './exec/syslog.ts'
import type { Store } from './store/replica.ts'
import { commit, version } from './version.ts'
import type { DiskSpace } from './watch/disk.ts'
import type { BundleStats, MetricSources, RaftPeerStats, RaftStats } from './watch/sources.ts'

export interface ReportParts {
  readonly config: Config
  readonly store: Store
  readonly runner: Runner
  readonly watch: InstanceWatch
  readonly output: CallOutput
  readonly syslog: SyslogSender
  readonly driver: ProcessDriver
  readonly docker: DockerParts
  readonly disk: DiskSpace
  readonly invocations: Invocations
  readonly spread: { readonly stats: Omit<BundleStats, 'callsHeld'> }
  readonly peers: { states(): readonly PeerStatus[] }
}

/** `fnd doctor`'s word on one thing that was looked at. */
interface Check {
  readonly name: string
  readonly status: 'ok' | 'warn' | 'fail'
  readonly note: string
  readonly hint?: string
}

const mib = 1024 * 1024
/** Below this the node still takes calls, but refuses changes (see `openStore`). */
const freeBytesMin = 64 * mib

export function makeReports(parts: ReportParts): NodeReports & {
  readonly sources: MetricSources
  readonly diskCheck: () => ReadyCheck
  readonly dockerCheck: () => ReadyCheck
  readonly membershipCheck: () => ReadyCheck
} {
  return {
    describeFn: fnId => describeFn(parts, fnId),
    status: () => status(parts),
    doctor: () => ({ checks: doctor(parts) }),
    sources: metricSources(parts),
    diskCheck: () => {
      const isEnough = parts.disk.freeBytes() >= freeBytesMin
      return isEnough
        ? { name: 'disk', ok: true }
        : { name: 'disk', ok: false, reason: 'the data directory is out of space', retryAfterS: 60 }
    },
    dockerCheck: () => dockerCheck(parts),
    membershipCheck: () => membershipCheck(parts),
  }
}

/** A node that an operator drains, or takes out, gets no new calls from load balancers. */
function membershipCheck({ store }: ReportParts): ReadyCheck {
  const own = store.state.nodes().find(({ id }) => id === store.identity.nodeId)
  const name = 'membership'
  if (own?.state !== 'draining' && own?.state !== 'leaving') return { name, ok: true }
  const reason = own.state === 'leaving' ? 'the node leaves its cluster' : 'the node is drained'
  return { name, ok: false, reason, retryAfterS: 5 }
}

/** A node that has functions in containers is not ready without the daemon. */
function dockerCheck({ docker, runner }: ReportParts): ReadyCheck {
  const { state, where, isNamed } = docker.engine
  const isNeeded = runner.knownSpecs().some(spec => docker.driver.takes(spec.image))
  const isMissed = isNeeded || (isNamed && state.kind === 'down')
  if (state.kind === 'up' || !isMissed) return { name: 'docker', ok: true }
  const reason = state.kind === 'down' ? state.reason : `there is none at ${where}`
  const text = `the Docker daemon cannot be reached: ${reason}`
  return { name: 'docker', ok: false, reason: text, retryAfterS: 5 }
}

function isolationOf({ driver, docker }: ReportParts, spec: FnSpec): Isolation {
  return driver.takes(spec.image) ? driver.isolation(spec) : docker.driver.isolation(spec)
}

async function describeFn(parts: ReportParts, fnId: string): Promise<object> {
  const { store, runner, docker, invocations } = parts
  const route = store.routes.fnById(fnId)
  if (route === undefined) return {}
  const spec = invocations.specOf(route)
  const image = await docker.images.describe(spec)
  const counts = runner.stats().fns.find(one => one.key === spec.key)
  return {
    concurrency: spec.concurrency,
    min_instances: spec.instancesMin,
    max_instances: spec.instancesMax,
    network: spec.network,
    format: spec.format,
    ...(image === undefined ? {} : { image_status: image }),
    isolation: isolationOf(parts, spec),
    waiting: counts?.waiting ?? 0,
    starting: counts?.starting ?? 0,
    idle: counts?.idle ?? 0,
    busy: counts?.busy ?? 0,
    paused: counts?.paused ?? 0,
    instances: runner.instancesOf(spec.key).map(({ id, pid, memoryBytes }) => ({
      id,
      pid,
      memory_bytes: memoryBytes ?? null,
    })),
  }
}

function status({ config, store, runner, driver }: ReportParts): object {
  const { memoryMbUsed, memoryMbAvailable, waiting, starting, fns } = runner.stats()
  const raft = store.status()
  return {
    version,
    commit,
    data: config.dataDir,
    role: raft.role,
    node_id: raft.nodeId,
    cluster_id: raft.clusterId,
    term: raft.term,
    applied_index: raft.appliedIndex,
    last_index: raft.lastIndex,
    state_hash: raft.stateHash,
    isolation: driver.isolation().level,
    memory_mb_used: memoryMbUsed,
    memory_mb_available: memoryMbAvailable,
    calls_waiting: waiting,
    calls_running: fns.reduce((sum, fn) => sum + fn.running, 0),
    instances_starting: starting,
    instances: fns.reduce((sum, fn) => sum + fn.idle + fn.busy + fn.paused + fn.doomed, 0),
  }
}

function doctor({ config, disk, driver, docker, runner }: ReportParts): Check[] {
  const freeMb = Math.floor(disk.freeBytes() / mib)
  const { memoryMbUsed, memoryMbAvailable } = runner.stats()
  const isolation = driver.isolation()
  const checks: Check[] = [
    freeMb * mib >= freeBytesMin * 4
      ? { name: 'disk', status: 'ok', note: `${freeMb} MB free in ${config.dataDir}` }
      : {
          name: 'disk',
          status: freeMb * mib < freeBytesMin ? 'fail' : 'warn',
          note: `${freeMb} MB free in ${config.dataDir}`,
          hint: 'make room; below 64 MB changes are refused',
        },
    {
      name: 'memory for functions',
      status: memoryMbUsed + memoryMbAvailable >= 256 ? 'ok' : 'warn',
      note: `${memoryMbUsed} of ${memoryMbUsed + memoryMbAvailable} MB in use`,
      ...(memoryMbUsed + memoryMbAvailable >= 256
        ? {}
        : { hint: 'raise FND_MAX_TOTAL_MEMORY_BYTES, or use a larger machine' }),
    },
    config.isAuthOff
      ? {
          name: 'admin token',
          status: 'warn',
          note: 'off: anything on this machine may administer',
          hint: 'drop --no-auth',
        }
      : { name: 'admin token', status: 'ok', note: 'asked for' },
    dockerFinding(docker),
  ]
  for (const { name, enforced, note } of isolation.measures) {
    checks.push({ name: `isolation: ${name}`, status: enforced ? 'ok' : 'warn', note })
  }
  if (docker.engine.state.kind === 'up') {
    for (const { name, enforced, note } of docker.driver.isolation().measures) {
      checks.push({ name: `containers: ${name}`, status: enforced ? 'ok' : 'warn', note })
    }
  }
  return checks
}

function dockerFinding({ engine }: DockerParts): Check {
  const { state, where } = engine
  const name = 'docker'
  if (state.kind === 'up') return { name, status: 'ok', note: `answers at ${where}` }
  if (state.kind === 'down') {
    const hint = 'start the daemon, or set DOCKER_HOST; fnd goes on when it is there'
    return { name, status: 'fail', note: `${where}: ${state.reason}`, hint }
  }
  const note = `no daemon at ${where}: functions in images cannot run, all others can`
  return { name, status: 'ok', note }
}

function metricSources(parts: ReportParts): MetricSources {
  const { runner, store, output, syslog, watch, disk } = parts
  return {
    pool: () => {
      const stats = runner.stats()
      const fns = runner.knownSpecs().map(spec => {
        const counts = stats.fns.find(one => one.key === spec.key)
        return {
          appId: spec.appId,
          fnId: spec.fnId,
          image: spec.image,
          wait: 0,
          start: counts?.starting ?? 0,
          idle: counts?.idle ?? 0,
          paused: counts?.paused ?? 0,
          busy: (counts?.busy ?? 0) + (counts?.doomed ?? 0),
        }
      })
      const sum = (pick: (fn: (typeof fns)[number]) => number): number =>
        fns.reduce((total, fn) => total + pick(fn), 0)
      return {
        memoryUsedBytes: stats.memoryMbUsed * mib,
        memoryBytesMax: (stats.memoryMbUsed + stats.memoryMbAvailable) * mib,
        waiting: stats.waiting,
        spareWorkers: parts.driver.spares().count,
        startsTotal: watch.startsTotal,
        startFailuresTotal: watch.startFailuresTotal,
        evictionsTotal: watch.evictionsTotal,
        instances: {
          wait: 0,
          start: sum(fn => fn.start),
          idle: sum(fn => fn.idle),
          paused: sum(fn => fn.paused),
          busy: sum(fn => fn.busy),
        },
        fns: fns.filter(fn => fn.start + fn.idle + fn.paused + fn.busy > 0),
      }
    },
    raft: () => raftStats(store),
    peers: () => peerStats(store, parts.peers.states()),
    bundles: () => ({ ...parts.spread.stats, callsHeld: parts.invocations.held }),
    logs: () => output.stats,
    syslog: () => syslog.stats,
    images: () => parts.docker.images.stats,
    dataFreeBytes: () => disk.freeBytes(),
  }
}

function raftStats(store: Store): RaftStats {
  const { firstIndex, appliedIndex } = store.status()
  const { id, role, term, lead, commit, lastIndex, confState } = store.member.status()
  return {
    term,
    commitIndex: commit,
    appliedIndex,
    lastIndex,
    logEntries: lastIndex - firstIndex + 1,
    isLeader: role === 'leader',
    hasLeader: lead !== 0,
    isVoter: confState.voters.includes(id) || confState.votersOutgoing.includes(id),
  }
}

function peerStats(store: Store, peers: readonly PeerStatus[]): RaftPeerStats[] {
  const { progress, lastIndex } = store.member.status()
  return peers.map(({ id, isConnected, dropped }) => {
    const match = progress.get(id)?.match
    const matchLag = match === undefined ? undefined : Math.max(0, lastIndex - match)
    return { id, isConnected, droppedTotal: dropped, matchLag }
  })
}
