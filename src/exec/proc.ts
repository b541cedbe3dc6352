/** Questions to /proc. A process may end between two reads: that is an answer, not a fault. */
import { readdirSync, readFileSync, statSync } from 'node:fs'

const pageBytes = 4096

/** Contents of a file below /proc, or undefined when its process is gone or not ours to see. */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    if (['ENOENT', 'ESRCH', 'EACCES', 'EPERM'].includes(code)) return undefined
    throw cause
  }
}

function pidsIn(proc: string): number[] {
  try {
    return readdirSync(proc).map(Number).filter(Number.isInteger)
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    if (['ENOENT', 'ESRCH', 'EACCES'].includes(code)) return []
    throw cause
  }
}

function residentBytes(proc: string, pid: number): number {
  const [, resident = '0'] = (readProc(`${proc}/${pid}/statm`) ?? '').split(' ')
  return Number(resident) * pageBytes
}

/** The kernel counts CPU time for its users in hundredths of a second, whatever its own clock. */
const tickMs = 10

/** CPU time of a process and of those children that it has waited for. */
function usedCpuMs(proc: string, pid: number): number {
  const stat = readProc(`${proc}/${pid}/stat`) ?? ''
  // The name, in parentheses, may hold anything. After it, fields 14 to 17 of proc(5).
  const ticks = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 15)
  return ticks.reduce((sum, each) => sum + Number(each), 0) * tickMs
}

/** As `namespaceBytes`, of the CPU time. */
export function namespaceCpuMs(pid: number): number {
  const proc = `/proc/${pid}/root/proc`
  return pidsIn(proc).reduce((sum, each) => sum + usedCpuMs(proc, each), 0)
}

/** Without the children that still run: to find those, every process of the host is looked at. */
export function processCpuMs(pid: number): number {
  return usedCpuMs('/proc', pid)
}

/** Of all processes in the pid namespace whose first process is `pid`, through its own /proc. */
export function namespaceBytes(pid: number): number {
  const proc = `/proc/${pid}/root/proc`
  return pidsIn(proc).reduce((sum, each) => sum + residentBytes(proc, each), 0)
}

export function processBytes(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + residentBytes('/proc', pid), 0)
}

/** `leader`, the processes of its session, and the descendants of all of these. */
export function sessionPids(leader: number): number[] {
  const found = new Set<number>()
  const parents = new Map<number, number>()
  for (const pid of pidsIn('/proc')) {
    const stat = readProc(`/proc/${pid}/stat`)
    if (stat === undefined) continue
    // The name, in parentheses, may hold anything.
    const [state, parent, , session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (state === 'Z') continue
    parents.set(pid, Number(parent))
    if (pid === leader || Number(session) === leader) found.add(pid)
  }
  for (let grown = true; grown; ) {
    grown = false
    for (const [pid, parent] of parents) {
      if (found.has(parent) && !found.has(pid)) grown = found.add(pid).size > 0
    }
  }
  return [...found]
}

/** Processes that were started with this text in their environment. */
export function pidsWithEnv(text: string): number[] {
  return pidsIn('/proc').filter(pid => {
    if (pid === process.pid) return false
    return readProc(`/proc/${pid}/environ`)?.includes(text) ?? false
  })
}

/** Processes of a range of uids. */
export function pidsWithUid(first: number, count: number): number[] {
  return pidsIn('/proc').filter(pid => {
    const uid = uidOf(pid)
    return uid !== undefined && uid >= first && uid < first + count
  })
}

function uidOf(pid: number): number | undefined {
  return statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid
}

/** Whether a handler for SIGTERM is installed: pid 1 of a namespace ignores the signal without. */
export function catchesTermination(pid: number): boolean {
  const caught = /^SigCgt:\s*([0-9a-f]+)/m.exec(readProc(`/proc/${pid}/status`) ?? '')?.[1]
  const termination = 15n
  return caught !== undefined && (BigInt(`0x${caught}`) & (1n << (termination - 1n))) !== 0n
}

/** Kills each; one that is gone is what was wanted. */
export function killAll(pids: readonly number[]): void {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause
    }
  }
}
