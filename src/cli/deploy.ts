import { statSync } from 'node:fs'
import { basename, dirname, extname, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import type { BundleContent } from './bundle.ts'
import { deployImage } from './deploy-image.ts'
import { CliError } from './failure.ts'
import { addFnOptions, examples, type FnOptions } from './options.ts'
import { type Deployed, release } from './release.ts'
import { type Host, runs, type Session } from './session.ts'

interface DeployOptions extends FnOptions {
  readonly app?: string
  readonly name?: string
  readonly path?: string
  readonly trigger: boolean
  readonly exec?: boolean
  readonly entry?: string
  readonly watch?: boolean
  readonly image?: string
}

export function addDeploy(program: Command, host: Host): void {
  const command = program
    .command('deploy')
    .description('upload code as a function and give it an address')
    .argument('[file-or-dir]', 'TypeScript or JavaScript, or with --exec an executable')
    .option('--image <reference>', 'a Docker image instead, pinned to what it is now')
    .option('--app <app>', 'the app; default: the name of the directory given, else "default"')
    .option('--name <name>', 'the function; default: the name of the file, directory or image')
    .option('--path <source>', 'where it answers below /t/<app>; default /<name>')
    .option('--no-trigger', 'no address of its own; it is called by id')
    .option('--exec', 'the file, or a file in the directory, is a program to run')
    .addOption(new Option('--entry <name>', 'which file of the directory to run; with --exec'))
    .option('--watch', 'deploy again whenever a source changes')
  addFnOptions(command).action(
    runs(host, async (session, path: string | undefined, options: DeployOptions) => {
      if (options.image !== undefined) {
        checkImageUse(path, options)
        return deployOfImage(session, options.image, options)
      }
      if (path === undefined) {
        throw new CliError('usage', 'name a file or directory, or give --image', {
          hint: 'see: fnd deploy --help',
        })
      }
      if (options.watch === true) {
        const { deployOnChange } = await import('./watch.ts')
        return deployOnChange(session, () => deploy(session, path, options), path)
      }
      await deploy(session, path, options)
    }),
  )
  examples(command, [
    ['fnd deploy hello.ts', 'function default/hello at /t/default/hello'],
    ['fnd deploy ./shop --memory 256', 'a directory, npm dependencies bundled'],
    ['fnd deploy hello.ts --app shop --path /greet', 'in app shop at /t/shop/greet'],
    ['fnd deploy --exec ./program --concurrency 4', 'any executable that speaks http-stream'],
    ['fnd deploy --watch hello.ts', 'again on every save'],
    ['fnd deploy --image registry.example/pay:3 --app shop', 'a container, as shop/pay'],
  ])
}

function checkImageUse(path: string | undefined, options: DeployOptions): void {
  const { exec, entry, watch } = options
  const other = path ?? (exec && '--exec') ?? (entry && '--entry') ?? (watch && '--watch')
  if (other === undefined) return
  throw new CliError('usage', `--image and ${other} exclude each other`, {
    hint: 'an image brings its own code',
  })
}

async function deployOfImage(
  session: Session,
  image: string,
  options: DeployOptions,
): Promise<void> {
  const startedMs = performance.now()
  const path = image.replace(/@.*$/, '').replace(/:[^:/]*$/, '')
  const name = options.name ?? nameFrom(basename(path))
  const names = { app: options.app ?? 'default', name }
  const deployed = await deployImage(session, image, { ...options, ...names })
  const tookS = ((performance.now() - startedMs) / 1000).toFixed(2)
  await session.print(deployed, () => {
    const pin = deployed.digest === null ? [] : [`  pinned to ${deployed.digest}`]
    return [describe(deployed, tookS), ...pin].join('\n')
  })
}

/** Resolves with what was read, so that a watcher knows what to look at. */
async function deploy(
  session: Session,
  path: string,
  options: DeployOptions,
): Promise<BundleContent> {
  const startedMs = performance.now()
  const names = namesOf(path, options)
  const content = await contentOf(path, options)
  const deployed = await release(session, content, { ...options, ...names })
  const tookS = ((performance.now() - startedMs) / 1000).toFixed(2)
  if (session.isJson) {
    // One document; while watching, one a line.
    const text = JSON.stringify(deployed, null, options.watch === true ? 0 : 2)
    await session.terminal.line(text)
  } else {
    await session.terminal.line(describe(deployed, tookS))
  }
  return content
}

/** The bundle of a file or a directory. */
export async function contentOf(
  path: string,
  options: { readonly exec?: boolean; readonly entry?: string },
): Promise<BundleContent> {
  const { bundleModule, bundleProgram, entryOf } = await import('./bundle.ts')
  if (options.exec === true) return bundleProgram(path, options.entry)
  if (options.entry !== undefined) {
    throw new CliError('usage', '--entry goes with --exec', { hint: 'name the file itself' })
  }
  const entry = entryOf(path)
  if (!/\.[cm]?[jt]sx?$/.test(entry)) {
    throw new CliError('usage', `${path} is neither TypeScript nor JavaScript`, {
      hint: 'a program is deployed with --exec',
    })
  }
  return bundleModule(entry)
}

/** App and function: as given, else after the file or directory. */
export function namesOf(
  path: string,
  options: { readonly app?: string; readonly name?: string },
): { app: string; name: string } {
  const isDir = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
  const full = resolve(path)
  const dirName = nameFrom(basename(full))
  const stem = nameFrom(basename(full, isDir ? '' : extname(full)))
  // `shop/index.ts` says as little about itself as `shop` says much.
  const fileName = /^(index|main|func|mod)$/.test(stem) ? nameFrom(basename(dirname(full))) : stem
  return {
    app: options.app ?? (isDir ? dirName : 'default'),
    name: options.name ?? (isDir ? dirName : fileName),
  }
}

/** Names take letters, digits, `_` and `-`; the rest turns into `-`. */
function nameFrom(text: string): string {
  const name = text.replace(/[^A-Za-z0-9_-]+/g, '-').replace(/^-+|-+$/g, '')
  return name === '' ? 'default' : name
}

function describe(deployed: Deployed, tookS: string): string {
  const lines = [`deployed ${deployed.app}/${deployed.fn} in ${tookS} s`]
  if (deployed.url !== null)
    lines.push(`  ${deployed.url}`, 'call it with:', `  curl ${deployed.url}`)
  else lines.push('call it with:', `  curl -X POST ${deployed.invoke_url}`)
  return lines.join('\n')
}
