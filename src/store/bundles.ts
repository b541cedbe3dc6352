/**
 * Bundles by content: `<dir>/sha256-<hex>/` holds the unpacked tar whose SHA-256 is `<hex>`, and
 * `<dir>/sha256-<hex>.tar` the tar itself, for other nodes: its bytes cannot be had back from what
 * was unpacked. A bundle appears by renames after everything in it is on the disk, and never
 * changes, so whoever sees the directory may use it.
 */
import { randomBytes } from 'node:crypto'
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { type FileHandle, mkdir, open, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { FndError } from '../errors.ts'
import { fsyncDir, fsyncFile, writeAll } from './fsync.ts'
import { type Manifest, parseManifest } from './manifest.ts'
import type { BundleLimits, Unpacked } from './unpack.ts'

export type { Manifest } from './manifest.ts'
export type { BundleLimits } from './unpack.ts'

export interface Bundle {
  readonly dir: string
  readonly manifest: Manifest
}

/** The bytes that a bundle was made from. */
export interface BundleTar {
  readonly bytes: number
  /** The iteration throws when the bundle is removed meanwhile. */
  readonly chunks: AsyncIterable<Uint8Array>
}

const namePattern = /^sha256-[0-9a-f]{64}$/
const tarPattern = /^(sha256-[0-9a-f]{64})\.tar$/
const temporaryPrefix = '.tmp-'
const manifestBytesMax = 64 * 1024
const chunkBytes = 64 * 1024

export class Bundles implements AsyncDisposable {
  readonly #dir: string
  readonly #cache = new Map<string, Bundle>()
  /** Renamed into place, and not on the disk yet. */
  readonly #settling = new Set<string>()
  readonly #listeners = new Set<(hash: string) => void>()
  /** Removal of what an earlier process left behind. */
  readonly #cleaning: Promise<void>

  constructor(dir: string) {
    this.#dir = dir
    // Not listable, so that a function that runs without namespaces finds only bundles whose hash
    // it knows.
    mkdirSync(dir, { recursive: true, mode: 0o711 })
    const names = readdirSync(dir)
    const known = new Set(names)
    // A tar comes before its directory, and goes after it.
    const isOrphan = (name: string) => !known.has(tarPattern.exec(name)?.[1] ?? name)
    // At once, because a tar of the same name may come again.
    for (const name of names.filter(isOrphan)) rmSync(join(dir, name))
    // A process that was killed may have renamed a bundle into place and come no further.
    if (names.length > 0) fsyncFile(dir)
    this.#cleaning = this.#removeAll(names.filter(name => name.startsWith(temporaryPrefix)))
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
    if (existing !== undefined && this.keep(hash)) return existing
    const temporary = join(this.#dir, temporaryPrefix + randomBytes(12).toString('hex'))
    const tarPath = `${temporary}.tar`
    await mkdir(temporary, { mode: 0o755 })
    try {
      // Loaded when first needed: the tar library would cost every start several milliseconds.
      const { unpack } = await import('./unpack.ts')
      const unpacked = await keepingTar(tarPath, stream, kept => unpack(kept, temporary, limits))
      if (`sha256-${unpacked.hash}` !== hash) {
        throw new FndError('bundle-hash-mismatch', { detail: `it is sha256-${unpacked.hash}` })
      }
      const manifest = await readManifest(temporary, unpacked)
      await this.#publish(temporary, tarPath, hash)
      const bundle = this.#remember(hash, manifest)
      for (const listener of this.#listeners) listener(hash)
      return bundle
    } finally {
      // Gone already when they were published.
      await rm(temporary, { recursive: true, force: true })
      await rm(tarPath, { force: true })
    }
  }

  /** Told of each bundle that is here from then on. Returns the way to stop. */
  onStored(listener: (hash: string) => void): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
    }
  }

  /**
   * Whether a deploy may count on the bundle, tar included; then it is as good as put just now:
   * `collect` leaves it for the deploy that is under way.
   */
  keep(hash: string): boolean {
    if (!namePattern.test(hash) || this.#settling.has(hash)) return false
    const paths = [join(this.#dir, hash), this.#tarPath(hash)]
    if (paths.some(path => statSync(path, { throwIfNoEntry: false }) === undefined)) return false
    utimesSync(join(this.#dir, hash), new Date(), new Date())
    return true
  }

  /** As `keep`. */
  async confirm(hash: string): Promise<boolean> {
    return this.keep(hash)
  }

  /** Undefined when this node does not hold it; a bundle that an older fnd stored has no tar. */
  tar(hash: string): BundleTar | undefined {
    if (!namePattern.test(hash)) return undefined
    const path = this.#tarPath(hash)
    const found = statSync(path, { throwIfNoEntry: false })
    return found === undefined
      ? undefined
      : { bytes: found.size, chunks: chunksOf(path, found.size) }
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
      // From here to the rename in one turn: `keep` may be asked between any two.
      const { mtimeMs } = statSync(join(this.#dir, hash))
      if (Date.now() - mtimeMs < olderThanMs) continue
      this.#cache.delete(hash)
      // Out of sight at once, so that nobody starts from a bundle that is half gone.
      const doomed = temporaryPrefix + randomBytes(12).toString('hex')
      renameSync(join(this.#dir, hash), join(this.#dir, doomed))
      rmSync(this.#tarPath(hash), { force: true })
      await this.#removeAll([doomed])
      removed.push(hash)
    }
    return removed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleaning
  }

  /** The renames are in one turn, so that `collect` sees all of it or nothing. */
  async #publish(temporary: string, tarPath: string, hash: string): Promise<void> {
    // First: a directory without its tar would be a bundle that no other node can have.
    renameSync(tarPath, this.#tarPath(hash))
    const dir = join(this.#dir, hash)
    try {
      renameSync(temporary, dir)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // Another put of the same content was first; its directory holds the same bytes.
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error
      utimesSync(dir, new Date(), new Date())
    }
    this.#settling.add(hash)
    try {
      await fsyncDir(this.#dir)
    } finally {
      this.#settling.delete(hash)
    }
  }

  #tarPath(hash: string): string {
    return join(this.#dir, `${hash}.tar`)
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

/**
 * Gives `stream` to `use`, and what passes to a file, which is on the disk when this returns. Not
 * readable by functions, whose own bundle is enough for them.
 */
async function keepingTar<T>(
  path: string,
  stream: AsyncIterable<Uint8Array>,
  use: (kept: AsyncIterable<Uint8Array>) => Promise<T>,
): Promise<T> {
  const file = await open(path, 'wx', 0o600)
  try {
    const used = await use(copied(stream, file))
    await file.sync()
    return used
  } finally {
    await file.close()
  }
}

async function* copied(
  stream: AsyncIterable<Uint8Array>,
  file: FileHandle,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of stream) {
    await writeAll(file, chunk)
    yield chunk
  }
}

/** Opens the file for each chunk, so that whoever stops in the middle leaves nothing open. */
async function* chunksOf(path: string, bytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes; at += chunkBytes) {
    yield await Bun.file(path)
      .slice(at, Math.min(at + chunkBytes, bytes))
      .bytes()
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
