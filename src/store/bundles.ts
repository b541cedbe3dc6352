/**
 * Bundles by content: `<dir>/sha256-<hex>/` holds the unpacked tar whose SHA-256 is `<hex>`. A
 * bundle appears by one rename after everything in it is on the disk, and never changes, so
 * whoever sees the directory may use it.
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { mkdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { FndError } from '../errors.ts'
import { fsyncDir } from './fsync.ts'
import { type Manifest, parseManifest } from './manifest.ts'
import type { BundleLimits, Unpacked } from './unpack.ts'

export type { Manifest } from './manifest.ts'
export type { BundleLimits } from './unpack.ts'

export interface Bundle {
  readonly dir: string
  readonly manifest: Manifest
}

const namePattern = /^sha256-[0-9a-f]{64}$/
const temporaryPrefix = '.tmp-'
const manifestBytesMax = 64 * 1024

export class Bundles implements AsyncDisposable {
  readonly #dir: string
  readonly #cache = new Map<string, Bundle>()
  /** Removal of what an earlier process left behind. */
  readonly #cleaning: Promise<void>

  constructor(dir: string) {
    this.#dir = dir
    // Not listable, so that a function that runs without namespaces finds only bundles whose hash
    // it knows.
    mkdirSync(dir, { recursive: true, mode: 0o711 })
    const leftovers = readdirSync(dir).filter(name => name.startsWith(temporaryPrefix))
    this.#cleaning = this.#removeAll(leftovers)
  }

  /**
   * Stores the tar that `stream` yields under its hash, `sha256-<hex>`. Does not read the stream
   * when the bundle is there already. Rejects with `FndError`.
   */
  async put(
    hash: string,
    stream: AsyncIterable<Uint8Array>,
    limits: BundleLimits,
  ): Promise<Bundle> {
    if (!namePattern.test(hash)) throw new FndError('bundle-hash-invalid', { detail: hash })
    const existing = this.get(hash)
    if (existing !== undefined) {
      // As good as new: `collect` must leave it for the deploy that is under way.
      await utimes(existing.dir, new Date(), new Date())
      return existing
    }
    const temporary = join(this.#dir, temporaryPrefix + randomBytes(12).toString('hex'))
    await mkdir(temporary, { mode: 0o755 })
    try {
      // Loaded when first needed: the tar library would cost every start several milliseconds.
      const { unpack } = await import('./unpack.ts')
      const unpacked = await unpack(stream, temporary, limits)
      if (`sha256-${unpacked.hash}` !== hash) {
        throw new FndError('bundle-hash-mismatch', { detail: `it is sha256-${unpacked.hash}` })
      }
      const manifest = await readManifest(temporary, unpacked)
      await this.#publish(temporary, hash)
      return this.#remember(hash, manifest)
    } finally {
      // Gone already when it was published.
      await rm(temporary, { recursive: true, force: true })
    }
  }

  /** Undefined when this node does not hold the bundle. */
  get(hash: string): Bundle | undefined {
    const cached = this.#cache.get(hash)
    if (cached !== undefined) return cached
    if (!namePattern.test(hash)) return undefined
    const path = join(this.#dir, hash, 'fnd.json')
    if (statSync(path, { throwIfNoEntry: false }) === undefined) return undefined
    return this.#remember(hash, parseManifest(readFileSync(path, 'utf8')))
  }

  list(): string[] {
    return readdirSync(this.#dir)
      .filter(name => namePattern.test(name))
      .sort()
  }

  /**
   * Removes bundles that nobody refers to and that were last put more than `olderThanMs` ago: a
   * deploy puts its bundle before it creates the function. Returns their hashes.
   */
  async collect(referenced: ReadonlySet<string>, olderThanMs: number): Promise<string[]> {
    const removed: string[] = []
    for (const hash of this.list()) {
      if (referenced.has(hash)) continue
      const { mtimeMs } = await stat(join(this.#dir, hash))
      if (Date.now() - mtimeMs < olderThanMs) continue
      this.#cache.delete(hash)
      // Out of sight at once, so that nobody starts from a bundle that is half gone.
      const doomed = temporaryPrefix + randomBytes(12).toString('hex')
      await rename(join(this.#dir, hash), join(this.#dir, doomed))
      await this.#removeAll([doomed])
      removed.push(hash)
    }
    return removed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleaning
  }

  async #publish(temporary: string, hash: string): Promise<void> {
    try {
      await rename(temporary, join(this.#dir, hash))
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // Another put of the same content was first; its directory holds the same bytes.
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error
    }
    await fsyncDir(this.#dir)
  }

  #remember(hash: string, manifest: Manifest): Bundle {
    const bundle = { dir: join(this.#dir, hash), manifest }
    this.#cache.set(hash, bundle)
    return bundle
  }

  async #removeAll(names: readonly string[]): Promise<void> {
    for (const name of names) await rm(join(this.#dir, name), { recursive: true, force: true })
  }
}

async function readManifest(dir: string, unpacked: Unpacked): Promise<Manifest> {
  const file = unpacked.files.get('fnd.json')
  if (file === undefined) throw invalid('fnd.json is missing at its root')
  if (file.bytes > manifestBytesMax) throw invalid('fnd.json is too large')
  const manifest = parseManifest(await readFile(join(dir, 'fnd.json'), 'utf8'))
  const entry = unpacked.files.get(manifest.entry)
  if (entry === undefined) throw invalid(`the entry ${manifest.entry} is missing`)
  if (manifest.kind === 'program' && !entry.isExecutable) {
    throw invalid(`the entry ${manifest.entry} is not executable`)
  }
  return manifest
}

function invalid(detail: string): FndError {
  return new FndError('bundle-invalid', { detail })
}
