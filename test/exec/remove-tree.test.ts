import { expect, test } from 'bun:test'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const isRoot = process.getuid?.() === 0
const source = join(import.meta.dir, '..', '..', 'src', 'exec', 'remove-tree.ts')

/** Closed directories keep nobody out who is root, so another user tries. */
test('directories that were closed to everybody are removed, what links point to is not', () => {
  const dir = mkdtempSync(join(tmpdir(), 'fnd-tree-'))
  const script = `
    import { chmodSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
    import { removeTree } from ${JSON.stringify(source)}
    if (${isRoot}) process.setuid(65534)
    mkdirSync('a/b/c', { recursive: true })
    mkdirSync('kept')
    writeFileSync('a/b/c/file', '')
    symlinkSync('../../kept', 'a/b/link')
    for (const path of ['a/b/c', 'a/b', 'a', 'kept']) chmodSync(path, 0)
    removeTree('a')
    removeTree('a')
    if (existsSync('a') || !existsSync('kept')) process.exit(1)`
  Bun.spawnSync(['chmod', '777', dir])
  const run = Bun.spawnSync([process.execPath, '-e', script], { cwd: dir, stderr: 'pipe' })
  expect({ code: run.exitCode, stderr: run.stderr.toString() }).toEqual({ code: 0, stderr: '' })
  expect(existsSync(join(dir, 'a'))).toBe(false)
  Bun.spawnSync(['chmod', '700', join(dir, 'kept')])
  rmSync(dir, { recursive: true })
})
