/**
 * A backup is a tar: `backup.json`, its SHA-256 as `sha256sum` writes it, the state as one database
 * file, and what else belongs to it: keys, and the tars of bundles. `backup.json` has the hash of
 * each, and each is checked when it is written and when it is read.
 */
import { createReadStream, readFileSync } from 'node:fs'
import { chmod, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type Pack, pack } from 'tar-stream'
import { FndError } from '../errors.ts'
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

/** A file of the backup, read when its turn comes: it may be larger than memory. */
export interface BackupPart {
  /** Relative to the data directory, such as `secrets.key`. */
  readonly path: string
  readonly bytes: number
  readonly sha256: string
  readonly chunks: () => AsyncIterable<Uint8Array>
}

export interface BackupHead extends BackupOrigin {
  readonly format: number
  readonly index: number
  readonly term: number
  /** Hashes of bundles that functions refer to, and that no node had. */
  readonly missing: readonly string[]
  readonly files: readonly BackupFile[]
}

export type BackupFile = Omit<BackupPart, 'chunks'>

/** A small file, such as a key. */
export function partOfBytes(path: string, content: Uint8Array): BackupPart {
  const chunks = async function* () {
    yield content
  }
  return { path, bytes: content.length, sha256: sha256Of(content), chunks }
}

/** The tar that the bundle of this hash was made from. */
export function partOfBundle(
  hash: string,
  bytes: number,
  chunks: () => AsyncIterable<Uint8Array>,
): BackupPart {
  return { path: `bundles/${hash}.tar`, bytes, sha256: hash.slice('sha256-'.length), chunks }
}

/** The hash of the bundle whose tar this is. Undefined for other files. */
export function bundleHashOf({ path }: BackupFile): string | undefined {
  return bundlePattern.exec(path)?.[1]
}

/**
 * The bytes of the backup. The snapshot and what the parts read must stay until they were read. The
 * iteration throws when one of them is not what it was, so that no backup that is damaged ends as
 * if it were whole.
 */
export async function* exportBackup(
  snapshot: TakenSnapshot,
  origin: BackupOrigin,
  parts: readonly BackupPart[],
  missing: readonly string[] = [],
): AsyncGenerator<Uint8Array, void, undefined> {
  const { index, term, bytes, sha256, path } = snapshot
  const state = { path: statePath, bytes, sha256, chunks: () => createReadStream(path) }
  const all: BackupPart[] = [state, ...parts]
  const files = all.map(part => ({ path: part.path, bytes: part.bytes, sha256: part.sha256 }))
  const head: BackupHead = { ...origin, format: formatVersion, index, term, missing, files }
  const text = `${JSON.stringify(head, null, 2)}\n`
  const tar = pack()
  // The library's own iterator would wait for ever for a reader that goes away.
  const out = tar.pipe(new PassThrough())
  const gone = new AbortController()
  const first = [
    partOfBytes(headName, Buffer.from(text)),
    partOfBytes(sumName, Buffer.from(`${sha256Of(text)}  ${headName}\n`)),
  ]
  const packing = packAll(tar, [...first, ...all], gone.signal).catch(cause => {
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
  parts: readonly BackupPart[],
  signal: AbortSignal,
): Promise<void> {
  for (const part of parts) {
    const entry = tar.entry({ name: part.path, mode: 0o600, size: part.bytes })
    await pipeline(Readable.from(checked(part), { highWaterMark: 1 }), entry, { signal })
  }
  tar.finalize()
}

async function* checked({ path, bytes, sha256, chunks }: BackupPart): AsyncGenerator<Uint8Array> {
  const hasher = new Bun.CryptoHasher('sha256')
  let seen = 0
  for await (const chunk of chunks()) {
    hasher.update(chunk)
    seen += chunk.length
    yield chunk
  }
  if (seen === bytes && hasher.digest('hex') === sha256) return
  throw new FndError('backup-failed', { detail: `${path} on this node does not have its hash` })
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
  if (!known.has(statePath)) throw invalid('it holds no state')
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
  if (head.format !== formatVersion) {
    throw invalid(`its format is ${head.format}, this fnd knows ${formatVersion}; use a newer fnd`)
  }
  const isWhole = Array.isArray(head.files) && Array.isArray(head.missing)
  if (!isWhole) throw invalid(`${headName} does not list its files`)
  return head
}

function headFrom(text: string): BackupHead {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw invalid(`${headName} is no JSON`, cause)
  }
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
