/** A copy of the sources in which a known bug can be put. */
import { cpSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Mutation } from './mutation-list.ts'

const root = join(import.meta.dir, '..')

/** What the tests of raft and of the store need. */
const copied = ['src', 'test', 'scripts', 'package.json', 'tsconfig.json']

export function copyOfSources(): string {
  const dir = mkdtempSync(join(tmpdir(), 'fnd-mutations-'))
  for (const name of copied) {
    cpSync(join(root, name), join(dir, name), { recursive: true })
  }
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
  return dir
}

/** Throws when a text is not there exactly once. Returns what restores the files. */
export function mutate(dir: string, { number, edits }: Mutation): () => void {
  const originals = new Map<string, string>()
  for (const { file, find, replace } of edits) {
    const path = join(dir, file)
    const text = readFileSync(path, 'utf8')
    if (!originals.has(path)) originals.set(path, text)
    const count = text.split(find).length - 1
    if (count !== 1)
      throw new Error(`mutation ${number} finds ${count} of this in ${file}: ${find}`)
    writeFileSync(
      path,
      text.replace(find, () => replace),
    )
  }
  return () => {
    for (const [path, text] of originals) writeFileSync(path, text)
  }
}
