/**
 * The networks of containers. Half of what a container's start costs is its network namespace, so
 * some are made ahead, each held by a container that runs nothing; a function's container joins
 * one, is the only one to do so, and takes it along when it goes.
 */
import type { ContainerCreateOptions } from 'dockerode'
import { pack } from 'tar-stream'
import type { DockerConfig } from '../../config-docker.ts'
import { assert } from '../../errors.ts'
import type { FnSpec } from '../driver.ts'
import { isOperational } from './container.ts'
import { labelsOf } from './container-spec.ts'
import { DockerRefusal, type Engine } from './engine.ts'
import { pauseProgram } from './pause-program.ts'

export interface Network {
  /** Docker's NetworkMode. */
  readonly mode: string
  /** Gives back what was made for it. Idempotent. */
  release(): void
}

interface Holder {
  /** Docker's. */
  readonly id: string
  readonly label: string
  readonly network: string
}

export interface NetworksOptions {
  readonly engine: Engine
  readonly config: DockerConfig
  readonly nodeId: string
  readonly newId: () => string
  /** Told once that no network can be made ahead. */
  readonly onGivenUp: (reason: string) => void
}

const holderImage = 'fnd.io/network-holder:1'
/** What Docker allows at least; the holder itself needs a few pages. */
const holderMemoryBytes = 6 * 1024 * 1024
/** A start that took one has the processor first. */
const refillMs = 500
const failuresMax = 3
const retryMs = 30_000
const removeTimeoutMs = 20_000

export class Networks {
  readonly #options: NetworksOptions
  readonly #waiting: Holder[] = []
  /** Containers on each network, waiting holders too. */
  readonly #uses = new Map<string, number>()
  /** Labels of holders, from before they are made; the driver's sweep leaves these alone. */
  readonly known = new Set<string>()
  readonly #removals = new Set<Promise<void>>()
  #timer: ReturnType<typeof setTimeout> | undefined
  #refilling: Promise<void> | undefined
  #image: Promise<void> | undefined
  #failures = 0
  #isWanted = false
  #isClosed = false

  constructor(options: NetworksOptions) {
    this.#options = options
  }

  /** Containers will be started here: from now on networks are made ahead. */
  want(): void {
    if (this.#isWanted) return
    this.#isWanted = true
    this.#refillIn(refillMs)
  }

  get waiting(): number {
    return this.#waiting.length
  }

  take(spec: FnSpec): Network {
    if (spec.network === 'none') return { mode: 'none', release: () => undefined }
    const holder = this.#waiting.shift()
    this.#refillIn(refillMs)
    if (holder !== undefined) return this.#held(holder)
    return this.plain()
  }

  /** One that is made with the container itself. */
  plain(): Network {
    const network = this.#leastUsed()
    this.#count(network, 1)
    let isReleased = false
    return {
      mode: network,
      release: () => {
        if (!isReleased) this.#count(network, -1)
        isReleased = true
      },
    }
  }

  #held(holder: Holder): Network {
    let isReleased = false
    return {
      mode: `container:${holder.id}`,
      release: () => {
        if (isReleased) return
        isReleased = true
        void this.#remove(holder)
      },
    }
  }

  /** The daemon went: what it held ahead may be gone with it. */
  async reset(): Promise<void> {
    this.#image = undefined
    const holders = this.#waiting.splice(0)
    await Promise.all(holders.map(holder => this.#remove(holder)))
    this.#failures = 0
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#refillIn(refillMs)
  }

  /** Removes all that is left, and waits for removals under way. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    await this.#refilling
    for (const holder of this.#waiting.splice(0)) void this.#remove(holder)
    await Promise.all(this.#removals)
  }

  #leastUsed(): string {
    const { networks } = this.#options.config
    const [first = 'bridge', ...others] = networks
    const uses = (name: string) => this.#uses.get(name) ?? 0
    return others.reduce((least, name) => (uses(name) < uses(least) ? name : least), first)
  }

  #count(network: string, by: 1 | -1): void {
    const uses = (this.#uses.get(network) ?? 0) + by
    assert(uses >= 0, 'a network is given back once')
    this.#uses.set(network, uses)
  }

  #refillIn(delayMs: number): void {
    if (this.#isClosed || !this.#isWanted || this.#timer !== undefined) return
    if (this.#options.config.networkPoolSize === 0) return
    const wait = this.#failures >= failuresMax ? Math.max(delayMs, retryMs) : delayMs
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#refilling ??= this.#refill().finally(() => {
        this.#refilling = undefined
      })
    }, wait)
    this.#timer.unref()
  }

  async #refill(): Promise<void> {
    while (!this.#isClosed && this.#waiting.length < this.#options.config.networkPoolSize) {
      try {
        this.#waiting.push(await this.#make())
        this.#failures = 0
      } catch (cause) {
        if (!isOperational(cause)) throw cause
        this.#failures += 1
        if (this.#failures === failuresMax) this.#options.onGivenUp((cause as Error).message)
        return this.#refillIn(refillMs)
      }
    }
  }

  async #make(): Promise<Holder> {
    const { engine, config, nodeId, newId } = this.#options
    this.#image ??= this.#ensureImage()
    await this.#image.catch(cause => {
      this.#image = undefined
      throw cause
    })
    const network = this.#leastUsed()
    const name = newId().toLowerCase()
    const label = `network-${name}`
    const labels = labelsOf(nodeId, label, config.labelTag)
    this.known.add(label)
    const options = { labels, name, network }
    const container = await engine
      .ask(docker => docker.createContainer(holderOptions(options)))
      .catch(cause => {
        // Where it was made all the same, the sweep may have it; and the image may be gone.
        this.known.delete(label)
        if (cause instanceof DockerRefusal) this.#image = undefined
        throw cause
      })
    const holder = { id: container.id, label, network }
    this.#count(network, 1)
    try {
      await engine.ask(docker => docker.getContainer(holder.id).start())
      return holder
    } catch (cause) {
      await this.#remove(holder)
      throw cause
    }
  }

  /** Brings the image into the daemon, unless it is there. */
  async #ensureImage(): Promise<void> {
    const { engine } = this.#options
    try {
      await engine.ask(docker => docker.getImage(holderImage).inspect())
      return
    } catch (cause) {
      if (!(cause instanceof DockerRefusal) || cause.statusCode !== 404) throw cause
    }
    const { Arch = '' } = await engine.ask(docker => docker.version())
    const cpu = Arch === 'arm64' || Arch === 'aarch64' ? 'arm64' : 'x64'
    const archive = pack()
    archive.entry({ name: 'hold', mode: 0o755 }, Buffer.from(pauseProgram(cpu)))
    archive.finalize()
    const [repo = '', tag = ''] = holderImage.split(':')
    await engine.ask(async docker => {
      const changes = ['ENTRYPOINT ["/hold"]']
      const answer = await docker.importImage(archive, { repo, tag, changes } as never)
      for await (const _ of answer as unknown as AsyncIterable<Uint8Array>);
    })
  }

  #remove(holder: Holder): Promise<void> {
    this.#count(holder.network, -1)
    const removal = this.#removeNow(holder).finally(() => this.#removals.delete(removal))
    this.#removals.add(removal)
    return removal
  }

  async #removeNow({ id, label }: Holder): Promise<void> {
    try {
      await this.#options.engine.ask(
        docker => docker.getContainer(id).remove({ force: true, v: true }),
        removeTimeoutMs,
      )
    } catch (cause) {
      // Gone already, or the daemon is away; the driver's sweep finds what is left.
      if (!isOperational(cause)) throw cause
    } finally {
      this.known.delete(label)
    }
  }
}

function holderOptions(about: {
  readonly name: string
  readonly labels: Record<string, string>
  readonly network: string
}): ContainerCreateOptions {
  return {
    name: `fnd-net-${about.name}`,
    Hostname: `fnd-${about.name}`,
    Image: holderImage,
    User: '65534:65534',
    // As the first process of its namespace it hears no other, and an end of the daemon would wait.
    StopSignal: 'SIGKILL',
    Labels: about.labels,
    HostConfig: {
      NetworkMode: about.network,
      ReadonlyRootfs: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges'],
      Memory: holderMemoryBytes,
      MemorySwap: holderMemoryBytes,
      PidsLimit: 2,
      LogConfig: { Type: 'none', Config: {} },
    },
  }
}
