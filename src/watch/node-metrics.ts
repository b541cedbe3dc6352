/** Gauges and counters of the node's parts, read from their owners at scrape time. */
import { registerBundles, registerPeers, registerRaft } from './raft-metrics.ts'
import type { Sample, SeriesRegistry } from './series.ts'
import type {
  FnInstances,
  ImageStats,
  InstanceCounts,
  LogStats,
  MetricSources,
  PoolStats,
  SyslogStats,
} from './sources.ts'

type Kind = 'counter' | 'gauge'
type Row<T> = readonly [name: string, type: Kind, help: string, read: (from: T) => number]

const poolRows: readonly Row<PoolStats>[] = [
  ['fn_util_mem_used', 'gauge', 'Bytes reserved by instances', pool => pool.memoryUsedBytes],
  [
    'fn_util_mem_avail',
    'gauge',
    'Bytes left for instances',
    pool => Math.max(0, pool.memoryBytesMax - pool.memoryUsedBytes),
  ],
  ['fnd_queue_waiting', 'gauge', 'Calls that wait for a slot', pool => pool.waiting],
  ['fnd_pool_memory_bytes', 'gauge', 'Bytes that instances may use', pool => pool.memoryBytesMax],
  ['fnd_pool_spare_workers', 'gauge', 'Workers that wait for a bundle', pool => pool.spareWorkers],
  ['fnd_pool_starts_total', 'counter', 'Instances started', pool => pool.startsTotal],
  [
    'fnd_pool_start_failures_total',
    'counter',
    'Instances that failed to start',
    pool => pool.startFailuresTotal,
  ],
]

const logRows: readonly Row<LogStats>[] = [
  ['fnd_log_held_bytes', 'gauge', 'Memory that output of calls holds', logs => logs.heldBytes],
  ['fnd_log_lines_total', 'counter', 'Lines that functions wrote', logs => logs.linesTotal],
  [
    'fnd_log_discarded_bytes_total',
    'counter',
    'Output past the limit of its call',
    logs => logs.discardedBytesTotal,
  ],
  ['fnd_log_followers', 'gauge', 'Clients that follow logs', logs => logs.followers],
]

const syslogRows: readonly Row<SyslogStats>[] = [
  ['fnd_syslog_sent_total', 'counter', 'Messages sent to syslog', syslog => syslog.sentTotal],
  [
    'fnd_syslog_dropped_total',
    'counter',
    'Messages that no syslog receiver took in time',
    syslog => syslog.droppedTotal,
  ],
  [
    'fnd_syslog_failures_total',
    'counter',
    'Connections to syslog receivers that failed or broke',
    syslog => syslog.failuresTotal,
  ],
  [
    'fnd_syslog_held_bytes',
    'gauge',
    'Memory that messages wait in for their syslog receiver',
    syslog => syslog.heldBytes,
  ],
  ['fnd_syslog_connections', 'gauge', 'Connections to syslog receivers', s => s.connections],
]

const imageRows: readonly Row<ImageStats>[] = [
  ['fnd_images', 'gauge', 'Images that fnd pulled and keeps', images => images.images],
  ['fnd_images_bytes', 'gauge', 'Their size', images => images.bytes],
  [
    'fnd_images_removed_total',
    'counter',
    'Images removed for want of room',
    images => images.removed,
  ],
  ['fnd_image_pulls_total', 'counter', 'Pulls begun', images => images.pulls],
  ['fnd_image_pull_failures_total', 'counter', 'Pulls that failed', images => images.pullFailures],
]

const instanceStates = ['wait', 'start', 'idle', 'paused', 'busy'] as const

const noPeers = () => []

export function registerNodeMetrics(registry: SeriesRegistry, sources: MetricSources): void {
  const { pool, raft, peers, bundles, logs, syslog, images, dataFreeBytes } = sources
  if (pool !== undefined) registerPool(registry, pool)
  if (raft !== undefined) {
    registerRaft(registry, raft)
    registerPeers(registry, peers ?? noPeers)
  }
  if (bundles !== undefined) registerBundles(registry, bundles)
  if (logs !== undefined) registerRows(registry, logRows, logs)
  if (syslog !== undefined) registerRows(registry, syslogRows, syslog)
  if (images !== undefined) registerRows(registry, imageRows, images)
  if (dataFreeBytes !== undefined) {
    registry.add({
      name: 'fnd_data_free_bytes',
      type: 'gauge',
      help: 'Free space where the data directory lies',
      samples: () => [{ value: dataFreeBytes() }],
    })
  }
}

function registerRows<T>(registry: SeriesRegistry, rows: readonly Row<T>[], source: () => T): void {
  for (const [name, type, help, read] of rows) {
    registry.add({ name, type, help, samples: () => [{ value: read(source()) }] })
  }
}

function registerPool(registry: SeriesRegistry, source: () => PoolStats): void {
  registerRows(registry, poolRows, source)
  registry.add({
    name: 'fnd_pool_instances',
    type: 'gauge',
    help: 'Instances by state',
    samples: () =>
      instanceStates.map(state => ({ value: source().instances[state], labels: { state } })),
  })
  registry.add({
    name: 'fn_container_evictions',
    type: 'counter',
    help: 'Instances that made room for others',
    samples: () => [{ value: source().evictionsTotal, labels: { container_state: 'idle' } }],
  })
  for (const state of instanceStates) {
    registerContainers(registry, state, source, counts => counts[state])
  }
}

function registerContainers(
  registry: SeriesRegistry,
  state: string,
  source: () => PoolStats,
  read: (counts: InstanceCounts) => number,
): void {
  registry.add({
    name: `fn_container_${state}_total`,
    type: 'gauge',
    help: `Instances in state ${state}`,
    *samples(): Generator<Sample> {
      for (const fn of source().fns) {
        yield { value: read(fn), labels: containerLabels(fn) }
      }
    },
  })
}

function containerLabels(fn: FnInstances): Readonly<Record<string, string>> {
  return { app_id: fn.appId, fn_id: fn.fnId, image_name: fn.image }
}
