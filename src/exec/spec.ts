/** What an instance of a function is made from: pure, from the stored objects. */
import { createHash } from 'node:crypto'
import type { App, Fn } from '../store/objects.ts'
import type { FnSpec } from './driver.ts'

/** fnd's own settings of a function; absent where nobody set them. */
export interface SpecSettings {
  readonly concurrency?: number
  readonly instancesMin?: number
  readonly instancesMax?: number
  readonly network?: 'host' | 'none'
}

/** Fn has no limit; this is one that no node reaches. */
const instancesMaxDefault = 10_000

/** `concurrencyDefault` is what the code says it takes, else Fn's one call at a time. */
export function specOf(
  app: App,
  fn: Fn,
  settings: SpecSettings,
  concurrencyDefault: number,
): FnSpec {
  const spec = {
    fnId: fn.id,
    fnName: fn.name,
    appId: app.id,
    appName: app.name,
    image: fn.image,
    memoryMb: fn.memoryMb,
    timeoutMs: fn.timeoutS * 1000,
    idleTimeoutMs: fn.idleTimeoutS * 1000,
    env: environmentOf(app, fn),
    concurrency: settings.concurrency ?? concurrencyDefault,
    instancesMin: settings.instancesMin ?? 0,
    instancesMax: settings.instancesMax ?? instancesMaxDefault,
    network: settings.network ?? 'host',
  } as const
  // Fn also hashes annotations and the syslog url: any change of them starts new instances.
  const identity = JSON.stringify([
    { ...spec, env: sorted(spec.env) },
    sorted(app.annotations),
    sorted(fn.annotations),
    app.syslogUrl,
  ])
  return { ...spec, key: createHash('sha256').update(identity).digest('hex') }
}

/** fn-api §2.1: app config, then the function's, then the reserved names, which win. */
function environmentOf(app: App, fn: Fn): Record<string, string> {
  return {
    ...app.config,
    ...fn.config,
    FN_FORMAT: 'http-stream',
    FN_LISTENER: 'unix:/tmp/iofs/lsnr.sock',
    FN_MEMORY: String(fn.memoryMb),
    FN_TYPE: 'sync',
    FN_FN_ID: fn.id,
    FN_APP_ID: app.id,
    FN_APP_NAME: app.name,
    FN_FN_NAME: fn.name,
  }
}

function sorted(record: Readonly<Record<string, string>>): [string, string][] {
  return Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))
}
