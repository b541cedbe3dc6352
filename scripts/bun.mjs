/**
 * Runs the Bun of node_modules with the given arguments. Its npm package puts the executable in
 * place by an install script; where such scripts are off, the executable still lies in the package
 * of the platform, so it is looked for there too. Plain Node, because it runs before Bun does.
 */
import { spawn } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const modules = join(dirname(dirname(fileURLToPath(import.meta.url))), 'node_modules')

/** The placeholder, which the install script of `bun` replaces, is a few hundred bytes long. */
const executableBytesMin = 1024 * 1024

function isExecutable(path) {
  return existsSync(path) && statSync(path).size > executableBytesMin
}

function isMusl() {
  if (process.platform !== 'linux') return false
  return process.report.getReport().header.glibcVersionRuntime === undefined
}

export function bunPath() {
  const cpu = process.arch === 'arm64' ? 'aarch64' : process.arch
  const platform = `bun-${process.platform}-${cpu}`
  const packages = isMusl() ? [`${platform}-musl`] : [platform]
  const paths = [
    join(modules, 'bun', 'bin', 'bun.exe'),
    ...packages.map(name => join(modules, '@oven', name, 'bin', 'bun')),
  ]
  const found = paths.find(isExecutable)
  if (found === undefined) {
    throw new Error(`no Bun in node_modules; looked at ${paths.join(', ')}. Run: npm install`)
  }
  return found
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const child = spawn(bunPath(), process.argv.slice(2), { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => child.kill(signal))
  }
  child.on('exit', (code, signal) => {
    process.exitCode = signal === null ? (code ?? 1) : 128 + (constants.signals[signal] ?? 0)
  })
}
