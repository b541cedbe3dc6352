/** A backup while everything goes on. */
import { Elysia } from 'elysia'
import { type AdminParts, adminOnly } from '../admin.ts'
import { responses, adminSecurity as security } from '../detail.ts'
import { type DownloadStream, downloadResponse } from '../stream.ts'

export interface Backup extends DownloadStream {
  /** Hashes of bundles that functions refer to, and that no node has. */
  readonly missing: readonly string[]
}

export interface Backups {
  /** As of one moment; `FndError` `disk-full` where there is no room to prepare it. */
  open(): Promise<Backup>
}

/** How many bundles it lacks; absent when it lacks none. */
export const missingHeader = 'fnd-missing-bundles'

const backupRoute = {
  detail: {
    tags: ['Cluster'],
    security,
    summary: 'Download a backup',
    description:
      'Everything that a new cluster needs: state, bundles and keys, as this node has them. It ' +
      'is secret. `Fnd-Applied-Index` says of which change it is; `fnd restore` checks that it ' +
      'is whole. `Fnd-Missing-Bundles` says how many bundles no node had.',
    responses: responses(
      {
        200: {
          description: 'The backup',
          content: { 'application/octet-stream': { schema: { type: 'string' } } },
        },
      },
      503,
    ),
  },
}

export function backupApi(parts: AdminParts & { readonly backups: Backups }) {
  return new Elysia().use(adminOnly(parts.authorize)).get(
    '/fnd/v1/backup',
    async ({ request, server }) => {
      // A large one over a slow line takes longer than any timeout of an idle connection.
      server?.timeout(request, 0)
      const backup = await parts.backups.open()
      const response = downloadResponse(backup)
      const { length } = backup.missing
      if (length > 0) response.headers.set(missingHeader, String(length))
      return response
    },
    backupRoute,
  )
}
