import { FndError, StartError } from '../errors.ts'
import { commandVersionGiven } from '../version.ts'
import type { Command } from './commands.ts'

/**
 * A command in the log: one byte of version, then JSON in UTF-8. A version says which kinds of
 * commands exist and what they mean, so it must be raised with every new kind or changed meaning.
 */
const ownVersion = 3

/** The newest version that this fnd understands; a build may stand for a later fnd. */
export const commandVersion = commandVersionGiven ?? ownVersion

/** Where every cluster begins. Never changed: a node may replay the log from its first entry. */
export const firstClusterVersion = 3

/** The version in which each kind appeared. */
const versions: Readonly<Record<Command['type'], number>> = {
  'app.create': 1,
  'app.update': 1,
  'app.delete': 1,
  'fn.create': 1,
  'fn.update': 1,
  'fn.delete': 1,
  'trigger.create': 1,
  'trigger.update': 1,
  'trigger.delete': 1,
  'registry.set': 2,
  'registry.delete': 2,
  'node.join': 3,
  'node.update': 3,
  'node.remove': 3,
  'cluster.version': 3,
  // Always of the next version, so that the way there can be tried.
  'cluster.note': commandVersionGiven ?? ownVersion + 1,
}

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true })

/**
 * The cluster must be at this version before the command may be proposed. Infinite for a kind that
 * this fnd does not know: a node of a later version may have sent it here.
 */
export function versionNeeded(command: Command): number {
  return Object.hasOwn(versions, command.type) ? versions[command.type] : Number.POSITIVE_INFINITY
}

/**
 * For members that understand commands up to `clusterVersion`. Throws `FndError`
 * `upgrade-pending` when one of them would not understand this.
 */
export function encodeCommand(command: Command, clusterVersion: number): Uint8Array {
  if (versionNeeded(command) > clusterVersion) {
    throw new FndError('upgrade-pending', {
      detail: `${command.type} needs version ${versionNeeded(command)}, not ${clusterVersion}`,
    })
  }
  // Below 128, so that it is one byte of UTF-8 too.
  const version = String.fromCharCode(Math.min(clusterVersion, commandVersion))
  return encoder.encode(version + JSON.stringify(command))
}

/** Throws on a version it does not know: to guess would make this node differ from the others. */
export function decodeCommand(bytes: Uint8Array): Command {
  mustKnow(bytes[0] ?? 0)
  // All of it, and then the rest of the text: a view of the bytes would cost more than both.
  const command: Command = JSON.parse(decoder.decode(bytes).slice(1))
  if (command.type === 'cluster.version') mustKnow(command.version)
  return command
}

/** Throws `StartError` when this fnd does not understand commands of that version. */
export function mustKnow(version: number): void {
  if (version >= 1 && version <= commandVersion) return
  throw new StartError(
    `The log holds a command of version ${version}, this fnd knows versions up to ` +
      `${commandVersion}. The data directory was used by a newer fnd: start that version or a ` +
      'later one.',
  )
}
