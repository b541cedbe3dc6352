/** Makes and starts containers, and knows those that are there. */
import type { DockerConfig } from '../../config-docker.ts'
import { FndError } from '../../errors.ts'
import type { FnSpec, OutputSink } from '../driver.ts'
import { processesHardMax } from '../host.ts'
import { Container, isOperational } from './container.ts'
import { type ContainerLimits, createOptions, instanceLabel, nodeLabel } from './container-spec.ts'
import type { ContainerStdio } from './container-stdio.ts'
import { DockerRefusal, type Engine } from './engine.ts'
import { type Network, Networks } from './networks.ts'

export interface WorkshopOptions {
  /** Tells this fnd's containers from those of another that uses the same daemon. */
  readonly nodeId: string
  readonly config: DockerConfig
  readonly limits: ContainerLimits
  readonly engine: Engine
  readonly output: OutputSink
  readonly newId: () => string
  readonly onNotice: (detail: string) => void
}

export interface Order {
  readonly spec: FnSpec
  /** Whose output it is. */
  readonly instanceId: string
  /** Unlike the instance's id, each container's own. */
  readonly containerId: string
  readonly image: string
  readonly env: Readonly<Record<string, string>>
  readonly iofsSource?: string
  /** Takes stdout, for formats that answer there; the container has a stdin too then. */
  readonly stdout?: ContainerStdio
}

export class Workshop {
  readonly networks: Networks
  readonly #options: WorkshopOptions
  /** By container id of the order, from before the daemon is asked for it until it is gone. */
  readonly #containers = new Map<string, Container | undefined>()
  readonly #launches = new Set<Promise<unknown>>()
  #isClosed = false

  constructor(options: WorkshopOptions) {
    this.#options = options
    const { engine, config, nodeId, newId, onNotice } = options
    const onGivenUp = (reason: string) => onNotice(`no networks are made ahead: ${reason}`)
    this.networks = new Networks({ engine, config, nodeId, newId, onGivenUp })
  }

  /** Creates, attaches and starts one. Rejects with `FndError` or `DockerRefusal`. */
  launch(order: Order): Promise<Container> {
    const launch = this.#launch(order).finally(() => this.#launches.delete(launch))
    this.#launches.add(launch)
    return launch
  }

  async #launch(order: Order): Promise<Container> {
    const network = this.networks.take(order.spec)
    try {
      return await this.#launchOn(order, network)
    } catch (cause) {
      // The holder of a network made ahead may be gone, with the daemon's restart for example.
      const isJoined = network.mode.startsWith('container:')
      if (!(isJoined && cause instanceof DockerRefusal && joinFault.test(cause.message)))
        throw cause
      return this.#launchOn(order, this.networks.plain())
    }
  }

  async #launchOn(order: Order, network: Network): Promise<Container> {
    const { engine, config, limits, nodeId, output } = this.#options
    const { spec, instanceId, containerId, image, env, iofsSource, stdout } = order
    this.#containers.set(containerId, undefined)
    let container: Container | undefined
    try {
      this.#refuseWhenClosed()
      const { isPodman } = await engine.facts()
      const options = createOptions({
        spec,
        containerId,
        nodeId,
        image,
        env,
        config,
        limits,
        iofsSource,
        network: network.mode,
        userProcessesMax: isPodman ? Math.min(processesHardMax(), userProcessesMax) : undefined,
      })
      const { id } = await engine.ask(docker => docker.createContainer(options))
      container = new Container({ engine, instanceId, id, output, stdout })
      this.#containers.set(containerId, container)
      void container.gone.then(() => this.#forget(containerId, network))
      this.#refuseWhenClosed()
      await container.start()
      return container
    } catch (cause) {
      if (container === undefined) this.#forget(containerId, network)
      else await container.remove()
      throw cause
    }
  }

  #refuseWhenClosed(): void {
    if (this.#isClosed) throw new FndError('shutting-down')
  }

  #forget(containerId: string, network: Network): void {
    this.#containers.delete(containerId)
    network.release()
  }

  /** Removes containers with this fnd's label that it does not know. */
  async removeStrays(): Promise<void> {
    const { engine, nodeId, onNotice } = this.#options
    try {
      const filters = { label: [`${nodeLabel}=${nodeId}`] }
      const listed = await engine.ask(docker => docker.listContainers({ all: true, filters }))
      if (!Array.isArray(listed)) return onNotice(`${engine.where} does not answer as a daemon`)
      const strays = listed.filter(({ Labels }) => {
        const label = Labels[instanceLabel] ?? ''
        return !this.#containers.has(label) && !this.networks.known.has(label)
      })
      const removers = Array.from({ length: removersMax }, async () => {
        for (let stray = strays.pop(); stray !== undefined; stray = strays.pop()) {
          await this.#removeStray(stray.Id)
        }
      })
      await Promise.all(removers)
    } catch (cause) {
      // The daemon is away: it is swept when it is back.
      if (!isOperational(cause)) throw cause
      if (cause instanceof DockerRefusal) onNotice(`containers cannot be listed: ${cause.message}`)
    }
  }

  async #removeStray(id: string): Promise<void> {
    const { engine, onNotice } = this.#options
    try {
      await engine.ask(docker => docker.getContainer(id).remove({ force: true, v: true }))
    } catch (cause) {
      // Of one that is gone, or going, nothing is to be said. The next sweep looks at the others.
      if (!(cause instanceof DockerRefusal)) throw cause
      if ([404, 409].includes(cause.statusCode)) return
      onNotice(`a container of an earlier run cannot be removed: ${cause.message}`)
    }
  }

  /** Removes all that is there, and what is under way as soon as it is there. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#containers.values()].map(container => container?.remove()))
    await Promise.allSettled(this.#launches)
    await this.networks.close()
  }
}

/** Linux' own limit of processes (`pid_max`) unless it is raised. */
const userProcessesMax = 32_768
/** Strays that are removed at once; the daemon has functions to start meanwhile. */
const removersMax = 4
const joinFault = /network|namespace|no such container|not running/i
