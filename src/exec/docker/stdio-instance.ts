/**
 * Instances that speak the older formats: a container whose stdin and stdout carry call after
 * call, or, for `default`, no container at all until a call comes, and then one for it alone.
 */
import { join } from 'node:path'
import type { Exit, FnSpec, Instance } from '../driver.ts'
import { type Bridge, openBridge, type TalkLimits } from './bridge.ts'
import type { Container } from './container.ts'
import { ContainerStdio, stdinOf } from './container-stdio.ts'
import type { Engine } from './engine.ts'
import { containerEnv } from './format-env.ts'
import { refusedStart } from './start.ts'
import { containerMemoryBytes } from './usage.ts'
import type { Workshop } from './workshop.ts'

export interface StdioPlace {
  readonly workshop: Workshop
  readonly spec: FnSpec
  readonly instanceId: string
  readonly image: string
  readonly limits: TalkLimits
  readonly engine: Engine
  /** Where the bridge's socket is; fnd's own, and gone with the instance. */
  readonly dir: { readonly path: string; remove(): void }
}

const socketName = 'b.sock'
const bridgeGraceMs = 500

export async function startHotStdio(place: StdioPlace): Promise<Instance> {
  const { workshop, spec, instanceId, image } = place
  const stdio = new ContainerStdio()
  const env = containerEnv(spec)
  const container = await workshop.launch({
    spec,
    instanceId,
    containerId: instanceId,
    image,
    env,
    stdout: stdio,
  })
  let bridge: Bridge
  try {
    await container.learnPid()
    const streams = { stdin: stdinOf(container.stdin), stdout: stdio.stdout }
    bridge = bridgeIn(place, { kind: 'hot', stdio: streams })
  } catch (cause) {
    await container.remove()
    throw cause
  }
  container.markServing()
  void bridge.broken.then(() => container.stop(bridgeGraceMs))
  const exited = closing(container.gone, bridge, place)
  return {
    id: instanceId,
    pid: container.pid ?? 0,
    socketPath: bridge.socketPath,
    exited,
    stop: async graceMs => {
      await container.stop(graceMs)
      await exited
    },
    memoryBytes: () => containerMemoryBytes(container.pid),
    pause: () => container.pause(),
    resume: () => container.resume(),
  }
}

export function startColdStdio(place: StdioPlace): Instance {
  const { workshop, spec, instanceId, image, engine } = place
  const running = new Set<Container>()
  let calls = 0
  const run = async (env: Readonly<Record<string, string>>, signal: AbortSignal) => {
    calls += 1
    const stdio = new ContainerStdio()
    const containerId = `${instanceId}-${calls}`
    const order = { spec, instanceId, containerId, image, env, stdout: stdio }
    const container = await workshop.launch(order).catch((cause: unknown) => {
      throw refusedStart(cause, engine)
    })
    running.add(container)
    void container.gone.then(() => running.delete(container))
    if (signal.aborted) void container.remove()
    else signal.addEventListener('abort', () => void container.remove(), { once: true })
    return { stdin: stdinOf(container.stdin), stdout: stdio.stdout, exited: container.ended }
  }
  const bridge = bridgeIn(place, { kind: 'cold', oneShot: { run } })
  const stopped = Promise.withResolvers<Exit>()
  const exited = closing(stopped.promise, bridge, place)
  return {
    id: instanceId,
    pid: 0,
    socketPath: bridge.socketPath,
    exited,
    stop: async graceMs => {
      await Promise.all([...running].map(container => container.stop(graceMs)))
      stopped.resolve({ code: 0, signal: null, outOfMemory: false })
      await exited
    },
    memoryBytes: () => {
      const sizes = [...running].map(({ pid }) => containerMemoryBytes(pid) ?? 0)
      return sizes.reduce((sum, size) => sum + size, 0)
    },
  }
}

function bridgeIn(
  { spec, limits, dir }: StdioPlace,
  talk: Parameters<typeof openBridge>[0]['talk'],
) {
  return openBridge({ socketPath: join(dir.path, socketName), spec, limits, talk })
}

async function closing(gone: Promise<Exit>, bridge: Bridge, place: StdioPlace): Promise<Exit> {
  const exit = await gone
  await bridge.close()
  place.dir.remove()
  return exit
}
