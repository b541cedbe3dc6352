/**
 * The whole HTTP API as one Elysia instance. Hooks of the admin resources are scoped to them, and
 * the only hook that calls see is the error hook, which costs nothing while nothing fails. It names
 * little, because Elysia prepares for every call whatever part of the context a hook mentions; the
 * route is a constant.
 */
import { type AnyElysia, Elysia } from 'elysia'
import type { Clock } from '../clock.ts'
import type { ClusterControl } from '../cluster/control.ts'
import type { Config } from '../config.ts'
import { type AssertionError, assert } from '../errors.ts'
import type { IdSource } from '../ids.ts'
import type { Logger } from '../log.ts'
import type { State } from '../store/state.ts'
import { commandVersionGiven } from '../version.ts'
import { adminOnly } from './admin.ts'
import { makeAuthorize } from './auth.ts'
import { makeCors, type RequestHandler, withCors } from './cors.ts'
import { type CounterOf, RequestCount } from './counted.ts'
import { adminSecurity } from './detail.ts'
import { makeErrorMapper } from './errors.ts'
import { type Backups, backupApi } from './fnd/backup.ts'
import { type Bundles, bundlesApi } from './fnd/bundles.ts'
import { docsApi } from './fnd/docs.ts'
import { type Images, imagesApi } from './fnd/images.ts'
import { fnReportApi, type NodeReports, nodeApi } from './fnd/node.ts'
import { nodesApi, nodeWishesApi } from './fnd/nodes.ts'
import { noteApi } from './fnd/note.ts'
import { registriesApi, type Sealer } from './fnd/registries.ts'
import { tokenApi } from './fnd/token.ts'
import { type Fresh, freshly } from './freshness.ts'
import { makeNoRoute } from './no-route.ts'
import { openApiDocument } from './openapi.ts'
import { appsApi } from './v2/apps.ts'
import { callsApi } from './v2/calls.ts'
import { fnsApi } from './v2/fns.ts'
import { triggersApi } from './v2/triggers.ts'

export interface ApiParts {
  readonly config: Config
  readonly state: State
  readonly clock: Clock
  readonly ids: IdSource
  readonly log: Logger
  readonly bundles: Bundles
  readonly images: Images
  readonly secrets: Sealer
  readonly reports: NodeReports
  readonly cluster: ClusterControl
  readonly fresh: Fresh
  readonly backups: Backups
  /** The admin token; unused when `config.isAuthOff`. */
  readonly token: string
  /** fnd's version, for the OpenAPI document. */
  readonly version: string
  /** Must end the process: the program is in a state that its author ruled out. */
  readonly onBug: (error: AssertionError) => void
  readonly counterOf: CounterOf
  /** Open to everyone: calls, health, metrics. */
  readonly extra: readonly AnyElysia[]
  /** Behind the admin token: logs. */
  readonly extraAdmin: readonly AnyElysia[]
}

export function makeApi(parts: ApiParts): AnyElysia {
  const authorize = makeAuthorize(parts.config, parts.token)
  const admin = { ...parts, authorize }
  let noRoute: ((request: Request) => Response) | undefined
  const mapError = makeErrorMapper({
    ...parts,
    noRoute: request => {
      assert(noRoute !== undefined, 'requests come after the server is composed')
      return noRoute(request)
    },
  })
  let document: object | undefined

  const app: AnyElysia = new Elysia({
    // `/x/` is not `/x`: Fn redirects it.
    strictPath: true,
    // Requests are checked, not copied: a copy would cost time on every call.
    normalize: false,
    // Bun's own router matches paths differently; tests and server shall take the same one.
    systemRouter: false,
    // Elysia otherwise assumes a host name of at least four characters.
    handler: { standardHostname: false },
  })
  const count = new RequestCount(parts.counterOf)
  app.onError(({ error, request, route }) => count.failed(request, route, mapError(error, request)))
  const { fresh, state } = parts
  const replicated = [appsApi, fnsApi, triggersApi, callsApi, registriesApi, fnReportApi]
  for (const resource of replicated) app.use(count.over(freshly(fresh, state, resource(admin))))
  // Only a build that stands for the next version of fnd has it.
  const next = commandVersionGiven === undefined ? [] : [noteApi]
  const nodes = [nodesApi, nodeWishesApi, tokenApi, backupApi]
  for (const resource of [bundlesApi, imagesApi, nodeApi, ...nodes, ...next]) {
    app.use(count.over(resource(admin)))
  }
  for (const instance of parts.extraAdmin) {
    app.use(
      new Elysia({ detail: { security: adminSecurity } }).use(adminOnly(authorize)).use(instance),
    )
  }
  for (const instance of parts.extra) app.use(instance)
  app.use(
    docsApi(() => {
      document ??= openApiDocument(app, parts.version)
      return document
    }),
  )
  const { cors: corsOptions } = parts.config
  if (corsOptions.origins.length > 0) {
    const cors = makeCors(corsOptions)
    app.wrap(handle => withCors(cors, handle as unknown as RequestHandler))
  }
  noRoute = makeNoRoute(app)
  return app
}
