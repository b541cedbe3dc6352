/**
 * What a function process may see and use. Built from system calls that run in the child before it
 * becomes the function (`Script`), so that no untrusted instruction runs outside of them.
 *
 * Level `namespaces`: own root (read-only system directories, its bundle at /fn, a private /tmp),
 * own pid, ipc, uts and mount namespaces, own uid, no capabilities. The first process is pid 1 of
 * its namespace, and the kernel kills the namespace with it: nothing can be left behind.
 * Level `process`: limits only.
 *
 * Needs Linux 5.12 (`mount_setattr`) and CAP_SYS_ADMIN; `openSandbox` tries it for real.
 */
import { closeSync, existsSync, lstatSync, mkdirSync, readlinkSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { reap, Script, SyscallError, syscall } from './libc.ts'
import { addSeccomp } from './seccomp.ts'

const cloneNewMount = 0x0002_0000
const cloneNewCgroup = 0x0200_0000
const cloneNewUts = 0x0400_0000
const cloneNewIpc = 0x0800_0000
const cloneNewPid = 0x2000_0000
const cloneNewNet = 0x4000_0000
const cloneFiles = 0x400

const mountReadOnly = 1
const mountNoSuid = 2
const mountNoDev = 4
const mountNoExec = 8
const mountBind = 0x1000
const mountRecursive = 0x4000
const mountPrivate = 0x4_0000
const detach = 2

const here = -100
const emptyPath = 0x1000
const recursively = 0x8000
const openPath = 0o2000000
const regularFile = 0o100000

/** `struct mount_attr`: set, clear, propagation, userns. */
const readOnlyAttr = BigUint64Array.from([BigInt(mountReadOnly | mountNoSuid), 0n, 0n, 0n])
const readOnlyNoDevAttr = BigUint64Array.from([
  BigInt(mountReadOnly | mountNoSuid | mountNoDev),
  0n,
  0n,
  0n,
])
const noDevAttr = BigUint64Array.from([BigInt(mountNoDev), 0n, 0n, 0n])
const attrBytes = 32

const systemDirs = ['/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32', '/nix']
const systemFiles = [
  '/etc/ssl',
  '/etc/pki',
  '/etc/ca-certificates',
  '/etc/ca-certificates.conf',
  '/etc/resolv.conf',
  '/etc/hosts',
  '/etc/nsswitch.conf',
  '/etc/passwd',
  '/etc/group',
  '/etc/localtime',
  '/etc/timezone',
  '/etc/alternatives',
  '/etc/ld.so.cache',
  '/etc/ld.so.conf',
  '/etc/ld.so.conf.d',
  '/etc/services',
  '/etc/protocols',
]
const devices = ['null', 'zero', 'full', 'random', 'urandom']
const deviceLinks = [
  ['/proc/self/fd', 'fd'],
  ['/proc/self/fd/0', 'stdin'],
  ['/proc/self/fd/1', 'stdout'],
  ['/proc/self/fd/2', 'stderr'],
  ['/tmp', 'shm'],
] as const

export interface ChildLimits {
  readonly pidsMax: number
  readonly openFilesMax: number
  readonly tmpBytesMax: number
}

export interface ChildSpec {
  readonly path: string
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  /** What becomes descriptors 0, 1 and 2; -1 for /dev/null. */
  readonly stdinFd: number
  readonly stdoutFd: number
  readonly stderrFd: number
  /** Open `cgroup.procs` files that the child joins first. */
  readonly cgroupFds: readonly number[]
  readonly limits: ChildLimits
  /** Used by level `namespaces` only. */
  readonly uid: number
  readonly network: 'host' | 'none'
  /** A directory of the host that is to be /fn. */
  readonly fnDir: string | undefined
}

/** Starts children at one level of isolation. */
export interface Sandbox {
  readonly level: 'namespaces' | 'process'
  /** Where fnd's executable and the worker script are, as a child sees them. */
  readonly fndPath: string
  readonly workerPath: string
  /** The pid of a child that is past exec. Throws `SyscallError`. */
  spawn(child: ChildSpec): number
  /** Makes a directory of the host the /fn of a child that is running without one. */
  attach(pid: number, fnDir: string): void
  close(): void
}

export interface SandboxOptions {
  /** An empty directory on which the new root is mounted, in a namespace of its own. */
  readonly mountPoint: string
  readonly fndPath: string
  readonly workerPath: string
}

/** The strongest level that this host grants, and why it is not a stronger one. */
export function openSandbox(options: SandboxOptions): { sandbox: Sandbox; refusal: string } {
  if (process.geteuid?.() !== 0) {
    return { sandbox: plainSandbox(options), refusal: 'fnd does not run as root' }
  }
  try {
    return { sandbox: new NamespaceSandbox(options), refusal: '' }
  } catch (cause) {
    if (!(cause instanceof SyscallError)) throw cause
    return { sandbox: plainSandbox(options), refusal: `the host refuses: ${cause.message}` }
  }
}

export function plainSandbox(options: SandboxOptions): Sandbox {
  return new PlainSandbox(options)
}

class PlainSandbox implements Sandbox {
  readonly level = 'process'
  readonly fndPath: string
  readonly workerPath: string

  constructor(options: SandboxOptions) {
    this.fndPath = options.fndPath
    this.workerPath = options.workerPath
  }

  spawn(child: ChildSpec): number {
    const script = new Script().must('setsid')
    for (const fd of child.cgroupFds) script.must('write', fd, '0', 1)
    addLimits(script, child, 'process')
    return addExec(script, child).launch(0).pid
  }

  attach(): void {
    // The bundle is used where it lies.
  }

  close(): void {
    // Nothing is held.
  }
}

class NamespaceSandbox implements Sandbox {
  readonly level = 'namespaces'
  readonly fndPath = '/.fnd/fnd'
  readonly workerPath = '/.fnd/worker.js'
  readonly #templateFd: number

  constructor(options: SandboxOptions) {
    this.#templateFd = openTemplate(options)
    try {
      this.#probe()
    } catch (cause) {
      closeSync(this.#templateFd)
      throw cause
    }
  }

  spawn(child: ChildSpec): number {
    const script = new Script().must('setsid')
    for (const fd of child.cgroupFds) script.must('write', fd, '0', 1)
    const fnFd = child.fnDir === undefined ? -1 : openTree(child.fnDir)
    try {
      script.maybe('unshare', cloneNewCgroup)
      this.#addRoot(script, child.limits.tmpBytesMax)
      if (fnFd >= 0) script.must('move_mount', fnFd, '', here, '/fn', 4)
      script.must('sethostname', 'fnd', 3)
      addLimits(script, child, 'namespaces')
      script
        .must('setgroups', 0, 0)
        .must('setresgid', child.uid, child.uid, child.uid)
        .must('setresuid', child.uid, child.uid, child.uid)
        .must('mkdirat', here, '/tmp/iofs', 0o700)
      const net = child.network === 'none' ? cloneNewNet : 0
      return addExec(script, child).launch(cloneNewPid | cloneNewIpc | cloneNewUts | net).pid
    } finally {
      if (fnFd >= 0) closeSync(fnFd)
    }
  }

  attach(pid: number, fnDir: string): void {
    const fnFd = openTree(fnDir)
    const namespaceFd = openNamespace(pid)
    try {
      const { pid: helper } = new Script()
        .must('setns', namespaceFd, cloneNewMount)
        .must('move_mount', fnFd, '', here, '/fn', 4)
        .launch(0)
      reap(helper, true)
    } finally {
      closeSync(namespaceFd)
      closeSync(fnFd)
    }
  }

  close(): void {
    closeSync(this.#templateFd)
  }

  #addRoot(script: Script, tmpBytesMax: number): void {
    const flags = mountNoSuid | mountNoDev
    script
      .must('setns', this.#templateFd, cloneNewMount)
      .must('unshare', cloneNewMount)
      .must('mount', 'proc', '/proc', 'proc', flags | mountNoExec, 0)
      .must(
        'mount',
        'tmpfs',
        '/tmp',
        'tmpfs',
        flags,
        `mode=1777,size=${tmpBytesMax},nr_inodes=65536`,
      )
  }

  /** A child that only sets itself up: what the host refuses shows here, not at the first call. */
  #probe(): void {
    const script = new Script()
    this.#addRoot(script, 65_536)
    const { pid } = script.launch(cloneNewPid | cloneNewIpc | cloneNewUts)
    reap(pid, true)
  }
}

/** A detached, read-only view of a directory; the descriptor is all there is of it. */
function openTree(path: string): number {
  const fd = syscall('open_tree', here, path, openPath | 1)
  if (fd < 0) throw new SyscallError(`open_tree ${path}`, fd)
  const result = syscall('mount_setattr', fd, '', emptyPath, readOnlyNoDevAttr, attrBytes)
  if (result >= 0) return fd
  closeSync(fd)
  throw new SyscallError('mount_setattr', result)
}

function openNamespace(pid: number): number {
  const fd = syscall('openat', here, `/proc/${pid}/ns/mnt`, openPath, 0)
  if (fd < 0) throw new SyscallError(`open the mount namespace of ${pid}`, fd)
  return fd
}

/**
 * Builds the root that every instance starts from, in a mount namespace of its own, and returns
 * the descriptor that keeps it. The builder shares descriptors with fnd, and nothing else.
 */
function openTemplate(options: SandboxOptions): number {
  mkdirSync(options.mountPoint, { recursive: true })
  const root = options.mountPoint
  const script = new Script()
    .must('openat', here, '/proc/thread-self/ns/mnt', openPath, 0)
    .must('mount', 'none', '/', 0, mountRecursive | mountPrivate, 0)
    .must('mount', 'tmpfs', root, 'tmpfs', mountNoSuid, 'mode=0755,size=1m,nr_inodes=4096')
  for (const dir of ['etc', 'dev', 'proc', 'tmp', 'fn', '.fnd']) {
    script.must('mkdirat', here, join(root, dir), 0o755)
  }
  for (const dir of systemDirs) addSystemDir(script, root, dir)
  for (const path of systemFiles.filter(existsSync)) {
    addBind(script, realpathSync(path), join(root, path))
  }
  addBind(script, options.fndPath, join(root, '.fnd/fnd'))
  addBind(script, options.workerPath, join(root, '.fnd/worker.js'))
  script.must('mount_setattr', here, root, recursively, noDevAttr, attrBytes)
  for (const name of devices) addBind(script, `/dev/${name}`, join(root, 'dev', name))
  for (const [target, name] of deviceLinks) {
    script.must('symlinkat', target, here, join(root, 'dev', name))
  }
  script
    .must('chdir', root)
    // The old root comes to lie on the new one, from where it is taken away (pivot_root(2)).
    .must('pivot_root', '.', '.')
    .must('umount2', '.', detach)
    .must('mount_setattr', here, '/', recursively, readOnlyAttr, attrBytes)
  try {
    const { pid, results } = script.launch(cloneNewMount | cloneFiles)
    reap(pid, true)
    return results[0] ?? -1
  } catch (cause) {
    const fd = cause instanceof SyscallError ? (cause.results[0] ?? -1) : -1
    if (fd >= 0) closeSync(fd)
    throw cause
  }
}

function addSystemDir(script: Script, root: string, dir: string): void {
  if (!existsSync(dir)) return
  if (lstatSync(dir).isSymbolicLink()) {
    script.must('symlinkat', readlinkSync(dir), here, join(root, dir))
  } else {
    addBind(script, dir, join(root, dir))
  }
}

function addBind(script: Script, source: string, target: string): void {
  if (lstatSync(source).isDirectory()) {
    script.must('mkdirat', here, target, 0o755)
  } else {
    script.maybe('mkdirat', here, dirname(target), 0o755)
    script.must('mknodat', here, target, regularFile | 0o644, 0)
  }
  script.must('mount', source, target, 0, mountBind | mountRecursive, 0)
}

const capabilityLast = 40

function addLimits(script: Script, child: ChildSpec, level: Sandbox['level']): void {
  const resource = { core: 4, processes: 6, openFiles: 7, lockedMemory: 8 }
  const limit = (which: number, max: number) =>
    script.must('prlimit64', 0, which, BigUint64Array.from([BigInt(max), BigInt(max)]), 0)
  limit(resource.core, 0)
  limit(resource.openFiles, child.limits.openFilesMax)
  limit(resource.lockedMemory, 65_536)
  // The kernel counts the processes of a uid, which at level `process` is fnd's own.
  if (level === 'namespaces') {
    limit(resource.processes, child.limits.pidsMax)
    for (let cap = 0; cap <= capabilityLast; cap++) script.maybe('prctl', 24, cap, 0, 0, 0)
  }
  const noNewPrivileges = 38
  script.must('prctl', noNewPrivileges, 1, 0, 0, 0)
}

const ignoredByParent = [1, 2, 3, 13, 15, 25]

function addExec(script: Script, child: ChildSpec): Script {
  const parentDeathSignal = 1
  const kill = 9
  const readWrite = 2
  // A change of credentials clears it, so this comes after them.
  script.must('prctl', parentDeathSignal, kill, 0, 0, 0).must('umask', 0o22)
  script.must('chdir', child.cwd)
  const stdio = [child.stdinFd, child.stdoutFd, child.stderrFd]
  stdio.forEach((fd, i) => {
    if (fd >= 0) script.must('dup3', fd, i, 0)
  })
  script.must('close_range', 3, 0xffff_ffff, 0)
  stdio.forEach((fd, i) => {
    if (fd < 0) script.must('close', i).must('openat', here, '/dev/null', readWrite, 0)
  })
  const byDefault = new BigUint64Array(4)
  for (const signal of ignoredByParent) script.must('rt_sigaction', signal, byDefault, 0, 8)
  addSeccomp(script)
  const setMask = 2
  return script
    .must('rt_sigprocmask', setMask, new BigUint64Array(1), 0, 8)
    .execve(child.path, child.argv, child.env)
}
