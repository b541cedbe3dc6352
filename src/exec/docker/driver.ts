/**
 * The Docker driver: runs images as containers, spoken to over a unix socket in a directory that
 * is bound into each (fn-api.md §2.2), or over stdin and stdout for the older formats. What it
 * starts has its label; what has its label and is not its own any more is removed whenever the
 * daemon comes up.
 */
import { createHash } from 'node:crypto'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import type { DockerConfig } from '../../config-docker.ts'
import { assert, FndError } from '../../errors.ts'
import type { Driver, FnSpec, Instance, Isolation, OutputSink } from '../driver.ts'
import { isSystemError } from '../libc.ts'
import { openRendezvous } from '../rendezvous.ts'
import { Container, isOperational } from './container.ts'
import { type ContainerLimits, createOptions, instanceLabel, nodeLabel } from './container-spec.ts'
import { DockerRefusal, type Engine, type EngineState } from './engine.ts'
import { containerIsolation } from './isolation.ts'
import { type Network, Networks } from './networks.ts'
import {
  openRendezvousDirs,
  type RendezvousDir,
  type RendezvousDirs,
  rendezvousName,
  sharesMountsWithListener,
} from './rendezvous-dir.ts'
import { refusedStart, untilSocket } from './start.ts'
import { containerMemoryBytes } from './usage.ts'

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
  readonly newId: () => string
  readonly onNotice: (detail: string) => void
}

/** A container and what was made for it. */
interface Made {
  readonly container: Container
  readonly network: Network
}

const sweepMs = 60_000

export class DockerDriver implements Driver {
  readonly name = 'docker'
  readonly #options: DockerDriverOptions
  readonly #networks: Networks
  readonly #base: string
  /** By instance id, from before the daemon is asked to create it until it is gone. */
  readonly #containers = new Map<string, Container | undefined>()
  #dirs: RendezvousDirs | undefined
  #sweep: ReturnType<typeof setInterval> | undefined
  #sweeping: Promise<void> = Promise.resolve()
  #isClosed = false

  constructor(options: DockerDriverOptions) {
    this.#options = options
    const { engine, config, nodeId, newId, onNotice } = options
    this.#base = join(
      config.iofsDir === '' ? options.dataDir : config.iofsDir,
      `iofs-${createHash('sha256').update(nodeId).digest('hex').slice(0, 12)}`,
    )
    const onGivenUp = (reason: string) => onNotice(`no networks are made ahead: ${reason}`)
    this.#networks = new Networks({ engine, config, nodeId, newId, onGivenUp })
  }

  /** The composition tells it of the engine's state, since the engine is made before it. */
  engineChanged(state: EngineState): void {
    if (state.kind !== 'up' || this.#isClosed) return
    void this.#networks.reset()
    this.#sweeping = this.#sweeping.then(() => this.#removeStrays())
    this.#sweep ??= setInterval(() => {
      this.#sweeping = this.#sweeping.then(() => this.#removeStrays())
    }, sweepMs)
    this.#sweep.unref()
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
    this.#networks.want()
    await this.#options.images.ensure(spec)
  }

  async start(spec: FnSpec, instanceId: string, signal: AbortSignal): Promise<Instance> {
    if (this.#isClosed) throw new FndError('shutting-down')
    this.#containers.set(instanceId, undefined)
    let dir: RendezvousDir | undefined
    let made: Made | undefined
    try {
      await this.#options.engine.facts()
      const image = await this.#options.images.ensure(spec)
      dir = this.#rendezvousDirs().make(rendezvousName(instanceId))
      made = await this.#create(spec, instanceId, image.id, dir)
      return await this.#ready(instanceId, made, dir, signal)
    } catch (cause) {
      await made?.container.remove()
      this.#forget(instanceId, dir)
      throw isSystemError(cause)
        ? new FndError('init-failed', { detail: cause.message, cause })
        : refusedStart(cause, this.#options.engine)
    }
  }

  isolation(spec?: FnSpec): Isolation {
    const { config, limits } = this.#options
    const hasSmallIofs = this.#dirs?.areSmall === true
    return containerIsolation({ config, limits, hasSmallIofs, spec })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearInterval(this.#sweep)
    await this.#sweeping
    await Promise.all([...this.#containers.values()].map(container => container?.remove()))
    await this.#networks.close()
    this.#options.engine.close()
    this.#dirs?.removeAll()
  }

  async #create(
    spec: FnSpec,
    instanceId: string,
    image: string,
    dir: RendezvousDir,
  ): Promise<Made> {
    const { engine, config, limits, nodeId, output } = this.#options
    const network = this.#networks.take(spec)
    const plan = { spec, instanceId, nodeId, image, env: spec.env, config, limits }
    const options = createOptions({ ...plan, iofsSource: dir.source, network: network.mode })
    try {
      const handle = await engine.ask(docker => docker.createContainer(options))
      const onGone = () => {
        network.release()
        this.#forget(instanceId, dir)
      }
      const container = new Container({
        engine,
        instanceId,
        handle,
        output,
        hasStdin: false,
        onGone,
      })
      this.#containers.set(instanceId, container)
      return { container, network }
    } catch (cause) {
      network.release()
      throw cause
    }
  }

  async #ready(
    instanceId: string,
    { container }: Made,
    dir: RendezvousDir,
    signal: AbortSignal,
  ): Promise<Instance> {
    const dirFd = openRendezvous(dir.path)
    assert(dirFd !== undefined, 'the directory was made by this fnd')
    try {
      await container.start()
      const deadlineMs = performance.now() + this.#options.startTimeoutMs
      const pid = container.learnPid()
      const socket = await untilSocket({
        container,
        dirFd,
        deadlineMs,
        signal,
        engine: this.#options.engine,
      })
      await pid
      container.markServing()
      void container.gone.then(() => closeSync(socket.fd))
      return instanceOf(instanceId, container, socket.path)
    } finally {
      closeSync(dirFd)
    }
  }

  #rendezvousDirs(): RendezvousDirs {
    const { config, engine } = this.#options
    this.#dirs ??= openRendezvousDirs({
      base: this.#base,
      dockerBase:
        config.iofsDockerDir === ''
          ? this.#base
          : join(config.iofsDockerDir, this.#base.slice(config.iofsDir.length)),
      areUidsReal: !config.isPrivileged && !engine.isRootless,
      areMountsShared:
        config.host?.kind === 'unix' &&
        config.iofsDockerDir === '' &&
        sharesMountsWithListener(config.host.path),
    })
    return this.#dirs
  }

  #forget(instanceId: string, dir: RendezvousDir | undefined): void {
    if (!this.#containers.delete(instanceId)) return
    dir?.remove()
  }

  /** Removes containers with this fnd's label that it does not know. */
  async #removeStrays(): Promise<void> {
    const { engine, nodeId } = this.#options
    try {
      const filters = { label: [`${nodeLabel}=${nodeId}`] }
      const listed = await engine.ask(docker => docker.listContainers({ all: true, filters }))
      for (const { Id, Labels } of listed) {
        if (this.#containers.has(Labels[instanceLabel] ?? '') || this.#networks.known.has(Id)) {
          continue
        }
        await engine.ask(docker => docker.getContainer(Id).remove({ force: true, v: true }))
      }
    } catch (cause) {
      // Removed meanwhile, or the daemon is away: the next sweep looks again.
      if (!isOperational(cause)) throw cause
      if (cause instanceof DockerRefusal && cause.statusCode !== 404) {
        this.#options.onNotice(`containers of an earlier run cannot be removed: ${cause.message}`)
      }
    }
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
    pause: () => container.pause(),
    resume: () => container.resume(),
  }
}
