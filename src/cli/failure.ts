/** The exit codes of every command; `fnd --help` prints this table. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  unreachable: 3,
  unauthorized: 4,
  'not-found': 5,
  degraded: 6,
  'no-quorum': 7,
} as const

export type ExitReason = Exclude<keyof typeof exitCodes, 'ok'>

export const exitCodesHelp = `Exit codes:
  0  done
  1  the server, the function or the build answered with an error
  2  wrong usage: a flag, an argument or a file
  3  the server cannot be reached
  4  the server does not accept the token
  5  no such app, function, trigger, call, key or node
  6  status: the cluster works, and something needs a look
  7  status: no majority of the voters is reached, so that nothing can be changed`

/** What ends a command. `message` says what is wrong, `hint` what to do next. */
export class CliError extends Error {
  override readonly name = 'CliError'
  readonly reason: ExitReason
  readonly hint: string | undefined
  /** Source files at fault, absolute. */
  readonly files: readonly string[]

  constructor(
    reason: ExitReason,
    message: string,
    options: { hint?: string; files?: readonly string[]; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.reason = reason
    this.hint = options.hint
    this.files = options.files ?? []
  }

  /** What to print: one line of JSON, or a line for each thing to say. */
  lines(isJson: boolean): readonly string[] {
    const { message, reason, hint } = this
    if (isJson) return [JSON.stringify({ error: { message, reason, hint } })]
    return [`error: ${message}`, ...(hint === undefined ? [] : [`hint: ${hint}`])]
  }
}
