/**
 * One function with no server to set up: a whole node of its own, on loopback, in a directory that
 * goes away with it. So the function meets the same contract, limits and isolation as later.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { type Config, readConfig } from '../config.ts'
import type { BundleContent } from './bundle.ts'
import { bodyFrom, type CallOptions, headerLine, invoke } from './call.ts'
import { contentOf, namesOf } from './deploy.ts'
import { CliError } from './failure.ts'
import { jsonLines, type LogLine } from './logs.ts'
import { addFnOptions, examples, type FnOptions } from './options.ts'
import { type Deployed, release } from './release.ts'
import { openNode, stopOnSignals } from './serve.ts'
import { type Host, runs, type Session } from './session.ts'

interface RunOptions extends CallOptions, FnOptions {
  readonly port: number
  readonly exec?: boolean
  readonly entry?: string
  readonly watch?: boolean
}

export function addRun(program: Command, host: Host): void {
  const command = program
    .command('run')
    .description('run one function here, with no server')
    .argument('<file-or-dir>', 'TypeScript or JavaScript, or with --exec an executable')
    .option('-d, --data <text>', 'call it once with this: text, @file, or - for standard input')
    .option('-H, --header <header>', 'a header of that call, "Name: value"', headerLine)
    .option('--content-type <type>', 'of the data; default as in call')
    .option('--port <port>', 'where to serve it; default: a free port', portNumber, 0)
    .option('--exec', 'the file, or a file in the directory, is a program to run')
    .option('--entry <name>', 'which file of the directory to run; with --exec')
    .option('--watch', 'load it again whenever a source changes')
  addFnOptions(command).action(runs(host, run))
  examples(command, [
    ['fnd run hello.ts', 'serve it, and show what it prints'],
    ['echo \'{"name":"Ada"}\' | fnd run hello.ts', 'call it once'],
    ['fnd run hello.ts -d @big.csv > out.json', 'call it once with a file'],
    ['fnd run --watch ./shop', 'load it again on every save'],
  ])
}

function portNumber(text: string): number {
  const port = Number(text)
  if (/^\d+$/.test(text) && port <= 65_535) return port
  throw new InvalidArgumentError('write a port from 0 to 65535.')
}

async function run(session: Session, path: string, options: RunOptions): Promise<void> {
  const body = bodyFrom(session, options.data)
  // Built before anything is started: most faults are in the source.
  const content = await contentOf(path, options)
  const dataDir = await mkdtemp(join(tmpdir(), 'fnd-run-'))
  try {
    const { node } = await openNode(privateConfig(session.host, dataDir, options.port))
    try {
      stopOnSignals(node, () => undefined)
      // Others on this machine can reach loopback too, so the token is asked for here as well.
      const token = await readFile(join(dataDir, 'admin.token'), 'utf8')
      const own = session.at(node.url, token.trim())
      const { name } = namesOf(path, {})
      const deploy = (made: BundleContent): Promise<Deployed> =>
        release(own, made, { ...options, app: 'run', name, trigger: true })
      const deployed = await deploy(content)
      if (body !== undefined) await callOnce(own, deployed, body, options)
      else await serve(own, { path, content, deployed, deploy, closed: node.closed }, options)
    } finally {
      await node.stop()
    }
  } finally {
    await rm(dataDir, { recursive: true, force: true })
  }
}

/** The limits are those of the environment; place and address are not. */
function privateConfig(host: Host, dataDir: string, port: number): Config {
  const flags = { listen: `127.0.0.1:${port}`, data: dataDir, logLevel: 'warn' }
  const read = readConfig(flags, host.env)
  if (!read.ok) throw new CliError('usage', read.faults.join('\n'))
  // Nobody shall find this server: it is gone soon.
  return {
    ...read.config,
    isAuthOff: false,
    stateDir: dataDir,
    exec: { ...read.config.exec, spareWorkers: 0 },
  }
}

async function callOnce(
  own: Session,
  deployed: Deployed,
  body: Bun.BodyInit,
  options: RunOptions,
): Promise<void> {
  try {
    await invoke(own, deployed.invoke_url, body, options)
  } catch (error) {
    // The hint to look at the logs later makes no sense here: they follow, and are gone then.
    throw error instanceof CliError ? new CliError(error.reason, error.message) : error
  } finally {
    await showOutput(own, `/fnd/v1/fns/${deployed.fn_id}/logs?lines=10000`)
  }
}

interface Served {
  readonly path: string
  readonly content: BundleContent
  readonly deployed: Deployed
  readonly deploy: (content: BundleContent) => Promise<Deployed>
  readonly closed: Promise<void>
}

async function serve(own: Session, served: Served, options: RunOptions): Promise<void> {
  const { url, fn_id } = served.deployed
  await own.print(served.deployed, () => `${url}\ncall it with:\n  curl ${url}`)
  // Ends with the server, whose stop is awaited elsewhere.
  const output = showOutput(own, `/fnd/v1/fns/${fn_id}/logs?lines=1000&follow=1`)
  const ended = Promise.all([served.closed, output.catch(() => undefined)])
  if (options.watch !== true) {
    await ended
    return
  }
  const { deployOnChange } = await import('./watch.ts')
  let isFirst = true
  const reload = async (): Promise<BundleContent> => {
    if (isFirst) {
      isFirst = false
      return served.content
    }
    const content = await contentOf(served.path, options)
    await served.deploy(content)
    own.terminal.note('loaded')
    return content
  }
  await Promise.race([ended, deployOnChange(own, reload, served.path)])
}

/** What the function prints goes where its own standard error would have gone. */
async function showOutput(own: Session, path: string): Promise<void> {
  const response = await own.client.send(path)
  if (!response.ok) throw await own.client.failure(response)
  for await (const line of jsonLines(response)) {
    own.terminal.note((line as LogLine).text.replace(/\n$/, ''))
  }
}
