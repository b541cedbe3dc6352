/**
 * The process driver: runs bundles as processes of this host, confined as far as the host allows.
 * A module is run by fnd's own executable and the worker script, from a spare where there is one;
 * a program of a bundle is executed directly.
 */
import { createHash } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecConfig } from '../config.ts'
import { assert, FndError } from '../errors.ts'
import { Cell, type CellHost, type CellSpec } from './cell.ts'
import { type Cgroup, openCgroups } from './cgroup.ts'
import { Reaper } from './child.ts'
import type { Driver, FnSpec, Instance, Isolation, OutputSink } from './driver.ts'
import { openFilesHardMax } from './host.ts'
import { isolationOf } from './isolation.ts'
import { isSystemError } from './libc.ts'
import { killAll, pidsWithEnv, pidsWithUid } from './proc.ts'
import { removeTree } from './remove-tree.ts'
import { meet } from './rendezvous.ts'
import { openSandbox, plainSandbox } from './sandbox.ts'
import { Spares } from './spare.ts'
import { UidRange } from './uids.ts'
import type { WorkerJob } from './worker.ts'
import { workerSource } from './worker-source.ts'

/** What the driver needs to know of a bundle. */
export interface RunnableBundle {
  readonly dir: string
  readonly manifest: { readonly kind: 'module' | 'program'; readonly entry: string }
}

export interface RunnableBundles {
  get(hash: string): RunnableBundle | undefined
  /**
   * Has it brought here from wherever it is. Rejects with `FndError`. Absent: what is not here is
   * nowhere.
   */
  ensure?(hash: string): Promise<unknown>
}

export interface ProcessDriverOptions {
  readonly dataDir: string
  readonly config: ExecConfig
  readonly version: string
  readonly bundles: RunnableBundles
  readonly output: OutputSink
  /** Told when spare workers cannot be had. */
  readonly onSparesGivenUp: (detail: string) => void
  /** Confines less than the host allows; for tests and for `fnd run`. */
  readonly levelMax?: 'namespaces' | 'process'
}

/** For Bun, while it starts; the function's environment replaces it. */
const runtimeEnv = {
  BUN_BE_BUN: '1',
  BUN_RUNTIME_TRANSPILER_CACHE_PATH: '0',
  // One thread per core of a large host would use up `FND_MAX_PIDS`.
  UV_THREADPOOL_SIZE: '8',
}
const scheme = 'bundle:'
const mib = 1024 * 1024
const watchMs = 100
/** `sun_path` holds 107 bytes; a cell's name and the FDK's `lsnr.sock.tmp` need this many. */
const socketNameBytes = 40
const sunPathBytesMax = 107

export class ProcessDriver implements Driver {
  readonly name = 'process'
  readonly #options: ProcessDriverOptions
  readonly #host: CellHost
  readonly #runDir: string
  readonly #refusals: { readonly namespaces: string; readonly cgroups: string }
  readonly #spares: Spares
  readonly #cells = new Set<Cell>()
  readonly #watch: ReturnType<typeof setInterval> | undefined
  /** Groups that are being made for programs. */
  readonly #pending = new Set<Promise<Cgroup> | undefined>()
  #cellCount = 0
  #closing: Promise<void> | undefined

  /** Removes what an earlier fnd left on this data directory. Rejects with `FndError`. */
  static async open(options: ProcessDriverOptions): Promise<ProcessDriver> {
    const runDir = join(options.dataDir, 'run')
    removeTree(runDir)
    mkdirSync(runDir, { recursive: true, mode: 0o711 })
    const workerPath = join(runDir, 'worker.js')
    writeFileSync(workerPath, await workerSource())
    const sandboxOptions = {
      mountPoint: join(runDir, 'root'),
      fndPath: process.execPath,
      workerPath,
    }
    const { sandbox, refusal } =
      options.levelMax === 'process'
        ? { sandbox: plainSandbox(sandboxOptions), refusal: 'fnd was asked for less' }
        : openSandbox(sandboxOptions)
    if (options.config.isIsolationRequired && sandbox.level !== 'namespaces') {
      throw new FndError('isolation-missing', { detail: refusal })
    }
    const hash = createHash('sha256').update(options.dataDir).digest()
    const name = `fnd-${hash.toString('hex').slice(0, 12)}`
    const groups = openCgroups(name)
    const uids = new UidRange(hash.readUInt16BE(0) & 0xfff)
    const socketsDir = socketsDirFor(runDir, name)
    await groups.cgroups?.sweep()
    if (sandbox.level === 'namespaces') killAll(pidsWithUid(uids.first, uids.count))
    killAll(pidsWithEnv(`FN_LISTENER=unix:${socketsDir}/`))
    removeTree(socketsDir)
    mkdirSync(socketsDir, { recursive: true, mode: 0o700 })
    const { pidsMax, tmpBytesMax } = options.config
    const openFilesMax = Math.min(options.config.openFilesMax, openFilesHardMax())
    const host: CellHost = {
      sandbox,
      cgroups: groups.cgroups,
      uids,
      reaper: new Reaper(),
      limits: { pidsMax, openFilesMax, tmpBytesMax },
      socketsDir,
    }
    const refusals = { namespaces: refusal, cgroups: groups.refusal }
    return new ProcessDriver(options, host, runDir, refusals)
  }

  private constructor(
    options: ProcessDriverOptions,
    host: CellHost,
    runDir: string,
    refusals: { readonly namespaces: string; readonly cgroups: string },
  ) {
    this.#options = options
    this.#host = host
    this.#runDir = runDir
    this.#refusals = refusals
    this.#spares = new Spares({
      count: options.config.spareWorkers,
      start: () => this.#startWorker(undefined, 'host', undefined),
      onGivenUp: options.onSparesGivenUp,
    })
    if (host.cgroups?.hasMemory !== true) {
      this.#watch = setInterval(() => {
        for (const cell of this.#cells) cell.watchMemory()
      }, watchMs)
    }
  }

  takes(image: string): boolean {
    return image.startsWith(scheme)
  }

  async prepare(spec: FnSpec): Promise<void> {
    const { bundles } = this.#options
    const hash = spec.image.slice(scheme.length)
    if (bundles.get(hash) === undefined) await bundles.ensure?.(hash)
    this.#bundleOf(spec)
  }

  async start(spec: FnSpec, instanceId: string, signal: AbortSignal): Promise<Instance> {
    if (this.#closing !== undefined) throw new FndError('shutting-down')
    const deadlineMs = performance.now() + this.#options.config.startTimeoutMs
    const bundle = this.#bundleOf(spec)
    const cell = await this.#cellFor(spec, bundle)
    cell.child.deliverTo((stream, chunk) => this.#options.output.output(instanceId, stream, chunk))
    try {
      const socketPath = await untilReady(cell, deadlineMs, signal)
      return {
        id: instanceId,
        pid: cell.child.pid,
        socketPath,
        exited: cell.gone,
        stop: graceMs => cell.stop(graceMs),
        memoryBytes: () => toldBy(cell, () => cell.memoryBytes()),
        cpuMs: () => toldBy(cell, () => cell.cpuMs()),
      }
    } catch (cause) {
      await cell.stop(0)
      throw startFailure(cause)
    }
  }

  isolation(spec?: FnSpec): Isolation {
    const { sandbox, cgroups, limits } = this.#host
    return isolationOf({
      level: sandbox.level,
      hasMemoryGroup: cgroups?.hasMemory === true,
      hasSeccomp: existsSync('/proc/sys/kernel/seccomp/actions_avail'),
      hasPidsGroup: cgroups?.hasPids === true,
      limits,
      refusals: this.#refusals,
      network: spec?.network ?? 'host',
    })
  }

  /** Running workers that wait for a function, and the memory they hold. */
  spares(): { readonly count: number; readonly memoryBytes: number } {
    return { count: this.#spares.count, memoryBytes: this.#spares.memoryBytes() }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    await this.#spares.close()
    await Promise.allSettled(this.#pending)
    await Promise.all([...this.#cells].map(cell => cell.stop(0)))
    clearInterval(this.#watch)
    this.#host.sandbox.close()
    await this.#host.cgroups?.remove()
    removeTree(this.#host.socketsDir)
    removeTree(this.#runDir)
  }

  #bundleOf(spec: FnSpec): RunnableBundle {
    assert(this.takes(spec.image), 'a driver is asked for images that it takes')
    const bundle = this.#options.bundles.get(spec.image.slice(scheme.length))
    if (bundle === undefined) throw new FndError('bundle-not-found', { detail: spec.image })
    return bundle
  }

  async #cellFor(spec: FnSpec, bundle: RunnableBundle): Promise<Cell> {
    if (Object.entries(spec.env).some(pair => pair.join('').includes('\0'))) {
      throw new FndError('init-failed', { detail: 'a config value holds a NUL byte' })
    }
    try {
      return bundle.manifest.kind === 'program'
        ? await this.#startProgram(spec, bundle)
        : this.#startModule(spec, bundle)
    } catch (cause) {
      throw startFailure(cause)
    }
  }

  #startModule(spec: FnSpec, bundle: RunnableBundle): Cell {
    const memoryBytesMax = spec.memoryMb * mib
    const spare = spec.network === 'host' ? this.#claimSpare(bundle.dir, memoryBytesMax) : undefined
    const cell = spare ?? this.#startWorker(bundle.dir, spec.network, memoryBytesMax)
    const job: WorkerJob = {
      env: { ...workerEnv, ...spec.env, FN_LISTENER: cell.listener },
      cwd: this.#isNamespaced ? '/fn' : bundle.dir,
      entry: bundle.manifest.entry,
      version: this.#options.version,
    }
    void cell.tell(`${JSON.stringify(job)}\n`)
    return cell
  }

  /** A spare that has the bundle; undefined when there is none, or it ended just now. */
  #claimSpare(fnDir: string, memoryBytesMax: number): Cell | undefined {
    const spare = this.#spares.claim()
    if (spare === undefined) return undefined
    try {
      spare.limitMemory(memoryBytesMax)
      spare.attach(fnDir)
      return spare
    } catch (cause) {
      if (!isSystemError(cause)) throw cause
      void spare.stop(0)
      return undefined
    }
  }

  #startWorker(
    fnDir: string | undefined,
    network: 'host' | 'none',
    memoryBytesMax: number | undefined,
  ): Cell {
    const { fndPath, workerPath } = this.#host.sandbox
    return this.#startCell({
      name: this.#newName(),
      path: fndPath,
      argv: ['fnd', workerPath],
      env: { ...workerEnv, ...runtimeEnv },
      cwd: '/',
      fnDir,
      network,
      memoryBytesMax,
      hasStdin: true,
    })
  }

  async #startProgram(spec: FnSpec, bundle: RunnableBundle): Promise<Cell> {
    const name = this.#newName()
    const { cgroups, limits } = this.#host
    const creating = cgroups?.create(name, limits.pidsMax)
    this.#pending.add(creating)
    let cgroup: Cgroup | undefined
    try {
      cgroup = await creating
    } finally {
      this.#pending.delete(creating)
    }
    const fnDir = this.#isNamespaced ? '/fn' : bundle.dir
    const path = join(fnDir, bundle.manifest.entry)
    const program = {
      name,
      path,
      argv: [path],
      env: { ...workerEnv, ...spec.env },
      cwd: fnDir,
      fnDir: bundle.dir,
      network: spec.network,
      memoryBytesMax: spec.memoryMb * mib,
      hasStdin: false,
    }
    return this.#startCell(program, cgroup)
  }

  #newName(): string {
    this.#cellCount += 1
    return `i${this.#cellCount}`
  }

  #startCell(spec: CellSpec, cgroup?: Cgroup): Cell {
    const cell = new Cell(this.#host, spec, cgroup)
    this.#cells.add(cell)
    void cell.gone.then(() => this.#cells.delete(cell))
    return cell
  }

  get #isNamespaced(): boolean {
    return this.#host.sandbox.level === 'namespaces'
  }
}

/** What a function finds set unless its config sets it. */
const workerEnv = {
  PATH: '/usr/local/bin:/usr/bin:/bin',
  HOME: '/tmp',
  TMPDIR: '/tmp',
  LANG: 'C.UTF-8',
} as const

/** Under the data directory, unless its path is too long for a socket. */
function socketsDirFor(runDir: string, name: string): string {
  const dir = join(runDir, 'io')
  const isShort = Buffer.byteLength(dir) + socketNameBytes <= sunPathBytesMax
  return isShort ? dir : join(tmpdir(), name)
}

/** Resolves to the socket's path. Rejects with `FndError`; the cell is the caller's to stop. */
async function untilReady(cell: Cell, deadlineMs: number, signal: AbortSignal): Promise<string> {
  const dirFd = cell.openSocketsDir()
  try {
    for (let polls = 0; ; polls++) {
      const meeting = dirFd === undefined ? undefined : meet(dirFd)
      if (meeting?.kind === 'ready') {
        cell.keep(meeting.fd)
        return meeting.path
      }
      if (meeting?.kind === 'refused') {
        throw new FndError('init-failed', { detail: meeting.reason })
      }
      if (cell.child.hasEnded) throw await failureOf(cell)
      if (signal.aborted) throw new FndError('init-failed', { detail: 'the start was cancelled' })
      if (performance.now() >= deadlineMs) throw new FndError('init-timeout')
      await Bun.sleep(polls < 100 ? 1 : 10)
    }
  } finally {
    if (dirFd !== undefined) closeSync(dirFd)
  }
}

/** Undefined when it has ended, or the host does not say, for want of a descriptor perhaps. */
function toldBy(cell: Cell, ask: () => number): number | undefined {
  if (cell.child.hasEnded) return undefined
  try {
    return ask()
  } catch (cause) {
    if (!isSystemError(cause)) throw cause
    return undefined
  }
}

/** What the host refuses fails this start, with the host's words. */
function startFailure(cause: unknown): unknown {
  if (!isSystemError(cause)) return cause
  return new FndError('init-failed', { detail: cause.message, cause })
}

async function failureOf(cell: Cell): Promise<FndError> {
  const exit = await cell.gone
  const end = exit.signal === null ? `exit code ${exit.code}` : exit.signal
  const why = exit.outOfMemory ? 'out of memory, raise the memory of the function' : end
  const { tail } = cell.child
  return new FndError('init-failed', { detail: tail === '' ? why : `${why}: ${tail}` })
}
