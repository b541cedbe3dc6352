/**
 * Every failure becomes a response here, and nowhere else: operational errors as their row says,
 * anything unexpected as a masked 500 that is logged once, and a broken assertion ends the process.
 */
import { NotFoundError, ParseError, ValidationError } from 'elysia'
import { AssertionError, FndError } from '../errors.ts'
import type { IdSource } from '../ids.ts'
import type { Logger } from '../log.ts'
import { pathOf } from './url.ts'

/** The JSON body is Fn's, `{"message"}` and a newline; `code` and `field` are fnd's additions. */
export function errorResponse(error: FndError, requestId?: string): Response {
  const headers = new Headers()
  if (error.retryAfterS !== undefined) headers.set('retry-after', String(error.retryAfterS))
  if (error.code === 'unauthorized') headers.set('www-authenticate', 'Bearer')
  if (error.code === 'feature-removed') return new Response(null, { status: error.status, headers })
  headers.set('content-type', 'application/json; charset=utf-8')
  const body = {
    message: error.message,
    code: error.code,
    ...(error.field === undefined ? {} : { field: error.field }),
    ...(requestId === undefined ? {} : { requestId }),
  }
  return new Response(`${JSON.stringify(body)}\n`, { status: error.status, headers })
}

export interface UnexpectedParts {
  readonly log: Logger
  readonly ids: IdSource
  /** Ends the process. Called with a broken assertion, before its 500 is sent. */
  readonly onBug: (error: AssertionError) => void
}

/** Logs what nobody expected, and makes the masked answer to it. */
export function makeUnexpected(
  parts: UnexpectedParts,
): (error: unknown, request: Request) => Response {
  return (error, request) => {
    if (error instanceof AssertionError) parts.onBug(error)
    const requestId = parts.ids.next()
    parts.log.error(
      { err: error, requestId, method: request.method, path: pathOf(request.url) },
      'request failed',
    )
    return errorResponse(new FndError('internal'), requestId)
  }
}

export interface ErrorParts extends UnexpectedParts {
  /** What a path or method that no route takes gets. */
  readonly noRoute: (request: Request) => Response
}

/** A request of the wrong shape. Bodies get Fn's words, whatever is wrong with them. */
function invalidRequest(error: ValidationError): FndError {
  const field = error.valueError?.path.slice(1).split('/', 1)[0] ?? ''
  const options = field === '' ? { cause: error } : { cause: error, field }
  // A parameter that is not valid percent-encoded text names nothing.
  if (error.type === 'params') return new FndError('path-not-found', { cause: error })
  return new FndError(error.type === 'body' ? 'invalid-json' : 'invalid-field', options)
}

export function makeErrorMapper(parts: ErrorParts): (error: unknown, request: Request) => Response {
  const unexpected = makeUnexpected(parts)
  const mapError = (error: unknown, request: Request): Response => {
    if (error instanceof FndError) return errorResponse(error)
    if (error instanceof NotFoundError) return parts.noRoute(request)
    if (error instanceof ValidationError) return errorResponse(invalidRequest(error))
    // Elysia wraps what a body parser throws, our own errors included.
    if (error instanceof ParseError && error.cause !== undefined) {
      return mapError(error.cause, request)
    }
    return unexpected(error, request)
  }
  return mapError
}
