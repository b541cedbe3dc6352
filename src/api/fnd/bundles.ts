/** Code deployed without an image: content-addressed bundles, streamed to and from their store. */
import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import { type AdminParts, adminOnly } from '../admin.ts'
import { bodyChunks } from '../body.ts'
import { json, responses, adminSecurity as security } from '../detail.ts'
import { jsonResponse } from '../v2/json.ts'
import { idParameter } from '../v2/schemas.ts'

/** What the API needs of the bundle store, which checks hashes and contents itself. */
export interface Bundles {
  put(
    hash: string,
    body: AsyncIterable<Uint8Array>,
    limits: { readonly bytesMax: number; readonly filesMax: number },
  ): Promise<StoredBundle>
  /** Undefined when this node does not hold the bundle. */
  get(hash: string): StoredBundle | undefined
  /**
   * Whether a deploy need not upload it: it is here, and on a majority of the voters. Rejects with
   * `FndError` when it is here, and cannot be brought to a majority.
   */
  confirm(hash: string): Promise<boolean>
}

interface StoredBundle {
  readonly manifest: object
}

const filesMax = 20_000

export const bundleSchema = t.Object(
  {
    hash: t.String({ description: '`sha256-` and 64 hex digits.' }),
    manifest: t.Object(
      {},
      { additionalProperties: true, description: 'What to run and how: its `fnd.json`.' },
    ),
  },
  { description: 'Code that functions with the image `bundle:<hash>` run.' },
)

const params = t.Object({ hash: idParameter('`sha256-` and 64 hex digits') })
const tags = ['Bundles']

function hashFrom(parameter: unknown): string {
  if (typeof parameter === 'string' && /^sha256-[0-9a-f]{64}$/.test(parameter)) return parameter
  throw new FndError('bundle-hash-invalid', { field: 'hash' })
}

const putRoute = {
  parse: 'none' as const,
  params,
  detail: {
    tags,
    security,
    summary: 'Upload a bundle',
    description:
      'The body is the archive; its SHA-256 must be the name. Again changes nothing. ' +
      'In a cluster it is answered when a majority of the voters has it on the disk.',
    requestBody: {
      required: true,
      content: { 'application/octet-stream': { schema: { type: 'string' as const } } },
    },
    responses: responses({ 200: json('Bundle', 'Stored') }, 400, 413, 503),
  },
}

const getRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Describe a bundle',
    description: 'Its manifest, not its content.',
    responses: responses({ 200: json('Bundle', 'The bundle') }, 400, 404),
  },
}

const headRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Ask whether a bundle exists',
    description: 'So that a deploy uploads only what is missing here or at most of the voters.',
    responses: responses({ 200: { description: 'It exists' } }, 400, 404, 503),
  },
}

export function bundlesApi(parts: AdminParts & { readonly bundles: Bundles }) {
  const { bundles } = parts
  const { bundleBytesMax: bytesMax } = parts.config.limits
  const limits = { bytesMax, filesMax }

  const mustFind = (hash: string): object => {
    const bundle = bundles.get(hash)
    if (bundle === undefined) throw new FndError('bundle-not-found')
    return { hash, manifest: bundle.manifest }
  }

  return new Elysia()
    .use(adminOnly(parts.authorize))
    .put(
      '/fnd/v1/bundles/:hash',
      async ({ params, request }) => {
        const hash = hashFrom(params.hash)
        if (Number(request.headers.get('content-length') ?? 0) > bytesMax) {
          throw new FndError('bundle-too-large', { detail: `more than ${bytesMax} bytes` })
        }
        const { manifest } = await bundles.put(hash, bodyChunks(request), limits)
        return jsonResponse({ hash, manifest })
      },
      putRoute,
    )
    .get(
      '/fnd/v1/bundles/:hash',
      ({ params }) => jsonResponse(mustFind(hashFrom(params.hash))),
      getRoute,
    )
    .head(
      '/fnd/v1/bundles/:hash',
      async ({ params }) => {
        if (!(await bundles.confirm(hashFrom(params.hash)))) throw new FndError('bundle-not-found')
        return new Response(null, { status: 200 })
      },
      headRoute,
    )
}
