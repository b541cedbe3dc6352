import { type Command, InvalidArgumentError, Option } from 'commander'

/** Adds examples to a command's help; each is a line to type and what it does. */
export function examples(command: Command, lines: readonly (readonly [string, string])[]): void {
  const width = Math.max(...lines.map(([line]) => line.length))
  const text = lines.map(([line, what]) => `  ${line.padEnd(width)}  # ${what}`).join('\n')
  command.addHelpText('after', `\nExamples:\n${text}`)
}

/** Parser of a repeatable `KEY=VALUE`; an empty value deletes the key, as in Fn. */
export function keyValue(
  text: string,
  before: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const at = text.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('write KEY=VALUE.')
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) }
}

/** Parser of a repeatable `KEY=JSON`; what is not JSON counts as a string. */
export function keyJson(
  text: string,
  before: Readonly<Record<string, unknown>> = {},
): Record<string, unknown> {
  const [[key, value]] = Object.entries(keyValue(text)) as [[string, string]]
  try {
    return { ...before, [key]: JSON.parse(value) as unknown }
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    return { ...before, [key]: value }
  }
}

export function wholeNumber(min: number): (text: string) => number {
  return text => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < min) {
      throw new InvalidArgumentError(`write a whole number of at least ${min}.`)
    }
    return value
  }
}

/** Parser of `90m`, `24h`, `7d` or seconds; in seconds. */
export function lifetime(text: string): number {
  const match = /^(\d{1,7})([smhd]?)$/.exec(text)
  if (match === null) throw new InvalidArgumentError('write a time such as 90m, 24h or 7d.')
  const unitS = { s: 1, m: 60, h: 3600, d: 86_400 }[match[2] === '' ? 's' : (match[2] ?? 's')] ?? 1
  return Number(match[1]) * unitS
}

/** Milliseconds; -1 means never. */
function millisecondsOrNever(text: string): number {
  const value = Number(text)
  if (!/^(-1|\d+)$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('write a whole number of milliseconds, or -1 for never.')
  }
  return value
}

/** What `deploy` and `fns update` may set on a function. */
export interface FnOptions {
  readonly memory?: number
  readonly timeout?: number
  readonly idleTimeout?: number
  readonly concurrency?: number
  readonly minInstances?: number
  readonly maxInstances?: number
  readonly network?: string
  readonly format?: string
  readonly dialect?: string
  readonly pull?: string
  readonly pauseAfterMs?: number
  readonly config?: Readonly<Record<string, string>>
  readonly annotation?: Readonly<Record<string, unknown>>
}

export function addFnOptions(command: Command): Command {
  return command
    .option('--memory <MB>', 'memory limit of an instance', wholeNumber(1))
    .option('--timeout <seconds>', 'time limit of a call', wholeNumber(1))
    .option('--idle-timeout <seconds>', 'an instance without work ends after this', wholeNumber(1))
    .option('--concurrency <calls>', 'calls that one instance takes at a time', wholeNumber(1))
    .option('--min-instances <count>', 'instances kept running', wholeNumber(0))
    .option('--max-instances <count>', 'instances at most', wholeNumber(1))
    .addOption(new Option('--network <mode>', 'which network it sees').choices(['host', 'none']))
    .addOption(
      new Option('--format <format>', 'how a container is spoken to').choices([
        'http-stream',
        'http',
        'json',
        'default',
      ]),
    )
    .addOption(
      new Option('--dialect <dialect>', 'whose rules the older formats follow').choices([
        'fn',
        'iron',
      ]),
    )
    .addOption(
      new Option('--pull <when>', 'when an image is pulled').choices([
        'missing',
        'always',
        'never',
      ]),
    )
    .option(
      '--pause-after-ms <ms>',
      'an idle container is paused after this; -1: never',
      millisecondsOrNever,
    )
    .option('--config <KEY=VALUE>', 'an environment variable; repeatable', keyValue)
    .option('--annotation <KEY=JSON>', 'an annotation; repeatable', keyJson)
}

/** The options as fields of a v2 function; only what was given. */
export function fnFieldsFrom(options: FnOptions): Record<string, unknown> {
  const annotations: Record<string, unknown> = { ...options.annotation }
  const own = {
    'fnd.io/concurrency': options.concurrency,
    'fnd.io/min-instances': options.minInstances,
    'fnd.io/max-instances': options.maxInstances,
    'fnd.io/network': options.network,
    'fnd.io/format': options.format,
    'fnd.io/dialect': options.dialect,
    'fnd.io/pull': options.pull,
    'fnd.io/pause-after-ms': options.pauseAfterMs,
  }
  for (const [key, value] of Object.entries(own)) if (value !== undefined) annotations[key] = value
  const fields = {
    memory: options.memory,
    timeout: options.timeout,
    idle_timeout: options.idleTimeout,
    config: options.config,
    annotations: Object.keys(annotations).length === 0 ? undefined : annotations,
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}
