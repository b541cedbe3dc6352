/** Puts the parts of the Docker driver together. */
import type { Clock } from '../../clock.ts'
import type { DockerConfig } from '../../config-docker.ts'
import type { Logger } from '../../log.ts'
import type { OutputSink } from '../driver.ts'
import type { TalkLimits } from './bridge.ts'
import type { ContainerLimits } from './container-spec.ts'
import { DockerDriver } from './driver.ts'
import { Engine } from './engine.ts'
import { Images } from './images.ts'
import type { AppCredentials } from './registry-auth.ts'

export interface DockerOptions {
  readonly dataDir: string
  readonly nodeId: string
  readonly config: DockerConfig
  readonly limits: ContainerLimits & { readonly startTimeoutMs: number }
  readonly output: OutputSink
  readonly answerLimits: TalkLimits
  readonly checkSyslog: (url: string) => Promise<void>
  readonly newId: () => string
  readonly clock: Clock
  /** With which an app pulls. Throws `FndError` when they cannot be read. */
  readonly credentials: (appId: string) => AppCredentials
  readonly log: Logger
}

export interface DockerParts extends AsyncDisposable {
  readonly driver: DockerDriver
  readonly engine: Engine
  readonly images: Images
}

/** Asks nothing of the daemon yet; a node without one starts as fast. */
export function openDocker(options: DockerOptions): DockerParts {
  const { config, limits, log, clock, credentials, ...rest } = options
  const engine = new Engine({
    config,
    onState: state => {
      if (state.kind === 'down') log.warn({ reason: state.reason }, 'the Docker daemon is down')
      else log.info(`the Docker daemon is ${state.kind === 'up' ? 'there' : state.kind}`)
      driver.engineChanged(state)
    },
  })
  const { dataDir } = options
  const images = new Images({ engine, config, dataDir, log, clock, credentials })
  const driver: DockerDriver = new DockerDriver({
    ...rest,
    config,
    limits,
    startTimeoutMs: limits.startTimeoutMs,
    engine,
    images,
    onNotice: detail => log.warn(detail),
  })
  images.inUse = () => driver.imagesInUse()
  return {
    driver,
    engine,
    images,
    [Symbol.asyncDispose]: async () => {
      // A start that waits for a pull hears that fnd ends, before its driver does.
      await images.close()
      await driver[Symbol.asyncDispose]()
    },
  }
}
