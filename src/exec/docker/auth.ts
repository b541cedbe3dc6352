/**
 * Credentials of registries: what Docker's configuration says, whose come first, and the form in
 * which the daemon takes them. Pure. No text that this file makes holds a secret.
 */
import { defaultDomain } from './reference.ts'

export interface Credential {
  readonly username: string
  readonly password: string
  /** What `docker login` got in exchange for a password; wins over it. `''` = none. */
  readonly identityToken: string
}

/** A Docker configuration, by the host of the registry as references name it. */
export interface DockerAuths {
  readonly credentials: ReadonlyMap<string, Credential>
  /** Host → the helper `docker-credential-<name>` that knows its credentials. */
  readonly helpers: ReadonlyMap<string, string>
  /** The helper for all other hosts. */
  readonly store: string | undefined
}

export type AuthsResult =
  | { readonly ok: true; readonly auths: DockerAuths }
  | { readonly ok: false; readonly fault: string }

/** `X-Registry-Auth` of Docker's API. */
export interface AuthConfig {
  readonly username?: string
  readonly password?: string
  readonly identitytoken?: string
  readonly serveraddress: string
}

export const noAuths: DockerAuths = { credentials: new Map(), helpers: new Map(), store: undefined }

/** How Docker's own registry is called in configuration files and by credential helpers. */
const indexAddress = 'https://index.docker.io/v1/'
const indexHosts = ['index.docker.io', 'registry-1.docker.io', 'registry.hub.docker.com']

type Fields = Readonly<Record<string, unknown>>

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const textOf = (value: unknown): string => (typeof value === 'string' ? value : '')

/** `{"auths": {…}}`, or as very old Docker wrote it, the map of hosts alone. */
export function parseAuths(text: string): AuthsResult {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    // The parser quotes its input, which is a secret.
    return { ok: false, fault: 'is not JSON, such as {"auths": {"<registry>": {"auth": "…"}}}' }
  }
  if (!isFields(parsed)) return { ok: false, fault: 'is not a JSON object with "auths"' }
  const isModern = ['auths', 'credHelpers', 'credsStore'].some(key => key in (parsed as Fields))
  const entries = isModern ? (parsed.auths ?? {}) : parsed
  if (!isFields(entries)) return { ok: false, fault: '"auths" is not an object' }
  const credentials = new Map<string, Credential>()
  for (const [address, entry] of Object.entries(entries)) {
    const credential = credentialFrom(entry)
    if (credential === undefined) {
      // An address may hold a user and a password, which is nobody's to read.
      const host = hostOf(address).replace(/^.*@/, '')
      return { ok: false, fault: `the entry of "${host}" has no valid "auth"` }
    }
    if (credential !== 'empty') credentials.set(hostOf(address), credential)
  }
  const helpers = isModern && isFields(parsed.credHelpers) ? parsed.credHelpers : {}
  const store = isModern ? textOf(parsed.credsStore) : ''
  return {
    ok: true,
    auths: {
      credentials,
      helpers: new Map(Object.entries(helpers).map(([host, name]) => [hostOf(host), textOf(name)])),
      store: store === '' ? undefined : store,
    },
  }
}

/** `empty`: Docker leaves `{}` where the credentials are in a helper. */
function credentialFrom(entry: unknown): Credential | 'empty' | undefined {
  if (!isFields(entry)) return undefined
  const identityToken = textOf(entry.identitytoken)
  const auth = textOf(entry.auth)
  if (auth !== '') {
    const pair = Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '')
    const colon = pair.indexOf(':')
    if (colon < 1) return undefined
    return { username: pair.slice(0, colon), password: pair.slice(colon + 1), identityToken }
  }
  const username = textOf(entry.username)
  const password = textOf(entry.password)
  if (identityToken === '' && username === '' && password === '') return 'empty'
  if (identityToken === '' && username === '') return undefined
  return { username, password, identityToken }
}

/** The host as references name it, from an address in any of the forms of Docker's files. */
export function hostOf(address: string): string {
  const host = address.replace(/^https?:\/\//, '').replace(/\/.*$/, '')
  return indexHosts.includes(host) ? defaultDomain : host
}

/** How Docker's files and helpers call a host. */
export function addressOf(host: string): string {
  return host === defaultDomain ? indexAddress : host
}

export function authConfig(host: string, credential: Credential): AuthConfig {
  const serveraddress = addressOf(host)
  if (credential.identityToken !== '') {
    return { identitytoken: credential.identityToken, serveraddress }
  }
  return { username: credential.username, password: credential.password, serveraddress }
}

/** What a credential helper printed (docker-credential-helpers, `get`), or undefined. */
export function helperCredential(output: string): Credential | undefined {
  let parsed: unknown
  try {
    parsed = JSON.parse(output)
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    return undefined
  }
  if (!isFields(parsed)) return undefined
  const username = textOf(parsed.Username)
  const secret = textOf(parsed.Secret)
  if (secret === '') return undefined
  // The helpers' protocol marks a token by this name.
  if (username === '<token>') return { username: '', password: '', identityToken: secret }
  return { username, password: secret, identityToken: '' }
}
