/**
 * Limits of memory and number of processes by the kernel: version 1 (memory and pids hierarchies)
 * or version 2 (one hierarchy with both controllers). An instance's groups lie below fnd's own, so
 * whatever limits fnd limits its functions too. Absent where the host lets fnd make no groups;
 * then the caller watches memory itself.
 */
import {
  accessSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { mkdir, rmdir, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { killAll } from './proc.ts'

export interface Cgroup {
  /**
   * Moves a process in; one that has ended is nowhere. The kernel waits for an RCU grace period on
   * the way, which took 10 ms where it was measured: so this is done by a thread of the pool.
   */
  join(pid: number): Promise<void>
  /** Opens files to which a process writes `0` to move itself in. The caller closes them. */
  openJoinFds(): number[]
  limitMemory(bytes: number): void
  /** How often the kernel ended a process of the group for lack of memory. */
  outOfMemoryKills(): number
  /** Anonymous memory in use, in bytes. */
  memoryBytes(): number
  /** Resolves when the group is gone. Its processes must be. */
  remove(): Promise<void>
}

export interface Cgroups {
  readonly version: 1 | 2
  readonly hasMemory: boolean
  readonly hasPids: boolean
  create(id: string, pidsMax: number): Promise<Cgroup>
  /** Ends the processes that earlier instances left, and removes their groups. */
  sweep(): Promise<void>
  /** Removes the group of groups; all instances must be gone. */
  remove(): Promise<void>
}

interface Mount {
  readonly root: string
  readonly point: string
  readonly type: string
  readonly options: readonly string[]
}

/** `name` is the same at every start on one data directory. */
export function openCgroups(name: string): { cgroups: Cgroups | undefined; refusal: string } {
  const mounts = readMounts()
  const groups = readFileSync('/proc/self/cgroup', 'utf8').trimEnd().split('\n')
  const bases = new Map<string, string>()
  for (const controller of ['memory', 'pids']) {
    const line = groups.find(text => text.split(':')[1]?.split(',').includes(controller))
    const mount = mounts.find(m => m.type === 'cgroup' && m.options.includes(controller))
    if (line === undefined || mount === undefined) continue
    bases.set(controller, join(mount.point, relative(mount.root, groupPath(line))))
  }
  try {
    if (bases.size > 0) return { cgroups: openV1(bases, name), refusal: '' }
    const unified = groups.find(text => text.startsWith('0::'))
    const mount = mounts.find(m => m.type === 'cgroup2')
    if (unified === undefined || mount === undefined) {
      return { cgroups: undefined, refusal: 'no cgroup hierarchy is mounted' }
    }
    const own = join(mount.point, relative(mount.root, groupPath(unified)))
    return { cgroups: openV2(own, name), refusal: '' }
  } catch (cause) {
    if (!isRefusal(cause)) throw cause
    return { cgroups: undefined, refusal: `the host refuses: ${(cause as Error).message}` }
  }
}

function isRefusal(cause: unknown): boolean {
  const code = (cause as NodeJS.ErrnoException).code ?? ''
  return ['EACCES', 'EPERM', 'EROFS', 'ENOENT', 'EBUSY', 'EINVAL', 'ENOTSUP'].includes(code)
}

function groupPath(line: string): string {
  return line.split(':').slice(2).join(':')
}

/** /proc/self/mountinfo: fields 4 and 5 are root and mount point; type follows ` - `. */
function readMounts(): Mount[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').trimEnd().split('\n')
  return lines.map(line => {
    const [left = '', right = ''] = line.split(' - ')
    const [, , , root = '', point = ''] = left.split(' ')
    const [type = '', , options = ''] = right.split(' ')
    return { root, point, type, options: options.split(',') }
  })
}

function openV1(bases: ReadonlyMap<string, string>, name: string): Cgroups {
  const dirs = new Map([...bases].map(([controller, base]) => [controller, join(base, name)]))
  for (const dir of dirs.values()) makeOwnDir(dir)
  return {
    version: 1,
    hasMemory: dirs.has('memory'),
    hasPids: dirs.has('pids'),
    create: async (id, pidsMax) => {
      const own = new Map([...dirs].map(([controller, dir]) => [controller, join(dir, id)]))
      await Promise.all([...own.values()].map(dir => mkdir(dir)))
      const pids = own.get('pids')
      if (pids !== undefined) write(pids, 'pids.max', pidsMax)
      return groupV1([...own.values()], own.get('memory'))
    },
    sweep: () => sweep([...dirs.values()]),
    remove: () => removeDirs([...dirs.values()]),
  }
}

/** Throws also where an earlier fnd left the directory, and the hierarchy is read-only by now. */
function makeOwnDir(dir: string): void {
  mkdirSync(dir, { recursive: true })
  accessSync(dir, constants.W_OK)
}

function groupV1(dirs: readonly string[], memory: string | undefined): Cgroup {
  return {
    ...membership(dirs),
    limitMemory: bytes => {
      if (memory === undefined) return
      // Memory with swap must never be less than memory alone.
      write(memory, 'memory.limit_in_bytes', bytes)
      writeIfPresent(memory, 'memory.memsw.limit_in_bytes', bytes)
    },
    outOfMemoryKills: () =>
      memory === undefined ? 0 : readField(memory, 'memory.oom_control', 'oom_kill'),
    memoryBytes: () => (memory === undefined ? 0 : readField(memory, 'memory.stat', 'total_rss')),
  }
}

function membership(dirs: readonly string[]): Pick<Cgroup, 'join' | 'openJoinFds' | 'remove'> {
  const paths = dirs.map(dir => join(dir, 'cgroup.procs'))
  return {
    join: async pid => {
      for (const path of paths) await writeUnlessEnded(path, pid)
    },
    openJoinFds: () => paths.map(path => openSync(path, 'w')),
    remove: () => removeDirs(dirs),
  }
}

async function writeUnlessEnded(path: string, pid: number): Promise<void> {
  try {
    await writeFile(path, String(pid))
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause
  }
}

function openV2(own: string, name: string): Cgroups {
  const controllers = readFileSync(join(own, 'cgroup.controllers'), 'utf8').split(/\s+/)
  for (const needed of ['memory', 'pids']) {
    if (!controllers.includes(needed)) {
      const error = new Error(`the cgroup has no ${needed} controller`)
      throw Object.assign(error, { code: 'ENOTSUP' })
    }
  }
  const isRoot = own === readMounts().find(m => m.type === 'cgroup2')?.point
  if (!isRoot) leaveForLeaf(own)
  write(own, 'cgroup.subtree_control', '+memory +pids')
  const dir = join(own, name)
  makeOwnDir(dir)
  write(dir, 'cgroup.subtree_control', '+memory +pids')
  return {
    version: 2,
    hasMemory: true,
    hasPids: true,
    create: async (id, pidsMax) => {
      const group = join(dir, id)
      await mkdir(group)
      write(group, 'pids.max', pidsMax)
      write(group, 'memory.oom.group', 1)
      return groupV2(group)
    },
    sweep: () => sweep([dir]),
    remove: () => removeDirs([dir]),
  }
}

/** A group whose children have controllers holds no processes: fnd moves to a leaf of its own. */
function leaveForLeaf(own: string): void {
  const pids = readFileSync(join(own, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)
  if (pids.some(pid => pid !== String(process.pid))) {
    const error = new Error('fnd shares its cgroup with other processes')
    throw Object.assign(error, { code: 'EBUSY' })
  }
  const leaf = join(own, 'main')
  mkdirSync(leaf, { recursive: true })
  write(leaf, 'cgroup.procs', process.pid)
}

function groupV2(dir: string): Cgroup {
  return {
    ...membership([dir]),
    limitMemory: bytes => {
      write(dir, 'memory.max', bytes)
      writeIfPresent(dir, 'memory.swap.max', 0)
    },
    outOfMemoryKills: () => readField(dir, 'memory.events', 'oom_kill'),
    memoryBytes: () => readField(dir, 'memory.stat', 'anon'),
  }
}

function write(dir: string, file: string, value: string | number): void {
  writeFileSync(join(dir, file), String(value))
}

/** Kernels without accounting of swap lack the file. */
function writeIfPresent(dir: string, file: string, value: number): void {
  try {
    write(dir, file, value)
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    if (!['ENOENT', 'EACCES', 'EPERM'].includes(code)) throw cause
  }
}

function readField(dir: string, file: string, name: string): number {
  const lines = readFileSync(join(dir, file), 'utf8').split('\n')
  const line = lines.find(text => text.startsWith(`${name} `))
  return line === undefined ? 0 : Number(line.slice(name.length + 1))
}

async function sweep(dirs: readonly string[]): Promise<void> {
  for (const dir of dirs) {
    const left = readdirSync(dir, { withFileTypes: true }).filter(entry => entry.isDirectory())
    for (const entry of left) {
      const group = join(dir, entry.name)
      const pids = readFileSync(join(group, 'cgroup.procs'), 'utf8').split('\n').map(Number)
      // A process of another pid namespace is listed as 0, which to kill(2) is fnd's own group.
      killAll(pids.filter(pid => pid > 0))
      await removeDirs([group])
    }
  }
}

/** The kernel lets go of a group a moment after its last process. */
async function removeDirs(dirs: readonly string[]): Promise<void> {
  for (const dir of dirs) {
    for (let attempt = 0; ; attempt++) {
      try {
        await rmdir(dir)
        break
      } catch (cause) {
        const { code } = cause as NodeJS.ErrnoException
        if (code === 'ENOENT') break
        if (code !== 'EBUSY' || attempt === 200) throw cause
        await Bun.sleep(Math.min(attempt, 25))
      }
    }
  }
}
