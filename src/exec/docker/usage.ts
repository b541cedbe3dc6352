/** What a container uses, read from its control groups where they are on this host. */
import { readFileSync } from 'node:fs'
import { isSystemError } from '../libc.ts'

const root = '/sys/fs/cgroup'

/** Whether a process of that id on this host is in that container: the daemon's may be another. */
export function isInContainer(pid: number, containerId: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(containerId)
  } catch (cause) {
    if (!isSystemError(cause)) throw cause
    return false
  }
}

/** Resident bytes; undefined when it has ended or runs on another host. */
export function containerMemoryBytes(pid: number | undefined): number | undefined {
  const one = read(pid, 'memory', 'memory.stat', /^total_rss (\d+)$/m)
  return one ?? read(pid, '', 'memory.stat', /^anon (\d+)$/m)
}

/** Processor time in ms of all that ran in it. */
export function containerCpuMs(pid: number | undefined): number | undefined {
  const nanoseconds = read(pid, 'cpuacct', 'cpuacct.usage', /^(\d+)$/m)
  if (nanoseconds !== undefined) return nanoseconds / 1e6
  const microseconds = read(pid, '', 'cpu.stat', /^usage_usec (\d+)$/m)
  return microseconds === undefined ? undefined : microseconds / 1e3
}

/** `controller` of version 1, or `''` for the one hierarchy of version 2. */
function read(
  pid: number | undefined,
  controller: string,
  file: string,
  number: RegExp,
): number | undefined {
  if (pid === undefined || pid === 0) return undefined
  try {
    const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n')
    const own = groups
      .map(line => /^\d+:([^:]*):(.*)$/.exec(line))
      .find(match => match?.[1]?.split(',').includes(controller))
    const path = own?.[2]
    if (path === undefined) return undefined
    const found = number.exec(readFileSync(`${root}/${controller}${path}/${file}`, 'utf8'))
    return found === null ? undefined : Number(found[1])
  } catch (cause) {
    if (!isSystemError(cause)) throw cause
    return undefined
  }
}
