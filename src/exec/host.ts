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
  return hardLimit('Max open files')
}

/** The same of processes of one user. */
export function processesHardMax(): number {
  return hardLimit('Max processes')
}

function hardLimit(name: string): number {
  const line = readIfThere('/proc/self/limits')
    .split('\n')
    .find(one => one.startsWith(name))
  const value = line?.slice(name.length).trim().split(/\s+/)[1]
  return value === undefined || value === 'unlimited' ? Number.POSITIVE_INFINITY : Number(value)
}

/** Above this share of busy time the cores count as full. */
const coresShareMax = 0.85
/** Above this share of one core fnd itself is what calls wait for: it runs on one thread. */
const ownShareMax = 0.85

/**
 * Whether more instances could run at all, from one look to the next: not while the host's cores
 * are full (proc(5), `/proc/stat`), nor while fnd's own thread is.
 */
export class Cores {
  #busyTicks = 0
  #allTicks = 0
  #own = process.cpuUsage()
  #lookedAtMs = performance.now()

  look(): boolean {
    const isOwnFull = this.#isOwnFull()
    return this.#areAllFull() || isOwnFull
  }

  #isOwnFull(): boolean {
    const { user, system } = process.cpuUsage(this.#own)
    const nowMs = performance.now()
    const share = (user + system) / 1000 / (nowMs - this.#lookedAtMs)
    this.#own = process.cpuUsage()
    this.#lookedAtMs = nowMs
    return share > ownShareMax
  }

  #areAllFull(): boolean {
    const [line = ''] = readIfThere('/proc/stat').split('\n', 1)
    // Cannot be read just now; then what the host's cores do stays unknown until the next look.
    if (line === '') return false
    const ticks = line.split(/ +/).slice(1, 9).map(Number)
    const all = ticks.reduce((sum, one) => sum + one, 0)
    // The fourth and fifth are idle time, without and with a disk to wait for.
    const busy = all - (ticks[3] ?? 0) - (ticks[4] ?? 0)
    const isFull = busy - this.#busyTicks > coresShareMax * (all - this.#allTicks)
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

/** Empty when it is not there, or not to be had now: none of these files is worth a failure. */
function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (['ENOENT', 'EACCES', 'EMFILE', 'ENFILE'].includes(code ?? '')) return ''
    throw cause
  }
}
