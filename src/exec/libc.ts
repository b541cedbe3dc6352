/**
 * System calls that no JavaScript API offers: namespaces, mounts, limits of a child before it runs.
 *
 * A child is described as a script: a list of system calls that runs between clone and exec, in
 * the child. The script is plain numbers in shared memory, run by forty lines of C that Bun's
 * embedded TinyCC compiles at first use, without headers or libraries. Nothing of this process is
 * changed and changed back: a thread of JavaScriptCore that stood in a half-built namespace, even
 * for microseconds, could not create the threads its collector needs, and would abort.
 *
 * Everything here runs on the main thread: PR_SET_PDEATHSIG fires when the thread that cloned ends.
 */
import { cc, dlopen, FFIType, ptr } from 'bun:ffi'
import {
  accessSync,
  constants,
  existsSync,
  mkdtempSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { assert, StartError } from '../errors.ts'

/** Numbers differ by architecture; those from 424 on are the same everywhere. */
const numbers = {
  x64: {
    write: 1,
    close: 3,
    rt_sigaction: 13,
    rt_sigprocmask: 14,
    socket: 41,
    connect: 42,
    sendto: 44,
    execve: 59,
    wait4: 61,
    fcntl: 72,
    chdir: 80,
    umask: 95,
    setsid: 112,
    setgroups: 116,
    setresuid: 117,
    setresgid: 119,
    pivot_root: 155,
    prctl: 157,
    mount: 165,
    umount2: 166,
    sethostname: 170,
    openat: 257,
    mkdirat: 258,
    mknodat: 259,
    symlinkat: 266,
    unshare: 272,
    dup3: 292,
    pipe2: 293,
    prlimit64: 302,
    setns: 308,
    sched_setattr: 314,
    sched_getattr: 315,
    seccomp: 317,
  },
  arm64: {
    write: 64,
    close: 57,
    rt_sigaction: 134,
    rt_sigprocmask: 135,
    execve: 221,
    wait4: 260,
    fcntl: 25,
    chdir: 49,
    umask: 166,
    setsid: 157,
    socket: 198,
    connect: 203,
    sendto: 206,
    setgroups: 159,
    setresuid: 147,
    setresgid: 149,
    pivot_root: 41,
    prctl: 167,
    mount: 40,
    umount2: 39,
    sethostname: 161,
    openat: 56,
    mkdirat: 34,
    mknodat: 33,
    symlinkat: 36,
    unshare: 97,
    dup3: 24,
    pipe2: 59,
    prlimit64: 261,
    setns: 268,
    sched_setattr: 274,
    sched_getattr: 275,
    seccomp: 277,
  },
} as const

const common = { open_tree: 428, move_mount: 429, close_range: 436, mount_setattr: 442 } as const

export type SyscallName = keyof typeof numbers.x64 | keyof typeof common
export type Syscall = (
  name: SyscallName,
  ...args: readonly (number | string | NodeJS.TypedArray)[]
) => number

/**
 * One call of a script: 8 words, number, six arguments, and `must` (1: a failure ends the child),
 * which the child overwrites with the result, negative when it failed.
 */
const opWords = 8

const source = `
typedef long (*syscall_fn)(long, ...);
typedef int (*clone_fn)(int (*)(void *), void *, int, void *, ...);
typedef int *(*errno_fn)(void);
struct op { long number; long args[6]; long must; };

static syscall_fn sys;
static clone_fn libc_clone;
static errno_fn libc_errno;
static struct op *ops;
static long op_count;
static char stack[65536];

void setup(void *s, void *c, void *e) {
  sys = (syscall_fn)s;
  libc_clone = (clone_fn)c;
  libc_errno = (errno_fn)e;
}

long call(long number, long a, long b, long c, long d, long e, long f) {
  long result = sys(number, a, b, c, d, e, f);
  return result == -1 ? -(long)*libc_errno() : result;
}

static int run(void *unused) {
  long i;
  for (i = 0; i < op_count; i++) {
    struct op *op = ops + i;
    long *a = op->args;
    long must = op->must;
    op->must = call(op->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (must && op->must < 0) return 127;
  }
  return 0;
}

/* The caller sleeps (CLONE_VFORK) until the child execs or ends, so one stack serves all. Signals
   stay blocked in the child until its script unblocks them: a handler of the caller must not run
   on the caller's memory in another process. */
long launch(void *script, long count, long flags, long sigprocmask_number) {
  unsigned long all = ~0ul, old = 0;
  long pid;
  ops = script;
  op_count = count;
  call(sigprocmask_number, 2, (long)&all, (long)&old, 8, 0, 0);
  pid = libc_clone(run, stack + sizeof stack, (int)flags | 0x4100 | 17, 0);
  if (pid < 0) pid = -(long)*libc_errno();
  call(sigprocmask_number, 2, (long)&old, 0, 8, 0, 0);
  return pid;
}
`

function libcName(): string {
  const musl = process.arch === 'arm64' ? 'aarch64' : 'x86_64'
  const path = `/lib/libc.musl-${musl}.so.1`
  return existsSync(path) ? path : 'libc.so.6'
}

/** The compiler reads files only. Shared memory is there on systems whose disks are read-only. */
function scratchDir(): string {
  const found = [tmpdir(), '/tmp', '/dev/shm', '/run'].find(isWritable)
  if (found === undefined) throw new StartError('no writable directory: set TMPDIR to one')
  return found
}

function isWritable(dir: string): boolean {
  try {
    accessSync(dir, constants.W_OK)
    return statSync(dir).isDirectory()
  } catch (cause) {
    if (isSystemError(cause)) return false
    throw cause
  }
}

function load() {
  const arch = process.arch
  assert(arch === 'x64' || arch === 'arm64', 'fnd is built for x64 and arm64')
  const none = { args: [], returns: FFIType.i32 } as const
  const libc = dlopen(libcName(), { syscall: none, clone: none, __errno_location: none }).symbols
  const dir = mkdtempSync(join(scratchDir(), 'fnd-'))
  const path = join(dir, 'launch.c')
  writeFileSync(path, source)
  const long = FFIType.i64_fast
  const { symbols } = cc({
    source: path,
    flags: ['-nostdlib'],
    symbols: {
      setup: { args: [FFIType.ptr, FFIType.ptr, FFIType.ptr], returns: FFIType.void },
      call: { args: [long, long, long, long, long, long, long], returns: long },
      launch: { args: [FFIType.ptr, long, long, long], returns: long },
    },
  })
  rmSync(dir, { recursive: true })
  // `ptr` is there on every symbol of a dlopen, though bun-types leaves it out.
  const address = (symbol: unknown) => (symbol as { ptr: bigint }).ptr as unknown as null
  symbols.setup(address(libc.syscall), address(libc.clone), address(libc.__errno_location))
  return { symbols, numbers: { ...numbers[arch], ...common } }
}

let loaded: ReturnType<typeof load> | undefined

function native(): ReturnType<typeof load> {
  loaded ??= load()
  return loaded
}

/** Text as C wants it. The caller keeps the buffer alive for as long as the pointer is in use. */
function cString(text: string): Uint8Array {
  assert(!text.includes('\0'), 'a string for the kernel holds no NUL')
  return Buffer.from(`${text}\0`)
}

/** Runs one system call in this thread; the result is negative (`-errno`) when it failed. */
export const syscall: Syscall = (name, ...args) => {
  const buffers: NodeJS.TypedArray[] = []
  const [a, b, c, d, e, f] = args.map(arg => {
    if (typeof arg === 'number') return arg
    const buffer = typeof arg === 'string' ? cString(arg) : arg
    buffers.push(buffer)
    return ptr(buffer)
  })
  const { symbols, numbers } = native()
  const result = symbols.call(numbers[name], a ?? 0, b ?? 0, c ?? 0, d ?? 0, e ?? 0, f ?? 0)
  assert(buffers.length >= 0, 'the buffers outlive the call')
  return Number(result)
}

/** `text` says what failed and why, with the errno's name. */
export class SyscallError extends Error {
  override readonly name = 'SyscallError'
  readonly errno: number
  /** Of the calls of a script up to the one that failed. */
  readonly results: readonly number[]

  constructor(what: string, result: number, results: readonly number[] = []) {
    super(`${what}: ${errnoName(-result)}`)
    this.errno = -result
    this.results = results
  }
}

/** Whether the kernel refused something: for want of a resource, say. Everything else is a bug. */
export function isSystemError(cause: unknown): cause is Error {
  if (cause instanceof SyscallError) return true
  return cause instanceof Error && 'syscall' in cause && 'code' in cause
}

function errnoName(errno: number): string {
  const names: Readonly<Record<number, string>> = {
    1: 'EPERM',
    2: 'ENOENT',
    5: 'EIO',
    7: 'E2BIG',
    8: 'ENOEXEC',
    11: 'EAGAIN',
    12: 'ENOMEM',
    13: 'EACCES',
    16: 'EBUSY',
    20: 'ENOTDIR',
    22: 'EINVAL',
    24: 'EMFILE',
    28: 'ENOSPC',
    38: 'ENOSYS',
    90: 'EMSGSIZE',
    91: 'EPROTOTYPE',
    105: 'ENOBUFS',
    107: 'ENOTCONN',
    111: 'ECONNREFUSED',
  }
  return names[errno] ?? `errno ${errno}`
}

/** `syscall` that throws `SyscallError`. */
export const mustSyscall: Syscall = (name, ...args) => {
  const result = syscall(name, ...args)
  if (result < 0) throw new SyscallError(name, result)
  return result
}

/** What a child does before exec, or instead of it. */
export class Script {
  readonly #words: number[] = []
  readonly #names: string[] = []
  readonly #alive: NodeJS.TypedArray[] = []

  /** A call that ends the child when it fails. */
  must(name: SyscallName, ...args: readonly (number | string | NodeJS.TypedArray)[]): this {
    return this.#push(1, name, args)
  }

  /** A call that may fail. */
  maybe(name: SyscallName, ...args: readonly (number | string | NodeJS.TypedArray)[]): this {
    return this.#push(0, name, args)
  }

  execve(path: string, argv: readonly string[], env: Readonly<Record<string, string>>): this {
    const envp = Object.entries(env).map(([key, value]) => `${key}=${value}`)
    return this.must('execve', path, this.#strings(argv), this.#strings(envp))
  }

  /**
   * Clones, runs the script in the child and returns its pid and the results of the calls. Throws
   * `SyscallError` when the clone, or a call that must not fail, failed: then no child is left.
   */
  launch(cloneFlags: number): { readonly pid: number; readonly results: readonly number[] } {
    assert(Bun.isMainThread, 'children are cloned by the main thread')
    const words = BigInt64Array.from(this.#words.map(BigInt))
    const { symbols, numbers } = native()
    const count = this.#names.length
    const pid = Number(symbols.launch(ptr(words), count, cloneFlags, numbers.rt_sigprocmask))
    if (pid < 0) throw new SyscallError('clone', pid)
    const results = this.#names.map((_, i) => Number(words[i * opWords + 7] ?? 0n))
    const failed = results.findIndex((r, i) => r < 0 && this.#words[i * opWords + 7] === 1)
    if (failed >= 0) {
      reap(pid, true)
      const done = results.slice(0, failed)
      throw new SyscallError(this.#names[failed] ?? '', results[failed] ?? 0, done)
    }
    return { pid, results }
  }

  /** Where the bytes lie while this script exists. */
  addressOf(value: string | NodeJS.TypedArray): number {
    const buffer = typeof value === 'string' ? cString(value) : value
    this.#alive.push(buffer)
    return ptr(buffer)
  }

  #push(
    must: number,
    name: SyscallName,
    args: readonly (number | string | NodeJS.TypedArray)[],
  ): this {
    const row = new Array<number>(opWords).fill(0)
    row[0] = native().numbers[name]
    args.forEach((arg, i) => {
      row[i + 1] = typeof arg === 'number' ? arg : this.addressOf(arg)
    })
    row[7] = must
    this.#words.push(...row)
    const first = args.find(arg => typeof arg === 'string')
    this.#names.push(first === undefined ? name : `${name} ${first}`)
    return this
  }

  #strings(values: readonly string[]): BigUint64Array {
    return BigUint64Array.from([...values.map(value => BigInt(this.addressOf(value))), 0n])
  }
}

export interface WaitStatus {
  readonly code: number | null
  readonly signal: number | null
}

/** The end of a child, or undefined while it runs. `isBlocking` is for children that have ended. */
export function reap(pid: number, isBlocking = false): WaitStatus | undefined {
  const status = new Int32Array(1)
  const result = syscall('wait4', pid, status, isBlocking ? 0 : 1, 0)
  if (result === 0) return undefined
  assert(result === pid, 'only fnd reaps its children')
  const word = status[0] ?? 0
  const signal = word & 0x7f
  return signal === 0 ? { code: (word >> 8) & 0xff, signal: null } : { code: null, signal }
}

/** Both ends close on exec; reads of the read end do not block, unless it is for a child. */
export function makePipe({ blocks = false } = {}): {
  readonly readFd: number
  readonly writeFd: number
} {
  const closeOnExec = 0o2000000
  const setFlags = 4
  const nonBlocking = 0o4000
  const fds = new Int32Array(2)
  mustSyscall('pipe2', fds, closeOnExec)
  const [readFd = -1, writeFd = -1] = fds
  if (!blocks) mustSyscall('fcntl', readFd, setFlags, nonBlocking)
  return { readFd, writeFd }
}
