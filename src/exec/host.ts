/** What this host has for functions. */
import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'

const mib = 1024 * 1024
/** Fn's headroom for everything that is not a function: a tenth, within these bounds. */
const headroomMbMin = 256
const headroomMbMax = 5 * 1024

/**
 * Memory that instances may take together, in MB: `bytesMax` if set, and never more than the host's
 * memory, or that of the cgroup fnd runs in, less the headroom and what is held in reserve.
 */
export function memoryMbFor(bytesMax: number, reserveMb: number): number {
  const hostMb = Math.floor(Math.min(totalmem(), cgroupLimitBytes()) / mib)
  const headroomMb = Math.min(headroomMbMax, Math.max(headroomMbMin, Math.floor(hostMb / 10)))
  const availableMb = Math.max(0, hostMb - headroomMb - reserveMb)
  return bytesMax === 0 ? availableMb : Math.min(availableMb, Math.floor(bytesMax / mib))
}

/** What a process that fnd starts may be allowed at most: fnd's own hard limit of open files. */
export function openFilesHardMax(): number {
  const line = /^Max open files +\S+ +(\d+)/m.exec(readIfThere('/proc/self/limits'))
  return line === null ? Number.POSITIVE_INFINITY : Number(line[1])
}

/** Above this share of busy time the cores count as full. */
const saturatedShare = 0.92

/** How busy the host's cores are, from one look to the next (proc(5), `/proc/stat`). */
export class Cores {
  #busyTicks = 0
  #allTicks = 0

  /** Whether they were full since the last look. */
  look(): boolean {
    const ticks =
      readIfThere('/proc/stat').split('\n', 1)[0]?.split(/ +/).slice(1, 9).map(Number) ?? []
    const all = ticks.reduce((sum, one) => sum + one, 0)
    // The fourth and fifth are idle time, without and with a disk to wait for.
    const busy = all - (ticks[3] ?? 0) - (ticks[4] ?? 0)
    const isFull = busy - this.#busyTicks > saturatedShare * (all - this.#allTicks)
    this.#busyTicks = busy
    this.#allTicks = all
    return isFull
  }
}

/** Infinity where there is no limit, or no cgroup that can be read. */
function cgroupLimitBytes(): number {
  for (const path of ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes']) {
    const bytes = Number(readIfThere(path))
    if (bytes > 0) return bytes
  }
  return Number.POSITIVE_INFINITY
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'EACCES') return ''
    throw cause
  }
}
