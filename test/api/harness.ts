/** A whole API over a real store in a fresh directory, called without a socket. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type AnyElysia, Elysia } from 'elysia'
import pino from 'pino'
import type { Backups } from '../../src/api/fnd/backup.ts'
import type { Images } from '../../src/api/fnd/images.ts'
import type { Fresh } from '../../src/api/freshness.ts'
import { makeApi } from '../../src/api/server.ts'
import { systemClock } from '../../src/clock.ts'
import type { ClusterControl } from '../../src/cluster/control.ts'
import { type Config, readConfig } from '../../src/config.ts'
import { type AssertionError, FndError } from '../../src/errors.ts'
import { IdSource } from '../../src/ids.ts'
import type { Store } from '../../src/store/replica.ts'
import { SecretBox } from '../../src/store/secrets.ts'
import { Metrics } from '../../src/watch/metrics.ts'
import { openAlone } from '../store/sample.ts'
import { loneCluster } from './lone.ts'

export const token = 'a-token-for-tests-0123456789'

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  /** The body as JSON; reading a field of it is up to the test. */
  // biome-ignore lint/suspicious/noExplicitAny: bodies of many shapes, checked by each test
  readonly body: any
}

export interface CallOptions {
  readonly headers?: Record<string, string>
  readonly isAnonymous?: boolean
}

export interface Harness extends AsyncDisposable {
  readonly app: AnyElysia
  readonly metrics: Metrics
  readonly store: Store
  readonly config: Config
  readonly bugs: AssertionError[]
  readonly logLines: string[]
  call(method: string, path: string, body?: unknown, options?: CallOptions): Promise<Answer>
}

const origin = 'http://fnd.test:8080'

function jsonOf(text: string): unknown {
  return text.startsWith('{') ? JSON.parse(text) : undefined
}

/** Stands for the routes of calls: public, and with headers of their own. */
export function openRoutes() {
  return new Elysia()
    .post('/invoke/:fn_id', () => new Response('called'), {
      parse: 'none',
      detail: { tags: ['Invocation'], description: 'Call a function by id.' },
    })
    .all('/t/:app/*', () => new Response('called', { headers: { vary: 'Accept' } }), {
      parse: 'none',
      detail: { tags: ['Invocation'], description: 'Call a function by URL.' },
    })
}

/** A node without a Docker daemon. */
const noImages: Images = {
  prepare: () => Promise.reject(new FndError('docker-unavailable')),
  pulls: [],
  stats: { images: 0, bytes: 0, removed: 0 },
}

export interface HarnessOptions {
  readonly env?: Record<string, string>
  readonly extra?: readonly AnyElysia[]
  readonly images?: Images
  readonly cluster?: ClusterControl
  readonly fresh?: Fresh
  readonly backups?: Backups
  readonly extraAdmin?: readonly AnyElysia[]
}

export async function openApi(options: HarnessOptions = {}): Promise<Harness> {
  const dataDir = mkdtempSync(join(tmpdir(), 'fnd-api-'))
  const env = { FND_DATA: dataDir, FND_LISTEN: '127.0.0.1:0', ...options.env }
  const read = readConfig({}, env)
  if (!read.ok) throw new Error(read.faults.join('; '))
  const store = await openAlone({
    dataDir,
    onFatal: error => {
      throw error
    },
  })
  const metrics = new Metrics({ clock: systemClock, version: '0.0.0-test', commit: 'none' })
  const bugs: AssertionError[] = []
  const logLines: string[] = []
  const status = () => store.status()
  const lone = loneCluster({ config: read.config, version: '0.0.0-test', status })
  const app = makeApi({
    config: read.config,
    cluster: options.cluster ?? lone.cluster,
    fresh: options.fresh ?? lone.fresh,
    backups: options.backups ?? lone.backups,
    state: store.state,
    clock: systemClock,
    ids: new IdSource(systemClock, { machine: 1n, counter: 0 }),
    log: pino({ base: null }, { write: line => void logLines.push(line) }),
    bundles: store.bundles,
    images: options.images ?? noImages,
    secrets: new SecretBox(dataDir),
    reports: {
      describeFn: fnId => ({ instances: [], described: fnId }),
      status: () => ({ role: 'leader' }),
      doctor: () => ({ checks: [] }),
    },
    token,
    version: '0.0.0-test',
    counterOf: (method, path) => metrics.route(method, path),
    onBug: error => void bugs.push(error),
    extra: options.extra ?? [openRoutes()],
    extraAdmin: options.extraAdmin ?? [],
  })
  return {
    app,
    metrics,
    store,
    config: read.config,
    bugs,
    logLines,
    call: async (method, path, body, callOptions = {}) => {
      const headers: Record<string, string> = { host: 'fnd.test:8080', ...callOptions.headers }
      if (!callOptions.isAnonymous) headers.authorization ??= `Bearer ${token}`
      const init = { method, headers, redirect: 'manual' as const }
      const payload = typeof body === 'object' ? JSON.stringify(body) : (body as string | undefined)
      const request = new Request(
        origin + path,
        payload === undefined ? init : { ...init, body: payload },
      )
      const response = await app.handle(request)
      const text = await response.text()
      return { status: response.status, headers: response.headers, text, body: jsonOf(text) }
    },
    [Symbol.asyncDispose]: async () => {
      await store[Symbol.asyncDispose]()
      rmSync(dataDir, { recursive: true, force: true })
    },
  }
}
