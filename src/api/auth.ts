/**
 * Who may administer: whoever holds the token that the first start wrote to the data directory.
 * Only its SHA-256 is kept in memory, and digests are compared in constant time.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { type Config, isLoopback } from '../config.ts'
import { FndError, StartError } from '../errors.ts'
import { writeWhole } from '../store/fsync.ts'

export const tokenFile = 'admin.token'
const tokenLengthMin = 16

function readToken(path: string): string | undefined {
  let text: string
  try {
    text = readFileSync(path, 'utf8').trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  if (text.length < tokenLengthMin || !/^[!-~]+$/.test(text)) {
    throw new StartError(
      `${path} holds no usable token (at least ${tokenLengthMin} printable characters). ` +
        'Remove it to have a new one made at the next start.',
    )
  }
  return text
}

/**
 * The token of this data directory, made when there is none. It appears under its name only once
 * it is whole and on disk, so a crash leaves a token or nothing.
 */
export function ensureAdminToken(dataDir: string): string {
  const path = join(dataDir, tokenFile)
  const existing = readToken(path)
  if (existing !== undefined) return existing
  const token = randomBytes(32).toString('base64url')
  const draft = `${path}.${randomBytes(6).toString('hex')}`
  const file = openSync(draft, 'wx', 0o600)
  writeSync(file, `${token}\n`)
  fsyncSync(file)
  closeSync(file)
  try {
    linkSync(draft, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    // Another process was first: its token counts.
    return readToken(path) ?? token
  } finally {
    unlinkSync(draft)
  }
  const directory = openSync(dataDir, 'r')
  fsyncSync(directory)
  closeSync(directory)
  return token
}

/** Takes over the token of a cluster that this node joined: all its nodes share one. */
export async function adoptAdminToken(dataDir: string, token: string): Promise<void> {
  await writeWhole(join(dataDir, tokenFile), `${token}\n`)
}

function sha256(text: string): Uint8Array {
  return Bun.CryptoHasher.hash('sha256', text)
}

/** Throws `FndError` unless the request may administer this server. */
export type Authorize = (request: Request) => void

export function makeAuthorize(config: Config, token: string): Authorize {
  if (config.isAuthOff) return makeSameOriginCheck(config)
  const expected = sha256(token)
  return request => {
    const header = request.headers.get('authorization') ?? ''
    const presented = /^bearer +(\S+)\s*$/i.exec(header)?.[1]
    if (presented !== undefined && timingSafeEqual(expected, sha256(presented))) return
    throw new FndError('unauthorized', {
      detail:
        `it is in the file ${tokenFile} of the server's data directory; send it as ` +
        '"Authorization: Bearer <token>", or give it to the command line as FND_TOKEN or FN_TOKEN',
    })
  }
}

/**
 * Without a token anything on this machine may administer, but a web page from elsewhere, open in a
 * browser on this machine, must not: browsers name the page's origin on every request that writes.
 * A page whose own name was made to point here (DNS rebinding) is of the same origin, and reads
 * without saying so; but it cannot help naming itself as Host.
 */
function makeSameOriginCheck(config: Config): Authorize {
  const allowed = new Set(config.cors.origins)
  const publicHost = config.publicUrl === '' ? undefined : new URL(config.publicUrl).host
  return request => {
    const named = request.headers.get('host')
    if (named !== null && named !== publicHost && !isLoopbackAuthority(named)) {
      throw new FndError('origin-forbidden', {
        detail: `the Host is ${named.slice(0, 200)}, and FND_PUBLIC_URL does not name it`,
      })
    }
    const origin = request.headers.get('origin')
    if (origin === null || allowed.has(origin) || allowed.has('*')) return
    const authority = /^https?:\/\/(.*)$/.exec(origin)?.[1]
    if (authority !== undefined && isLoopbackAuthority(authority)) return
    if (config.publicUrl !== '' && origin === config.publicUrl) return
    throw new FndError('origin-forbidden', { detail: origin.slice(0, 200) })
  }
}

function isLoopbackAuthority(authority: string): boolean {
  const host = /^(?:\[([^\]]+)\]|([^:/]+))(?::\d+)?$/.exec(authority)
  return host !== null && isLoopback(host[1] ?? host[2] ?? '')
}
