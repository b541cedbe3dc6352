/**
 * References to images, by the grammar of distribution/reference (its ParseNormalizedNamed): what
 * `docker pull` takes, and where it looks.
 */

export interface Reference {
  /** Host of the registry, with its port if it has one; Docker's own is `docker.io`. */
  readonly domain: string
  /** The repository there, such as `library/busybox`. */
  readonly path: string
  /** `latest` where neither tag nor digest is given; undefined beside a digest alone. */
  readonly tag: string | undefined
  /** `sha256:<hex>` of the manifest; it wins over the tag. */
  readonly digest: string | undefined
}

export const defaultDomain = 'docker.io'
const legacyDomain = 'index.docker.io'
const pathLengthMax = 255

const label = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])'
const domainForm = new RegExp(`^(?:${label}(?:\\.${label})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`)
const component = '[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*'
const pathForm = new RegExp(`^${component}(?:/${component})*$`)
const tagForm = /^\w[\w.-]{0,127}$/
/** Other algorithms than SHA-256 and SHA-512 exist in the grammar, and in no registry. */
const digestForm = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/
/** An id of an image, which `docker run` takes and no registry knows. */
const idForm = /^[0-9a-f]{64}$/
/** fnd's own kind of image: `bundle:sha256-<hex>` would be a reference by its form. */
const bundlePrefix = 'bundle:'

/** Undefined for what is not a reference: other schemes, ids, names with capitals. */
export function parseReference(text: string): Reference | undefined {
  if (text.startsWith(bundlePrefix) || idForm.test(text)) return undefined
  const at = text.indexOf('@')
  const digest = at < 0 ? undefined : text.slice(at + 1)
  if (digest !== undefined && !digestForm.test(digest)) return undefined
  const named = at < 0 ? text : text.slice(0, at)
  const { domain, rest } = splitDomain(named)
  const colon = rest.indexOf(':')
  const remote = colon < 0 ? rest : rest.slice(0, colon)
  const tag = colon < 0 ? undefined : rest.slice(colon + 1)
  const path = domain === defaultDomain && !remote.includes('/') ? `library/${remote}` : remote
  if (!domainForm.test(domain) || !pathForm.test(path) || path.length > pathLengthMax) {
    return undefined
  }
  if (tag !== undefined && !tagForm.test(tag)) return undefined
  return { domain, path, tag: tag ?? (digest === undefined ? 'latest' : undefined), digest }
}

export function isReference(text: string): boolean {
  return parseReference(text) !== undefined
}

/** Whether `text` names a registry: `host` or `host:port`. */
export function isDomain(text: string): boolean {
  return domainForm.test(text)
}

export function isDigest(text: string): boolean {
  return digestForm.test(text)
}

/** `docker.io/library/busybox`: no daemon takes it for an id. */
export function repositoryOf(reference: Reference): string {
  return `${reference.domain}/${reference.path}`
}

/** The whole name: two references with the same one mean the same image. */
export function fullName(reference: Reference): string {
  const { tag = 'latest', digest } = reference
  const repository = repositoryOf(reference)
  return digest === undefined ? `${repository}:${tag}` : `${repository}@${digest}`
}

/** The first part is a host if it looks like one; else all of it is a path of Docker's registry. */
function splitDomain(name: string): { domain: string; rest: string } {
  const slash = name.indexOf('/')
  const first = name.slice(0, Math.max(slash, 0))
  const isHost = /[.:]/.test(first) || first === 'localhost' || first.toLowerCase() !== first
  if (slash < 0 || !isHost) return { domain: defaultDomain, rest: name }
  return {
    domain: first === legacyDomain ? defaultDomain : first,
    rest: name.slice(slash + 1),
  }
}
