import pino, { type Logger } from 'pino'

export type { Logger } from 'pino'

/**
 * The one logger, on stderr: JSON lines, or readable text where a person looks at a terminal. Both
 * are written synchronously, so that the last line before a crash is there.
 */
export async function makeLogger(options: {
  readonly level: string
  readonly format: 'json' | 'pretty' | 'auto'
}): Promise<Logger> {
  const isPretty =
    options.format === 'pretty' || (options.format === 'auto' && process.stderr.isTTY === true)
  const stream = isPretty ? await prettyStream() : pino.destination({ dest: 2, sync: true })
  return pino({ level: options.level, base: null }, stream)
}

/** Loaded here only: services, which write JSON, would start later for it. */
async function prettyStream() {
  const { default: pretty } = await import('pino-pretty')
  return pretty({
    colorize: process.stderr.isTTY === true,
    sync: true,
    destination: 2,
    ignore: 'pid,hostname',
  })
}
