import type { Command } from 'commander'
import { type Config, type ConfigFlags, readConfig } from '../config.ts'
import type { Logger } from '../log.ts'
import type { FndNode } from '../node.ts'
import { CliError } from './failure.ts'
import { nearNames } from './near.ts'
import { examples } from './options.ts'
import { type Host, runs } from './session.ts'

export function addServe(program: Command, host: Host): void {
  const command = program
    .command('serve', { isDefault: true })
    .description('start a server (what a bare `fnd` does)')
    .argument('[words...]')
    .usage('[options]')
    .option('--listen <host:port>', 'where to listen (FND_LISTEN; default 0.0.0.0:8080)')
    .option('--data <dir>', 'where everything is kept (FND_DATA; default ./fnd-data)')
    .option('--join <host:port>', 'become a node of the cluster of this member (FND_JOIN)')
    .option('--join-token <token>', 'what `fnd token` printed there (FND_JOIN_TOKEN)')
    .option('--peer-listen <host:port>', 'for other nodes (FND_PEER_LISTEN; default: next port)')
    .option('--advertise <host>', 'where other nodes reach this one (FND_ADVERTISE)')
    .option('--name <name>', "this node's, for people (FND_NAME; default: that of the host)")
    .option('--no-auth', 'no admin token; allowed on loopback only')
    .option('--log-level <level>', 'trace, debug, info, warn, error or fatal (FND_LOG_LEVEL)')
    .option('--log-format <format>', 'json, pretty or auto (FND_LOG_FORMAT)')
    .action(
      runs(host, async (session, words: string[], flags: ConfigFlags) => {
        const word = words[0]
        if (word !== undefined) throw unknownCommand(program, word)
        await serve(session.host, flags)
      }),
    )
  command.configureHelp({ visibleArguments: () => [], showGlobalOptions: false })
  examples(command, [
    ['fnd', 'listen on 0.0.0.0:8080, data in ./fnd-data'],
    ['fnd serve --listen 127.0.0.1:9000 --data /var/lib/fnd', 'listen and keep data elsewhere'],
    ['fnd --join 10.0.0.1:8081', 'a second node; the token is in FND_JOIN_TOKEN'],
    ['fnd --no-auth --listen 127.0.0.1:8080', 'no token, for this machine only'],
  ])
}

/** As the default command, `serve` also gets what is no command at all. */
function unknownCommand(program: Command, word: string): CliError {
  const names = program.commands.map(one => one.name())
  const near = nearNames(word, names)
  return new CliError('usage', `unknown command ${word}`, {
    hint: near.length > 0 ? `did you mean ${near.join(' or ')}?` : 'see: fnd --help',
  })
}

async function serve(host: Host, flags: ConfigFlags): Promise<void> {
  const read = readConfig(flags, host.env)
  if (!read.ok) throw new CliError('usage', read.faults.join('\n'))
  const { node, logger } = await openNode(read.config)
  stopOnSignals(node, signal => {
    logger.info({ signal }, 'stopping; a second signal stops at once')
  })
  await node.closed
}

/** Loaded here only: the server's parts would slow every other command down. */
export async function openNode(config: Config): Promise<{ node: FndNode; logger: Logger }> {
  const [{ makeLogger }, { startNode }] = await Promise.all([
    import('../log.ts'),
    import('../node.ts'),
  ])
  const logger = await makeLogger(config.log)
  endOnBugs(logger)
  try {
    return { node: await startNode(config, logger), logger }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    throw new CliError('failed', `port ${config.port} is in use`, {
      hint: `listen elsewhere with: fnd --listen 127.0.0.1:${config.port + 1}`,
      cause: error,
    })
  }
}

/**
 * While the main module awaits, Bun prints an error that nobody caught and carries on. What it
 * interrupted would stay half done, and calls would wait for it for ever.
 */
function endOnBugs(logger: Logger): void {
  const end = (error: unknown): void => {
    logger.fatal({ err: error }, 'a bug in fnd; it ends rather than go on wrongly')
    process.exit(1)
  }
  process.on('uncaughtException', end)
  process.on('unhandledRejection', end)
}

/** The first signal stops in order, the second at once. */
export function stopOnSignals(node: FndNode, onFirst: (signal: NodeJS.Signals) => void): void {
  let isStopping = false
  const stop = (signal: NodeJS.Signals) => {
    if (isStopping) process.exit(signal === 'SIGINT' ? 130 : 143)
    isStopping = true
    onFirst(signal)
    // A failure to stop also shows in `closed`, which the command awaits.
    node.stop().catch(() => undefined)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}
