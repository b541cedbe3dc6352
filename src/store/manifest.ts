import { FndError } from '../errors.ts'

/** `fnd.json` at the root of a bundle: what to run and how. */
export interface Manifest {
  readonly version: 1
  /** `module`: JavaScript for fnd's own worker. `program`: an executable that listens itself. */
  readonly kind: 'module' | 'program'
  /** Path inside the bundle, with `/` between names. */
  readonly entry: string
  /** Calls that one instance takes at a time. */
  readonly concurrency?: number
  /** A module that uses the package `@fnproject/fdk`, which opens the socket itself. */
  readonly form?: 'fdk'
}

const concurrencyMax = 10_000

/** Throws `FndError` `bundle-invalid` that names the field. Unknown fields are left out. */
export function parseManifest(text: string): Manifest {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw invalid('is not JSON', cause)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid('is not a JSON object')
  }
  const { version, kind, entry, concurrency, form } = value as Record<string, unknown>
  if (version !== 1) throw invalid('version must be 1')
  if (kind !== 'module' && kind !== 'program') throw invalid('kind must be module or program')
  if (typeof entry !== 'string' || entryPath(entry) === undefined) {
    throw invalid('entry must be the path of a file inside the bundle')
  }
  if (form !== undefined && form !== 'fdk') throw invalid('form must be fdk or absent')
  const isCount =
    typeof concurrency === 'number' &&
    Number.isInteger(concurrency) &&
    concurrency >= 1 &&
    concurrency <= concurrencyMax
  if (concurrency !== undefined && !isCount) {
    throw invalid(`concurrency must be a whole number from 1 to ${concurrencyMax}`)
  }
  return {
    version,
    kind,
    entry: entryPath(entry) ?? entry,
    ...(typeof concurrency === 'number' ? { concurrency } : {}),
    ...(form === undefined ? {} : { form }),
  }
}

function invalid(what: string, cause?: unknown): FndError {
  return new FndError('bundle-invalid', { detail: `fnd.json ${what}`, cause })
}

const pathBytesMax = 1024
const depthMax = 32

/**
 * A path inside a bundle in its one spelling (`a/b`), `''` for the root, or undefined when it
 * would leave the bundle or could be read in two ways.
 */
export function entryPath(name: string): string | undefined {
  if (name.startsWith('/') || name.includes('\0') || name.includes('\\')) return undefined
  if (Buffer.byteLength(name) > pathBytesMax) return undefined
  const parts = name.split('/').filter(part => part !== '' && part !== '.')
  if (parts.length > depthMax || parts.includes('..')) return undefined
  if (parts.some(part => Buffer.byteLength(part) > 255)) return undefined
  return parts.join('/')
}
