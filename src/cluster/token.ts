/**
 * Join tokens: `fnd-<hash of the authority>.<expiry>.<mac>`. The hash lets the joining node know
 * the cluster before it sends anything, the mac lets any member know the token without having
 * stored it. Whoever has the token may join until it expires.
 */
import { createHmac, createPrivateKey, hkdfSync, timingSafeEqual } from 'node:crypto'
import type { AuthorityPair } from './certificates.ts'
import { authorityHash } from './identity.ts'

export const tokenLifeMsDefault = 24 * 60 * 60 * 1000

/** 128 bits: guesses are made over the network, against a clock. */
const macBytes = 16

const tokenPattern = /^fnd-([A-Za-z0-9_-]{43})\.([0-9a-z]{1,10})\.([A-Za-z0-9_-]{22})$/

/** `expiresMs` is rounded up to a second. */
export function mintToken(authority: AuthorityPair, expiresMs: number): string {
  const hash = authorityHash(authority.certificate).toString('base64url')
  const expiry = Math.ceil(expiresMs / 1000).toString(36)
  const mac = macOf(authority.key, `${hash}.${expiry}`).toString('base64url')
  return `fnd-${hash}.${expiry}.${mac}`
}

export interface ParsedToken {
  /** SHA-256 of the authority's public key. */
  readonly authority: Buffer
  readonly expiresMs: number
}

/** What a joining node can tell without the key. Undefined when it is no token at all. */
export function parseToken(token: string): ParsedToken | undefined {
  const [, hash, expiry] = tokenPattern.exec(token.trim()) ?? []
  if (hash === undefined || expiry === undefined) return undefined
  const expiresMs = Number.parseInt(expiry, 36) * 1000
  return { authority: Buffer.from(hash, 'base64url'), expiresMs }
}

/** Why a member does not take this token: a sentence. Undefined: it is good. */
export function judgeToken(
  authority: AuthorityPair,
  token: string,
  nowMs: number,
): string | undefined {
  const parsed = parseToken(token)
  if (parsed === undefined) {
    return 'This is not a join token. Print one with: fnd token, on a member of the cluster.'
  }
  if (!timingSafeEqual(parsed.authority, authorityHash(authority.certificate))) {
    return 'The join token is of another cluster. Print one with: fnd token, on a member of this.'
  }
  const [head = '', mac = ''] = splitMac(token.trim().slice('fnd-'.length))
  const given = Buffer.from(mac, 'base64url')
  const wanted = macOf(authority.key, head)
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) {
    return 'The join token was changed or cut. Copy it whole, or print a new one with: fnd token.'
  }
  if (nowMs < parsed.expiresMs) return undefined
  return (
    `The join token expired at ${new Date(parsed.expiresMs).toISOString()}. ` +
    'Print a new one with: fnd token.'
  )
}

function splitMac(text: string): readonly [string, string] {
  const at = text.lastIndexOf('.')
  return [text.slice(0, at), text.slice(at + 1)]
}

/** The key is derived, so that what signs certificates signs nothing else. */
function macOf(authorityKey: string, text: string): Buffer {
  const der = createPrivateKey(authorityKey).export({ type: 'pkcs8', format: 'der' })
  const key = new Uint8Array(hkdfSync('sha256', der, '', 'fnd join token', 32))
  return createHmac('sha256', key).update(text).digest().subarray(0, macBytes)
}
