/**
 * Calls past the router. What Elysia makes for a request, a context and two promises, is a third of
 * the garbage of a hot call, so URLs that plainly name a function are answered before it sees them.
 * It has the same routes still, for whatever is left and for the OpenAPI document.
 */

/** Undefined for a request that is left to the router. Never rejects. */
export type Direct = (request: Request) => Promise<Response> | undefined

type Fetch = (request: Request) => Response | Promise<Response>

export function pastRouter(invoke: Direct, gateway: Direct, router: Fetch): Fetch {
  return request => invoke(request) ?? gateway(request) ?? router(request)
}

/** Where the path of a request's URL begins; Bun leaves all before it out for an unusable Host. */
export function pathStart(url: string): number {
  if (url.startsWith('/')) return 0
  return url.indexOf('/', 'https://'.length)
}
