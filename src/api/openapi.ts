/** The OpenAPI document of a composed server, from the schemas and details of its routes. */
import { toOpenAPISchema } from '@elysiajs/openapi/openapi'
import { type AnyElysia, t } from 'elysia'
import { json, type SchemaName } from './detail.ts'
import { bundleSchema } from './fnd/bundles.ts'
import { imagesSchema, prepareBody } from './fnd/images.ts'
import { statusSchema } from './fnd/node.ts'
import {
  approveBody,
  joinedSchema,
  leaderSchema,
  nodeListSchema,
  nodeSchema,
  pendingSchema,
  transferBody,
} from './fnd/nodes.ts'
import { registryBody, registrySchema } from './fnd/registries.ts'
import { leavingSchema, tokenBody, tokenSchema } from './fnd/token.ts'
import { appSchema } from './v2/apps.ts'
import { fnSchema } from './v2/fns.ts'
import { triggerSchema } from './v2/triggers.ts'

const errorSchema = t.Object(
  {
    message: t.String({ description: 'For people.' }),
    code: t.String({ description: 'For programs; never changes.' }),
    field: t.Optional(t.String({ description: 'The part of the request at fault.' })),
    requestId: t.Optional(
      t.String({ description: 'Find the log line of an internal error by it.' }),
    ),
  },
  { description: 'What went wrong.' },
)

function listOf(name: SchemaName): object {
  return {
    type: 'object',
    required: ['items'],
    properties: {
      next_cursor: { type: 'string', description: 'Absent on the last page.' },
      items: { type: 'array', items: { $ref: `#/components/schemas/${name}` } },
    },
  }
}

const schemas: Readonly<Record<SchemaName, object>> = {
  App: appSchema,
  AppList: listOf('App'),
  Fn: fnSchema,
  FnList: listOf('Fn'),
  Trigger: triggerSchema,
  TriggerList: listOf('Trigger'),
  Error: errorSchema,
  Bundle: bundleSchema,
  Registry: registrySchema,
  RegistryList: listOf('Registry'),
  Images: imagesSchema,
  Node: nodeSchema,
  NodeList: nodeListSchema,
  Leader: leaderSchema,
  PendingJoin: pendingSchema,
  PendingJoinList: listOf('PendingJoin'),
  Joined: joinedSchema,
  JoinToken: tokenSchema,
  Leaving: leavingSchema,
  Status: statusSchema,
}

type Operation = Record<string, unknown>
type PathItem = Record<string, Operation>

/** What the bodies of operations are, by the schema that their routes check. */
const bodyNames = new Map<unknown, SchemaName | object>([
  [appSchema, 'App'],
  [fnSchema, 'Fn'],
  [triggerSchema, 'Trigger'],
  [registryBody, registryBody],
  [prepareBody, prepareBody],
  [transferBody, transferBody],
  [approveBody, approveBody],
  [tokenBody, tokenBody],
])

/** `METHOD path` → the request body, which the generator leaves empty where we parse ourselves. */
function requestBodies(app: AnyElysia): ReadonlyMap<string, object> {
  const bodies = new Map<string, object>()
  for (const { method, path, hooks } of app.routes) {
    const name = bodyNames.get(hooks.body)
    if (name === undefined) continue
    const schema = typeof name === 'string' ? { $ref: `#/components/schemas/${name}` } : name
    const key = `${method.toLowerCase()} ${path.replace(/:([^/]+)/g, '{$1}')}`
    bodies.set(key, { required: true, content: { 'application/json': { schema } } })
  }
  return bodies
}

function withId(operation: Operation, method: string, path: string): Operation {
  const words = path.match(/[A-Za-z0-9]+/g) ?? ['root']
  const operationId = [method, ...words].join('_')
  const isAdmin = Array.isArray(operation.security) && operation.security.length > 0
  const responses = {
    ...(isAdmin ? { 401: json('Error', 'A valid bearer token is required') } : {}),
    ...((operation.responses as object | undefined) ?? { default: { description: 'The answer' } }),
  }
  return { ...operation, operationId, responses }
}

/** What goes through `freshly` in `server.ts`: replicated rows, read and changed. */
const replicated = /^\/(v2\/|fnd\/v1\/apps\/|fnd\/v1\/fns\/\{fn_id\}$)/

const freshParameters = [
  {
    name: 'consistency',
    in: 'query',
    schema: { type: 'string', enum: ['linear', 'local'] },
    description:
      'How fresh the read is: `linear` sees all that was acknowledged, `local` what this node ' +
      'knows. Also as the header `Fnd-Consistency`.',
  },
  {
    name: 'min-index',
    in: 'query',
    schema: { type: 'integer', minimum: 0 },
    description:
      'Reads locally once this change is applied: `Fnd-Applied-Index` of an earlier answer. Also ' +
      'as the header `Fnd-Min-Index`.',
  },
]

/** What any operation on replicated rows may be asked for, and may come to. */
function withFreshness(operation: Operation, method: string, path: string): Operation {
  if (!replicated.test(path)) return operation
  const own = Array.isArray(operation.parameters) ? operation.parameters : []
  const responses = { ...(operation.responses as object), 503: unavailable }
  if (method !== 'get') return { ...operation, responses }
  return { ...operation, responses, parameters: [...own, ...freshParameters] }
}

const unavailable = json('Error', 'No leader, or no majority; `Retry-After` says when to ask again')

/** Elysia's wildcard is `*`; OpenAPI wants a name. */
function namedWildcard(operation: Operation): Operation {
  const parameters = Array.isArray(operation.parameters) ? operation.parameters : []
  const others = parameters.filter(parameter => parameter.name !== '*')
  const schema = { type: 'string' }
  const rest = {
    name: 'path',
    in: 'path',
    required: true,
    schema,
    description: 'The rest of the path; may contain slashes.',
  }
  return { ...operation, parameters: [...others, rest] }
}

function pathItem(
  path: string,
  item: PathItem,
  bodies: ReadonlyMap<string, object>,
): [string, PathItem] {
  const isWild = path.endsWith('*')
  const name = isWild ? path.replace(/\*$/, '{path}') : path
  const operations: PathItem = {}
  for (const [method, operation] of Object.entries(item)) {
    const requestBody = bodies.get(`${method} ${path}`)
    const named = withId(isWild ? namedWildcard(operation) : operation, method, name)
    const described = withFreshness(named, method, name)
    operations[method] = requestBody === undefined ? described : { ...described, requestBody }
  }
  return [name, operations]
}

export function openApiDocument(app: AnyElysia, version: string): object {
  const generated = toOpenAPISchema(app, { methods: [], staticFile: false })
  const bodies = requestBodies(app)
  const paths = Object.entries(generated.paths) as unknown as [string, PathItem][]
  return {
    openapi: '3.1.0',
    info: {
      title: 'fnd',
      version,
      description:
        "Fn's API v2, and fnd's own under /fnd/v1. Ids are opaque; names are looked up with the " +
        '`name` filters of lists. Errors are `{message, code}`.',
    },
    tags: [
      { name: 'Apps', description: 'Groups of functions.' },
      { name: 'Functions', description: 'Code and how it runs.' },
      { name: 'Triggers', description: 'URLs that call functions.' },
      { name: 'Invocation', description: 'Calls.' },
      { name: 'Calls', description: 'Records of calls.' },
      { name: 'Bundles', description: 'Uploaded code.' },
      { name: 'Images', description: 'Images of containers, and where they come from.' },
      { name: 'Logs', description: 'Output of functions.' },
      { name: 'Watching', description: 'Health and metrics.' },
      { name: 'Cluster', description: 'The nodes, and who they are.' },
      { name: 'Node', description: 'The server itself.' },
    ],
    paths: Object.fromEntries(paths.map(([path, item]) => pathItem(path, item, bodies))),
    components: {
      schemas,
      securitySchemes: {
        adminToken: {
          type: 'http',
          scheme: 'bearer',
          description: 'The token in `admin.token` of the data directory.',
        },
      },
    },
  }
}
