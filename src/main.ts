import { runCli } from './cli/program.ts'
import { Terminal } from './cli/terminal.ts'

const exitCode = await runCli({
  argv: process.argv.slice(2),
  env: process.env,
  terminal: new Terminal(),
})
// Connections kept alive by fetch would hold the process for seconds.
process.exit(exitCode)
