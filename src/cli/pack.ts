import { createReadStream, createWriteStream } from 'node:fs'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Transform, type Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import tar from 'tar-stream'
import type { BundleContent, BundleFile } from './bundle.ts'

/** A bundle as a tar file. Disposing of it removes the file. */
export interface PackedBundle extends AsyncDisposable {
  /** `sha256-<hex>` over the bytes of the file. */
  readonly id: string
  readonly path: string
  readonly bytes: number
}

/**
 * Writes an uncompressed tar whose bytes depend on names, contents and executable bits only:
 * sorted, with no times and no owners. On disk, because a program may be larger than memory allows.
 */
export async function packBundle(bundle: BundleContent): Promise<PackedBundle> {
  const dir = await mkdtemp(join(tmpdir(), 'fnd-deploy-'))
  const path = join(dir, 'bundle.tar')
  const remove = () => rm(dir, { recursive: true, force: true })
  try {
    const hasher = new Bun.CryptoHasher('sha256')
    const hashing = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        hasher.update(chunk)
        done(null, chunk)
      },
    })
    const pack = tar.pack()
    await Promise.all([
      pipeline(pack, hashing, createWriteStream(path, { mode: 0o600 })),
      addAll(pack, bundle),
    ])
    const id = `sha256-${hasher.digest('hex')}`
    return { id, path, bytes: (await stat(path)).size, [Symbol.asyncDispose]: remove }
  } catch (error) {
    await remove()
    throw error
  }
}

async function addAll(pack: tar.Pack, bundle: BundleContent): Promise<void> {
  const manifest: BundleFile = {
    path: 'fnd.json',
    content: new TextEncoder().encode(`${JSON.stringify(bundle.manifest)}\n`),
    isExecutable: false,
  }
  const files = [manifest, ...bundle.files]
  files.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
  try {
    for (const file of files) await add(pack, file)
    pack.finalize()
  } catch (error) {
    // Ends the other side of the pipe too, which else would wait for more.
    pack.destroy(error as Error)
    throw error
  }
}

async function add(pack: tar.Pack, file: BundleFile): Promise<void> {
  const isBytes = file.content instanceof Uint8Array
  const size = isBytes ? (file.content as Uint8Array).byteLength : contentBytes(file)
  const header = {
    name: file.path,
    size,
    mode: file.isExecutable ? 0o755 : 0o644,
    mtime: new Date(0),
    uid: 0,
    gid: 0,
    type: 'file',
  } as const
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const entry = pack.entry(header, error => (error ? reject(error) : resolve())) as Writable
  if (file.content instanceof Uint8Array) entry.end(Buffer.from(file.content))
  else await pipeline(createReadStream(file.content.file), entry)
  await promise
}

function contentBytes(file: BundleFile): number {
  return file.content instanceof Uint8Array ? file.content.byteLength : file.content.bytes
}
