/** `Images` over a real daemon and a real registry, for apps with the credentials of a test. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { systemClock } from '../../src/clock.ts'
import { readConfig } from '../../src/config.ts'
import { FndError } from '../../src/errors.ts'
import { Engine } from '../../src/exec/docker/engine.ts'
import { type ImageSpec, Images } from '../../src/exec/docker/images.ts'
import type { AppCredential } from '../../src/exec/docker/registry-auth.ts'
import type { Daemon } from './daemon.ts'
import { makeImage } from './images.ts'

export interface Node extends AsyncDisposable {
  readonly images: Images
  readonly engine: Engine
  readonly dataDir: string
  readonly logLines: string[]
  /** Makes its clock go on by so much. */
  skip(ms: number): void
  /** Ends it, and opens another over the same data directory. */
  again(): Promise<Node>
}

export interface NodeOptions {
  readonly env?: Readonly<Record<string, string>>
  /** By app. */
  readonly credentials?: Readonly<Record<string, readonly AppCredential[]>>
  readonly graceMs?: number
  /** The text of Docker's own configuration file. */
  readonly dockerFile?: string
  readonly dataDir?: string
}

export function openNode(daemon: Pick<Daemon, 'host'>, options: NodeOptions = {}): Node {
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'fnd-images-'))
  if (options.dockerFile !== undefined)
    writeFileSync(join(dataDir, 'config.json'), options.dockerFile)
  const env = { DOCKER_HOST: daemon.host, DOCKER_CONFIG: dataDir, ...options.env }
  const read = readConfig({}, env)
  if (!read.ok) throw new Error(read.faults.join('; '))
  const { docker: config } = read.config
  const engine = new Engine({ config, onState: () => undefined })
  const logLines: string[] = []
  let skippedMs = 0
  const images = new Images({
    engine,
    config,
    dataDir,
    log: pino({ base: null, level: 'debug' }, { write: line => void logLines.push(line) }),
    clock: {
      nowMs: () => systemClock.nowMs() + skippedMs,
      monotonicMs: () => systemClock.monotonicMs() + skippedMs,
    },
    credentials: appId => options.credentials?.[appId] ?? [],
    ...(options.graceMs === undefined ? {} : { removalGraceMs: options.graceMs }),
  })
  const close = async () => {
    await images.close()
    engine.close()
  }
  return {
    images,
    engine,
    dataDir,
    logLines,
    skip: ms => {
      skippedMs += ms
    },
    again: async () => {
      await close()
      return openNode(daemon, { ...options, dataDir })
    },
    [Symbol.asyncDispose]: async () => {
      await close()
      rmSync(dataDir, { recursive: true, force: true })
    },
  }
}

export function specOf(image: string, more: Partial<ImageSpec> = {}): ImageSpec {
  return { appId: 'app', fnId: 'fn', image, pull: 'missing', ...more }
}

/** What came of it: `ok`, or the error of fnd that it rejected with. */
export async function outcomeOf(work: Promise<unknown>): Promise<FndError | 'ok'> {
  try {
    await work
    return 'ok'
  } catch (cause) {
    if (cause instanceof FndError) return cause
    throw cause
  }
}

let count = 0

/** An image that no other has: its id is new. Tagged `made:<number>`; returns that and the id. */
export async function newImage(
  daemon: Pick<Daemon, 'docker'>,
  changes: readonly string[] = [],
): Promise<{ name: string; id: string }> {
  count += 1
  const tag = String(count)
  const own = ['ENTRYPOINT ["/bin/sh"]', `LABEL number=${tag}`, ...changes]
  const id = await makeImage(daemon.docker, { base: 'shell', repo: 'made', tag, changes: own })
  return { name: `made:${tag}`, id }
}
