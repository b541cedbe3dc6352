/** Images of containers: pulls under way, and the pull that comes before a deploy. */
import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import { isReference } from '../../exec/docker/reference.ts'
import { type AdminParts, adminGuard } from '../admin.ts'
import { json, responses, adminSecurity as security } from '../detail.ts'
import { jsonResponse, timeText } from '../v2/json.ts'
import * as wire from '../v2/schemas.ts'

/** What the API needs of the driver's images. */
export interface Images {
  prepare(spec: ImageSpec, isPullGiven: boolean): Promise<PreparedImage>
  readonly pulls: readonly PullStatus[]
  readonly stats: { readonly images: number; readonly bytes: number; readonly removed: number }
}

interface ImageSpec {
  readonly appId: string
  readonly fnId: string
  readonly image: string
  readonly pull: 'missing' | 'always' | 'never'
}

interface PreparedImage {
  readonly id: string
  readonly digest: string | undefined
  readonly pin: string
}

interface PullStatus {
  readonly image: string
  readonly startedMs: number
  readonly layers: number
  readonly layersDone: number
  readonly bytes: number
  readonly bytesDone: number
}

export const imagesSchema = t.Object(
  {
    images: t.Number({ description: 'Images that fnd pulled, and has not removed.' }),
    bytes: t.Number({ description: 'Their size; layers that they share count for each.' }),
    removed: t.Number({ description: 'Removed since the start, for want of room.' }),
    pulls: t.Array(
      t.Object(
        {
          image: t.String(),
          started_at: t.String(),
          layers: t.Number(),
          layers_done: t.Number(),
          bytes: t.Number({ description: 'Of the layers whose size is known yet.' }),
          bytes_done: t.Number(),
        },
        { description: 'A pull under way.' },
      ),
    ),
  },
  { description: 'Images on this node.' },
)

export const prepareBody = wire.wireObject(
  {
    app_id: t.String({ description: 'Whose credentials are used.' }),
    image: t.String({ description: 'A reference, as `docker pull` takes it.' }),
    pull: t.Optional(
      t.String({
        description:
          '`missing`, `always` or `never`. Without it the image is pulled unless it is one that ' +
          'no registry has.',
      }),
    ),
  },
  'Which image, for which app.',
)

const contentType = 'application/x-ndjson'
const progressEveryMs = 250
const tags = ['Images']

const listRoute = {
  detail: {
    tags,
    security,
    summary: 'Images on this node',
    description: 'How many fnd keeps, and the pulls under way.',
    responses: responses({ 200: json('Images', 'The images') }),
  },
}

const prepareRoute = {
  body: prepareBody,
  detail: {
    tags,
    security,
    summary: 'Fetch an image',
    description:
      'JSON objects, one a line: `{"status":"pulling", layers, layers_done, bytes, bytes_done}` ' +
      'while it lasts, then `{"status":"ready", id, digest}` or `{"status":"failed", message, ' +
      'code}`. `digest` is what `fnd.io/digest` takes: the id of an image that no registry has.',
    responses: responses(
      {
        200: { description: 'Progress, then the end', content: { [contentType]: { schema: {} } } },
      },
      400,
      404,
    ),
  },
}

function pullFrom(text: string | undefined): ImageSpec['pull'] {
  if (text === undefined || text === '' || text === 'missing') return 'missing'
  if (text === 'always' || text === 'never') return text
  throw new FndError('invalid-field', {
    field: 'pull',
    message: 'pull must be missing, always or never',
  })
}

export function imagesApi(parts: AdminParts & { readonly images: Images }) {
  const { state, images } = parts
  return new Elysia()
    .use(adminGuard(parts))
    .get(
      '/fnd/v1/images',
      () => {
        const { images: count, bytes, removed } = images.stats
        return jsonResponse({ images: count, bytes, removed, pulls: images.pulls.map(pullToWire) })
      },
      listRoute,
    )
    .post(
      '/fnd/v1/images/prepare',
      ({ body, request, server }) => {
        const { app_id: appId, image, pull } = body
        if (state.app(appId) === undefined) throw new FndError('app-not-found')
        if (!isReference(image)) {
          const message = `image: "${image}" is not a reference to an image`
          throw new FndError('image-invalid', { field: 'image', message })
        }
        const spec = { appId, fnId: '', image, pull: pullFrom(pull) }
        // A registry may let us wait for long.
        server?.timeout(request, 0)
        const stream = progressStream(images, images.prepare(spec, Boolean(pull)), image)
        return new Response(stream, {
          headers: { 'content-type': contentType, 'cache-control': 'no-store' },
        })
      },
      prepareRoute,
    )
}

function pullToWire({ image, startedMs, ...progress }: PullStatus): object {
  return { image, started_at: timeText(startedMs), ...progressToWire(progress) }
}

function progressToWire(progress: Omit<PullStatus, 'image' | 'startedMs'>): object {
  const { layers, layersDone, bytes, bytesDone } = progress
  return { layers, layers_done: layersDone, bytes, bytes_done: bytesDone }
}

/** A client that leaves ends the report; the image comes all the same. */
function progressStream(
  images: Images,
  work: Promise<PreparedImage>,
  image: string,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let timer: ReturnType<typeof setInterval> | undefined
  return new ReadableStream<Uint8Array>({
    start(controller) {
      const write = (line: object) =>
        controller.enqueue(encoder.encode(`${JSON.stringify(line)}\n`))
      const report = () => {
        const pull = images.pulls.find(one => one.image === image)
        if (pull !== undefined) write({ status: 'pulling', ...progressToWire(pull) })
      }
      const end = (line: object) => {
        if (timer === undefined) return
        clearInterval(timer)
        write(line)
        controller.close()
      }
      timer = setInterval(report, progressEveryMs)
      work.then(
        ({ id, pin }) => end({ status: 'ready', id, digest: pin }),
        cause => {
          if (!(cause instanceof FndError)) throw cause
          end({ status: 'failed', message: cause.message, code: cause.code })
        },
      )
    },
    cancel() {
      clearInterval(timer)
      timer = undefined
    },
  })
}
