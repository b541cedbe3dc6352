/** Pieces of request URLs. No `URL` objects: a hostile Host header makes their parsing throw. */

/** Path of an absolute URL, without query and fragment, as it was sent. */
export function pathOf(url: string): string {
  const start = url.indexOf('/', url.indexOf('://') + 3)
  if (start === -1) return '/'
  const end = url.slice(start).search(/[?#]/)
  return end === -1 ? url.slice(start) : url.slice(start, start + end)
}

/** The query with its question mark, or `''`. */
export function queryOf(url: string): string {
  const start = url.indexOf('?')
  return start === -1 ? '' : (url.slice(start).split('#', 1)[0] ?? '')
}

/** Hosts that every parser takes: names, and addresses in their usual form. */
const usualHost =
  /^https?:\/\/(?:(?:(?!xn--)[\w-]+\.)*(?!xn--)[a-z][\w-]*|127\.0\.0\.1)(?::[1-5]?\d{1,4})?\//i

/**
 * The URL of a request as a function may parse it. The client's Host can be anything, and Bun
 * leaves scheme and host out when it is not usable; a function shall not fail for that.
 */
export function parseableUrl(url: string): string {
  if (usualHost.test(url) || (!url.startsWith('/') && URL.canParse(url))) return url
  const start = url.startsWith('/') ? 0 : url.indexOf('/', url.indexOf('://') + 3)
  return `http://localhost${url.slice(start)}`
}

/** Scheme and authority as the client used them, for links back to this server. */
export function baseOf(request: Request): string {
  const { url } = request
  const afterScheme = url.indexOf('://') + 3
  const end = url.indexOf('/', afterScheme)
  const authority = url.slice(afterScheme, end === -1 ? url.length : end)
  return url.slice(0, afterScheme) + (request.headers.get('host') ?? authority)
}

/** A path parameter or wildcard as text; `''` when it is not valid percent-encoded UTF-8. */
export function decodePath(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch (error) {
    if (error instanceof URIError) return ''
    throw error
  }
}

/** Ids are short ASCII; anything else names nothing, and is looked up as `''`. */
export function idFrom(parameter: unknown): string {
  return typeof parameter === 'string' && /^[!-~]{1,255}$/.test(parameter) ? parameter : ''
}
