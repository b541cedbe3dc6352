import { Command, CommanderError } from 'commander'
import { FndError, StartError } from '../errors.ts'
import { commit, version } from '../version.ts'
import { addApps } from './apps.ts'
import { addBackup } from './backup.ts'
import { addCall } from './call.ts'
import { addCompletion } from './completion.ts'
import { addConfig } from './config.ts'
import { addDeploy } from './deploy.ts'
import { addDoctor } from './doctor.ts'
import { CliError, exitCodes, exitCodesHelp } from './failure.ts'
import { addFns } from './fns.ts'
import { addLeave } from './leave.ts'
import { addLogs } from './logs.ts'
import { addNodes } from './nodes.ts'
import { examples } from './options.ts'
import { addRecover } from './recover.ts'
import { addRegistries } from './registries.ts'
import { addRestore } from './restore.ts'
import { addRun } from './run.ts'
import { addServe } from './serve.ts'
import type { Host } from './session.ts'
import { addStatus } from './status.ts'
import { isReaderGone } from './terminal.ts'
import { addToken } from './token.ts'
import { addTriggers } from './triggers.ts'
import { addVersion } from './version.ts'

export function makeProgram(host: Host): Command {
  const program = new Command('fnd')
    .description('A functions platform in one executable: server, deployer and client.')
    .usage('[command] [options]')
    .option('--url <url>', 'the server (FND_URL; default http://127.0.0.1:8080)')
    .option('--token <token>', 'the admin token (FND_TOKEN; found by itself on one machine)')
    .option('--json', 'print JSON: one document, or one a line where there is a stream')
    .version(`fnd ${version} (${commit})`, '-V, --version', 'print version and commit')
    .helpOption('-h, --help', 'show help and examples')
    .helpCommand('help [command]', 'show help of a command')
    .configureHelp({
      showGlobalOptions: true,
      subcommandTerm: command => `${command.name()} ${command.usage()}`,
    })
    .configureOutput({
      writeErr: text => host.terminal.note(text.trimEnd()),
      outputError: (text, write) => {
        const failure = new CliError('usage', text.trim().replace(/^error: /, ''))
        write(isJson(host) ? failure.lines(true).join('\n') : text)
      },
    })
    .showSuggestionAfterError()
    .exitOverride()
  addServe(program, host)
  addDeploy(program, host)
  addRun(program, host)
  addCall(program, host)
  addApps(program, host)
  addFns(program, host)
  addTriggers(program, host)
  addConfig(program, host)
  addRegistries(program, host)
  addLogs(program, host)
  addStatus(program, host)
  addNodes(program, host)
  addToken(program, host)
  addLeave(program, host)
  addBackup(program, host)
  addRestore(program, host)
  addRecover(program, host)
  addDoctor(program, host)
  addVersion(program, host)
  addCompletion(program, host)
  examples(program, [
    ['fnd', 'start a server on port 8080'],
    ['fnd deploy hello.ts', 'deploy a function to it'],
    ['fnd call default/hello -d \'{"name":"Ada"}\'', 'call it'],
    ['fnd logs -f default/hello', 'watch what it prints'],
  ])
  program.addHelpText('after', `\n${exitCodesHelp}`)
  return program
}

/** Faults of usage come before the options are known to Commander. */
function isJson(host: Host): boolean {
  return host.argv.includes('--json')
}

/** Runs one command line and returns its exit code. */
export async function runCli(host: Host): Promise<number> {
  const program = makeProgram(host)
  try {
    await program.parseAsync([...host.argv], { from: 'user' })
    return exitCodes.ok
  } catch (error) {
    if (error instanceof CommanderError) {
      // Help and version end by this way too; Commander has printed what there is to say.
      return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
    }
    return isReaderGone(error) ? exitCodes.ok : report(host, error)
  }
}

function report(host: Host, error: unknown): number {
  const failure = error instanceof CliError ? error : cliErrorFrom(error)
  if (failure === undefined) throw error
  for (const line of failure.lines(isJson(host))) host.terminal.note(line)
  return exitCodes[failure.reason]
}

/** Faults that the server parts or the operating system report; anything else is a bug. */
function cliErrorFrom(error: unknown): CliError | undefined {
  if (error instanceof FndError || error instanceof StartError) {
    return new CliError('failed', error.message, { cause: error })
  }
  if (error instanceof Error && 'code' in error && 'syscall' in error) {
    return new CliError('failed', error.message, { cause: error })
  }
  return undefined
}
