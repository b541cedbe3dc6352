/**
 * A registry of images for tests: Debian's docker-registry behind a proxy with TLS, which counts
 * requests and can hold them back. Whoever pulls or pushes needs the name and the password.
 *
 * A daemon of the same host trusts it by `/etc/docker/certs.d/<host:port>/ca.crt`. On a loopback
 * address Docker lets every registry pass without a valid certificate, and asks again in plain HTTP
 * when it was refused, so the error that it tells is another. Where that matters, listen on the
 * address of a daemon's bridge (`daemon.gateway`).
 */
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Subprocess } from 'bun'
import type Docker from 'dockerode'
import { makeCerts } from './certs.ts'
import { freePort } from './daemon.ts'
import { followed } from './images.ts'
import { isOwned, ownerText } from './leftovers.ts'

export interface RegistryOptions {
  /** An address of this host; loopback when absent. */
  readonly address?: string
  /** Without a certificate that daemons trust. */
  readonly isUntrusted?: boolean
}

const startTimeoutMs = 20_000

export class Registry implements AsyncDisposable {
  readonly username = 'somebody'
  readonly password = 'secret of somebody'
  /** host:port, the first part of the names of its images. */
  readonly name: string
  /** Requests so far, as `GET /v2/…`. */
  readonly requests: string[] = []
  /** Every request waits this long before it is passed on. */
  delayMs = 0
  readonly #dir: string
  readonly #registry: Subprocess
  readonly #proxy: Bun.Server<undefined>
  readonly #trustDir: string
  #gate: PromiseWithResolvers<void> | undefined

  private constructor(dir: string, options: RegistryOptions) {
    this.#dir = dir
    const address = options.address ?? '127.0.0.1'
    const certs = join(dir, 'certs')
    makeCerts(certs, [address])
    const port = freePort()
    this.#registry = runRegistry(dir, port, `${this.username}:${hashOf(this.password)}`)
    this.#proxy = Bun.serve({
      hostname: address,
      port: 0,
      idleTimeout: 0,
      maxRequestBodySize: 4 * 2 ** 30,
      tls: {
        cert: readFileSync(join(certs, 'server-cert.pem')),
        key: readFileSync(join(certs, 'server-key.pem')),
      },
      fetch: request => this.#pass(request, `http://127.0.0.1:${port}`),
    })
    this.name = `${address}:${this.#proxy.port}`
    this.#trustDir = join(trustRoot, this.name)
    if (options.isUntrusted === true) return
    mkdirSync(this.#trustDir, { recursive: true })
    writeFileSync(join(this.#trustDir, ownerFile), ownerText())
    copyFileSync(join(certs, 'ca.pem'), join(this.#trustDir, 'ca.crt'))
  }

  /** Resolves when it answers. Throws when docker-registry is missing or does not start. */
  static async start(options: RegistryOptions = {}): Promise<Registry> {
    if (Bun.which('docker-registry') === null) {
      throw new Error('missing: docker-registry. Install it (see .ci/run).')
    }
    removeOldTrust()
    const registry = new Registry(mkdtempSync(join(tmpdir(), 'fnd-registry-')), options)
    try {
      await registry.#answers()
    } catch (cause) {
      await registry.stop()
      throw cause
    }
    return registry
  }

  /** What a daemon needs to push to it and to pull from it. */
  get authconfig(): Docker.AuthConfig {
    return { username: this.username, password: this.password, serveraddress: this.name }
  }

  /** The text of a Docker config file that holds the password. */
  get dockerConfig(): string {
    const auth = Buffer.from(`${this.username}:${this.password}`).toString('base64')
    return JSON.stringify({ auths: { [this.name]: { auth } } })
  }

  /**
   * Pushes an image that `docker` has under another name, and forgets the new name there, so that
   * it must be pulled. Returns that name. Pushing again under the same name moves the tag.
   */
  async push(docker: Docker, image: string, name: string): Promise<string> {
    const [repo = '', tag = 'latest'] = name.split(':')
    const full = `${this.name}/${repo}`
    await docker.getImage(image).tag({ repo: full, tag })
    const pushed = docker.getImage(`${full}:${tag}`)
    await followed(docker, await pushed.push({ tag, authconfig: this.authconfig }))
    await pushed.remove()
    return `${full}:${tag}`
  }

  /** How often the manifest of an image was asked for, by whatever name: once for each pull. */
  get pulls(): number {
    return this.requests.filter(line => /^(GET|HEAD) \S*\/manifests\/(?!sha256:)/.test(line)).length
  }

  /** Requests wait until `release`. */
  hold(): void {
    this.#gate ??= Promise.withResolvers<void>()
  }

  release(): void {
    this.#gate?.resolve()
    this.#gate = undefined
  }

  async stop(): Promise<void> {
    this.release()
    await this.#proxy.stop(true)
    this.#registry.kill('SIGKILL')
    await this.#registry.exited
    rmSync(this.#trustDir, { recursive: true, force: true })
    rmSync(this.#dir, { recursive: true, force: true })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #pass(request: Request, upstream: string): Promise<Response> {
    const { pathname, search } = new URL(request.url)
    this.requests.push(`${request.method} ${pathname}`)
    if (this.delayMs > 0) await Bun.sleep(this.delayMs)
    await this.#gate?.promise
    const passed = fetch(upstream + pathname + search, {
      method: request.method,
      headers: request.headers,
      body: request.body,
      redirect: 'manual',
      decompress: false,
    })
    return passed.catch(cause => new Response(String(cause), { status: 502 }))
  }

  async #answers(): Promise<void> {
    const deadlineMs = performance.now() + startTimeoutMs
    for (;;) {
      const status = await fetch(`https://${this.name}/v2/`, {
        tls: { rejectUnauthorized: false },
      }).then(
        response => response.status,
        () => 0,
      )
      if (status === 401) break
      if (this.#registry.exitCode !== null || performance.now() > deadlineMs) {
        const log = readFileSync(join(this.#dir, 'log'), 'utf8')
        throw new Error(`docker-registry does not start:\n${log.slice(-3000)}`)
      }
      await Bun.sleep(20)
    }
    this.requests.length = 0
  }
}

function hashOf(password: string): string {
  return Bun.password.hashSync(password, { algorithm: 'bcrypt', cost: 4 })
}

function runRegistry(dir: string, port: number, credentials: string): Subprocess {
  writeFileSync(join(dir, 'htpasswd'), `${credentials}\n`)
  const config = {
    version: '0.1',
    log: { level: 'warn' },
    storage: { filesystem: { rootdirectory: join(dir, 'images') }, delete: { enabled: true } },
    http: { addr: `127.0.0.1:${port}`, relativeurls: true },
    auth: { htpasswd: { realm: 'fnd tests', path: join(dir, 'htpasswd') } },
  }
  // JSON is YAML.
  writeFileSync(join(dir, 'config.yml'), JSON.stringify(config))
  const log = openSync(join(dir, 'log'), 'a')
  const command = ['docker-registry', 'serve', join(dir, 'config.yml')]
  const child = Bun.spawn(['setpriv', '--pdeathsig', 'SIGKILL', ...command], {
    stdin: 'ignore',
    stdout: log,
    stderr: log,
  })
  closeSync(log)
  return child
}

/** Where every daemon of a host looks for authorities of registries. */
const trustRoot = '/etc/docker/certs.d'
const ownerFile = 'fnd-test.json'

/** Removes the trust in registries of tests that have ended without doing so. */
function removeOldTrust(): void {
  if (!existsSync(trustRoot)) return
  for (const name of readdirSync(trustRoot)) {
    const file = join(trustRoot, name, ownerFile)
    if (existsSync(file) && !isOwned(readFileSync(file, 'utf8'))) {
      rmSync(join(trustRoot, name), { recursive: true, force: true })
    }
  }
}
