/** Answers for what no route takes: Fn's 404, 405 and redirect of a trailing slash. */
import type { AnyElysia } from 'elysia'
import { FndError } from '../errors.ts'
import { errorResponse } from './errors.ts'
import { pathOf, queryOf } from './url.ts'

interface Route {
  readonly method: string
  readonly pattern: RegExp
}

function patternOf(path: string): RegExp {
  const parts = path.split('/').map(part => {
    if (part.startsWith(':')) return '[^/]+'
    return part.split('*').map(RegExp.escape).join('.*')
  })
  return new RegExp(`^${parts.join('/')}$`)
}

/** Built once, used only when nothing matched. */
export function makeNoRoute(app: AnyElysia): (request: Request) => Response {
  const routes: readonly Route[] = app.routes.map(({ method, path }) => ({
    method,
    pattern: patternOf(path),
  }))
  const methodsOf = (path: string): readonly string[] => {
    const methods = routes.filter(route => route.pattern.test(path)).map(route => route.method)
    // Elysia answers HEAD with what GET would.
    return [...new Set(methods.includes('GET') ? [...methods, 'HEAD'] : methods)]
  }

  return request => {
    const path = pathOf(request.url)
    const methods = methodsOf(path)
    if (methods.length > 0) {
      const error = new FndError('method-not-allowed', { detail: `${request.method} ${path}` })
      const response = errorResponse(error)
      response.headers.set('allow', methods.join(', '))
      return response
    }
    const shorter = path.slice(0, -1)
    // Two leading slashes would send the client to another host.
    if (path.endsWith('/') && !path.startsWith('//') && methodsOf(shorter).length > 0) {
      const status = request.method === 'GET' ? 301 : 307
      return new Response(null, { status, headers: { location: shorter + queryOf(request.url) } })
    }
    return errorResponse(new FndError('path-not-found', { detail: `${request.method} ${path}` }))
  }
}
