/** Tars of bundles, made in memory. */
import { createHash } from 'node:crypto'
import { type Headers, pack } from 'tar-stream'

export const manifest = JSON.stringify({ version: 1, kind: 'module', entry: 'main.js' })

export type Item = [Headers | string, (string | Uint8Array)?]

/** A tar of the items; a module's two files come first unless told otherwise. */
export async function tarOf(
  items: Item[],
  base: Item[] = [
    ['fnd.json', manifest],
    ['main.js', 'code'],
  ],
) {
  const tar = pack()
  for (const [header, contents] of [...base, ...items]) {
    const given = typeof header === 'string' ? { name: header } : header
    tar.entry({ mode: 0o644, ...given }, Buffer.from(contents ?? ''))
  }
  tar.finalize()
  const chunks: Uint8Array[] = []
  for await (const chunk of tar) chunks.push(chunk as Uint8Array)
  return Uint8Array.from(Buffer.concat(chunks))
}

export const nameOf = (tar: Uint8Array) =>
  `sha256-${createHash('sha256').update(tar).digest('hex')}`

export async function* inPieces(tar: Uint8Array, bytes = 1000) {
  for (let at = 0; at < tar.length; at += bytes) yield tar.subarray(at, at + bytes)
}
