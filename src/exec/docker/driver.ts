/**
 * The Docker driver: runs images as containers, spoken to over a unix socket in a directory that
 * is bound into each (fn-api.md §2.2), or over stdin and stdout for the older formats. What it
 * starts has its label; what has its label and is not its own any more is removed whenever the
 * daemon comes up.
 */
import { createHash } from 'node:crypto'
import { closeSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import type { DockerConfig } from '../../config-docker.ts'
import { assert, FndError } from '../../errors.ts'
import type { Driver, FnSpec, Instance, Isolation, OutputSink } from '../driver.ts'
import { isSystemError } from '../libc.ts'
import { openRendezvous } from '../rendezvous.ts'
import type { TalkLimits } from './bridge.ts'
import type { Container } from './container.ts'
import { type ContainerLimits, isConfined } from './container-spec.ts'
import type { Engine, EngineState } from './engine.ts'
import { containerEnv } from './format-env.ts'
import { containerIsolation } from './isolation.ts'
import {
  canBeSmall,
  openRendezvousDirs,
  type RendezvousDir,
  type RendezvousDirs,
  rendezvousName,
  sharesMountsWithListener,
  type Writer,
} from './rendezvous-dir.ts'
import { refusedStart, untilSocket } from './start.ts'
import { startColdStdio, startHotStdio } from './stdio-instance.ts'
import { containerCpuMs, containerMemoryBytes } from './usage.ts'
import { Workshop } from './workshop.ts'

/** What the driver needs of images. */
export interface ImageSource {
  /** Fetches it if need be. Rejects with `FndError`. */
  ensure(spec: FnSpec): Promise<{ readonly id: string }>
  /** How far its pull is; undefined when none is under way. */
  progressOf(spec: FnSpec): string | undefined
}

export interface DockerDriverOptions {
  readonly dataDir: string
  /** Tells this fnd's containers from those of another that uses the same daemon. */
  readonly nodeId: string
  readonly config: DockerConfig
  readonly limits: ContainerLimits
  readonly startTimeoutMs: number
  readonly engine: Engine
  readonly images: ImageSource
  readonly output: OutputSink
  /** Of answers over stdout. */
  readonly answerLimits: TalkLimits
  /** Whether the receiver of a syslog URL is there. Rejects with `FndError`. */
  readonly checkSyslog: (url: string) => Promise<void>
  readonly newId: () => string
  readonly onNotice: (detail: string) => void
}

const sweepMs = 60_000
const lateSweepMs = 5000

export class DockerDriver implements Driver {
  readonly name = 'docker'
  readonly #options: DockerDriverOptions
  readonly #workshop: Workshop
  readonly #base: string
  /** Instance → the image that it runs, from its start to its end. */
  readonly #images = new Map<string, string>()
  #dirs: Promise<RendezvousDirs> | undefined
  #sweep: ReturnType<typeof setInterval> | undefined
  #lateSweep: ReturnType<typeof setTimeout> | undefined
  #sweeping: Promise<void> = Promise.resolve()
  #isClosed = false
  /** Whether the daemon was found to see what fnd mounts. */
  #isSharing = false

  constructor(options: DockerDriverOptions) {
    this.#options = options
    const { dataDir, config, nodeId } = options
    const hash = createHash('sha256').update(nodeId).digest('hex')
    const parent = resolve(config.iofsDir === '' ? dataDir : config.iofsDir)
    this.#base = join(parent, `iofs-${hash.slice(0, 12)}`)
    this.#workshop = new Workshop(options)
  }

  /** The composition tells it of the engine's state, since the engine is made before it. */
  engineChanged(state: EngineState): void {
    if (state.kind !== 'up' || this.#isClosed) return
    void this.#workshop.networks.reset()
    this.#removeStrays()
    // A daemon that hung may carry out, now, what was asked of it and given up.
    clearTimeout(this.#lateSweep)
    this.#lateSweep = setTimeout(() => this.#removeStrays(), lateSweepMs)
    this.#lateSweep.unref()
    this.#sweep ??= setInterval(() => this.#removeStrays(), sweepMs)
    this.#sweep.unref()
  }

  #removeStrays(): void {
    this.#sweeping = this.#sweeping.then(() => this.#workshop.removeStrays())
  }

  /** Ids of the images that instances run, between their containers too. */
  imagesInUse(): Iterable<string> {
    return this.#images.values()
  }

  takes(image: string): boolean {
    return !image.includes('://') && !image.startsWith('bundle:')
  }

  awaited(spec: FnSpec): string | undefined {
    const progress = this.#options.images.progressOf(spec)
    return progress === undefined ? undefined : `its image is being pulled, ${progress}`
  }

  async prepare(spec: FnSpec): Promise<void> {
    assert(this.takes(spec.image), 'a driver is asked for images that it takes')
    if (spec.network !== 'none') this.#workshop.networks.want()
    try {
      await this.#options.images.ensure(spec)
    } catch (cause) {
      throw this.#startFault(cause)
    }
  }

  async start(spec: FnSpec, instanceId: string, signal: AbortSignal): Promise<Instance> {
    if (this.#isClosed) throw new FndError('shutting-down')
    const { engine, images, answerLimits } = this.#options
    let dir: RendezvousDir | undefined
    try {
      if (spec.syslogUrl !== '') await this.#options.checkSyslog(spec.syslogUrl)
      await engine.facts()
      const image = (await images.ensure(spec)).id
      // Containers of an earlier run may still write to the directories that are removed first.
      if (this.#dirs === undefined) await this.#sweeping
      if (this.#isClosed) throw new FndError('shutting-down')
      if (signal.aborted) throw new FndError('init-failed', { detail: 'the start was cancelled' })
      const dirs = await this.#rendezvousDirs()
      dir = dirs.make(rendezvousName(instanceId), this.#writerFor(spec))
      const order = { spec, instanceId, image }
      this.#images.set(instanceId, image)
      const place = { ...order, workshop: this.#workshop, limits: answerLimits, engine, dir }
      const instance =
        spec.format === 'http-stream'
          ? await this.#startStream(order, dir, signal)
          : spec.format === 'default'
            ? startColdStdio(place)
            : await startHotStdio(place)
      void instance.exited.then(() => this.#images.delete(instanceId))
      return instance
    } catch (cause) {
      dir?.remove()
      this.#images.delete(instanceId)
      throw this.#startFault(cause)
    }
  }

  /** What the host and the daemon refuse fails one start; everything else stays what it is. */
  #startFault(cause: unknown): unknown {
    return isSystemError(cause)
      ? new FndError('init-failed', { detail: cause.message, cause })
      : refusedStart(cause, this.#options.engine)
  }

  isolation(spec?: FnSpec): Isolation {
    const { config, limits } = this.#options
    const hasSmallIofs = canBeSmall(this.#areMountsShared())
    return containerIsolation({ config, limits, hasSmallIofs, spec })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearInterval(this.#sweep)
    clearTimeout(this.#lateSweep)
    await this.#sweeping
    await this.#workshop.close()
    this.#options.engine.close()
    // Where they could not be opened there is nothing to remove.
    const dirs = await this.#dirs?.catch(() => undefined)
    await dirs?.removeAll()
  }

  async #startStream(
    order: { readonly spec: FnSpec; readonly instanceId: string; readonly image: string },
    dir: RendezvousDir,
    signal: AbortSignal,
  ): Promise<Instance> {
    const { engine, startTimeoutMs } = this.#options
    const { spec, instanceId } = order
    const dirFd = openRendezvous(dir.path)
    assert(dirFd !== undefined, 'the directory was made by this fnd')
    let container: Container | undefined
    try {
      const containerId = instanceId
      const env = containerEnv(spec)
      container = await this.#workshop.launch({
        ...order,
        containerId,
        env,
        iofsSource: dir.source,
      })
      const deadlineMs = performance.now() + startTimeoutMs
      const pid = container.learnPid()
      const socket = await untilSocket({ container, dirFd, deadlineMs, signal, engine })
      await pid
      container.markServing()
      void container.gone.then(() => {
        closeSync(socket.fd)
        dir.remove()
      })
      return instanceOf(instanceId, container, socket.path)
    } catch (cause) {
      await container?.remove()
      throw cause
    } finally {
      closeSync(dirFd)
    }
  }

  #writerFor(spec: FnSpec): Writer {
    if (spec.format !== 'http-stream') return 'fnd'
    return isConfined(spec, this.#options.config) ? 'fn' : 'any'
  }

  #areMountsShared(): boolean {
    const { host, iofsDockerDir } = this.#options.config
    this.#isSharing ||=
      host?.kind === 'unix' && iofsDockerDir === '' && sharesMountsWithListener(host.path)
    return this.#isSharing
  }

  #rendezvousDirs(): Promise<RendezvousDirs> {
    const { config, engine, onNotice } = this.#options
    this.#dirs ??= openRendezvousDirs({
      base: this.#base,
      dockerBase:
        config.iofsDockerDir === '' ? this.#base : join(config.iofsDockerDir, basename(this.#base)),
      areUidsReal: !engine.isRootless,
      areMountsShared: this.#areMountsShared(),
      onLeft: reason => onNotice(`a directory for a socket is left: ${reason}`),
    }).catch(cause => {
      this.#dirs = undefined
      throw cause
    })
    return this.#dirs
  }
}

function instanceOf(id: string, container: Container, socketPath: string): Instance {
  return {
    id,
    // A container without a process of this host, as with a remote daemon, has no pid here.
    pid: container.pid ?? 0,
    socketPath,
    exited: container.gone,
    stop: graceMs => container.stop(graceMs),
    memoryBytes: () => containerMemoryBytes(container.pid),
    cpuMs: () => containerCpuMs(container.pid),
    pause: () => container.pause(),
    resume: () => container.resume(),
  }
}
