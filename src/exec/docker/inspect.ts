/** What the daemon says of an image. */
import { FndError } from '../../errors.ts'
import { DockerRefusal, type Engine } from './engine.ts'
import { parseReference, repositoryOf } from './reference.ts'

export interface FoundImage {
  readonly id: string
  /** Of the manifest in the repository by whose name it was looked for. */
  readonly digest: string | undefined
  readonly env: readonly string[]
  readonly entrypoint: readonly string[]
  readonly cmd: readonly string[]
  readonly user: string
  readonly volumes: readonly string[]
  readonly bytes: number
  /** Full names of tags, and of digests, by which the daemon has it. */
  readonly tags: readonly string[]
  readonly digests: readonly string[]
  /** Whether `digest` (or the id of a local image) names this image. */
  means(digest: string): boolean
}

/**
 * `name` is a full name or an id. Undefined when the daemon has no such image. Rejects with
 * `FndError`, as all here.
 */
export async function findImage(engine: Engine, name: string): Promise<FoundImage | undefined> {
  const given = await inspect(engine, name)
  if (given === undefined) return undefined
  const config = given.Config ?? {}
  const digests = fullNames(given.RepoDigests ?? [])
  const reference = parseReference(name)
  const repository = reference === undefined ? undefined : repositoryOf(reference)
  const own = digests.find(one => repository === undefined || one.startsWith(`${repository}@`))
  return {
    id: given.Id,
    digest: own?.slice(own.indexOf('@') + 1),
    env: config.Env ?? [],
    entrypoint: listOf(config.Entrypoint),
    cmd: listOf(config.Cmd),
    user: config.User ?? '',
    volumes: Object.keys(config.Volumes ?? {}),
    bytes: given.Size ?? 0,
    tags: fullNames(given.RepoTags ?? []),
    digests,
    means: digest => given.Id === digest || digests.some(one => one.endsWith(`@${digest}`)),
  }
}

/** podman keeps what was built on the host under `localhost/`, and finds it by its short name. */
async function inspect(engine: Engine, name: string) {
  const short = name.replace(/^docker\.io\/(library\/)?/, '')
  const found = await inspectExactly(engine, name)
  if (found !== undefined || short === name || !(await isPodman(engine))) return found
  return inspectExactly(engine, short)
}

async function isPodman(engine: Engine): Promise<boolean> {
  try {
    return (await engine.facts()).isPodman
  } catch (cause) {
    // A proxy before the daemon, for one, may let nobody ask.
    throw refused(cause, 'the facts of the daemon')
  }
}

async function inspectExactly(engine: Engine, name: string) {
  try {
    return await engine.ask(docker => docker.getImage(name).inspect())
  } catch (cause) {
    if (cause instanceof DockerRefusal && cause.statusCode === 404) return undefined
    throw refused(cause, name)
  }
}

/** The client library's own words before the daemon's say nothing to a caller. */
export function plainText(message: string): string {
  return message.replace(/^\(HTTP code \d+\) [^-]* - /, '').trim()
}

function refused(cause: unknown, what: string): unknown {
  if (!(cause instanceof DockerRefusal)) return cause
  return new FndError('pull-failed', { detail: `'${what}': ${plainText(cause.message)}`, cause })
}

/** Ids of all images that the daemon has, those without a name too. */
export async function imageIds(engine: Engine): Promise<ReadonlySet<string>> {
  try {
    const images = await engine.ask(docker => docker.listImages())
    return new Set(images.map(({ Id }) => Id))
  } catch (cause) {
    throw refused(cause, 'the list of images')
  }
}

function listOf(value: string | readonly string[] | null | undefined): readonly string[] {
  if (value === null || value === undefined || value === '') return []
  return typeof value === 'string' ? ['/bin/sh', '-c', value] : value
}

/** The daemon shortens names of its own registry, and writes `<none>` for a missing one. */
function fullNames(names: readonly string[]): readonly string[] {
  return names.flatMap(name => {
    const reference = parseReference(name)
    if (reference === undefined) return []
    const { tag, digest } = reference
    return [`${repositoryOf(reference)}${digest === undefined ? `:${tag}` : `@${digest}`}`]
  })
}
