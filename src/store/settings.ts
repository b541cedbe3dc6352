/**
 * fnd's own settings of apps and functions. They live in `fnd.io/*` annotations, so that Fn's
 * tools carry them along without knowing them. This file alone knows their names, ranges and
 * defaults; values are compact JSON text, as in `Annotations`.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { Annotations } from './objects.ts'

export const settingPrefix = 'fnd.io/'
export const invokeKeySetting = 'fnd.io/invoke-key'
/** Which image a function was deployed with, whatever its tag says since. */
export const digestSetting = 'fnd.io/digest'
/** What reads show in place of an invoke key; written back, it leaves the key as it is. */
export const hiddenValue = '***'

const invokeKeyLengthMin = 16

/** What a function's annotations say; an absent setting leaves the default to whoever runs it. */
export interface FnSettings {
  /** Calls that one instance takes at a time. */
  readonly concurrency?: number
  readonly instancesMin?: number
  readonly instancesMax?: number
  /** `none` cuts instances off from every network. */
  readonly network?: 'host' | 'none'
  /** How a container is spoken to. */
  readonly format?: (typeof formats)[number]
  /** Whose rules hold where the older formats of Fn and IronFunctions differ. */
  readonly dialect?: (typeof dialects)[number]
  /** When an image is fetched from its registry. */
  readonly pull?: (typeof pulls)[number]
  /** An idle container is paused after this time; Infinity: never. */
  readonly pauseAfterMs?: number
  /** `sha256:<hex>` of the image's manifest; of an image that no registry has, its id. */
  readonly digest?: string
}

const formats = ['http-stream', 'http', 'json', 'default'] as const
const dialects = ['fn', 'iron'] as const
const pulls = ['missing', 'always', 'never'] as const

type Check = (value: unknown) => string | undefined

const integerFrom =
  (min: number, max: number): Check =>
  value =>
    typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
      ? undefined
      : `must be a whole number from ${min} to ${max}`

const oneOf =
  (...words: readonly string[]): Check =>
  value =>
    typeof value === 'string' && words.includes(value)
      ? undefined
      : `must be one of ${words.map(word => `"${word}"`).join(', ')}`

const digestForm: Check = value =>
  typeof value === 'string' && /^sha256:[0-9a-f]{64}$/.test(value)
    ? undefined
    : 'must be "sha256:" and 64 hex digits'

const invokeKey: Check = value =>
  typeof value === 'string' && value.length >= invokeKeyLengthMin
    ? undefined
    : `must be a string of at least ${invokeKeyLengthMin} characters`

const checks: Readonly<Record<'app' | 'fn' | 'trigger', ReadonlyMap<string, Check>>> = {
  app: new Map([[invokeKeySetting, invokeKey]]),
  fn: new Map([
    ['fnd.io/concurrency', integerFrom(1, 1000)],
    ['fnd.io/min-instances', integerFrom(0, 1000)],
    ['fnd.io/max-instances', integerFrom(1, 1000)],
    ['fnd.io/network', oneOf('host', 'none')],
    ['fnd.io/format', oneOf(...formats)],
    ['fnd.io/dialect', oneOf(...dialects)],
    ['fnd.io/pull', oneOf(...pulls)],
    ['fnd.io/pause-after-ms', integerFrom(-1, 3_600_000)],
    [digestSetting, digestForm],
  ]),
  trigger: new Map(),
}

/** What is wrong with one annotation that someone writes, or undefined. */
export function settingFault(
  kind: 'app' | 'fn' | 'trigger',
  key: string,
  text: string,
): string | undefined {
  if (!key.startsWith(settingPrefix)) return undefined
  const check = checks[kind].get(key)
  if (check === undefined) {
    const known = [...checks[kind].keys()].join(', ')
    return `is not a setting of this kind of object (known: ${known === '' ? 'none' : known})`
  }
  return check(JSON.parse(text))
}

/** What is wrong with the settings of a function taken together, or undefined. */
export function settingsFault(annotations: Annotations): string | undefined {
  const { instancesMin = 0, instancesMax = Infinity } = fnSettings(annotations)
  return instancesMin > instancesMax
    ? `fnd.io/min-instances (${instancesMin}) is above fnd.io/max-instances (${instancesMax})`
    : undefined
}

export function fnSettings(annotations: Annotations): FnSettings {
  const concurrency = annotations['fnd.io/concurrency']
  const min = annotations['fnd.io/min-instances']
  const max = annotations['fnd.io/max-instances']
  const network = annotations['fnd.io/network']
  const pauseText = annotations['fnd.io/pause-after-ms']
  const pause = pauseText === undefined ? undefined : Number(pauseText)
  const digest = annotations[digestSetting]
  return {
    ...(concurrency === undefined ? {} : { concurrency: Number(concurrency) }),
    ...(min === undefined ? {} : { instancesMin: Number(min) }),
    ...(max === undefined ? {} : { instancesMax: Number(max) }),
    ...(network === undefined ? {} : { network: network === '"none"' ? 'none' : 'host' }),
    ...wordSetting(annotations, 'format', formats),
    ...wordSetting(annotations, 'dialect', dialects),
    ...wordSetting(annotations, 'pull', pulls),
    ...(pause === undefined ? {} : { pauseAfterMs: pause < 0 ? Infinity : pause }),
    ...(digest === undefined ? {} : { digest: JSON.parse(digest) as string }),
  }
}

function wordSetting<N extends string, W extends string>(
  annotations: Annotations,
  name: N,
  words: readonly W[],
): { readonly [K in N]?: W } {
  const text = annotations[`${settingPrefix}${name}`]
  const word = words.find(one => text === JSON.stringify(one))
  return (word === undefined ? {} : { [name]: word }) as { readonly [K in N]?: W }
}

function digest(key: string): Buffer {
  return createHash('sha256').update(key).digest()
}

/** The stored form of an invoke key: its SHA-256, so that a copy of the state opens nothing. */
export function storedInvokeKey(key: string): string {
  return JSON.stringify(`sha256:${digest(key).toString('hex')}`)
}

export function asksForInvokeKey(appAnnotations: Annotations): boolean {
  return Object.hasOwn(appAnnotations, invokeKeySetting)
}

/** Whether `presented` opens the app. True for every caller of an app that asks for no key. */
export function isInvokeKeyRight(appAnnotations: Annotations, presented: string | null): boolean {
  const stored = appAnnotations[invokeKeySetting]
  if (stored === undefined) return true
  if (presented === null) return false
  const expected = Buffer.from(stored.slice('"sha256:'.length, -1), 'hex')
  return expected.length === 32 && timingSafeEqual(expected, digest(presented))
}
