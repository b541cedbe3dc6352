/** Composition of a backup: the state as of one moment, the bundles it needs, and the keys. */
import { ensureAdminToken, tokenFile } from './api/auth.ts'
import type { Backup, Backups } from './api/fnd/backup.ts'
import type { BundleSpread } from './cluster/bundle-spread.ts'
import { FndError } from './errors.ts'
import type { Logger } from './log.ts'
import { type BackupPart, exportBackup, partOfBundle, partOfBytes } from './store/backup.ts'
import type { Store } from './store/replica.ts'
import type { SecretBox } from './store/secrets.ts'
import type { TakenSnapshot } from './store/snapshots.ts'
import { version } from './version.ts'

interface BackupSources {
  readonly dataDir: string
  readonly store: Store
  readonly secrets: SecretBox
  readonly spread: BundleSpread
  readonly log: Logger
}

/** So that nothing is collected while a slow reader takes it. */
const keepEveryMs = 10 * 60_000

/** What a new cluster needs of this one, as of one moment. */
export function backupsOf(sources: BackupSources): Backups {
  return {
    open: async () => {
      const snapshot = await sources.store.snapshots.take()
      try {
        return await backupOf(sources, snapshot)
      } catch (cause) {
        await snapshot[Symbol.asyncDispose]()
        throw cause
      }
    },
  }
}

async function backupOf(sources: BackupSources, snapshot: TakenSnapshot): Promise<Backup> {
  const { dataDir, store, secrets } = sources
  const { bundles, missing } = await bundlesOf(sources, snapshot.bundles)
  const { clusterId, nodeId } = store.identity
  const parts = [
    partOfBytes('secrets.key', secrets.shared()),
    partOfBytes(tokenFile, new TextEncoder().encode(`${ensureAdminToken(dataDir)}\n`)),
    ...bundles,
  ]
  const origin = { version, clusterId, nodeId, createdMs: Date.now() }
  const held = new AsyncDisposableStack()
  held.use(snapshot)
  const keeping = setInterval(() => {
    for (const hash of snapshot.bundles) store.bundles.keep(hash)
  }, keepEveryMs)
  held.defer(() => clearInterval(keeping))
  return {
    body: disposing(exportBackup(snapshot, origin, parts, missing), held),
    index: snapshot.index,
    fileName: `fnd-${snapshot.index}.backup`,
    missing,
  }
}

/**
 * Fetches what this node does not have. Those that are lost, on all nodes, are left out: the rest
 * is worth saving. Rejects with `bundle-unreachable` when another node may have one.
 */
async function bundlesOf({ store, spread, log }: BackupSources, hashes: readonly string[]) {
  const bundles: BackupPart[] = []
  const missing: string[] = []
  for (const hash of hashes) {
    const tar = (await isHad(spread, hash)) ? store.bundles.tar(hash) : undefined
    if (tar === undefined) {
      missing.push(hash)
      continue
    }
    store.bundles.keep(hash)
    bundles.push(partOfBundle(hash, tar.bytes, () => mustTar(store, hash)))
  }
  if (missing.length > 0) log.warn({ bundles: missing }, 'a backup lacks bundles that no node has')
  return { bundles, missing }
}

async function isHad(spread: BundleSpread, hash: string): Promise<boolean> {
  try {
    await spread.ensure(hash)
    return true
  } catch (cause) {
    if (cause instanceof FndError && cause.code === 'bundle-not-found') return false
    throw cause
  }
}

function mustTar(store: Store, hash: string): AsyncIterable<Uint8Array> {
  const tar = store.bundles.tar(hash)
  if (tar === undefined) throw new FndError('backup-failed', { detail: `${hash} was removed` })
  return tar.chunks
}

/** `held` goes when the body was read, and also when nobody began to. */
function disposing(
  body: AsyncGenerator<Uint8Array>,
  held: AsyncDisposable,
): AsyncIterable<Uint8Array> {
  const end = async (): Promise<IteratorResult<Uint8Array>> => {
    await body.return(undefined)
    await held[Symbol.asyncDispose]()
    return { done: true, value: undefined }
  }
  const next = async (): Promise<IteratorResult<Uint8Array>> => {
    try {
      const step = await body.next()
      return step.done === true ? await end() : step
    } catch (cause) {
      await end()
      throw cause
    }
  }
  return { [Symbol.asyncIterator]: () => ({ next, return: end }) }
}
