/**
 * A confined process and everything the host keeps for it: uid, cgroup, socket directory,
 * descriptors. All of it is released, once, when the process has ended, whoever ended it.
 */
import { closeSync, fchownSync, mkdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '../errors.ts'
import type { Cgroup, Cgroups } from './cgroup.ts'
import { Child, type Reaper } from './child.ts'
import type { Exit } from './driver.ts'
import { isSystemError, makePipe } from './libc.ts'
import {
  catchesTermination,
  killAll,
  namespaceBytes,
  namespaceCpuMs,
  pidsWithEnv,
  processBytes,
  processCpuMs,
  sessionPids,
} from './proc.ts'
import { removeTree } from './remove-tree.ts'
import { openRendezvous } from './rendezvous.ts'
import type { ChildLimits, Sandbox } from './sandbox.ts'
import type { UidRange } from './uids.ts'

export interface CellHost {
  readonly sandbox: Sandbox
  readonly cgroups: Cgroups | undefined
  readonly uids: UidRange
  readonly reaper: Reaper
  readonly limits: ChildLimits
  /** Where socket directories are made at level `process`. */
  readonly socketsDir: string
}

export interface CellSpec {
  /** Unique among the living cells. Short: it is part of a socket's path. */
  readonly name: string
  readonly path: string
  readonly argv: readonly string[]
  /** FN_LISTENER is added. */
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  readonly fnDir: string | undefined
  readonly network: 'host' | 'none'
  /** Undefined until it is known what will run here. */
  readonly memoryBytesMax: number | undefined
  /** Whether the process is told more on stdin. */
  readonly hasStdin: boolean
}

/** What a full output pipe of a dead process may hold up its release. */
const drainMsMax = 5000
const pipeBytes = 60_000

export class Cell {
  readonly name: string
  readonly child: Child
  /** FN_LISTENER as the process sees it. */
  readonly listener: string
  /** Settles when no process, group, directory or descriptor is left. Never rejects. */
  readonly gone: Promise<Exit>
  readonly #host: CellHost
  #cgroup: Cgroup | undefined
  /** Settles when the process is in its cgroup. */
  readonly #joined: Promise<void>
  readonly #uid: number
  readonly #socketsDir: string | undefined
  readonly #descriptors = new Set<number>()
  #stdinFd: number
  #memoryBytesMax: number | undefined
  #isOverMemory = false

  /**
   * A process that waits to be told what to run may join its cgroup while it starts; the few
   * megabytes that Bun has taken until then stay on fnd's own account. One that runs
   * at once joins `cgroup`, which is there before it, and holds up this thread meanwhile.
   */
  constructor(host: CellHost, spec: CellSpec, cgroup?: Cgroup) {
    this.#host = host
    this.name = spec.name
    for (const [key, value] of Object.entries(spec.env)) {
      assert(!`${key}${value}`.includes('\0'), 'an environment holds no NUL')
    }
    const isNamespaced = host.sandbox.level === 'namespaces'
    this.#socketsDir = isNamespaced ? undefined : join(host.socketsDir, spec.name)
    this.listener = `unix:${this.#socketsDir ?? '/tmp/iofs'}/lsnr.sock`
    this.#uid = host.uids.take()
    this.#cgroup = cgroup
    try {
      if (this.#socketsDir !== undefined) mkdirSync(this.#socketsDir, { mode: 0o700 })
      if (spec.memoryBytesMax !== undefined) this.limitMemory(spec.memoryBytesMax)
      const { child, stdinFd } = this.#spawn(spec)
      this.child = child
      this.#stdinFd = stdinFd
    } catch (cause) {
      void this.#releaseHost()
      throw cause
    }
    this.#joined = cgroup === undefined ? this.#join() : Promise.resolve()
    this.gone = this.child.ended.then(async exit => {
      await this.#joined
      const kills = this.#outOfMemoryKills()
      await this.#release()
      const isKilled = exit.signal === 'SIGKILL'
      return { ...exit, outOfMemory: this.#isOverMemory || (isKilled && kills > 0) }
    })
  }

  /** 0 when the kernel cannot be asked, say for want of a descriptor. */
  #outOfMemoryKills(): number {
    try {
      return this.#cgroup?.outOfMemoryKills() ?? 0
    } catch (cause) {
      if (!isSystemError(cause)) throw cause
      return 0
    }
  }

  #spawn(spec: CellSpec): { child: Child; stdinFd: number } {
    const { sandbox, limits, reaper } = this.#host
    const opened: number[] = []
    const open = (blocks: boolean) => {
      const pipe = makePipe({ blocks })
      opened.push(pipe.readFd, pipe.writeFd)
      return pipe
    }
    let kept: readonly number[] = []
    try {
      const stdout = open(false)
      const stderr = open(false)
      const stdin = spec.hasStdin ? open(true) : { readFd: -1, writeFd: -1 }
      if (sandbox.level === 'namespaces') {
        // So that the process can open /dev/stdout again by its path.
        for (const { writeFd } of [stdout, stderr]) fchownSync(writeFd, this.#uid, this.#uid)
      }
      const cgroupFds = this.#cgroup?.openJoinFds() ?? []
      opened.push(...cgroupFds)
      const pid = sandbox.spawn({
        ...spec,
        env: { ...spec.env, FN_LISTENER: this.listener },
        stdinFd: stdin.readFd,
        stdoutFd: stdout.writeFd,
        stderrFd: stderr.writeFd,
        cgroupFds,
        limits,
        uid: this.#uid,
      })
      const fds = { stdout: stdout.readFd, stderr: stderr.readFd }
      kept = [stdout.readFd, stderr.readFd, stdin.writeFd]
      return { child: new Child(pid, fds, reaper), stdinFd: stdin.writeFd }
    } finally {
      for (const fd of opened) if (!kept.includes(fd)) closeSync(fd)
    }
  }

  async #join(): Promise<void> {
    try {
      const cgroup = await this.#host.cgroups?.create(this.name, this.#host.limits.pidsMax)
      this.#cgroup = cgroup
      if (this.#memoryBytesMax !== undefined) cgroup?.limitMemory(this.#memoryBytesMax)
      await cgroup?.join(this.child.pid)
    } catch (cause) {
      if (!isSystemError(cause)) throw cause
      // Nothing runs without its limits. Who waits for this process sees it end.
      this.kill()
    }
  }

  limitMemory(bytes: number): void {
    this.#memoryBytesMax = bytes
    try {
      this.#cgroup?.limitMemory(bytes)
    } catch (cause) {
      // Version 1 refuses a limit below what is in use; version 2 ends the process, as here.
      if ((cause as NodeJS.ErrnoException).code !== 'EBUSY') throw cause
      this.#isOverMemory = true
      this.kill()
    }
  }

  /** Resident bytes by the kernel's account, else by adding up its processes. */
  memoryBytes(): number {
    if (this.#cgroup !== undefined && this.#host.cgroups?.hasMemory === true) {
      return this.#cgroup.memoryBytes()
    }
    return this.#countedBytes()
  }

  /** CPU time of its processes; the few that ended without a parent to wait for them are missed. */
  cpuMs(): number {
    const { pid } = this.child
    const isNamespaced = this.#host.sandbox.level === 'namespaces'
    return isNamespaced ? namespaceCpuMs(pid) : processCpuMs(pid)
  }

  /** For hosts without a memory cgroup: ends the cell when it is over its limit. */
  watchMemory(): void {
    if (this.#memoryBytesMax === undefined || this.child.hasEnded) return
    if (this.#countedBytes() <= this.#memoryBytesMax) return
    this.#isOverMemory = true
    this.kill()
  }

  /**
   * Writes to its stdin, and closes it, once every limit is in force. A process that is gone does
   * not read; that is all.
   */
  async tell(text: string): Promise<void> {
    await this.#joined
    if (this.#stdinFd < 0) return
    const fd = this.#stdinFd
    this.#stdinFd = -1
    const bytes = Buffer.from(text)
    const finish = () => closeSync(fd)
    if (bytes.length <= pipeBytes) {
      try {
        writeSync(fd, bytes)
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EPIPE') throw cause
      }
      finish()
      return
    }
    // More than a pipe holds: the worker reads while a thread of the pool writes.
    Bun.write(Bun.file(fd), bytes).then(finish, finish)
  }

  attach(fnDir: string): void {
    this.#host.sandbox.attach(this.child.pid, fnDir)
  }

  /** A descriptor of the directory in which the function makes its socket. */
  openSocketsDir(): number | undefined {
    return openRendezvous(this.#socketsDir ?? `/proc/${this.child.pid}/root/tmp/iofs`)
  }

  /** Keeps a descriptor open until the cell is released. */
  keep(fd: number): void {
    this.#descriptors.add(fd)
  }

  kill(): void {
    if (this.#host.sandbox.level === 'process') killAll(sessionPids(this.child.pid))
    this.child.kill('SIGKILL')
  }

  async stop(graceMs: number): Promise<void> {
    if (graceMs > 0 && catchesTermination(this.child.pid)) {
      this.child.kill('SIGTERM')
      await settledWithin(this.gone, graceMs)
    }
    if (!this.child.hasEnded) this.kill()
    await this.gone
  }

  #countedBytes(): number {
    const { pid } = this.child
    const isNamespaced = this.#host.sandbox.level === 'namespaces'
    return isNamespaced ? namespaceBytes(pid) : processBytes(sessionPids(pid))
  }

  /** Without a pid namespace, the other processes are found by session and by environment. */
  #killRest(): void {
    if (this.#host.sandbox.level !== 'process') return
    for (;;) {
      const left = [...sessionPids(this.child.pid), ...pidsWithEnv(`FN_LISTENER=${this.listener}`)]
      if (left.length === 0) return
      killAll(left)
    }
  }

  async #release(): Promise<void> {
    this.#killRest()
    await settledWithin(this.child.drained, drainMsMax)
    await this.child.abandonOutput()
    await this.child.drained
    if (this.#stdinFd >= 0) closeSync(this.#stdinFd)
    this.#stdinFd = -1
    for (const fd of this.#descriptors) closeSync(fd)
    await this.#releaseHost()
  }

  async #releaseHost(): Promise<void> {
    await this.#cgroup?.remove()
    if (this.#socketsDir !== undefined) removeTree(this.#socketsDir)
    this.#host.uids.release(this.#uid)
  }
}

/** Waits for `promise`, but not longer; leaves no timer behind. */
async function settledWithin(promise: Promise<unknown>, ms: number): Promise<void> {
  const { promise: over, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, ms)
  await Promise.race([promise, over])
  clearTimeout(timer)
}
