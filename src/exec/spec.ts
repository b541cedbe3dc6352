/** What an instance of a function is made from: pure, from the stored objects. */
import { createHash } from 'node:crypto'
import type { App, Fn } from '../store/objects.ts'
import type { FnSpec, Format } from './driver.ts'

/** fnd's own settings of a function; absent where nobody set them. */
export interface SpecSettings {
  readonly concurrency?: number
  readonly instancesMin?: number
  readonly instancesMax?: number
  readonly network?: 'host' | 'none'
  readonly format?: Format
  readonly dialect?: 'fn' | 'iron'
  readonly pull?: 'missing' | 'always' | 'never'
  readonly pauseAfterMs?: number
  readonly digest?: string
}

/** Fn has no limit; this is one that no node reaches. */
const instancesMaxDefault = 10_000

/** What the node, or the code itself, says where the function's own settings are silent. */
export interface SpecDefaults {
  /** What the code says it takes, else Fn's one call at a time. */
  readonly concurrency: number
  readonly pauseAfterMs: number
}

export function specOf(app: App, fn: Fn, settings: SpecSettings, defaults: SpecDefaults): FnSpec {
  const format = settings.format ?? 'http-stream'
  const dialect = settings.dialect ?? 'fn'
  const spec = {
    fnId: fn.id,
    fnName: fn.name,
    appId: app.id,
    appName: app.name,
    image: fn.image,
    memoryMb: fn.memoryMb,
    timeoutMs: fn.timeoutS * 1000,
    idleTimeoutMs: fn.idleTimeoutS * 1000,
    env: environmentOf(app, fn, format),
    // The older formats carry one call at a time; that is all their protocols can say.
    concurrency: format === 'http-stream' ? (settings.concurrency ?? defaults.concurrency) : 1,
    instancesMin: settings.instancesMin ?? 0,
    instancesMax: settings.instancesMax ?? instancesMaxDefault,
    network: settings.network ?? 'host',
    format,
    dialect,
    pull: settings.pull ?? 'missing',
    pauseAfterMs: settings.pauseAfterMs ?? defaults.pauseAfterMs,
    syslogUrl: app.syslogUrl,
    ...(settings.digest === undefined ? {} : { digest: settings.digest }),
  } as const
  // Fn also hashes annotations and the syslog url: any change of them starts new instances.
  const identity = JSON.stringify([
    { ...spec, env: sorted(spec.env) },
    sorted(app.annotations),
    sorted(fn.annotations),
  ])
  return { ...spec, key: createHash('sha256').update(identity).digest('hex') }
}

/** fn-api §2.1: app config, then the function's, then the reserved names, which win. */
function environmentOf(app: App, fn: Fn, format: Format): Record<string, string> {
  return {
    ...app.config,
    ...fn.config,
    FN_FORMAT: format,
    ...(format === 'http-stream' ? { FN_LISTENER: 'unix:/tmp/iofs/lsnr.sock' } : {}),
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
