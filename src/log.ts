import pino, { type Logger } from 'pino'
import pretty from 'pino-pretty'

export type { Logger } from 'pino'

/**
 * The one logger, on stderr: JSON lines, or readable text where a person looks at a terminal. Both
 * are written synchronously, so that the last line before a crash is there.
 */
export function makeLogger(options: {
  readonly level: string
  readonly format: 'json' | 'pretty' | 'auto'
}): Logger {
  const isPretty =
    options.format === 'pretty' || (options.format === 'auto' && process.stderr.isTTY === true)
  const stream = isPretty
    ? pretty({
        colorize: process.stderr.isTTY === true,
        sync: true,
        destination: 2,
        ignore: 'pid,hostname',
      })
    : pino.destination({ dest: 2, sync: true })
  return pino({ level: options.level, base: null }, stream)
}
