/**
 * A server with just what the command line asks for, in memory, its answers as Fn's API gives
 * them. It stands in for a server at the process boundary; the tests of the whole system use a
 * real one.
 */
interface Row {
  id: string
  name: string
  app_id?: string
  fn_id?: string
  source?: string
  config?: Record<string, string>
  annotations?: Record<string, unknown>
  [field: string]: unknown
}

export interface FixtureServer extends Disposable {
  readonly url: string
  readonly token: string
  readonly bundles: Map<string, Uint8Array>
  readonly rows: Record<'apps' | 'fns' | 'triggers', Row[]>
  /** Every request so far, as `METHOD path`. */
  readonly requests: string[]
  /** Ends followed logs. */
  endLogs(): void
}

const perPage = 3
const derived = {
  apps: (_row: Row, _server: FixtureServer) => ({}),
  fns: (row: Row, server: FixtureServer) => ({
    'fnproject.io/fn/invokeEndpoint': `${server.url}/invoke/${row.id}`,
  }),
  triggers: (row: Row, server: FixtureServer) => {
    const app = server.rows.apps.find(one => one.id === row.app_id)
    return { 'fnproject.io/trigger/httpEndpoint': `${server.url}/t/${app?.name}${row.source}` }
  },
}

export function startFixtureServer(): FixtureServer {
  const ends: (() => void)[] = []
  const bunServer = Bun.serve({
    port: 0,
    hostname: '127.0.0.1',
    idleTimeout: 0,
    fetch: request => answer(request, fixture, ends),
  })
  const fixture: FixtureServer = {
    url: `http://127.0.0.1:${bunServer.port}`,
    token: 'secret-token-of-the-fixture',
    bundles: new Map(),
    rows: { apps: [], fns: [], triggers: [] },
    requests: [],
    endLogs: () => {
      for (const end of ends.splice(0)) end()
    },
    [Symbol.dispose]: () => void bunServer.stop(true),
  }
  return fixture
}

async function answer(
  request: Request,
  server: FixtureServer,
  ends: (() => void)[],
): Promise<Response> {
  const url = new URL(request.url)
  server.requests.push(`${request.method} ${url.pathname}${url.search}`)
  if (url.pathname === '/version') return Response.json({ version: '9.9.9' })
  if (url.pathname.startsWith('/invoke/')) return invoke(request)
  if (request.headers.get('authorization') !== `Bearer ${server.token}`) {
    return fault(401, 'A valid bearer token is required')
  }
  const [, root, kind = '', id = '', last = ''] = url.pathname.split('/')
  if (root === 'v2') return rows(request, url, server, kind as keyof typeof derived, id)
  if (id === 'bundles') return bundle(request, server, last)
  if (url.pathname === '/fnd/v1/doctor') return Response.json({ checks: doctorChecks })
  if (url.pathname.endsWith('/log') || url.pathname.endsWith('/logs')) return logs(url, ends)
  return fault(404, `Path not found: ${request.method} ${url.pathname}`)
}

export const doctorChecks = [
  { name: 'storage', status: 'ok', note: 'syncs in 2 ms' },
  { name: 'isolation', status: 'warn', note: 'no cgroups', hint: 'run as root' },
]

function fault(status: number, message: string): Response {
  return Response.json({ message }, { status })
}

async function rows(
  request: Request,
  url: URL,
  server: FixtureServer,
  kind: keyof typeof derived,
  id: string,
): Promise<Response> {
  const table = server.rows[kind]
  const shown = (row: Row) => ({
    ...row,
    annotations: { ...row.annotations, ...derived[kind](row, server) },
  })
  if (id === '' && request.method === 'GET') return list(url, table.map(shown))
  if (request.method === 'POST') return create(request, table, shown)
  const row = table.find(one => one.id === id)
  if (row === undefined) return fault(404, 'not found')
  if (request.method === 'GET') return Response.json(shown(row))
  if (request.method === 'DELETE') {
    table.splice(table.indexOf(row), 1)
    return new Response(null, { status: 204 })
  }
  const change = (await request.json()) as Row
  const config = { ...row.config, ...change.config }
  for (const [key, value] of Object.entries(config)) if (value === '') delete config[key]
  const annotations = { ...row.annotations, ...change.annotations }
  Object.assign(row, change, { config, annotations })
  return Response.json(row)
}

async function create(
  request: Request,
  table: Row[],
  shown: (row: Row) => unknown,
): Promise<Response> {
  const body = (await request.json()) as Row
  const same = table.find(one => one.source !== undefined && one.source === body.source)
  if (same !== undefined && same.app_id === body.app_id) {
    return fault(409, 'Trigger with the same type and source exists on this app')
  }
  const id = `01K000000000000000000000${String(table.length + 10)}`
  const defaults = { memory: 128, timeout: 30, idle_timeout: 30 }
  const row: Row = { ...defaults, ...body, id, updated_at: '2026-11-20T10:14:50.102Z' }
  table.push(row)
  return Response.json(shown(row))
}

function list(url: URL, all: Row[]): Response {
  const cursor = Buffer.from(url.searchParams.get('cursor') ?? '', 'base64url').toString()
  const found = all
    .filter(row => ['app_id', 'fn_id', 'name'].every(key => matches(url, row, key)))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .filter(row => row.name > cursor)
  const items = found.slice(0, perPage)
  const next =
    items.length === perPage ? Buffer.from(items.at(-1)?.name ?? '').toString('base64url') : ''
  return Response.json({ items, ...(next === '' ? {} : { next_cursor: next }) })
}

function matches(url: URL, row: Row, key: string): boolean {
  const wanted = url.searchParams.get(key)
  return wanted === null || row[key] === wanted
}

async function bundle(request: Request, server: FixtureServer, id: string): Promise<Response> {
  if (request.method === 'HEAD') {
    return new Response(null, { status: server.bundles.has(id) ? 200 : 404 })
  }
  const bytes = await request.bytes()
  const hash = new Bun.CryptoHasher('sha256').update(bytes).digest('hex')
  if (id !== `sha256-${hash}`) return fault(400, 'The content does not have the given hash')
  server.bundles.set(id, bytes)
  return new Response(null, { status: 201 })
}

/** Echoes; a body of `fail` gets what a failing function gets. */
async function invoke(request: Request): Promise<Response> {
  const headers = { 'fn-call-id': '01KAB3D5Y00000000000000012' }
  if (request.headers.has('authorization')) return fault(500, 'the admin token was sent')
  const body = await request.bytes()
  if (Buffer.from(body).toString() === 'fail') {
    return Response.json({ message: 'function failed' }, { status: 502, headers })
  }
  const type = request.headers.get('content-type') ?? ''
  const own = request.headers.get('x-own') ?? ''
  return new Response(body, { headers: { ...headers, 'content-type': type, 'x-own': own } })
}

function logs(url: URL, ends: (() => void)[]): Response {
  const line = (text: string) => {
    const call = { call_id: '01KAB3D5Y00000000000000012', fn_id: 'x', stream: 'stdout' }
    return `${JSON.stringify({ ...call, time: '2026-11-20T10:14:50.102Z', text })}\n`
  }
  const follow = url.searchParams.get('follow') === '1'
  const encoder = new TextEncoder()
  return new Response(
    new ReadableStream({
      start(controller) {
        // The second line comes in two pieces, as a network may deliver it.
        const second = line('second \u001b[31mred')
        controller.enqueue(encoder.encode(`\n${line('first')}${second.slice(0, 20)}`))
        controller.enqueue(encoder.encode(second.slice(20)))
        if (follow) ends.push(() => controller.close())
        else controller.close()
      },
      // The reader is gone; there is nothing left to end.
      cancel: () => void ends.splice(0),
    }),
  )
}
