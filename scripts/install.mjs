/**
 * Installs exactly what package-lock.json names, unless that is installed already. Install scripts
 * of packages stay off: nothing here needs a compiler, and scripts/bun.mjs finds Bun without them.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

function packages(path) {
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).packages : undefined
}

/** npm keeps what it installed in a hidden lock file. Optional packages may be missing from it. */
function isInstalled() {
  const wanted = packages(join(root, 'package-lock.json'))
  const present = packages(join(root, 'node_modules', '.package-lock.json'))
  if (present === undefined) return false
  return Object.entries(wanted).every(([path, { version, optional }]) => {
    if (path === '') return true
    const found = present[path]
    if (found === undefined) return optional === true
    return found.version === version && existsSync(join(root, path))
  })
}

if (!isInstalled()) {
  const { status } = spawnSync(
    'npm',
    ['install', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund'],
    {
      cwd: root,
      stdio: ['ignore', 2, 2],
    },
  )
  process.exitCode = status ?? 1
  // The one install script that is wanted: it moves Bun to where `npx bun` looks.
  if (status === 0)
    spawnSync('node', ['node_modules/bun/install.js'], { cwd: root, stdio: 'ignore' })
}
