/**
 * Makes a container that speaks an older format look like one that speaks http-stream: a socket of
 * fnd's own, whose calls go over the container's stdin and stdout (`hot`), or into a container of
 * their own each (`cold`). One call at a time, as the formats say; the pool sees to it.
 */
import { assert } from '../../errors.ts'
import type { Exit, FnSpec } from '../driver.ts'
import { BridgeListener } from './bridge-socket.ts'
import { ColdTalk } from './talk-cold.ts'
import { HotTalk } from './talk-hot.ts'

/** Both streams of a container that are not its log; stdout is without Docker's frames. */
export interface Stdio {
  readonly stdin: {
    /** Resolves when there is room for more; rejects when the container does not read any more. */
    write(bytes: Uint8Array): Promise<void>
    end(): void
  }
  readonly stdout: ReadableStream<Uint8Array>
}

/** For the format `default`. */
export interface OneShot {
  /**
   * Creates, attaches to and starts a container for one call. Kills it when the signal fires.
   * Rejects with `FndError`, after removing what was made. `exited` never rejects.
   */
  run(
    env: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<Stdio & { readonly exited: Promise<Exit> }>
}

export interface TalkLimits {
  readonly headBytesMax: number
  /** 0 = no limit. */
  readonly bodyBytesMax: number
}

export interface BridgeOptions {
  /** In a directory that exists and is the caller's alone. */
  readonly socketPath: string
  readonly spec: FnSpec
  readonly limits: TalkLimits
  readonly talk:
    | { readonly kind: 'hot'; readonly stdio: Stdio }
    | { readonly kind: 'cold'; readonly oneShot: OneShot }
}

export interface Bridge {
  readonly socketPath: string
  /**
   * Resolves, with the reason, when the container can take no further call, for example because it
   * wrote something while there was no call: it must be stopped. Never does for `cold`.
   */
  readonly broken: Promise<string>
  /** Breaks a call in progress off, and removes the socket. Containers are the caller's to stop. */
  close(): Promise<void>
}

export function openBridge({ socketPath, spec, limits, talk }: BridgeOptions): Bridge {
  assert((talk.kind === 'cold') === (spec.format === 'default'), 'only `default` is cold')
  if (talk.kind === 'cold') {
    const cold = new ColdTalk(spec, talk.oneShot)
    const listener = new BridgeListener(socketPath, call => void cold.serve(call))
    const close = async () => listener.close()
    return { socketPath, broken: Promise.withResolvers<string>().promise, close }
  }
  const hot = new HotTalk(spec, limits, talk.stdio)
  const listener = new BridgeListener(socketPath, call => void hot.serve(call))
  const close = async () => {
    listener.close()
    await hot.close()
  }
  return { socketPath, broken: hot.broken, close }
}
