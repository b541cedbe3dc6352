/**
 * Headers that belong to one connection, not to the message (RFC 9110 §7.6.1, and those Fn strips):
 * they are never forwarded, in either direction. Lower-case.
 */
export const hopByHopNames = [
  'connection',
  'proxy-connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
] as const
const hopByHop: ReadonlySet<string> = new Set(hopByHopNames)

export function isHopByHop(lowerName: string): boolean {
  return hopByHop.has(lowerName)
}

/** The header names that a `Connection` header declares to be of one connection as well. */
export function connectionOptions(value: string | null | undefined): readonly string[] {
  if (value === null || value === undefined || value === '') return []
  return value.split(',').map(part => part.trim().toLowerCase())
}
