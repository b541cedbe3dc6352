/** Deploys a Docker image: the server fetches it, and the function is pinned to what it is now. */
import type { FndClient } from './client.ts'
import { CliError } from './failure.ts'
import type { WireApp } from './objects.ts'
import { type Deployed, ensureApp, type ReleaseOptions, releaseCode } from './release.ts'
import type { Session } from './session.ts'

/** What `fnd deploy --image --json` prints. */
export interface DeployedImage extends Deployed {
  readonly image: string
  /** What all starts use; null with `--pull always`, which follows the tag. */
  readonly digest: string | null
}

interface Progress {
  readonly status: 'pulling' | 'ready' | 'failed'
  readonly layers?: number
  readonly layers_done?: number
  readonly bytes?: number
  readonly bytes_done?: number
  readonly digest?: string
  readonly message?: string
}

export async function deployImage(
  session: Pick<Session, 'client' | 'terminal'>,
  image: string,
  options: ReleaseOptions,
): Promise<DeployedImage> {
  const { client } = session
  const app = await ensureApp(client, options.app)
  const pin = await prepare(session, app, image, options.pull)
  // Whoever wants the newest at every start does not want just this one.
  const digest = options.pull === 'always' ? null : pin
  return { ...(await releaseCode(client, app, { image, digest }, options)), image, digest }
}

/** Resolves with the digest, or the id of an image that no registry has. */
async function prepare(
  session: Pick<Session, 'client' | 'terminal'>,
  app: WireApp,
  image: string,
  pull: string | undefined,
): Promise<string> {
  const { client, terminal } = session
  const response = await client.send('/fnd/v1/images/prepare', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ app_id: app.id, image, ...(pull === undefined ? {} : { pull }) }),
  })
  if (!response.ok) throw await client.failure(response)
  for await (const progress of linesOf(client, response)) {
    if (progress.status === 'pulling') terminal.progress(`pulling ${image}: ${textOf(progress)}`)
    if (progress.status === 'failed') throw new CliError('failed', progress.message ?? '')
    if (progress.status === 'ready') {
      terminal.clearProgress()
      return progress.digest ?? ''
    }
  }
  throw new CliError('failed', `${client.url} stopped before the image was there`, {
    hint: 'deploy it again',
  })
}

function textOf({ layers = 0, layers_done: done = 0, bytes = 0, bytes_done: got = 0 }: Progress) {
  const mb = (count: number) => (count / 1e6).toFixed(1)
  const size = got > bytes ? '' : ` of ${mb(bytes)}`
  return `${mb(got)}${size} MB, ${done} of ${layers} layers`
}

async function* linesOf(client: FndClient, response: Response): AsyncGenerator<Progress> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of response.body ?? []) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines.filter(one => one.trim() !== '')) {
      try {
        yield JSON.parse(line) as Progress
      } catch (cause) {
        if (!(cause instanceof SyntaxError)) throw cause
        throw new CliError('failed', `${client.url} did not answer with JSON`, { cause })
      }
    }
  }
}
