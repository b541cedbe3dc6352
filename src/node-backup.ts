/** Composition of a backup: the state as of one moment, the bundles it needs, and the keys. */
import { ensureAdminToken } from './api/auth.ts'
import type { Backups } from './api/fnd/backup.ts'
import type { BundleSpread } from './cluster/bundle-spread.ts'
import type { Config } from './config.ts'
import { FndError } from './errors.ts'
import type { Logger } from './log.ts'
import { type BackupBundle, exportBackup } from './store/backup.ts'
import type { Store } from './store/replica.ts'
import type { SecretBox } from './store/secrets.ts'
import { version } from './version.ts'

export interface BackupParts {
  readonly config: Config
  readonly store: Store
  readonly secrets: SecretBox
  readonly spread: BundleSpread
  readonly log: Logger
  /** Hashes of the bundles that functions refer to. */
  readonly referenced: (store: Store) => ReadonlySet<string>
}

export function backupsOf(parts: BackupParts): Backups {
  const { config, store, secrets, referenced } = parts
  return {
    open: async () => {
      // A function may come or go while the snapshot is made; both ways its bundle is wanted.
      const before = referenced(store)
      const snapshot = await store.snapshots.take()
      try {
        const hashes = new Set([...before, ...referenced(store)])
        const { bundles, missing } = await bundlesOf(parts, [...hashes].sort())
        const { clusterId, nodeId } = store.identity
        const token = new TextEncoder().encode(`${ensureAdminToken(config.dataDir)}\n`)
        const keys = [
          { path: 'secrets.key', bytes: secrets.shared() },
          { path: 'admin.token', bytes: token },
        ]
        const origin = { version, clusterId, nodeId, createdMs: Date.now() }
        const content = { parts: keys, bundles, missing }
        return {
          body: disposing(exportBackup(snapshot, origin, content), snapshot),
          index: snapshot.index,
          fileName: `fnd-${snapshot.index}.backup`,
        }
      } catch (cause) {
        await snapshot[Symbol.asyncDispose]()
        throw cause
      }
    },
  }
}

/** Those that no node has are left out, and named: the rest is worth saving all the same. */
async function bundlesOf({ store, spread, log }: BackupParts, hashes: readonly string[]) {
  const bundles: BackupBundle[] = []
  const missing: string[] = []
  for (const hash of hashes) {
    try {
      await spread.ensure(hash)
    } catch (cause) {
      if (!(cause instanceof FndError)) throw cause
    }
    // Kept, so that it is not collected while the backup is read.
    const tar = store.bundles.keep(hash) ? store.bundles.tar(hash) : undefined
    if (tar === undefined) missing.push(hash)
    else bundles.push({ hash, tar })
  }
  if (missing.length > 0) log.warn({ bundles: missing }, 'a backup lacks bundles that no node has')
  return { bundles, missing }
}

async function* disposing(
  body: AsyncIterable<Uint8Array>,
  held: AsyncDisposable,
): AsyncGenerator<Uint8Array> {
  await using _held = held
  yield* body
}
