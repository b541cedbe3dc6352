/**
 * Cross-origin access in Fn's manner (FN_API_CORS_ORIGINS, FN_API_CORS_HEADERS). It wraps the whole
 * server, so that it has the last word on every response: those of functions and errors included.
 * Where no origin is configured it is not installed at all.
 */

export interface CorsOptions {
  /** Exact origins, or `*`. Not empty. */
  readonly origins: readonly string[]
  /** Request headers allowed beside the usual ones. */
  readonly headers: readonly string[]
}

const methods = 'GET,POST,PUT,HEAD,DELETE'
const headersAlways = ['Origin', 'Content-Length', 'Content-Type']
const preflightMaxAgeS = 43_200

export interface Cors {
  /** The answer when the request need not, or must not, go further. */
  before(request: Request): Response | undefined
  after(request: Request, response: Response): Response
}

function isSameOrigin(origin: string, request: Request): boolean {
  const host = request.headers.get('host')
  return host !== null && (origin === `http://${host}` || origin === `https://${host}`)
}

export function makeCors(options: CorsOptions): Cors {
  const isOpen = options.origins.includes('*')
  const allowed = new Set(options.origins)
  const allowedHeaders = [...headersAlways, ...options.headers].join(',')

  const mark = (headers: Headers, origin: string | null): void => {
    if (isOpen) {
      if (origin !== null) headers.set('access-control-allow-origin', '*')
      return
    }
    if (origin !== null) headers.set('access-control-allow-origin', origin)
    // Caches must not hand one origin's answer to another.
    const vary = headers.get('vary')
    if (vary === null) headers.set('vary', 'Origin')
    else if (!/(^|,)\s*(origin|\*)\s*(,|$)/i.test(vary)) headers.set('vary', `${vary}, Origin`)
  }

  return {
    before: request => {
      const origin = request.headers.get('origin')
      if (origin === null || isSameOrigin(origin, request)) return undefined
      if (!isOpen && !allowed.has(origin)) return new Response(null, { status: 403 })
      // An OPTIONS without this header is an ordinary request, which a function may answer.
      const wanted = request.headers.get('access-control-request-method')
      if (request.method !== 'OPTIONS' || wanted === null) return undefined
      const headers = new Headers({
        'access-control-allow-methods': methods,
        'access-control-allow-headers': allowedHeaders,
        'access-control-max-age': String(preflightMaxAgeS),
      })
      mark(headers, origin)
      return new Response(null, { status: 200, headers })
    },
    after: (request, response) => {
      const origin = request.headers.get('origin')
      const isCross = origin !== null && !isSameOrigin(origin, request)
      mark(response.headers, isCross ? origin : null)
      return response
    },
  }
}

export type RequestHandler = (
  request: Request,
  ...rest: readonly unknown[]
) => Response | Promise<Response>

/** Puts CORS around a server's request handler. */
export function withCors(cors: Cors, handle: RequestHandler): RequestHandler {
  return (request, ...rest) => {
    const early = cors.before(request)
    if (early !== undefined) return early
    const response = handle(request, ...rest)
    if (response instanceof Response) return cors.after(request, response)
    return response.then(settled => cors.after(request, settled))
  }
}
