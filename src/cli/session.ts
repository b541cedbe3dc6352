import type { Command } from 'commander'
import { readClientConfig } from '../config.ts'
import { FndClient } from './client.ts'
import { CliError } from './failure.ts'
import type { Terminal } from './terminal.ts'

/** What `main.ts` hands to the command line: the outside world, once. */
export interface Host {
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  readonly terminal: Terminal
}

export interface GlobalOptions {
  readonly url?: string
  readonly token?: string
  readonly json?: boolean
}

/** One run of one command. */
export class Session {
  readonly host: Host
  readonly terminal: Terminal
  readonly isJson: boolean
  readonly #options: GlobalOptions
  #client: FndClient | undefined
  #isStaleTold = false

  constructor(host: Host, options: GlobalOptions) {
    this.host = host
    this.terminal = host.terminal
    this.#options = options
    this.isJson = options.json === true
  }

  /** The same, with another server. */
  at(url: string, token: string): Session {
    return new Session(this.host, { ...this.#options, url, token })
  }

  get client(): FndClient {
    this.#client ??= this.#connect()
    return this.#client
  }

  /** The answer of a command: a JSON document where asked for, else text for people. */
  async print(value: unknown, text: () => string): Promise<void> {
    await this.terminal.line(this.isJson ? JSON.stringify(value, null, 2) : text())
  }

  #connect(): FndClient {
    const read = readClientConfig(this.#options, this.host.env)
    if (!read.ok) throw new CliError('usage', read.faults.join('\n'))
    return new FndClient(read.config, reason => {
      if (this.#isStaleTold) return
      this.#isStaleTold = true
      this.terminal.note(`warning: ${reason}; this is what ${read.config.url} knows`)
    })
  }
}

/** Every command's action, given a session before its own arguments. */
export function runs<A extends unknown[]>(
  host: Host,
  action: (session: Session, ...args: A) => Promise<void>,
): (...args: unknown[]) => Promise<void> {
  return async (...args) => {
    // Commander ends the arguments of an action with its options and the command itself.
    const command = args.at(-1) as Command
    await action(
      new Session(host, command.optsWithGlobals<GlobalOptions>()),
      ...(args.slice(0, -1) as A),
    )
  }
}
