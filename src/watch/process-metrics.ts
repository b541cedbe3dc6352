/**
 * The process itself, under the names that Prometheus' client libraries agree on. prom-client's own
 * collectors are not used: under Bun 1.4 half of what they read is zero, and their event loop
 * monitor wakes an idle process a hundred times a second.
 */
import { readdirSync, readFileSync } from 'node:fs'
import type { Series, SeriesRegistry } from './series.ts'

export function registerProcessMetrics(registry: SeriesRegistry): void {
  const startS = Date.now() / 1000 - process.uptime()
  const filesMax = openFilesMax()
  gauge(registry, 'process_start_time_seconds', 'Start of the process, since 1970', () => startS)
  gauge(registry, 'process_resident_memory_bytes', 'Resident memory', () =>
    process.memoryUsage.rss(),
  )
  gauge(registry, 'process_open_fds', 'Open file descriptors', openFiles)
  gauge(registry, 'process_max_fds', 'Limit of open file descriptors', () => filesMax)
  gauge(registry, 'fnd_heap_used_bytes', 'JavaScript heap in use', () => {
    return process.memoryUsage().heapUsed
  })
  counter(registry, 'process_cpu_user_seconds_total', 'User CPU time', () => {
    return process.cpuUsage().user / 1e6
  })
  counter(registry, 'process_cpu_system_seconds_total', 'System CPU time', () => {
    return process.cpuUsage().system / 1e6
  })
  counter(registry, 'process_cpu_seconds_total', 'User and system CPU time', () => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  })
}

/** How late a timer fires now: what a call that arrived at this moment would wait. */
export async function eventLoopLagS(): Promise<number> {
  const startMs = performance.now()
  await new Promise(resolve => setTimeout(resolve, 1))
  return Math.max(0, performance.now() - startMs - 1) / 1000
}

function gauge(registry: SeriesRegistry, name: string, help: string, read: () => number): void {
  one(registry, { name, help, type: 'gauge' }, read)
}

function counter(registry: SeriesRegistry, name: string, help: string, read: () => number): void {
  one(registry, { name, help, type: 'counter' }, read)
}

function one(registry: SeriesRegistry, of: Omit<Series, 'samples'>, read: () => number): void {
  registry.add({ ...of, samples: () => [{ value: read() }] })
}

function openFiles(): number {
  // Listing the directory opens it, and that descriptor is counted too.
  return process.platform === 'linux' ? readdirSync('/proc/self/fd').length - 1 : Number.NaN
}

function openFilesMax(): number {
  if (process.platform !== 'linux') return Number.NaN
  const limits = readFileSync('/proc/self/limits', 'utf8')
  const soft = /^Max open files\s+(\d+|unlimited)/m.exec(limits)?.[1]
  return soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft)
}
