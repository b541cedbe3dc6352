/**
 * A backup is a tar: `backup.json`, its SHA-256 as `sha256sum` writes it, the files of the data
 * directory that the caller adds, the state as one database file, and bundles. `backup.json` has
 * the hash of each.
 */
import { createReadStream, readFileSync } from 'node:fs'
import { chmod, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type Pack, pack } from 'tar-stream'
import { FndError } from '../errors.ts'
import { Bundles, type BundleTar } from './bundles.ts'
import { fsyncDir, makeDir } from './fsync.ts'
import { type Recovered, recoverStore } from './recover.ts'
import { describeSnapshot } from './snapshot-file.ts'
import type { TakenSnapshot } from './snapshots.ts'
import { unpack } from './unpack.ts'

const formatVersion = 1
const headName = 'backup.json'
const sumName = 'backup.json.sha256'
const statePath = 'store/state.db'
const bundlePattern = /^bundles\/(sha256-([0-9a-f]{64}))\.tar$/
/** Of a tar that this node is given by its operator: only against mistakes. */
const unpackLimits = { bytesMax: 1024 ** 4, filesMax: 100_000 }

export interface BackupOrigin {
  /** Of fnd. */
  readonly version: string
  readonly clusterId: string
  readonly nodeId: number
  readonly createdMs: number
}

/** A file that is restored beside the state. */
export interface BackupPart {
  /** Relative to the data directory, such as `secrets.key`. */
  readonly path: string
  readonly bytes: Uint8Array
}

export interface BackupBundle {
  /** `sha256-<hex>`. */
  readonly hash: string
  readonly tar: BundleTar
}

export interface BackupContent {
  readonly parts: readonly BackupPart[]
  readonly bundles: readonly BackupBundle[]
  /** Hashes of bundles that functions refer to and that could not be had. */
  readonly missing: readonly string[]
}

export interface BackupHead extends BackupOrigin {
  readonly format: number
  readonly index: number
  readonly term: number
  readonly files: readonly BackupFile[]
  readonly missing: readonly string[]
}

export interface BackupFile {
  readonly path: string
  readonly bytes: number
  readonly sha256: string
}

/** The bytes of the backup. Snapshot and bundles must stay until they were read. */
export async function* exportBackup(
  snapshot: TakenSnapshot,
  origin: BackupOrigin,
  { parts, bundles, missing }: BackupContent,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { index, term, bytes, sha256 } = snapshot
  const files: BackupFile[] = [
    { path: statePath, bytes, sha256 },
    ...parts.map(part => ({
      path: part.path,
      bytes: part.bytes.length,
      sha256: sha256Of(part.bytes),
    })),
    ...bundles.map(({ hash, tar }) => ({
      path: bundlePath(hash),
      bytes: tar.bytes,
      sha256: hash.slice('sha256-'.length),
    })),
  ]
  const head: BackupHead = { ...origin, format: formatVersion, index, term, files, missing }
  const text = `${JSON.stringify(head, null, 2)}\n`
  const tar = pack()
  // The library's own iterator would wait for ever for a reader that goes away.
  const out = tar.pipe(new PassThrough())
  const gone = new AbortController()
  const small = [
    { path: headName, bytes: Buffer.from(text) },
    { path: sumName, bytes: Buffer.from(`${sha256Of(text)}  ${headName}\n`) },
    ...parts,
  ]
  const packing = packAll(tar, { small, snapshot, bundles }, gone.signal).catch(cause => {
    out.destroy(cause as Error)
  })
  try {
    for await (const chunk of out) yield chunk as Uint8Array
  } finally {
    gone.abort()
    tar.destroy()
    await packing
  }
}

async function packAll(
  tar: Pack,
  content: {
    readonly small: readonly BackupPart[]
    readonly snapshot: TakenSnapshot
    readonly bundles: readonly BackupBundle[]
  },
  signal: AbortSignal,
): Promise<void> {
  const { small, snapshot, bundles } = content
  const mode = 0o600
  for (const { path, bytes } of small) {
    tar.entry({ name: path, mode }, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
  }
  const entry = tar.entry({ name: statePath, mode, size: snapshot.bytes })
  await pipeline(createReadStream(snapshot.path), entry, { signal })
  for (const { hash, tar: bundle } of bundles) {
    const part = tar.entry({ name: bundlePath(hash), mode, size: bundle.bytes })
    await pipeline(Readable.from(bundle.chunks), part, { signal })
  }
  tar.finalize()
}

function bundlePath(hash: string): string {
  return `bundles/${hash}.tar`
}

/**
 * Unpacks a backup into `dir`, which must be empty, and checks every file in it. Rejects with
 * `FndError` `backup-invalid`, also for one of a newer fnd.
 */
export async function importBackup(
  stream: AsyncIterable<Uint8Array>,
  dir: string,
): Promise<BackupHead> {
  const { files } = await unpack(stream, dir, unpackLimits).catch(cause => {
    if ((cause as { code?: string }).code !== 'bundle-invalid') throw cause
    throw invalid((cause as FndError).detail ?? 'not a readable tar', cause)
  })
  const head = mustHead(dir, files)
  const known = new Set([headName, sumName, ...head.files.map(({ path }) => path)])
  for (const path of files.keys()) if (!known.has(path)) throw invalid(`${path} is not listed`)
  for (const { path, bytes, sha256 } of head.files) {
    const given = files.get(path)
    if (given === undefined) throw invalid(`${path} is missing`)
    if (given.bytes !== bytes || (await sha256OfFile(join(dir, path))) !== sha256) {
      throw invalid(`${path} does not have its hash`)
    }
    await chmod(join(dir, path), 0o600)
    if (path.includes('/')) await chmod(join(dir, dirname(path)), 0o700)
  }
  const { index, term } = describeSnapshot(join(dir, statePath))
  if (index !== head.index || term !== head.term) throw invalid('the state is of another index')
  for (const name of [headName, sumName]) await rm(join(dir, name), { force: true })
  return head
}

function mustHead(dir: string, files: ReadonlyMap<string, unknown>): BackupHead {
  if (!files.has(headName) || !files.has(sumName)) throw invalid(`it has no ${headName}`)
  const text = readFileSync(join(dir, headName), 'utf8')
  const sum = readFileSync(join(dir, sumName), 'utf8')
  if (sum !== `${sha256Of(text)}  ${headName}\n`) throw invalid(`${headName} has another hash`)
  const head = headFrom(text)
  if (head.format === formatVersion) return head
  throw invalid(`its format is ${head.format}, this fnd knows ${formatVersion}; use a newer fnd`)
}

function headFrom(text: string): BackupHead {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw invalid(`${headName} is no JSON`, cause)
  }
}

/**
 * Makes a data directory from a backup: a cluster of its own with this node as the only member. The
 * directory must be missing or empty; it appears when everything in it is on the disk.
 */
export async function restoreBackup(
  stream: AsyncIterable<Uint8Array>,
  dataDir: string,
  identity: { readonly clusterId: string; readonly uuid: string },
): Promise<{ readonly head: BackupHead; readonly recovered: Recovered }> {
  const partial = `${dataDir}.restoring`
  await makeDir(dataDir, 0o711)
  if ((await readdir(dataDir)).length > 0) {
    throw new FndError('backup-invalid', { message: `${dataDir} is not empty` })
  }
  await rm(partial, { recursive: true, force: true })
  await mkdir(partial, { mode: 0o711 })
  try {
    const head = await importBackup(stream, partial)
    await unpackBundles(partial, head)
    const recovered = await recoverStore({ storeDir: join(partial, 'store'), ...identity })
    await rename(partial, dataDir)
    await fsyncDir(dirname(dataDir))
    return { head, recovered }
  } catch (cause) {
    await rm(partial, { recursive: true, force: true })
    throw cause
  }
}

/** What lies in the backup as tars becomes bundles, each as if it had been deployed. */
async function unpackBundles(dataDir: string, head: BackupHead): Promise<void> {
  const hashes = head.files.flatMap(({ path }) => bundlePattern.exec(path)?.[1] ?? [])
  if (hashes.length === 0) return
  const dir = join(dataDir, 'bundles')
  const packed = join(dataDir, 'bundles.packed')
  await rename(dir, packed)
  await using bundles = new Bundles(dir)
  for (const hash of hashes) {
    const path = join(packed, `${hash}.tar`)
    await bundles.put(hash, createReadStream(path), unpackLimits)
    await rm(path)
  }
  await rm(packed, { recursive: true })
}

function sha256Of(bytes: Uint8Array | string): string {
  return new Bun.CryptoHasher('sha256').update(bytes).digest('hex')
}

async function sha256OfFile(path: string): Promise<string> {
  const hasher = new Bun.CryptoHasher('sha256')
  for await (const chunk of createReadStream(path)) hasher.update(chunk as Uint8Array)
  return hasher.digest('hex')
}

function invalid(detail: string, cause?: unknown): FndError {
  return new FndError('backup-invalid', { detail, cause })
}
