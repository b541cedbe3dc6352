/**
 * Seals secrets for the log and the database, with AES-256-GCM under `<data>/secrets.key`. A copy
 * of the state without that file opens nothing. What a secret belongs to is authenticated with it,
 * so that a sealed secret that is moved to another app does not open.
 */
import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes } from 'node:crypto'
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
import { StartError } from '../errors.ts'

const keyBytes = 32
const nonceBytes = 12
const tagBytes = 16
/** First in every sealed text: how it was made. */
const formPrefix = 'v1.'

interface Keys {
  readonly sealing: Uint8Array
  readonly marking: Uint8Array
}

export class SecretBox {
  readonly #dataDir: string
  #keys: Keys | undefined

  constructor(dataDir: string) {
    this.#dataDir = dataDir
  }

  /** `owner` must be given again to `open`. Makes the key at its first use. */
  seal(secret: string, owner: string): string {
    const nonce = randomBytes(nonceBytes)
    const cipher = createCipheriv('aes-256-gcm', this.#mustKeys().sealing, nonce)
    cipher.setAAD(Buffer.from(owner))
    const sealed = Buffer.concat([cipher.update(secret, 'utf8'), cipher.final()])
    const bytes = Buffer.concat([nonce, sealed, cipher.getAuthTag()])
    return formPrefix + bytes.toString('base64url')
  }

  /** Undefined when another key sealed it, for another owner, or it was changed. */
  open(sealed: string, owner: string): string | undefined {
    if (!sealed.startsWith(formPrefix)) return undefined
    const bytes = Buffer.from(sealed.slice(formPrefix.length), 'base64url')
    if (bytes.length < nonceBytes + tagBytes) return undefined
    const nonce = bytes.subarray(0, nonceBytes)
    const cipher = createDecipheriv('aes-256-gcm', this.#mustKeys().sealing, nonce)
    cipher.setAAD(Buffer.from(owner))
    cipher.setAuthTag(bytes.subarray(-tagBytes))
    try {
      const text = cipher.update(bytes.subarray(nonceBytes, -tagBytes))
      return Buffer.concat([text, cipher.final()]).toString('utf8')
    } catch (cause) {
      // The only thing that can go wrong here is that the tag does not fit.
      if (cause instanceof Error) return undefined
      throw cause
    }
  }

  /** Tells this secret from another. Who has no key cannot try guesses against it. */
  fingerprint(secret: string): string {
    return createHmac('sha256', this.#mustKeys().marking).update(secret).digest('base64url')
  }

  /** The bytes of the file, for a node that joins. Makes the key if there is none yet. */
  shared(): Uint8Array {
    ensureKey(join(this.#dataDir, 'secrets.key'), this.#dataDir)
    return readFileSync(join(this.#dataDir, 'secrets.key'))
  }

  #mustKeys(): Keys {
    this.#keys ??= keysFrom(ensureKey(join(this.#dataDir, 'secrets.key'), this.#dataDir))
    return this.#keys
  }
}

/** Two uses, two keys. */
function keysFrom(key: Uint8Array): Keys {
  const derived = (use: string) => new Uint8Array(hkdfSync('sha256', key, '', use, keyBytes))
  return { sealing: derived('fnd seal'), marking: derived('fnd fingerprint') }
}

/** Reads or makes the key. Durable before anything is sealed with it. */
function ensureKey(path: string, dir: string): Uint8Array {
  const existing = readKey(path)
  if (existing !== undefined) return existing
  const draft = `${path}.${randomBytes(6).toString('hex')}`
  const fd = openSync(draft, 'wx', 0o600)
  try {
    writeSync(fd, `${randomBytes(keyBytes).toString('base64')}\n`)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  try {
    linkSync(draft, path)
  } finally {
    unlinkSync(draft)
  }
  const directory = openSync(dir, 'r')
  fsyncSync(directory)
  closeSync(directory)
  return ensureKey(path, dir)
}

function readKey(path: string): Uint8Array | undefined {
  try {
    const key = Buffer.from(readFileSync(path, 'utf8').trim(), 'base64')
    if (key.length === keyBytes) return key
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
  throw new StartError(`${path} does not hold a key of ${keyBytes} bytes; restore it`)
}
