/**
 * Unpacks the tar of a bundle into an empty directory, hashing it on the way. What the archive says
 * is not trusted: only plain files and directories below the root are made, each once, with modes
 * of our choice. Everything is on the disk when this returns.
 */
import { constants } from 'node:fs'
import { mkdir, open } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { extract, type Headers } from 'tar-stream'
import { FndError } from '../errors.ts'
import { fsyncDir, writeAll } from './fsync.ts'
import { entryPath } from './manifest.ts'

export interface BundleLimits {
  /** Of the tar. Unpacked files are never larger than the tar that holds them. */
  readonly bytesMax: number
  /** Files and directories. */
  readonly filesMax: number
}

export interface Unpacked {
  /** SHA-256 over the bytes of the tar, in hex. */
  readonly hash: string
  /** Path of each file → whether it may be executed. */
  readonly files: ReadonlyMap<string, { readonly isExecutable: boolean; readonly bytes: number }>
}

/**
 * Bytes of an archive that are neither contents nor one header for each entry: extended headers
 * and the padding at the end. The library holds an extended header in memory, so it is bounded.
 */
const overheadBytesMax = 2 * 1024 * 1024
const headerBytesMax = 4096

export async function unpack(
  stream: AsyncIterable<Uint8Array>,
  dir: string,
  limits: BundleLimits,
): Promise<Unpacked> {
  const unpacker = new Unpacker(dir, limits)
  await unpacker.run(stream)
  return { hash: unpacker.hash(), files: unpacker.files }
}

class Unpacker {
  readonly files = new Map<string, { isExecutable: boolean; bytes: number }>()
  readonly #dirs = new Set<string>([''])
  readonly #root: string
  readonly #limits: BundleLimits
  readonly #hasher = new Bun.CryptoHasher('sha256')
  #bytes = 0
  #contentBytes = 0
  #entries = 0

  constructor(root: string, limits: BundleLimits) {
    this.#root = root
    this.#limits = limits
  }

  hash(): string {
    return this.#hasher.digest('hex')
  }

  async run(stream: AsyncIterable<Uint8Array>): Promise<void> {
    const tar = extract()
    const breakage = new Breakage()
    let entry = Promise.resolve()
    tar.on('entry', (header, contents, next) => {
      const done = (error?: unknown) => {
        if (!breakage.isThere) next(error)
      }
      entry = this.#entry(header, contents, breakage).then(() => done(), done)
    })
    try {
      await pipeline(Readable.from(this.#measured(stream)), tar)
    } catch (cause) {
      // The library leaves the contents of a broken archive open for ever: the file that is being
      // written must learn of it, and be closed before anyone removes it.
      breakage.tell()
      await entry
      throw asFndError(cause)
    }
    // Children before parents, so that no directory on the disk names what is not there.
    const dirs = [...this.#dirs].sort((a, b) => b.length - a.length)
    for (const dir of dirs) await fsyncDir(join(this.#root, dir))
  }

  async *#measured(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of stream) {
      this.#bytes += chunk.length
      if (this.#bytes > this.#limits.bytesMax) {
        throw new FndError('bundle-too-large', {
          detail: `at most ${this.#limits.bytesMax} bytes`,
        })
      }
      this.#hasher.update(chunk)
      // In pieces, so that the overhead is judged often however large the chunks are.
      for (let at = 0; at < chunk.length; at += pieceBytes) {
        yield chunk.subarray(at, at + pieceBytes)
        this.#mustHaveLittleOverhead(at + pieceBytes - chunk.length)
      }
    }
  }

  #mustHaveLittleOverhead(ahead: number): void {
    // Readable and the library hold a few pieces that they have not looked at yet.
    const slack = overheadBytesMax + this.#entries * headerBytesMax + 16 * pieceBytes
    const seen = this.#bytes + Math.min(ahead, 0)
    if (seen - this.#contentBytes > slack) throw invalid('too much besides files')
  }

  async #entry(header: Headers, contents: Readable, breakage: Breakage): Promise<void> {
    this.#entries += 1
    if (this.#entries > this.#limits.filesMax) {
      throw new FndError('bundle-too-large', { detail: `at most ${this.#limits.filesMax} files` })
    }
    const path = entryPath(header.name)
    const shown = JSON.stringify(header.name.slice(0, 200))
    if (path === undefined) throw invalid(`the path ${shown} does not stay inside the bundle`)
    if (header.type === 'directory') {
      await this.#makeDir(path, shown)
      contents.resume()
      return
    }
    if (header.type !== 'file') {
      throw invalid(`${shown} is a ${header.type ?? 'thing of unknown kind'}, not a plain file`)
    }
    if (path === '' || header.name.endsWith('/')) throw invalid(`${shown} is no name for a file`)
    if (this.files.has(path) || this.#dirs.has(path)) throw invalid(`${shown} is there twice`)
    await this.#makeDir(parent(path), shown)
    this.#contentBytes += header.size ?? 0
    const isExecutable = ((header.mode ?? 0) & 0o111) !== 0
    this.files.set(path, { isExecutable, bytes: header.size ?? 0 })
    const mode = isExecutable ? 0o555 : 0o444
    await writeDurably(join(this.#root, path), mode, contents, breakage)
  }

  async #makeDir(path: string, shown: string): Promise<void> {
    if (this.#dirs.has(path)) return
    if (this.files.has(path)) throw invalid(`${shown} is below a file`)
    await this.#makeDir(parent(path), shown)
    if (this.#dirs.size > this.#limits.filesMax) {
      throw new FndError('bundle-too-large', { detail: `at most ${this.#limits.filesMax} files` })
    }
    await mkdir(join(this.#root, path), { mode: 0o755 })
    this.#dirs.add(path)
  }
}

const pieceBytes = 64 * 1024

/** That the archive broke, for whoever waits for more of it. */
class Breakage {
  isThere = false
  #onTold: (() => void) | undefined

  tell(): void {
    this.isThere = true
    this.#onTold?.()
  }

  /** Not `Promise.race`, which would keep every chunk for as long as nothing broke. */
  or<T>(next: Promise<T>): Promise<T | 'broken'> {
    return new Promise((resolve, reject) => {
      this.#onTold = () => resolve('broken')
      if (this.isThere) this.#onTold()
      next.then(resolve, reject)
    })
  }
}

async function writeDurably(
  path: string,
  mode: number,
  contents: Readable,
  breakage: Breakage,
): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW
  const file = await open(path, flags, 0o600)
  try {
    const chunks = contents[Symbol.asyncIterator]()
    for (;;) {
      const step = await breakage.or(chunks.next())
      if (step === 'broken' || step.done) break
      await writeAll(file, step.value as Uint8Array)
    }
    // Not through `open`, where the process's umask would take bits away.
    await file.chmod(mode)
    await file.sync()
  } finally {
    await file.close()
  }
}

function parent(path: string): string {
  const dir = dirname(path)
  return dir === '.' ? '' : dir
}

function invalid(detail: string): FndError {
  return new FndError('bundle-invalid', { detail })
}

/** What the library throws is about the archive; what the file system throws has a code. */
function asFndError(cause: unknown): unknown {
  if (cause instanceof FndError) return cause
  const { code, message, syscall } = cause as NodeJS.ErrnoException
  if (code === 'ENOSPC' || code === 'EDQUOT') return new FndError('disk-full', { cause })
  const isOfArchive =
    syscall === undefined && (code === undefined || code === 'ERR_STREAM_PREMATURE_CLOSE')
  if (!isOfArchive) return cause
  return new FndError('bundle-invalid', { detail: `not a readable tar (${message})`, cause })
}
