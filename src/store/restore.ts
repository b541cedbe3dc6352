/**
 * Makes a data directory from a backup. Everything is prepared below `<data>/.restoring`, on the
 * same filesystem whether or not the data directory is a mount, and moved up when it is whole. For
 * as long as that name is there the directory is no data directory: no server starts on it, and
 * restoring again begins anew.
 */
import { createReadStream, existsSync, mkdirSync, readdirSync } from 'node:fs'
import { rename, rm, rmdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { FndError, StartError } from '../errors.ts'
import { type BackupHead, bundleHashOf, importBackup } from './backup.ts'
import { Bundles } from './bundles.ts'
import { fsyncDir, makeDir } from './fsync.ts'
import { DataLock, lockFiles } from './lock.ts'
import { type Recovered, recoverStore } from './recover.ts'

const draftName = '.restoring'
/** What a restored directory may hold. The store last: without it there is nothing to start. */
const restoredNames = ['secrets.key', 'admin.token', 'cluster', 'bundles', 'store']
/** Of bundles that a server took when they were deployed. */
const bundleLimits = { bytesMax: 1024 ** 4, filesMax: 1_000_000 }

export interface RestoredStore {
  readonly head: BackupHead
  readonly recovered: Recovered
}

/** Throws `StartError` when a restore into this directory was not finished. */
export function mustNotBeHalfRestored(dataDir: string): void {
  if (!existsSync(join(dataDir, draftName))) return
  throw new StartError(
    `${dataDir} is being restored, or was when that broke off: run fnd restore again, with the ` +
      'same --data.',
  )
}

/**
 * A cluster of its own with this node as the only member. `dataDir` is missing or empty; what was
 * not there before is removed when this rejects: with `FndError` `backup-invalid` or `disk-full`,
 * or with `StartError` when the directory is in use.
 */
export async function restoreBackup(
  stream: AsyncIterable<Uint8Array>,
  dataDir: string,
  identity: { readonly clusterId: string; readonly uuid: string },
): Promise<RestoredStore> {
  // Before anything is made there, and again when nobody else can.
  mustBeFree(dataDir)
  const isOurs = !existsSync(dataDir)
  await makeDir(dataDir, 0o711)
  try {
    using _lock = new DataLock(dataDir)
    mustBeFree(dataDir)
    await clear(dataDir)
    try {
      return await restoreInto(stream, dataDir, identity)
    } catch (cause) {
      await clear(dataDir)
      for (const name of lockFiles) await rm(join(dataDir, name), { force: true })
      throw asFull(cause)
    }
  } catch (cause) {
    if (isOurs && readdirSync(dataDir).length === 0) await rmdir(dataDir)
    throw cause
  }
}

async function restoreInto(
  stream: AsyncIterable<Uint8Array>,
  dataDir: string,
  identity: { readonly clusterId: string; readonly uuid: string },
): Promise<RestoredStore> {
  const draft = join(dataDir, draftName)
  mkdirSync(draft, { mode: 0o700 })
  await fsyncDir(dataDir)
  const head = await importBackup(stream, draft)
  await unpackBundles(draft, head)
  const recovered = await recoverStore({ storeDir: join(draft, 'store'), ...identity })
  for (const name of restoredNames) {
    const path = join(draft, name)
    if (existsSync(path)) await rename(path, join(dataDir, name))
  }
  await fsyncDir(dataDir)
  await rmdir(draft)
  await fsyncDir(dataDir)
  await fsyncDir(dirname(dataDir))
  return { head, recovered }
}

/** The tars become bundles, as if each had been deployed. */
async function unpackBundles(dataDir: string, head: BackupHead): Promise<void> {
  const hashes = head.files.flatMap(file => bundleHashOf(file) ?? [])
  if (hashes.length === 0) return
  const dir = join(dataDir, 'bundles')
  const packed = join(dataDir, 'bundles.packed')
  await rename(dir, packed)
  await using bundles = new Bundles(dir)
  for (const hash of hashes) {
    const path = join(packed, `${hash}.tar`)
    await bundles.put(hash, createReadStream(path), bundleLimits)
    // At once, so that no more than one of them is there twice.
    await rm(path)
  }
  await rmdir(packed)
}

/** Removes what a restore makes. The draft last: until then nobody takes the rest for data. */
async function clear(dataDir: string): Promise<void> {
  if (!existsSync(join(dataDir, draftName))) return
  for (const name of [...restoredNames, draftName]) {
    await rm(join(dataDir, name), { recursive: true, force: true })
  }
  await fsyncDir(dataDir)
}

/** Whether a backup may be restored there: nothing but the remains of one that broke off. */
export function isFreeToRestore(dataDir: string): boolean {
  if (!existsSync(dataDir)) return true
  const names = new Set(readdirSync(dataDir))
  const remains = names.has(draftName) ? [draftName, ...restoredNames] : []
  for (const name of [...lockFiles, ...remains, 'lost+found']) names.delete(name)
  return names.size === 0
}

function mustBeFree(dataDir: string): void {
  if (isFreeToRestore(dataDir)) return
  const message = `${dataDir} is not empty; a backup never replaces what is there`
  throw new FndError('backup-invalid', { message })
}

function asFull(cause: unknown): unknown {
  const { code } = cause as { code?: string }
  const isFull = code === 'ENOSPC' || code === 'EDQUOT' || code === 'SQLITE_FULL'
  return isFull ? new FndError('disk-full', { cause }) : cause
}
