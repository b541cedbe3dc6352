import { StartError } from '../errors.ts'
import type { Command } from './commands.ts'

/**
 * A command in the log: one byte of version, then JSON in UTF-8. A version says which kinds of
 * commands exist and what they mean, so it must be raised with every new kind or changed meaning.
 */
const version = 2

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true })

export function encodeCommand(command: Command): Uint8Array {
  const json = encoder.encode(JSON.stringify(command))
  const bytes = new Uint8Array(json.length + 1)
  bytes[0] = version
  bytes.set(json, 1)
  return bytes
}

/** Throws on a version it does not know: to guess would make this node differ from the others. */
export function decodeCommand(bytes: Uint8Array): Command {
  const given = bytes[0] ?? 0
  if (given < 1 || given > version) {
    throw new StartError(
      `The log holds a command of version ${given}, this fnd knows versions up to ${version}. ` +
        'The data directory was used by a newer fnd: start that version or a later one.',
    )
  }
  return JSON.parse(decoder.decode(bytes.subarray(1)))
}
