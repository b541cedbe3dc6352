/** Where syslog messages go, from an app's `syslog_url`. Pure. */

export type SyslogTarget = {
  /** As it was given: what people know it by. */
  readonly url: string
} & (
  | { readonly transport: 'udp' | 'tcp' | 'tls'; readonly host: string; readonly port: number }
  | { readonly transport: 'unix' | 'unixgram'; readonly path: string }
)

export type SyslogUrlResult =
  | { readonly ok: true; readonly target: SyslogTarget }
  /** `reason` goes on after the URL and a colon. */
  | { readonly ok: false; readonly reason: string }

/** Fn's schemes, in the order in which its message names them. */
const syslogSchemes = ['tcp', 'udp', 'unix', 'unixgram', 'tcp+tls'] as const

/** The ports that IANA registered for syslog, of RFC 5426 and 5425; 514 is used for TCP as well. */
const plainPort = 514
const tlsPort = 6514
/** `sun_path` holds 108 bytes with the NUL at its end. */
const pathBytesMax = 107

export function parseSyslogUrl(url: string): SyslogUrlResult {
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):/.exec(url)?.[1]?.toLowerCase()
  const known = syslogSchemes.find(name => name === scheme)
  if (known === undefined) {
    return refused(`invalid scheme, only [${syslogSchemes.join(', ')}] are supported`)
  }
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  if (parsed === undefined) return refused('not a URL')
  if (`${parsed.username}${parsed.password}${parsed.search}${parsed.hash}` !== '') {
    return refused('it may hold no user, query or fragment')
  }
  return known === 'unix' || known === 'unixgram'
    ? socketTarget(url, known, parsed)
    : hostTarget(url, known === 'tcp+tls' ? 'tls' : known, parsed)
}

function hostTarget(url: string, transport: 'udp' | 'tcp' | 'tls', parsed: URL): SyslogUrlResult {
  // The URL keeps the brackets of an IPv6 address; sockets want none.
  const host = decoded(parsed.hostname)?.replace(/^\[(.*)\]$/, '$1')
  if (host === undefined || host === '') return refused(`no host, as in ${parsed.protocol}//host`)
  if (!/^[\w.:-]+$/.test(host)) return refused('invalid host')
  if (parsed.pathname !== '' && parsed.pathname !== '/') return refused('it may hold no path')
  const port = parsed.port === '' ? defaultPort(transport) : Number(parsed.port)
  if (port === 0) return refused('port 0 is no port')
  return { ok: true, target: { url, transport, host, port } }
}

function defaultPort(transport: 'udp' | 'tcp' | 'tls'): number {
  return transport === 'tls' ? tlsPort : plainPort
}

function socketTarget(url: string, transport: 'unix' | 'unixgram', parsed: URL): SyslogUrlResult {
  const path = decoded(parsed.pathname)
  if (parsed.host !== '' || path === undefined || !/^\/./.test(path)) {
    return refused(`no absolute path, as in ${parsed.protocol}///dev/log`)
  }
  if (path.includes('\0')) return refused('invalid path')
  if (new TextEncoder().encode(path).length > pathBytesMax) {
    return refused(`the path is longer than ${pathBytesMax} bytes`)
  }
  return { ok: true, target: { url, transport, path } }
}

function refused(reason: string): SyslogUrlResult {
  return { ok: false, reason }
}

/** `undefined` for what percent signs make no text of. */
function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch (cause) {
    if (cause instanceof URIError) return undefined
    throw cause
  }
}
