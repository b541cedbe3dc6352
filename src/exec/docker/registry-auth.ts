/** Whose credentials a pull uses: the app's, else FN_DOCKER_AUTH's, else those of Docker's file. */
import { readFile } from 'node:fs/promises'
import type { DockerConfig } from '../../config-docker.ts'
import { assert, FndError } from '../../errors.ts'
import type { Logger } from '../../log.ts'
import {
  type AuthConfig,
  authConfig,
  type Credential,
  type DockerAuths,
  noAuths,
  parseAuths,
} from './auth.ts'
import { askHelper } from './credential-helper.ts'

/** One registry's credential of an app. */
export interface AppCredential extends Credential {
  /** As references name it: `docker.io`, `registry.example:5000`. */
  readonly host: string
  /** Tells this credential from any other, and nothing else of it. */
  readonly fingerprint: string
}

export type AppCredentials = readonly AppCredential[]

export interface PullAuth {
  readonly config: AuthConfig | undefined
  /** Of the app's credential; undefined when the pull is the operator's, or anonymous. */
  readonly grant: string | undefined
}

export interface RegistryAuthOptions {
  readonly config: Pick<DockerConfig, 'authText' | 'authFile'>
  readonly credentials: (appId: string) => AppCredentials
  readonly log: Logger
}

export class RegistryAuth {
  readonly #options: RegistryAuthOptions
  readonly #given: DockerAuths

  constructor(options: RegistryAuthOptions) {
    this.#options = options
    const { authText } = options.config
    const parsed = authText === '' ? undefined : parseAuths(authText)
    assert(parsed?.ok !== false, 'the settings were checked when they were read')
    this.#given = parsed?.auths ?? noAuths
  }

  /** The fingerprint of the credential that the app has for this registry. */
  grantOf(appId: string, host: string): string | undefined {
    return this.#ofApp(appId, host)?.fingerprint
  }

  /** Rejects with `FndError` when the operator's file cannot be understood. */
  async authOf(appId: string, host: string): Promise<PullAuth> {
    const own = this.#ofApp(appId, host)
    if (own !== undefined) return { config: authConfig(host, own), grant: own.fingerprint }
    const found = (await this.#from(this.#given, host)) ?? (await this.#ofFile(host))
    return { config: found && authConfig(host, found), grant: undefined }
  }

  #ofApp(appId: string, host: string): AppCredential | undefined {
    return this.#options.credentials(appId).find(one => one.host === host)
  }

  /** Read for each pull, as Docker does: `docker login` changes it at any time. */
  async #ofFile(host: string): Promise<Credential | undefined> {
    const { authFile } = this.#options.config
    let text: string
    try {
      text = await readFile(authFile, 'utf8')
    } catch (cause) {
      const { code = '', message } = cause as NodeJS.ErrnoException
      if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
      throw new FndError('credentials-unreadable', { detail: message, cause })
    }
    const parsed = parseAuths(text)
    if (parsed.ok) return this.#from(parsed.auths, host)
    throw new FndError('credentials-unreadable', { detail: `${authFile} ${parsed.fault}` })
  }

  /** Docker's order: the helper of the host, the one for all, then what the file itself holds. */
  async #from(auths: DockerAuths, host: string): Promise<Credential | undefined> {
    const helper = auths.helpers.get(host) ?? auths.store
    const note = (reason: string) =>
      this.#options.log.warn({ helper, registry: host, reason }, 'a credential helper did not help')
    const helped = helper === undefined ? undefined : await askHelper(helper, host, note)
    return helped ?? auths.credentials.get(host)
  }
}
