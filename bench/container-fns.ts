/** Functions in containers for a bench: made over the API of fnd, and looked at over Docker's. */
import type Docker from 'dockerode'
import { requestText, type Timed, timedRequest } from './figures.ts'
import { BenchFnd } from './fnd.ts'

export interface ContainerFn {
  readonly id: string
  /** The path that calls it. */
  readonly path: string
}

const appearTimeoutMs = 20_000

/** A fnd that runs containers of a daemon. */
export class ContainerFnd implements AsyncDisposable {
  readonly fnd: BenchFnd
  readonly #docker: Docker
  readonly #appId: string
  #made = 0

  private constructor(fnd: BenchFnd, docker: Docker, appId: string) {
    this.fnd = fnd
    this.#docker = docker
    this.#appId = appId
  }

  static async start(docker: Docker, environment: Record<string, string>): Promise<ContainerFnd> {
    const fnd = await BenchFnd.start(environment)
    const { id } = await posted(fnd, '/v2/apps', { name: 'bench' })
    return new ContainerFnd(fnd, docker, id)
  }

  async create(
    image: string,
    annotations: Readonly<Record<string, number>> = {},
  ): Promise<ContainerFn> {
    this.#made += 1
    const name = `fn-${this.#made}`
    const fields = { app_id: this.#appId, name, image, memory: 128, annotations }
    const { id } = await posted(this.fnd, '/v2/fns', fields)
    return { id, path: `/invoke/${id}` }
  }

  /** Resolves when it is gone, and its containers with it. */
  async remove(fn: ContainerFn): Promise<void> {
    const answer = await this.fnd.api(`/v2/fns/${fn.id}`, { method: 'DELETE' })
    if (!answer.ok) throw new Error(`cannot remove a function: ${await answer.text()}`)
    await this.#until('no container', async () => (await this.containers(fn)).length === 0)
  }

  call(fn: ContainerFn): Promise<Timed> {
    const target = { hostname: '127.0.0.1', port: this.fnd.port }
    return timedRequest(target, requestText('POST', fn.path), performance.now())
  }

  /** Containers of a function, by the daemon's word. */
  containers(fn: ContainerFn, status?: 'running' | 'paused'): Promise<Docker.ContainerInfo[]> {
    const filters = {
      label: [`fnd.io/fn-id=${fn.id}`],
      ...(status === undefined ? {} : { status: [status] }),
    }
    return this.#docker.listContainers({ all: true, filters })
  }

  /** Whether such a container came in time. */
  async has(fn: ContainerFn, status: 'running' | 'paused'): Promise<boolean> {
    const isThere = async () => (await this.containers(fn, status)).length > 0
    return this.#until(status, isThere).then(
      () => true,
      () => false,
    )
  }

  /** The function's own word: an instance that waits for calls. */
  async untilIdle(fn: ContainerFn): Promise<void> {
    await this.#until('an idle instance', async () => {
      const { instances } = await this.fnd.describe(fn.id)
      return instances.length > 0
    })
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const deadlineMs = performance.now() + appearTimeoutMs
    while (!(await holds())) {
      if (performance.now() > deadlineMs) throw new Error(`never came: ${what}`)
      await Bun.sleep(20)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.fnd[Symbol.asyncDispose]()
  }
}

async function posted(fnd: BenchFnd, path: string, fields: object): Promise<{ id: string }> {
  const headers = { 'content-type': 'application/json' }
  const answer = await fnd.api(path, { method: 'POST', headers, body: JSON.stringify(fields) })
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`)
  return (await answer.json()) as { id: string }
}
