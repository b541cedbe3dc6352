/** Opens Docker drivers for tests. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/clock.ts'
import { readConfig } from '../../src/config.ts'
import { assert } from '../../src/errors.ts'
import { type DockerParts, openDocker } from '../../src/exec/docker/open.ts'
import type { OutputSink } from '../../src/exec/driver.ts'
import { makeLogger } from '../../src/log.ts'

let count = 0
const dataDirs: string[] = []

/** For tests that close drivers without their parts. */
export function removeDataDirs(): void {
  for (const dir of dataDirs.splice(0)) rmSync(dir, { recursive: true, force: true })
}

/** A driver with a data directory, which goes with it, and an identity of its own. */
export async function openDockerDriver(options: {
  readonly env: Readonly<Record<string, string>>
  readonly output: OutputSink
  readonly nodeId?: string
  /** One that is the caller's, and stays. */
  readonly dataDir?: string
}): Promise<DockerParts & { readonly dataDir: string }> {
  const read = readConfig({}, options.env)
  assert(read.ok, 'the configuration of a test is valid')
  const { config } = read
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'fnd-docker-'))
  if (options.dataDir === undefined) dataDirs.push(dataDir)
  const unique = `${process.pid}-${Date.now()}`
  const parts = openDocker({
    dataDir,
    nodeId: options.nodeId ?? `test-${unique}-${count++}`,
    config: config.docker,
    limits: config.exec,
    answerLimits: {
      headBytesMax: config.limits.responseHeaderBytesMax,
      bodyBytesMax: config.limits.responseBytesMax,
    },
    output: options.output,
    clock: systemClock,
    credentials: () => [],
    checkSyslog: async () => undefined,
    newId: () => `${unique}-${count++}`,
    log: await makeLogger({ level: 'silent', format: 'json' }),
  })
  return {
    ...parts,
    dataDir,
    [Symbol.asyncDispose]: async () => {
      await parts[Symbol.asyncDispose]()
      if (options.dataDir === undefined) rmSync(dataDir, { recursive: true })
    },
  }
}
